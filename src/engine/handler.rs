//! The contract between the engine and what computes items.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::base::clock::{self, Timestamp};
use crate::domain::attempt::{ItemError, Outcome, Reason};
use crate::domain::ids::{BatchId, BatchUid, ItemOrigin, item_id_text};
use crate::domain::item::ItemSpec;

/// Computes the items of a queue, one attempt at a time and many at once.
///
/// It may run more than once for an item (after a crash, say); [`Attempt::idempotency_key`] is the
/// same each time. A panic is the attempt's failure, not the program's. How to write one is told in
/// [`docs::handlers`](crate::docs::handlers); a function is one too, see [`handler_fn`](crate::handler_fn)
/// and [`blocking`](crate::blocking).
///
/// ```
/// use sooner::{Attempt, Handler, ItemError, Outcome, async_trait};
///
/// #[derive(Debug)]
/// struct Fetch {
///     base: String,
/// }
///
/// #[async_trait]
/// impl Handler for Fetch {
///     async fn handle(&self, attempt: Attempt) -> Outcome {
///         let path = attempt.spec.input.as_text().unwrap_or_default();
///         fetch(&self.base, path).await.into()
///     }
/// }
/// # async fn fetch(base: &str, path: &str) -> Result<String, ItemError> { Ok(format!("{base}{path}")) }
/// ```
#[async_trait]
pub trait Handler: fmt::Debug + Send + Sync + 'static {
    /// Computes one item.
    ///
    /// When [`Attempt::stop`] fires, the outcome is not wanted any more: the handler should return
    /// soon. Its future is dropped once [`Handler::stop_grace`] has passed; what the attempt then
    /// ends with is decided by why it was stopped, not by the handler.
    async fn handle(&self, attempt: Attempt) -> Outcome;

    /// How long the handler may take to return after it was asked to stop. Default zero: its future
    /// is dropped at once.
    fn stop_grace(&self) -> Duration {
        Duration::ZERO
    }

    /// What it is, in a word, for those who list queues: `exec` and `echo` are Sooner's own.
    fn kind(&self) -> &'static str {
        "library"
    }

    /// Whether [`Handler::handle`] may compute for long, or block, between two awaits. True by
    /// default, and then it is polled on threads that belong to its queue alone, so that nobody
    /// else's result waits for them. With false it shares threads with the other handlers that
    /// promised the same.
    fn may_block(&self) -> bool {
        true
    }
}

/// One execution of an item, as its handler sees it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The item: its input, its id, its attributes.
    pub spec: Arc<ItemSpec>,
    /// The batch's name.
    pub batch_id: BatchId,
    /// The server's own name of the batch.
    pub batch_uid: BatchUid,
    /// The item's position in the submitted order, from 0.
    pub index: u32,
    /// The number of this execution, from 1. Numbers never repeat.
    pub number: u32,
    /// When the attempt runs into its limit: its timeout, its item's `finish_by` or the end of its
    /// batch's time, whichever comes first.
    pub deadline: Timestamp,
    /// Fires when the attempt should end: at its limit, at a cancel, at a drain's end.
    pub stop: CancellationToken,
    /// The item that it runs again, if it was redriven.
    pub(crate) origin: Option<ItemOrigin>,
    /// Its slot, free again once nobody keeps it: whoever computes on threads of its own keeps it
    /// until they are free, so that they are never more than the queue has slots.
    pub(crate) slot: Option<Arc<OwnedSemaphorePermit>>,
}

impl Attempt {
    /// The item's id as text: the caller's, or its decimal position.
    pub fn item_id(&self) -> String {
        item_id_text(self.spec.id.as_deref(), self.index)
    }

    /// The key that is the same for every execution of this item and of no other: `batch_uid/index`.
    /// A redrive of the item keeps it, so that it then names the batch that the item was submitted in.
    pub fn idempotency_key(&self) -> String {
        let own = ItemOrigin {
            batch: self.batch_uid,
            index: self.index,
        };
        self.origin.unwrap_or(own).to_string()
    }

    /// Whether the attempt should end. A handler that computes for long asks now and then, one that
    /// waits selects on [`Attempt::stop`].
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// How long until the attempt runs into its limit; zero once it has.
    pub fn time_left(&self) -> Duration {
        self.deadline.since(clock::now())
    }

    /// The item's input as text; if it is none, the failure to return. No other attempt would help.
    pub fn text(&self) -> Result<&str, ItemError> {
        let not_text = || ItemError::of(Reason::INPUT_NOT_TEXT, "the input is not text");
        self.spec.input.as_text().ok_or_else(not_text)
    }
}
