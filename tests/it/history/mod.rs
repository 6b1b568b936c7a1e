//! The history checker finds what it is for: each of its rules fires when its promise is broken, and
//! a sound history passes. Only here a history is made up.

mod sound;
mod uploads;

use std::collections::BTreeSet;

use sooner::wire::{Attempt, Batch, BatchState, Item, ItemState};
use tonic::Code;

use self::sound::{
    DRAINED, ITEM, LAST, LOOK, MISSING, OTHER_CONTENT, REPEAT, SUBMIT, Story, WATCH, accepted,
    completed, executed, refused, result, sound,
};
use crate::harness::history::{Answer, Guarantees, History, Rule, Seen};

/// The promise that is broken, how it reads, and what breaks it.
type Case = (Rule, &'static str, fn(&mut Story));

#[test]
fn a_sound_history_passes() {
    assert_eq!(sound().rules(), BTreeSet::new());
    assert_eq!(uploads::story().rules(), BTreeSet::new());
}

#[test]
fn every_broken_promise_is_found() {
    let mut found = BTreeSet::new();
    let cases = RECORDS.into_iter().chain(LIVES).chain(KEYS);
    let cases = cases.map(|case| (sound(), case));
    let uploads = uploads::CASES.map(|case| (uploads::story(), case));
    for (mut story, (rule, what, breach)) in cases.chain(uploads) {
        breach(&mut story);
        let rules = story.rules();
        assert!(
            rules.contains(&rule),
            "{what}: {rule:?} is not among {rules:?}"
        );
        found.insert(rule);
    }
    assert_eq!(found, BTreeSet::from(Rule::ALL), "each rule has a case");
}

#[test]
fn a_power_cut_may_bring_attempt_numbers_again() {
    let mut story = sound();
    story.executions[2].attempt = 1;
    assert_eq!(story.rules(), BTreeSet::from([Rule::Attempts]));
    let history = History::default();
    story
        .events
        .iter()
        .for_each(|event| history.push(event.clone()));
    let violations = history.check(&story.executions, Guarantees::WithoutTraces);
    assert!(violations.is_empty(), "{violations:?}");
}

/// Breaches within a life: records, streams, counts.
const RECORDS: [Case; 13] = [
    (Rule::I1, "a result changes", |story| {
        story.results(WATCH).for_each(|seen| seen.attempt_count = 2);
    }),
    (Rule::I1, "an item has two results", |story| {
        story.results(REPEAT).for_each(|seen| seen.index = 0);
    }),
    (
        Rule::I1,
        "an item is asked for and has another result",
        |story| {
            let result = |item: &mut Item| item.result.as_mut().unwrap().attempt_count = 2;
            story.items(ITEM).for_each(result);
        },
    ),
    (Rule::I1, "an item runs again after its end", |story| {
        story.executions.push(executed("work", 0, 2, 200));
    }),
    (Rule::I4, "a reader misses a result", |story| {
        story.forget(
            REPEAT,
            |answer| matches!(answer, Answer::Result(seen) if seen.sequence == 1),
        );
    }),
    (
        Rule::I4,
        "the last sequence is not the count of results",
        |story| {
            story
                .batches(LOOK)
                .for_each(|batch| batch.last_sequence = 1);
        },
    ),
    (Rule::I5, "a watch ends without saying so", |story| {
        story.forget(WATCH, |answer| matches!(answer, Answer::Ended(_)));
    }),
    (Rule::I5, "a watch begins without saying where", |story| {
        story.forget(WATCH, |answer| matches!(answer, Answer::Attached(_)));
    }),
    (Rule::I5, "a batch that has ended goes on", |story| {
        let reopen = |batch: &mut Batch| batch.state = BatchState::Running.into();
        story.batches(LOOK).for_each(reopen);
    }),
    (Rule::I6, "counts do not sum to the total", |story| {
        let count = |batch: &mut Batch| batch.counts.as_mut().unwrap().pending = 1;
        story.batches(LOOK).for_each(count);
    }),
    (Rule::I6, "progress shrinks", |story| {
        story.batches(LOOK).for_each(|batch| {
            let counts = batch.counts.as_mut().unwrap();
            (counts.succeeded, counts.pending) = (0, 1);
        });
    }),
    (Rule::Attempts, "an item's attempts repeat", |story| {
        let attempt = Attempt {
            attempt: 1,
            ..Attempt::default()
        };
        story
            .items(ITEM)
            .for_each(|item| item.attempts.push(attempt.clone()));
    }),
    (
        Rule::Answered,
        "a call breaks although the server lives",
        |story| {
            story.answer(LOOK, Answer::Broken("reset".to_owned()));
        },
    ),
];

/// Breaches between two lives, of fates and of cancels.
const LIVES: [Case; 13] = [
    (Rule::I2, "a result changes in a crash", |story| {
        story.results(SUBMIT).for_each(|seen| seen.output = None);
    }),
    (Rule::I2, "a cursor is ahead of the journal", |story| {
        story.answer(WATCH, refused(Code::OutOfRange, "CURSOR_AHEAD"));
    }),
    (Rule::I3, "an accepted batch is not there", |story| {
        story.answer(LOOK, refused(Code::NotFound, "BATCH_NOT_FOUND"));
    }),
    (Rule::I8, "a batch is not over at the end", |story| {
        story.forget(REPEAT, |answer| matches!(answer, Answer::Over));
    }),
    (Rule::I9, "a result is not of the newest attempt", |story| {
        story.executions[0].attempt = 2;
    }),
    (Rule::Attempts, "an attempt's number comes again", |story| {
        story.executions[2].attempt = 1;
    }),
    (Rule::Fate, "an item fails that cannot", |story| {
        for call in [SUBMIT, REPEAT] {
            let item = story.results(call).next().unwrap();
            *item = *Seen::of(result("work", 1, ItemState::Failed, "EXIT_1"));
        }
    }),
    (Rule::Fate, "an item is given up after one crash", |story| {
        let given_up = result("work", 2, ItemState::Failed, "CRASHED_TOO_OFTEN");
        story
            .results(WATCH)
            .for_each(|seen| *seen = *Seen::of(given_up.clone()));
        *story.results(REPEAT).last().unwrap() = *Seen::of(given_up);
    }),
    (Rule::Fate, "an item is cancelled by nobody", |story| {
        let cancelled = result("work", 2, ItemState::Cancelled, "ITEM_CANCELLED");
        story
            .results(WATCH)
            .for_each(|seen| *seen = *Seen::of(cancelled.clone()));
        *story.results(REPEAT).last().unwrap() = *Seen::of(cancelled);
    }),
    (
        Rule::Fate,
        "an item ends without having been executed",
        |story| {
            story.executions.truncate(3);
        },
    ),
    (Rule::I7, "a cancel's counts leave an item out", |story| {
        story.cancels().for_each(|counts| counts.finished_count = 0);
    }),
    (
        Rule::I7,
        "an item runs that a cancel had met waiting",
        |story| {
            story.executions.push(executed("doomed", 1, 1, 200));
        },
    ),
    (Rule::I7, "a cancelled batch completes", |story| {
        let complete = |batch: &mut Batch| batch.state = BatchState::Completed.into();
        story.batches(LAST).for_each(complete);
    }),
];

/// Breaches of what keys and refusals promise.
const KEYS: [Case; 9] = [
    (
        Rule::I10,
        "a repeated submit gets a batch of its own",
        |story| {
            *story.answers(REPEAT).next().unwrap() =
                Answer::Accepted("work".to_owned(), "uid-2".to_owned(), false);
        },
    ),
    (Rule::I10, "a batch is created twice", |story| {
        *story.answers(REPEAT).next().unwrap() = accepted("work", true);
    }),
    (Rule::I3, "an accepted batch is created anew", |story| {
        *story.answers(REPEAT).next().unwrap() = accepted("work", true);
    }),
    (Rule::I10, "other content is accepted", |story| {
        story.answer(OTHER_CONTENT, accepted("work", false));
    }),
    (Rule::I10, "a submit conflicts with nothing", |story| {
        story.answer(DRAINED, refused(Code::AlreadyExists, "BATCH_ID_CONFLICT"));
    }),
    (Rule::Refusal, "what was refused is there", |story| {
        let gone = Batch {
            batch_id: "gone".to_owned(),
            ..*completed()
        };
        story.answer(MISSING, Answer::Batch(gone.into()));
    }),
    (
        Rule::Refusal,
        "a submit attaches to what nobody created",
        |story| {
            *story.answers(SUBMIT).next().unwrap() = accepted("work", false);
        },
    ),
    (Rule::Refusal, "what was refused is executed", |story| {
        story.executions.push(executed("gone", 0, 1, 200));
    }),
    (
        Rule::Answered,
        "a refusal has a reason that no call may bring",
        |story| {
            story.answer(DRAINED, refused(Code::Internal, "BUG"));
        },
    ),
];
