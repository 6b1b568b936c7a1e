//! How an entry of the log reads in a report.

use std::fmt;

use super::{Answer, Asked, Event, Piece, Seen};
use sooner::wire::{Batch, BatchState, ItemState};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(pid) => write!(f, "server ready, pid {pid}"),
            Self::Died(at) => write!(f, "server gone at {at}"),
            Self::Sent(call, life, asked) => write!(f, "call {call} to life {life}: {asked}"),
            Self::Said(call, piece) => write!(f, "call {call} says {piece}"),
            Self::Came(call, answer) => write!(f, "call {call} got {answer}"),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit(submit) => {
                let count = submit.items.len();
                write!(
                    f,
                    "submit {}, {count} items to {}",
                    submit.key, submit.queue
                )
            }
            Self::Upload(submit, opening) => {
                let (key, count) = (&submit.key, submit.items.len());
                write!(f, "upload {key}, {count} items in the end, {opening:?}")
            }
            Self::Watch(id, after) => write!(f, "watch {id} after {after}"),
            Self::GetBatch(id) => write!(f, "get {id}"),
            Self::GetItem(id, item) => write!(f, "get {id}/{item}"),
            Self::Cancel(id, items) => write!(f, "cancel {id} {items:?}"),
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Items(first, count) => write!(f, "{count} items from {first} on"),
            Self::Finish(total) => write!(f, "that {total} are all"),
            Self::Wrong(what) => write!(f, "{what}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(id, uid, created) => write!(f, "accepted {id} {uid} created={created}"),
            Self::Opened(opened) => write!(f, "{opened:?}"),
            Self::Durable(items, sealed) => write!(f, "{items} durable, sealed={sealed}"),
            Self::Attached(batch) => write!(f, "attached to {}", told(batch)),
            Self::Result(seen) => write!(f, "{seen}"),
            Self::Progress(last, counts) => write!(f, "progress {last} {counts:?}"),
            Self::Ended(batch) => write!(f, "ended {}", told(batch)),
            Self::Over => write!(f, "the end, OK"),
            Self::Batch(batch) => write!(f, "batch {}", told(batch)),
            Self::Item(item) => {
                let state = ItemState::try_from(item.state);
                let attempts: Vec<_> = item.attempts.iter().map(|it| it.attempt).collect();
                write!(f, "item {} {state:?}, attempts {attempts:?}", item.item_id)
            }
            Self::Cancelled(counts, begun) => write!(
                f,
                "cancel: {} never started, {} stopping, {} finished; {begun} executions had begun",
                counts.never_started_count, counts.stopping_count, counts.finished_count
            ),
            Self::Refused(code, reason) => write!(f, "refusal {code:?} {reason}"),
            Self::Broken(why) => write!(f, "a broken call: {why}"),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = ItemState::try_from(self.state).unwrap_or_default();
        write!(f, "result #{} item {} {state:?}", self.sequence, self.index)?;
        if let Some(output) = &self.output {
            write!(f, " {:?}", output.begins)?;
        }
        if let Some(error) = &self.error {
            write!(f, " {} {:?}", error.reason, error.message)?;
        }
        write!(f, ", {} charged", self.attempt_count)?;
        match self.finish_time {
            Some(time) => write!(f, ", at {}", super::millis(time)),
            None => write!(f, ", at no time"),
        }
    }
}

/// A batch in a line.
pub(super) fn told(batch: &Batch) -> String {
    let state = BatchState::try_from(batch.state).unwrap_or_default();
    let counts = batch.counts.unwrap_or_default();
    format!(
        "{} {state:?}: {} items, {} pending, {} running, {} ok, {} failed, {} cancelled, last #{}",
        batch.batch_id,
        counts.total,
        counts.pending,
        counts.running,
        counts.succeeded,
        counts.failed,
        counts.cancelled,
        batch.last_sequence
    )
}
