//! What is asked of the writer, what it answers, and the two on their way through its queue.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::batch::Batch;
use crate::domain::dead_letter::LetterPlace;
use crate::domain::ids::{BatchNo, ItemKey, QueueName};
use crate::domain::item::ItemSpec;
use crate::domain::pause::Pause;
use crate::store::{
    CancelCounts, Content, Created, NewBatch, Redrive, Settlement, StoreError, Verdict,
};

/// What is asked of the writer.
#[derive(Debug)]
pub(crate) enum Request {
    Create(Box<NewBatch>),
    Append {
        batch: BatchNo,
        first: u32,
        items: Arc<Vec<ItemSpec>>,
    },
    Seal {
        batch: BatchNo,
        total: u32,
    },
    Settle(Vec<Settlement>),
    /// Ends the batches whose time is over.
    EndOverdue,
    /// Ends items whose own time is over, some of them.
    EndStale,
    /// Ends an item that ran when the last process ended and runs at most once.
    EndInterrupted(ItemKey),
    /// Takes a batch that is over off the books.
    Remove(BatchNo),
    /// Takes what has expired by then off the books, and removes some rows of what is off them.
    Trim {
        expired_by: Option<Timestamp>,
    },
    /// Pauses a batch, or without a pause lets it go on.
    Pause {
        batch: BatchNo,
        pause: Option<Pause>,
    },
    /// Pauses a queue, or without a reason lets it go on.
    PauseQueue {
        queue: QueueName,
        pause: Option<Box<str>>,
    },
    Cancel {
        batch: BatchNo,
        items: Option<Vec<u32>>,
        reason: Box<str>,
    },
    /// Runs dead letters again, in a new batch.
    Redrive(Box<Redrive>),
    /// Ends a redrive whose next letters cannot be read.
    EndRedrive(BatchNo),
    /// Takes dead letters off the list.
    Purge(Vec<LetterPlace>),
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Created(Box<Created>),
    Accepted(u32),
    Batch(Box<Batch>),
    Settled(Vec<Verdict>),
    Cancelled(CancelCounts),
    Purged(u32),
    /// Whether there is more to remove, or to end.
    Looked {
        more: bool,
    },
    Done,
}

/// A request and where its answer goes.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Result<Answer, StoreError>>,
    pub(crate) bytes: usize,
    /// Its place among the bytes that may wait, given back when the operation is gone.
    pub(crate) _room: Option<OwnedSemaphorePermit>,
}

impl Request {
    /// Whether it brings new work, which is refused first when room is short.
    pub(crate) fn is_new_work(&self) -> bool {
        matches!(
            self,
            Self::Create(_) | Self::Append { .. } | Self::Redrive(_)
        )
    }

    /// Whether it may as well come later, when there is room again.
    pub(crate) fn is_deferrable(&self) -> bool {
        matches!(self, Self::Trim { .. })
    }

    /// Bytes of payload that it holds while it waits, about, or that it writes to the log.
    pub(crate) fn bytes(&self) -> usize {
        let of_items = |items: &[ItemSpec]| {
            items
                .iter()
                .map(|item| 128 + item.input.bytes().len())
                .sum()
        };
        match self {
            Self::Create(batch) => match &batch.content {
                Content::Whole(items) => of_items(items),
                Content::Appended(_) | Content::Copied(_) => 0,
            },
            Self::Append { items, .. } => of_items(items),
            Self::Settle(settlements) => {
                settlements.iter().map(|one| 128 + one.output_bytes()).sum()
            }
            // The pages of the rows that go.
            Self::Trim { .. } => 1 << 20,
            Self::Seal { .. }
            | Self::EndOverdue
            | Self::EndStale
            | Self::EndInterrupted(_)
            | Self::Remove(_)
            | Self::Pause { .. }
            | Self::PauseQueue { .. }
            | Self::Cancel { .. }
            | Self::EndRedrive(_)
            | Self::Purge(_) => 0,
            // What its first chunk may copy.
            Self::Redrive(_) => limits::REDRIVE_BYTES_MAX,
        }
    }
}

impl Operation {
    /// An operation of the store's own, whose outcome nobody waits for.
    pub(crate) fn unanswered(request: Request) -> Self {
        let (answer, _) = oneshot::channel();
        Self {
            request,
            answer,
            bytes: 0,
            _room: None,
        }
    }
}
