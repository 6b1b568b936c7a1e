//! Uploads that keep every promise, and what breaks each.

use std::sync::Arc;

use sooner::wire::{Batch, BatchState, CancelBatchResponse, Counts, ItemResult, ItemState};
use tonic::Code;

use super::Case;
use super::sound::{Story, came, refused, result, seen, sent, submit, time};
use crate::harness::history::{
    Answer, Asked, Call, Event, Fate, Opened, Opening, Piece, Rule, Seen, Submit,
};

// Calls of the story.
const CUT: Call = 21;
const OPEN: Call = 22;
const LOST: Call = 23;
const LAST: Call = 24;
const LOOK: Call = 25;
const CANCELLED: Call = 26;
const CANCEL: Call = 27;
const WATCH: Call = 28;
const AGAIN: Call = 29;

fn upload(key: &str, items: usize) -> Arc<Submit> {
    let inputs = [
        ("ok 1", Fate::Echoes),
        ("ok 2", Fate::Echoes),
        ("ok 3", Fate::Echoes),
    ];
    let whole = submit(key, &inputs[..items]);
    let (key, items) = (whole.key.clone(), whole.items.clone());
    Arc::new(Submit {
        key,
        items,
        uploaded: true,
        ..*whole
    })
}

fn asked(key: &str, items: usize, after: u64) -> Asked {
    let opening = Opening {
        resume: after > 0,
        after,
    };
    Asked::Upload(upload(key, items), opening)
}

fn opened(key: &str, accepted: u64) -> Answer {
    Answer::Opened(Box::new(Opened {
        id: key.to_owned(),
        uid: format!("uid-{key}"),
        created: accepted == 0,
        accepted,
        sealed: false,
    }))
}

fn said(call: Call, piece: Piece) -> Event {
    Event::Said(call, piece)
}

/// The results of the upload "up"; what remains is told once it is sealed.
fn succeeded(sequence: u64, total: Option<u64>) -> Answer {
    let sealed_of = ItemResult {
        remaining_count: total.map(|total| total - sequence),
        ..result("up", sequence.min(2), ItemState::Succeeded, "")
    };
    let third = sequence == 3;
    let mut seen = *Seen::of(sealed_of);
    if third {
        let text = crate::harness::history::Output::of("ok 3");
        (seen.sequence, seen.index, seen.item_id) = (3, 2, "2".to_owned());
        seen.output = Some(text);
    }
    Answer::Result(Box::new(seen))
}

fn batch(key: &str, state: BatchState, counts: Counts) -> Box<Batch> {
    let last_sequence = counts.succeeded + counts.cancelled;
    let is_over = matches!(state, BatchState::Completed | BatchState::Cancelled);
    Box::new(Batch {
        batch_id: key.to_owned(),
        batch_uid: format!("uid-{key}"),
        state: state.into(),
        counts: Some(counts),
        finish_time: is_over.then(|| time(9)),
        last_sequence,
        ..Batch::default()
    })
}

fn counts([pending, succeeded, cancelled]: [u64; 3]) -> Counts {
    Counts {
        total: pending + succeeded + cancelled,
        pending,
        succeeded,
        cancelled,
        ..Counts::default()
    }
}

/// An upload that a crash cuts and that two callers go on with, the second to its end; one that is
/// cancelled.
pub(super) fn story() -> Story {
    let events = [first_life(), second_life(), cancelled()].concat();
    Story {
        events,
        executions: Vec::new(),
    }
}

fn first_life() -> Vec<Event> {
    let open = batch("up", BatchState::Open, counts([1, 1, 0]));
    vec![
        Event::Started(100),
        sent(CUT, 1, asked("up", 3, 0)),
        came(CUT, opened("up", 0)),
        said(CUT, Piece::Items(0, 2)),
        came(CUT, Answer::Durable(2, false)),
        came(CUT, succeeded(1, None)),
        sent(OPEN, 1, Asked::GetBatch("up".to_owned())),
        came(OPEN, Answer::Batch(open)),
        Event::Died(1000),
        came(CUT, Answer::Broken("reset".to_owned())),
    ]
}

fn second_life() -> Vec<Event> {
    let whole = || batch("up", BatchState::Completed, counts([0, 3, 0]));
    vec![
        Event::Started(200),
        sent(LOST, 2, asked("up", 3, 1)),
        came(LOST, opened("up", 2)),
        said(LOST, Piece::Items(1, 2)),
        came(LOST, Answer::Durable(3, false)),
        sent(LAST, 2, asked("up", 3, 0)),
        came(LAST, opened("up", 3)),
        came(LOST, refused(Code::Aborted, "UPLOAD_SUPERSEDED")),
        came(LAST, succeeded(1, None)),
        said(LAST, Piece::Wrong("a wrong total")),
        said(LAST, Piece::Finish(3)),
        came(LAST, Answer::Durable(3, true)),
        came(LAST, succeeded(2, Some(3))),
        came(LAST, succeeded(3, Some(3))),
        came(LAST, Answer::Ended(whole())),
        came(LAST, Answer::Over),
        sent(LOOK, 2, Asked::GetBatch("up".to_owned())),
        came(LOOK, Answer::Batch(whole())),
    ]
}

fn cancelled() -> Vec<Event> {
    let id = || "gone".to_owned();
    let counted = CancelBatchResponse {
        batch: None,
        never_started_count: 1,
        stopping_count: 0,
        finished_count: 0,
    };
    let result = ItemResult {
        remaining_count: Some(0),
        ..result("gone", 1, ItemState::Cancelled, "BATCH_CANCELLED")
    };
    let over = || batch("gone", BatchState::Cancelled, counts([0, 0, 1]));
    vec![
        sent(CANCELLED, 2, asked("gone", 2, 0)),
        came(CANCELLED, opened("gone", 0)),
        said(CANCELLED, Piece::Items(0, 1)),
        came(CANCELLED, Answer::Durable(1, false)),
        sent(CANCEL, 2, Asked::Cancel(id(), Vec::new())),
        came(CANCEL, Answer::Cancelled(counted.into(), 0)),
        said(CANCELLED, Piece::Items(1, 1)),
        came(CANCELLED, refused(Code::FailedPrecondition, "BATCH_SEALED")),
        sent(WATCH, 2, Asked::Watch(id(), 0)),
        came(WATCH, Answer::Attached(over())),
        came(WATCH, seen(result)),
        came(WATCH, Answer::Ended(over())),
        came(WATCH, Answer::Over),
    ]
}

/// How far a call was told that its upload is durable, to be changed.
fn durable(story: &mut Story, call: Call, changed: Answer) {
    let mut answers = story.answers(call);
    let told = answers.find(|answer| matches!(answer, Answer::Durable(..)));
    *told.unwrap() = changed;
}

fn reopened(story: &mut Story, call: Call, accepted: u64) {
    let mut answers = story.answers(call);
    *answers.next().unwrap() = opened("up", accepted);
}

fn say(story: &mut Story, call: Call, changed: Piece) {
    let said =
        |event: &&mut Event| matches!(event, Event::Said(of, Piece::Finish(_)) if *of == call);
    *story.events.iter_mut().find(said).unwrap() = Event::Said(call, changed);
}

/// What breaks the promises of uploads.
pub(super) const CASES: [Case; 20] = [
    (
        Rule::I2,
        "what was durable is gone after a crash",
        |story| {
            reopened(story, LOST, 1);
        },
    ),
    (Rule::I2, "a look shows less than was durable", |story| {
        story.events.push(Event::Started(300));
        story.events.push(sent(AGAIN, 3, asked("up", 3, 1)));
        story.events.push(came(AGAIN, opened("up", 2)));
    }),
    (Rule::I6, "what was durable is gone", |story| {
        reopened(story, LAST, 2);
    }),
    (Rule::I6, "what is durable shrinks on a stream", |story| {
        durable(story, LAST, Answer::Durable(2, true));
    }),
    (Rule::I6, "a look shows fewer items", |story| {
        let fewer = |batch: &mut Batch| batch.counts = Some(counts([0, 2, 0]));
        story.batches(LOOK).for_each(fewer);
    }),
    (Rule::I6, "a result tells of another total", |story| {
        story.results(LAST).last().unwrap().remaining_count = Some(1);
    }),
    (Rule::Upload, "more is durable than was sent", |story| {
        durable(story, CUT, Answer::Durable(3, false));
    }),
    (
        Rule::Upload,
        "an item has a result that nobody sent",
        |story| {
            let seen = story.results(CUT).next().unwrap();
            (seen.index, seen.item_id) = (2, "2".to_owned());
        },
    ),
    (Rule::Upload, "it is sealed by nobody", |story| {
        durable(story, LOST, Answer::Durable(3, true));
    }),
    (Rule::Upload, "it is sealed with another total", |story| {
        say(story, LAST, Piece::Finish(4));
    }),
    (Rule::Upload, "it completes without a finish", |story| {
        say(story, LAST, Piece::Wrong("no finish"));
    }),
    (
        Rule::Upload,
        "it takes items again after the finish",
        |story| {
            story.events.push(sent(AGAIN, 2, asked("up", 3, 1)));
            story.events.push(came(AGAIN, opened("up", 3)));
        },
    ),
    (Rule::Upload, "it is open again after the finish", |story| {
        let reopen = |batch: &mut Batch| batch.state = BatchState::Open.into();
        story.batches(LOOK).for_each(reopen);
    }),
    (
        Rule::I3,
        "durable items are not there at the end",
        |story| {
            story
                .batches(WATCH)
                .for_each(|batch| batch.counts = Some(counts([0, 0, 0])));
        },
    ),
    (Rule::I3, "it is not there any more", |story| {
        let missing = refused(Code::NotFound, "BATCH_NOT_FOUND");
        *story.answers(LOST).next().unwrap() = missing;
    }),
    (Rule::I3, "an item has no result", |story| {
        story.forget(
            LAST,
            |answer| matches!(answer, Answer::Result(seen) if seen.sequence == 2),
        );
    }),
    (
        Rule::I5,
        "a count comes before the call is accepted",
        |story| {
            story.forget(LOST, |answer| matches!(answer, Answer::Opened(_)));
        },
    ),
    (Rule::Answered, "it is superseded by nobody", |story| {
        story.answer(CUT, refused(Code::Aborted, "UPLOAD_SUPERSEDED"));
    }),
    (
        Rule::Answered,
        "it takes no items although it is open",
        |story| {
            story.answer(LOST, refused(Code::FailedPrecondition, "BATCH_SEALED"));
        },
    ),
    (Rule::Answered, "what is right is refused", |story| {
        story.answer(LOST, refused(Code::InvalidArgument, "ITEM_MISMATCH"));
    }),
];
