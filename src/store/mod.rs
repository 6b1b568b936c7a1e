//! Floor 2: the durable verbs and what each guarantees.
//!
//! Every verb that changes something answers only after the change is durable, and nothing is
//! visible to anyone before that. A verb whose future is dropped may still take effect. Hints (see
//! [`Store::journal_hint`] and [`Store::work_hint`]) may be lost: whoever waits for one looks again
//! after a while.
//!
//! There is one keeper, [`embedded`]. `conformance` and `model` are the suite every keeper must pass.

pub mod admission;
#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod early_ends;
mod embedded;
#[cfg(test)]
pub(crate) mod item_ends;
mod letters;
mod lists;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tenants;
pub mod waiting;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::embedded::{OpenError, Orphan, Recovered, Reserve, Store, StoreOptions};
pub use self::letters::{
    FirstLetter, FirstPlace, LetterReach, LetterSearch, Letters, Redrive, Standing,
};
pub use self::lists::{BatchPage, BatchWalk, ItemPage, ItemWalk};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, PastAttempt, UnderWay};
use crate::domain::batch::{Batch, BatchHead};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::ids::{
    BatchId, BatchUid, ItemOrigin, LeaseToken, QueueName, RequestId, Sequence, Tenant,
};
use crate::domain::item::{Ending, ItemSpec, ItemState, Record};
use crate::domain::settings::{BatchOptions, OnDisconnect, UploadTerms};

/// A batch to be created, with all its items or, if it stays open, with none yet.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Whose it is.
    pub tenant: Tenant,
    /// The caller's id; without one the batch is named after its uid.
    pub id: Option<BatchId>,
    /// The caller's other key.
    pub request_id: Option<RequestId>,
    /// The server's own name for the batch.
    pub uid: BatchUid,
    /// Where the items wait.
    pub queue: QueueName,
    /// What the caller asked for.
    pub options: BatchOptions,
    /// What happens when its last stream has gone.
    pub on_disconnect: OnDisconnect,
    /// Fingerprint of queue, options and items.
    pub fingerprint: Fingerprint,
    /// Whether these are all items, or more are appended until the batch is sealed.
    pub content: Content,
}

/// How a batch's items come.
#[derive(Clone, Debug)]
pub enum Content {
    /// All at once.
    Whole(Vec<ItemSpec>),
    /// Appended later, then sealed.
    Appended(UploadTerms),
    /// Copied from the dead letters of the batch of that name.
    Copied(BatchId),
}

impl Content {
    /// Bytes of the inputs of the items that it brings by itself.
    pub fn input_bytes(&self) -> u64 {
        match self {
            Self::Whole(items) => input_bytes(items),
            Self::Appended(_) | Self::Copied(_) => 0,
        }
    }

    /// The terms of the upload, if it is one.
    pub fn upload(&self) -> Option<UploadTerms> {
        match self {
            Self::Whole(_) | Self::Copied(_) => None,
            Self::Appended(terms) => Some(*terms),
        }
    }

    /// The batch whose dead letters it copies, if it does.
    pub fn source(&self) -> Option<&BatchId> {
        match self {
            Self::Whole(_) | Self::Appended(_) => None,
            Self::Copied(source) => Some(source),
        }
    }
}

/// The answer to a submit.
#[derive(Clone, Debug)]
pub enum Created {
    /// The batch is new.
    New(Batch),
    /// An earlier submit with the same keys and content had created it.
    Existing(Batch),
}

impl NewBatch {
    /// The keys that the caller gave.
    pub fn keys(&self) -> Keys<'_> {
        Keys {
            tenant: &self.tenant,
            id: self.id.as_ref(),
            request_id: self.request_id.as_ref(),
        }
    }
}

/// The keys that a caller gives for a batch. Those of another tenant name nothing.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Whose the batch is.
    pub tenant: &'a Tenant,
    /// The batch's id.
    pub id: Option<&'a BatchId>,
    /// The caller's other key.
    pub request_id: Option<&'a RequestId>,
}

/// Bytes of the inputs of items.
pub(crate) fn input_bytes(items: &[ItemSpec]) -> u64 {
    let each = items.iter().map(|item| item.input.bytes().len() as u64);
    each.sum()
}

/// One of the two idempotency keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The batch's name.
    BatchId,
    /// The caller's other key.
    RequestId,
}

/// In what a submit differs from the batch that its keys name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Queue, options or items are other ones, or it came another way.
    Content,
    /// The other key names another batch, or none.
    Keys,
}

/// An item to compute, exclusively.
#[derive(Debug)]
pub struct Lease {
    /// The proof that settles it.
    pub token: LeaseToken,
    /// Its batch.
    pub head: Arc<BatchHead>,
    /// What the caller asked for, unless its record is damaged.
    pub spec: Result<ItemSpec, Damaged>,
    /// The item that it runs again, if it is the copy of a dead letter.
    pub origin: Option<ItemOrigin>,
    /// Attempts charged before this one.
    pub spent: u32,
    /// Attempts that its handler gave back before this one.
    pub releases: u32,
    /// Whether an attempt had begun before this one.
    pub began: bool,
    /// Deaths of the server while it ran.
    pub crashes: u32,
    /// Since when it could have run.
    pub ready_since: Timestamp,
    /// When it was granted.
    pub granted: Timestamp,
    /// Fires when it is cancelled.
    pub stop: CancellationToken,
}

/// A stored record whose checksum does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// What one call of `lease` gave.
#[derive(Debug, Default)]
pub struct Leased {
    /// The leases, as many as were asked for or as are due.
    pub leases: Vec<Lease>,
    /// When the next waiting item of the queue is due.
    pub next_due: Option<Timestamp>,
}

/// The end of a lease.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Whose.
    pub token: LeaseToken,
    /// The item's batch.
    pub head: Arc<BatchHead>,
    /// The caller's name for the item, for its record.
    pub id: Option<Box<str>>,
    /// With what.
    pub end: LeaseEnd,
    /// When the item must have its result: nothing succeeds from then on, and no attempt follows.
    pub finish_by: Option<Timestamp>,
    /// Attempts charged, this one included if it is.
    pub spent: u32,
    /// Who computed it.
    pub worker: Box<str>,
    /// How long the item waited before.
    pub queued: Duration,
    /// When the attempt began.
    pub started: Timestamp,
    /// How long it ran.
    pub ran: Duration,
}

impl Settlement {
    /// Bytes of the output it brings.
    pub fn output_bytes(&self) -> usize {
        match &self.end {
            LeaseEnd::Finish(Ending::Succeeded(output)) => output.bytes().len(),
            LeaseEnd::Finish(_) | LeaseEnd::Release { .. } => 0,
        }
    }
}

/// How a lease ends.
#[derive(Clone, Debug)]
pub enum LeaseEnd {
    /// With the item's result.
    Finish(Ending),
    /// With another attempt at `due`.
    Release {
        /// When.
        due: Timestamp,
        /// Why this one gave no result.
        error: ItemError,
        /// What this one counts for.
        charge: Charge,
    },
}

/// What an attempt counts for that gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// An attempt, as its item's policy counts them: it failed. `spent` counts it.
    Attempt,
    /// A release: its handler gave it back without having begun.
    Release,
    /// An attempt that has begun and is held against nobody: the server stopped it.
    Stop,
    /// Nothing: it could not begin, and nobody but the server is to blame. Its row takes the place of
    /// the item's last such row.
    Unbegun,
    /// Nothing, and it leaves no row: only for what has left no trace among what runs either, which
    /// the row would tell from an attempt that began.
    Nothing,
}

impl Charge {
    /// Whether an attempt had begun: from then on a `start_by` means nothing.
    pub fn began(self) -> bool {
        matches!(self, Self::Attempt | Self::Stop)
    }
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its result is in the journal.
    Recorded(Sequence),
    /// The item's or its batch's early end or time came first, and that is in the journal.
    Overruled(Sequence),
    /// The item waits for its next attempt.
    Released,
    /// This very attempt had recorded its result before.
    AlreadyMine(Sequence),
    /// The item has another result or another holder; this outcome is dropped.
    Superseded,
    /// The batch is not there.
    Gone,
}

/// A stretch of a batch's journal.
#[derive(Clone, Debug)]
pub struct Page {
    /// The records behind the cursor, in order, as far as the page reaches.
    pub records: Vec<Record>,
    /// The batch as it stood just before the page was read.
    pub batch: Batch,
}

/// An item as it stands.
#[derive(Clone, Debug)]
pub struct ItemView {
    /// Its position in the submitted order.
    pub index: u32,
    /// The caller's name for it.
    pub id: Option<Box<str>>,
    /// Its result, if it is terminal.
    pub record: Option<Record>,
    /// The attempt under way.
    pub running: Option<UnderWay>,
    /// When its next attempt is due, if it waits for that time.
    pub next_due: Option<Timestamp>,
    /// Attempts that are over, oldest first; the last one gave the result, if one did.
    pub past: Vec<PastAttempt>,
    /// What was submitted, if it was asked for.
    pub spec: Option<Result<ItemSpec, Damaged>>,
}

impl ItemView {
    /// Where it is in its life.
    pub fn state(&self) -> ItemState {
        match (&self.record, self.running) {
            (Some(record), _) => ItemState::Ended(record.ending.state()),
            (None, Some(_)) => ItemState::Running,
            (None, None) => ItemState::Pending,
        }
    }
}

/// What a cancel met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CancelCounts {
    /// Waited, and will not run.
    pub never_started: u32,
    /// Are being stopped.
    pub stopping: u32,
    /// Had their result.
    pub finished: u32,
}

/// The store could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key names a batch that is not the one submitted.
    #[error("the key names batch {holder}")]
    Conflict {
        /// The key at fault.
        key: Key,
        /// The batch that stands in the way.
        holder: BatchId,
        /// In what the two differ.
        mismatch: Mismatch,
    },
    /// There is no such batch.
    #[error("no such batch")]
    NoBatch,
    /// There is no such item in the batch.
    #[error("no such item")]
    NoItem(Box<str>),
    /// The batch takes no more items.
    #[error("the batch takes no more items")]
    Sealed,
    /// The batch is over.
    #[error("the batch has ended")]
    Ended,
    /// The batch is not over.
    #[error("the batch is not over; cancel it first, or wait until it is")]
    NotOver,
    /// The batch is over, and what failed in it is being copied into another one.
    #[error("a redrive still copies from the batch; try again in a while")]
    Redriven,
    /// Some items of the batch have ids of their own and others have none.
    #[error("item {0} differs from those before it in having an id or not")]
    MixedIds(u32),
    /// Two items of the batch have the same id.
    #[error("{id:?} names the item at {first} too")]
    DuplicateId {
        /// The index of the later one.
        index: u32,
        /// The index of the earlier one.
        first: u32,
        /// The id.
        id: Box<str>,
    },
    /// The items do not follow the ones so far, or the total is wrong.
    #[error("the batch has {0} items")]
    WrongCount(u32),
    /// Nothing that was to be redriven is a dead letter any more.
    #[error("no dead letter is left of what was asked for")]
    NoLetters,
    /// The disk is full; nothing was stored.
    #[error("the disk is full")]
    DiskFull,
    /// As much is accepted and not over as may be; nothing was stored.
    #[error("{0}")]
    Full(Box<admission::Full>),
    /// The writer has too much to do; nothing was stored.
    #[error("too much waits to be written")]
    QueueFull,
    /// The store is closed; nothing was stored.
    #[error("the store is closed")]
    Closed,
    /// The write failed in a way that leaves open whether it happened.
    #[error("the outcome of a write is unknown")]
    OutcomeUnknown,
    /// What is asked for is stored, but damaged.
    #[error("the stored record is damaged")]
    Corrupt,
    /// Reading failed.
    #[error("read the store: {0}")]
    Read(String),
}
