//! A history that keeps every promise, and how to break it.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost_types::Timestamp;
use sooner::wire::{
    Attempt, Batch, BatchState, CancelBatchResponse, Counts, Item, ItemError, ItemResult,
    ItemState, Payload, payload,
};
use tonic::Code;

use crate::harness::history::{
    Answer, Asked, Call, Event, Execution, Fate, Guarantees, History, Planned, Rule, Seen, Submit,
};

/// A history and what its handlers noted.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) events: Vec<Event>,
    pub(super) executions: Vec<Execution>,
}

// Calls of the sound story.
pub(super) const SUBMIT: Call = 1;
pub(super) const REPEAT: Call = 2;
pub(super) const WATCH: Call = 3;
pub(super) const LOOK: Call = 4;
pub(super) const ITEM: Call = 5;
pub(super) const OTHER_CONTENT: Call = 6;
pub(super) const DRAINED: Call = 7;
pub(super) const MISSING: Call = 8;
pub(super) const DOOMED: Call = 9;
pub(super) const CANCEL: Call = 10;
pub(super) const LAST: Call = 11;

pub(super) fn submit(key: &str, inputs: &[(&str, Fate)]) -> Arc<Submit> {
    let plan = |&(input, fate): &(&str, Fate)| Planned {
        input: input.to_owned(),
        fate,
    };
    Arc::new(Submit {
        key: key.to_owned(),
        by_request_id: false,
        uploaded: false,
        queue: "exec",
        named: false,
        items: inputs.iter().map(plan).collect(),
    })
}

/// Two items: one succeeds, one fails at its third attempt.
fn work() -> Arc<Submit> {
    submit(
        "work",
        &[("ok", Fate::Succeeds), ("fails", Fate::Fails("EXIT_1", 3))],
    )
}

/// Two items that are cancelled: the first one too late.
fn doomed() -> Arc<Submit> {
    submit(
        "doomed",
        &[("ok", Fate::Succeeds), ("slow", Fate::Succeeds)],
    )
}

pub(super) fn result(batch_id: &str, sequence: u64, state: ItemState, reason: &str) -> ItemResult {
    let text = format!("ok {sequence}");
    let output = Payload {
        body: Some(payload::Body::Text(text)),
        ..Payload::default()
    };
    let error = ItemError {
        reason: reason.to_owned(),
        ..ItemError::default()
    };
    ItemResult {
        item_id: (sequence - 1).to_string(),
        index: sequence - 1,
        batch_id: batch_id.to_owned(),
        sequence,
        state: state.into(),
        output: reason.is_empty().then_some(output),
        error: (!reason.is_empty()).then_some(error),
        attempt_count: if reason == "EXIT_1" { 3 } else { 1 },
        finish_time: Some(time(sequence)),
        remaining_count: Some(2 - sequence),
        ..ItemResult::default()
    }
}

pub(super) fn time(sequence: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(sequence).unwrap(),
        nanos: 0,
    }
}

fn succeeded(batch_id: &str) -> ItemResult {
    result(batch_id, 1, ItemState::Succeeded, "")
}

fn failed() -> ItemResult {
    result("work", 2, ItemState::Failed, "EXIT_1")
}

fn batch(batch_id: &str, state: BatchState, [failed, cancelled]: [u64; 2]) -> Batch {
    let counts = Counts {
        total: 2,
        succeeded: 1,
        failed,
        cancelled,
        ..Counts::default()
    };
    Batch {
        batch_id: batch_id.to_owned(),
        batch_uid: format!("uid-{batch_id}"),
        state: state.into(),
        counts: Some(counts),
        finish_time: Some(time(9)),
        last_sequence: 2,
        ..Batch::default()
    }
}

pub(super) fn completed() -> Box<Batch> {
    batch("work", BatchState::Completed, [1, 0]).into()
}

pub(super) fn accepted(key: &str, created: bool) -> Answer {
    Answer::Accepted(key.to_owned(), format!("uid-{key}"), created)
}

pub(super) fn executed(key: &str, index: u64, attempt: u32, parent: u32) -> Execution {
    Execution {
        batch_uid: format!("uid-{key}"),
        index,
        attempt,
        parent,
    }
}

/// A submit whose stream a crash cuts, its repetition, a refusal of each kind, and a cancel.
pub(super) fn sound() -> Story {
    let events = [first_life(), second_life(), refusals(), cancel()].concat();
    let executions = vec![
        executed("work", 0, 1, 100),
        executed("work", 1, 1, 100),
        executed("work", 1, 2, 200),
        executed("work", 1, 3, 200),
        executed("doomed", 0, 1, 200),
    ];
    Story { events, executions }
}

fn first_life() -> Vec<Event> {
    vec![
        Event::Started(100),
        sent(SUBMIT, 1, Asked::Submit(work())),
        came(SUBMIT, accepted("work", true)),
        came(SUBMIT, seen(succeeded("work"))),
        Event::Died(1000),
        came(SUBMIT, Answer::Broken("reset".to_owned())),
        Event::Started(200),
    ]
}

fn second_life() -> Vec<Event> {
    let id = "work".to_owned();
    let attempts = vec![Attempt {
        attempt: 1,
        ..Attempt::default()
    }];
    let item = Item {
        item_id: "0".to_owned(),
        batch_id: id.clone(),
        state: ItemState::Succeeded.into(),
        result: Some(succeeded("work")),
        attempts,
        ..Item::default()
    };
    vec![
        sent(REPEAT, 2, Asked::Submit(work())),
        came(REPEAT, accepted("work", false)),
        came(REPEAT, seen(succeeded("work"))),
        came(REPEAT, seen(failed())),
        came(REPEAT, Answer::Over),
        sent(WATCH, 2, Asked::Watch(id.clone(), 1)),
        came(WATCH, Answer::Attached(completed())),
        came(WATCH, seen(failed())),
        came(WATCH, Answer::Ended(completed())),
        came(WATCH, Answer::Over),
        sent(LOOK, 2, Asked::GetBatch(id.clone())),
        came(LOOK, Answer::Batch(completed())),
        sent(ITEM, 2, Asked::GetItem(id, "0".to_owned())),
        came(ITEM, Answer::Item(item.into())),
    ]
}

fn refusals() -> Vec<Event> {
    let other = submit("work", &[("other", Fate::Succeeds)]);
    let gone = submit("gone", &[("ok", Fate::Succeeds)]);
    vec![
        sent(OTHER_CONTENT, 2, Asked::Submit(other)),
        came(
            OTHER_CONTENT,
            refused(Code::AlreadyExists, "BATCH_ID_CONFLICT"),
        ),
        sent(DRAINED, 2, Asked::Submit(gone)),
        came(DRAINED, refused(Code::Unavailable, "SERVER_DRAINING")),
        sent(MISSING, 2, Asked::GetBatch("gone".to_owned())),
        came(MISSING, refused(Code::NotFound, "BATCH_NOT_FOUND")),
    ]
}

fn cancel() -> Vec<Event> {
    let counts = CancelBatchResponse {
        batch: None,
        never_started_count: 1,
        stopping_count: 0,
        finished_count: 1,
    };
    let cancelled = result("doomed", 2, ItemState::Cancelled, "BATCH_CANCELLED");
    let ended = batch("doomed", BatchState::Cancelled, [0, 1]);
    vec![
        sent(DOOMED, 2, Asked::Submit(doomed())),
        came(DOOMED, accepted("doomed", true)),
        came(DOOMED, seen(succeeded("doomed"))),
        sent(CANCEL, 2, Asked::Cancel("doomed".to_owned(), Vec::new())),
        came(CANCEL, Answer::Cancelled(counts.into(), 5)),
        came(DOOMED, seen(cancelled)),
        came(DOOMED, Answer::Over),
        sent(LAST, 2, Asked::GetBatch("doomed".to_owned())),
        came(LAST, Answer::Batch(ended.into())),
    ]
}

pub(super) fn sent(call: Call, life: usize, asked: Asked) -> Event {
    Event::Sent(call, life, asked)
}

pub(super) fn came(call: Call, answer: Answer) -> Event {
    Event::Came(call, answer)
}

pub(super) fn seen(result: ItemResult) -> Answer {
    Answer::Result(Seen::of(result))
}

pub(super) fn refused(code: Code, reason: &str) -> Answer {
    Answer::Refused(code, reason.to_owned())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "one kind is wanted")]
impl Story {
    pub(super) fn rules(&self) -> BTreeSet<Rule> {
        let history = History::default();
        self.events
            .iter()
            .for_each(|event| history.push(event.clone()));
        let violations = history.check(&self.executions, Guarantees::All);
        violations.iter().map(|violation| violation.rule).collect()
    }

    /// The answers of a call, to be changed.
    pub(super) fn answers(&mut self, call: Call) -> impl Iterator<Item = &mut Answer> {
        let of_call = move |event| match event {
            &mut Event::Came(of, ref mut answer) if of == call => Some(answer),
            _ => None,
        };
        self.events.iter_mut().filter_map(of_call)
    }

    pub(super) fn results(&mut self, call: Call) -> impl Iterator<Item = &mut Seen> {
        self.answers(call).filter_map(|answer| match answer {
            Answer::Result(seen) => Some(&mut **seen),
            _ => None,
        })
    }

    pub(super) fn batches(&mut self, call: Call) -> impl Iterator<Item = &mut Batch> {
        self.answers(call).filter_map(|answer| match answer {
            Answer::Attached(batch) | Answer::Batch(batch) | Answer::Ended(batch) => {
                Some(&mut **batch)
            }
            _ => None,
        })
    }

    pub(super) fn items(&mut self, call: Call) -> impl Iterator<Item = &mut Item> {
        self.answers(call).filter_map(|answer| match answer {
            Answer::Item(item) => Some(&mut **item),
            _ => None,
        })
    }

    pub(super) fn cancels(&mut self) -> impl Iterator<Item = &mut CancelBatchResponse> {
        self.answers(CANCEL).filter_map(|answer| match answer {
            Answer::Cancelled(counts, _) => Some(&mut **counts),
            _ => None,
        })
    }

    /// Puts another answer in the place of the last one.
    pub(super) fn answer(&mut self, call: Call, answer: Answer) {
        *self.answers(call).last().unwrap() = answer;
    }

    pub(super) fn forget(&mut self, call: Call, is_it: fn(&Answer) -> bool) {
        let is_other = |event: &Event| !matches!(event, Event::Came(of, answer) if *of == call && is_it(answer));
        self.events.retain(is_other);
    }
}
