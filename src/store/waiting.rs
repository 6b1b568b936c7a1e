//! Why an item waits, as far as the store knows: what its scheduler would say if it were asked for it.

use crate::base::clock::Timestamp;
use crate::domain::pause::Pause;

/// What holds a pending item back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Its batch ends early: its record is about to be written.
    Ending,
    /// It has ended, and its record could not be written: the next start tries again.
    Unrecorded,
    /// Its queue is paused, for this reason.
    QueuePaused(Box<str>),
    /// Its batch is paused.
    BatchPaused(Pause),
    /// Its batch begins then.
    NotBefore(Timestamp),
    /// Its next attempt is due then.
    Backoff {
        /// When.
        until: Timestamp,
        /// Attempts that count against its policy.
        spent: u32,
    },
    /// As many items of its batch run as may.
    Parallelism {
        /// How many that is.
        running: usize,
    },
    /// The server died while it ran, and such items run one at a time.
    Marked,
    /// The server dies under an item, perhaps, that runs with nothing beside it.
    HeldBack,
    /// So many items of its batch wait for another attempt that none gets its first.
    RetriesFirst,
    /// Nothing: it is in line.
    InLine {
        /// Items of its batch that go before it, at most.
        ahead: u32,
        /// Batches of its tenant that take turns with its own in its queue.
        others: usize,
    },
}

/// How a queue stands, as far as the store knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// Why it is paused, if it is; empty if nobody said.
    pub paused: Option<Box<str>>,
    /// Batches that are not over.
    pub batches: u64,
    /// Items that wait for an attempt.
    pub pending: u64,
    /// Items whose attempt runs.
    pub running: u64,
}
