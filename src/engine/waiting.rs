//! Why a pending item does not run yet, and what would change that.

use std::time::Duration;

use super::Engine;
use super::slots::Slots;
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, PastAttempt};
use crate::domain::batch::Batch;
use crate::domain::ids::QueueName;
use crate::domain::item::ItemSpec;
use crate::domain::rate::Rate;
use crate::error::Result;
use crate::store::ItemView;
use crate::store::waiting::Hold;

/// Why an item is not running now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In a word, for programs.
    pub reason: WaitingReason,
    /// In a sentence, for people, with what would change it.
    pub message: String,
}

/// Why an item is not running now, in a word. The first that applies is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingReason {
    /// Its batch ends early.
    BatchEnding,
    /// It has ended, and its record could not be written.
    Unrecorded,
    /// The server is stopping.
    ServerDraining,
    /// Nobody computes items of its queue.
    NoHandler,
    /// Its queue is paused.
    QueuePaused,
    /// Its batch is paused.
    BatchPaused,
    /// Its batch's time has not come.
    NotBefore,
    /// Its next attempt is not due yet.
    Backoff,
    /// As many items of its batch run as it wants at once.
    MaxParallelism,
    /// The server died under it, and such items run one at a time.
    Marked,
    /// An item under which the server died runs with nothing beside it.
    HeldBack,
    /// Too many items of its batch wait for another attempt.
    RetriesFirst,
    /// Its queue's rate allows no attempt now.
    RateLimit,
    /// An attempt is in each of its queue's slots.
    SlotsBusy,
    /// Nothing is in its way: it is about to start.
    InLine,
}

impl WaitingReason {
    /// All of them, in the order in which they are looked at.
    pub const ALL: [Self; 15] = [
        Self::BatchEnding,
        Self::Unrecorded,
        Self::ServerDraining,
        Self::NoHandler,
        Self::QueuePaused,
        Self::BatchPaused,
        Self::NotBefore,
        Self::Backoff,
        Self::MaxParallelism,
        Self::Marked,
        Self::HeldBack,
        Self::RetriesFirst,
        Self::RateLimit,
        Self::SlotsBusy,
        Self::InLine,
    ];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::BatchEnding => "BATCH_ENDING",
            Self::Unrecorded => "UNRECORDED",
            Self::ServerDraining => "SERVER_DRAINING",
            Self::NoHandler => "NO_HANDLER",
            Self::QueuePaused => "QUEUE_PAUSED",
            Self::BatchPaused => "BATCH_PAUSED",
            Self::NotBefore => "NOT_BEFORE",
            Self::Backoff => "BACKOFF",
            Self::MaxParallelism => "MAX_PARALLELISM",
            Self::Marked => "MARKED",
            Self::HeldBack => "HELD_BACK",
            Self::RetriesFirst => "RETRIES_FIRST",
            Self::RateLimit => "RATE_LIMIT",
            Self::SlotsBusy => "SLOTS_BUSY",
            Self::InLine => "IN_LINE",
        }
    }
}

impl Engine {
    /// Why an item is not running; `None` if it is not pending any more, or not yet.
    pub(super) async fn waiting(&self, batch: &Batch, item: &ItemView) -> Result<Option<Waiting>> {
        let Some(hold) = self.0.store.hold(batch.head.no, item.index) else {
            return Ok(None);
        };
        let (reason, message) = match hold {
            Hold::Ending => (
                WaitingReason::BatchEnding,
                "its batch ends early; its record is about to be written".to_owned(),
            ),
            Hold::Unrecorded => (
                WaitingReason::Unrecorded,
                "it ended with the last run of the server, and damage in the file keeps its record from being written; it does not run again, and the next start tries again to record it"
                    .to_owned(),
            ),
            _ if self.0.draining.is_cancelled() => (
                WaitingReason::ServerDraining,
                "the server is stopping; it goes on when the server is started again".to_owned(),
            ),
            _ if !self.0.slots.contains_key(&batch.head.queue) => {
                let queue = &batch.head.queue;
                let message = format!(
                    "nobody serves the queue {queue}; it goes on when the server is started with a handler for it"
                );
                (WaitingReason::NoHandler, message)
            }
            Hold::Backoff { until, spent } => {
                let spec = self.spec(batch, item).await?;
                let message = self.told_backoff(batch, item, spec.as_ref(), (until, spent));
                (WaitingReason::Backoff, message)
            }
            Hold::InLine { ahead, others } => {
                let queue = &batch.head.queue;
                let rate = self.0.options.queues[queue].rate;
                told_line(queue, &self.0.slots[queue], rate, &place(ahead, others))
            }
            hold @ (Hold::QueuePaused(_)
            | Hold::BatchPaused(_)
            | Hold::NotBefore(_)
            | Hold::Parallelism { .. }
            | Hold::Marked
            | Hold::HeldBack
            | Hold::RetriesFirst) => told(batch, hold),
        };
        Ok(Some(Waiting { reason, message }))
    }

    /// What was submitted, unless its record is damaged.
    async fn spec(&self, batch: &Batch, item: &ItemView) -> Result<Option<ItemSpec>> {
        if let Some(spec) = &item.spec {
            return Ok(spec.clone().ok());
        }
        let mut specs = self.0.store.specs(batch.head.no, item.index, 1).await?;
        Ok(specs.pop().and_then(std::result::Result::ok))
    }

    fn told_backoff(
        &self,
        batch: &Batch,
        item: &ItemView,
        spec: Option<&ItemSpec>,
        (until, spent): (Timestamp, u32),
    ) -> String {
        let own = spec.map(|spec| spec.retry.clone()).unwrap_or_default();
        let queue = self.0.options.queues.get(&batch.head.queue);
        let mut retry = own.or(&batch.head.options.retry);
        if let Some(queue) = queue {
            retry = retry.or(&queue.retry);
        }
        let most = retry.policy().max_attempts;
        told_last(item.past.last(), (spent, most), until)
    }
}

/// How the last attempt ended, and when the next one begins.
fn told_last(last: Option<&PastAttempt>, (spent, most): (u32, u32), until: Timestamp) -> String {
    let until = rfc3339(until);
    let known = last.and_then(|last| Some((last, last.error.as_ref()?)));
    let Some((&PastAttempt { number, began, .. }, error)) = known else {
        return format!("its next attempt begins at {until}");
    };
    let ItemError {
        reason, message, ..
    } = error;
    let what = if began {
        format!("attempt {number} ended with {reason}")
    } else {
        format!(
            "attempt {number} did not begin: {reason}{}",
            because(message)
        )
    };
    format!("{what}; {spent} of {most} attempts are used, the next begins at {until}")
}

/// What is told of an item that only waits for its turn.
fn told_line(
    queue: &QueueName,
    slots: &Slots,
    rate: Option<Rate>,
    place: &str,
) -> (WaitingReason, String) {
    if let Some(wait) = slots.throttled_for() {
        let per_second = rate.map_or(0.0, |rate| rate.per_second);
        let wait = in_words(wait);
        let message = format!(
            "the rate of the queue {queue}, {per_second} attempts per second, allows the next attempt {wait}; {place}"
        );
        return (WaitingReason::RateLimit, message);
    }
    if slots.are_all_busy() {
        let message = match slots.count() {
            1 => format!("the one slot of the queue {queue} is busy; {place}"),
            count => format!("all {count} slots of the queue {queue} are busy; {place}"),
        };
        return (WaitingReason::SlotsBusy, message);
    }
    let message = format!("it is about to start; {place}");
    (WaitingReason::InLine, message)
}

/// What is told of a hold that the store knows all about.
fn told(batch: &Batch, hold: Hold) -> (WaitingReason, String) {
    let options = &batch.head.options;
    match hold {
        Hold::QueuePaused(why) => {
            let queue = &batch.head.queue;
            let message = format!(
                "the queue {queue} is paused{}; resume the queue",
                because(&why)
            );
            (WaitingReason::QueuePaused, message)
        }
        Hold::BatchPaused(pause) => {
            let message = format!("its batch is paused{}; resume the batch", because(&pause.why));
            (WaitingReason::BatchPaused, message)
        }
        Hold::NotBefore(begins) => {
            let message = format!("its batch begins at {}", rfc3339(begins));
            (WaitingReason::NotBefore, message)
        }
        Hold::Parallelism { running } => {
            let most = options.max_parallelism.unwrap_or_default();
            let run = match running {
                1 => "1 item of its batch runs".to_owned(),
                running => format!("{running} items of its batch run"),
            };
            let message = format!("{run}, and it wants no more than {most} at once");
            (WaitingReason::MaxParallelism, message)
        }
        Hold::Marked => (
            WaitingReason::Marked,
            "the server died while it ran, and such items run one at a time; others come first"
                .to_owned(),
        ),
        Hold::HeldBack => (
            WaitingReason::HeldBack,
            "an item under which the server died runs with nothing beside it; it goes on after that"
                .to_owned(),
        ),
        Hold::RetriesFirst => (
            WaitingReason::RetriesFirst,
            "too many items of its batch wait for another attempt; first attempts go on when there are fewer"
                .to_owned(),
        ),
        Hold::Ending | Hold::Unrecorded | Hold::Backoff { .. } | Hold::InLine { .. } => {
            unreachable!("told of by who knows more")
        }
    }
}

fn because(why: &str) -> String {
    if why.is_empty() {
        String::new()
    } else {
        format!(" ({why})")
    }
}

/// Where it is in line, as far as that is cheap to know.
fn place(ahead: u32, others: usize) -> String {
    let before = match ahead {
        0 => "no item of its batch goes".to_owned(),
        1 => "at most 1 item of its batch goes".to_owned(),
        ahead => format!("at most {ahead} items of its batch go"),
    };
    let turns = match others {
        0 => String::new(),
        1 => ", and 1 other batch takes turns with it".to_owned(),
        others => format!(", and {others} other batches take turns with it"),
    };
    format!("{before} first{turns}")
}

fn in_words(wait: Duration) -> String {
    match wait.as_secs() {
        0 => "within a second".to_owned(),
        seconds => format!("in {} s", seconds + 1),
    }
}

fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::Reason;

    #[test]
    fn the_documents_tell_all_reasons_in_order() {
        let page = include_str!("../../docs/batches.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split('`').next());
        let told: Vec<_> = names
            .filter(|name| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
            })
            .collect();
        assert_eq!(told, WaitingReason::ALL.map(WaitingReason::name));
    }

    #[tokio::test]
    async fn an_item_that_waits_for_nothing_is_about_to_start() {
        let (queue, slots) = (QueueName::default(), Slots::new(1, None));
        let free = told_line(&queue, &slots, None, "no item of its batch goes first");
        let said = "it is about to start; no item of its batch goes first".to_owned();
        assert_eq!(free, (WaitingReason::InLine, said));
        let _taken = slots.take().await;
        let (reason, _) = told_line(&queue, &slots, None, "");
        assert_eq!(reason, WaitingReason::SlotsBusy);
    }

    #[test]
    fn what_could_not_begin_is_told_with_its_cause() {
        let (due, message) = (Timestamp(1_000), "cannot start \"cat\": no memory");
        let mut last = PastAttempt {
            number: 7,
            began: false,
            started: Some(Timestamp(1)),
            ended: Some(Timestamp(1)),
            next: Some(due),
            error: Some(ItemError::of(Reason::SPAWN_FAILED, message)),
            worker: "local".into(),
        };
        let rest = "0 of 3 attempts are used, the next begins at 1970-01-01T00:00:01Z";
        assert_eq!(
            told_last(Some(&last), (0, 3), due),
            format!("attempt 7 did not begin: SPAWN_FAILED ({message}); {rest}")
        );
        last.began = true;
        assert_eq!(
            told_last(Some(&last), (0, 3), due),
            format!("attempt 7 ended with SPAWN_FAILED; {rest}")
        );
    }

    #[test]
    fn a_place_in_line_is_told_in_words() {
        assert_eq!(place(0, 0), "no item of its batch goes first");
        assert_eq!(
            place(7, 2),
            "at most 7 items of its batch go first, and 2 other batches take turns with it"
        );
    }
}
