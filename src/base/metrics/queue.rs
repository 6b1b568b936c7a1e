//! What is measured per queue.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::{Histograms, Labelled, Register, label, slow};

/// The families that the handles of all queues come from.
#[derive(Debug)]
pub(super) struct Families {
    queue_wait: Histograms<1>,
    attempt_duration: Histograms<1>,
    attempts: Labelled<Counter, 2>,
    dead_letters: Labelled<Counter, 1>,
    rate_waits: Labelled<Counter, 1>,
}

/// How an attempt ended, as its handler had it: whether its outcome still counts is the store's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Released,
}

/// The handles of one queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    queue_wait: Histogram,
    attempt_duration: Histogram,
    attempts: [Counter; ENDS.len()],
    rate_waits: Counter,
}

/// In the order of the enum, so that its value is the index.
const ENDS: [&str; 5] = ["succeeded", "failed", "timed_out", "cancelled", "released"];

impl Families {
    pub(super) fn new(all: &mut Register) -> Self {
        let queue_wait = Family::new_with_constructor(slow as fn() -> Histogram);
        let attempt_duration = Family::new_with_constructor(slow as fn() -> Histogram);
        all.seconds(
            "queue_wait",
            "From when an item was due until its attempt was granted, by queue",
            &queue_wait,
        );
        all.seconds(
            "attempt_duration",
            "How long the handler took for one attempt, by queue",
            &attempt_duration,
        );
        Self {
            queue_wait,
            attempt_duration,
            attempts: all.labelled("attempts", "Attempts that ended, by queue and outcome"),
            dead_letters: all.labelled(
                "dead_letters",
                "Items that became dead letters, failed or expired, by queue",
            ),
            rate_waits: all.labelled(
                "rate_waits",
                "Times that a free slot waited because the queue's rate allowed no attempt, by queue",
            ),
        }
    }

    pub(super) fn of(&self, name: &str) -> QueueMetrics {
        let queue = label("queue", name);
        let attempts = ENDS.map(|outcome| {
            let labels = [("queue", name.to_owned()), ("outcome", outcome.to_owned())];
            self.attempts.get_or_create_owned(&labels)
        });
        // Those of queues that nobody serves are counted too, once there are some.
        self.died(name, 0);
        QueueMetrics {
            queue_wait: self.queue_wait.get_or_create_owned(&queue),
            attempt_duration: self.attempt_duration.get_or_create_owned(&queue),
            attempts,
            rate_waits: self.rate_waits.get_or_create_owned(&queue),
        }
    }

    /// Items of a queue became dead letters.
    pub(super) fn died(&self, name: &str, items: u64) {
        let counter = self.dead_letters.get_or_create(&label("queue", name));
        counter.inc_by(items);
    }
}

impl QueueMetrics {
    /// An attempt was granted after its item had been due this long.
    pub(crate) fn granted(&self, waited: Duration) {
        self.queue_wait.observe(waited.as_secs_f64());
    }

    /// A free slot has to wait for the queue's rate.
    pub(crate) fn throttled(&self) {
        self.rate_waits.inc();
    }

    /// An attempt ended.
    pub(crate) fn ended(&self, end: AttemptEnd, took: Duration) {
        self.attempt_duration.observe(took.as_secs_f64());
        self.attempts[end as usize].inc();
    }
}
