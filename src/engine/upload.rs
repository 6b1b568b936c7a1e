//! A batch whose items come piece by piece, over as many calls as it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::errors::waiting_for_room;
use super::feed::{check_cursor, cursor_ahead};
use super::submission::parsed;
use super::uploads::Attachment;
use super::{Engine, Order};
use crate::base::{entropy, limits};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::fingerprint::fingerprint;
use crate::domain::ids::{BatchId, BatchUid, QueueName, RequestId, Sequence, Tenant};
use crate::domain::item::ItemSpec;
use crate::domain::settings::{BatchOptions, OnDisconnect, UploadTerms};
use crate::error::{Error, ErrorKind, Result};
use crate::store::admission::Full;
use crate::store::{Content, Keys, NewBatch, StoreError};

/// What opens an upload or attaches to one, checked.
#[derive(Clone, Debug, Default)]
pub struct UploadStart {
    /// On whose behalf.
    pub tenant: Tenant,
    /// The caller's name for the batch.
    pub batch_id: Option<BatchId>,
    /// The caller's other key.
    pub request_id: Option<RequestId>,
    /// Where its items wait, if the caller said so; else in the default queue.
    pub queue: Option<QueueName>,
    /// Its settings.
    pub options: BatchOptions,
    /// What becomes of it when nobody goes on with it.
    pub terms: UploadTerms,
    /// The last result that its caller has seen.
    pub after: Sequence,
    /// Whether it must be there already; then queue and settings may be left out.
    pub resume: bool,
}

impl UploadStart {
    /// A new upload of that name, or the one that bears it. Fails unless it is a batch id.
    pub fn named(batch_id: &str) -> Result<Self> {
        Ok(Self {
            batch_id: Some(parsed("batch_id", batch_id, BatchId::parse)?),
            ..Self::default()
        })
    }

    /// Says on whose behalf it is uploaded; else it is tenant `default`.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    fn keys(&self) -> Keys<'_> {
        Keys {
            tenant: &self.tenant,
            id: self.batch_id.as_ref(),
            request_id: self.request_id.as_ref(),
        }
    }

    /// Says which queue its items wait in. Fails unless it is a name.
    pub fn with_queue(mut self, queue: &str) -> Result<Self> {
        self.queue = Some(parsed("queue", queue, QueueName::parse)?);
        Ok(self)
    }
}

/// An upload that a caller goes on with.
#[derive(Debug)]
pub struct Upload {
    engine: Engine,
    batch: Batch,
    created: bool,
    accepted: AtomicU32,
    attachment: Attachment,
    /// What there is no room for now, while an append waits for it.
    no_room: watch::Sender<Option<Error>>,
}

/// An append under way, as those see it who are told what it waits for. However it ends, it waits for
/// nothing then.
struct Appending<'a>(&'a watch::Sender<Option<Error>>);

impl Appending<'_> {
    /// It waits for room: says what for, unless that was said.
    fn waits(&self, full: &Full) {
        let why = waiting_for_room(full);
        self.0.send_if_modified(|told| {
            let is_news = told.as_ref().map(Error::message) != Some(why.message());
            if is_news {
                *told = Some(why);
            }
            is_news
        });
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.0.send_if_modified(|told| told.take().is_some());
    }
}

/// Why items were not appended. Nothing of them was.
#[derive(Debug)]
pub enum AppendError {
    /// They do not follow those that are there.
    Gap {
        /// How many the batch has.
        accepted: u32,
    },
    /// One of them cannot be an item of this batch.
    Item {
        /// Its index in the batch.
        index: u32,
        /// The name of what is wrong.
        reason: &'static str,
        /// The same for people.
        message: String,
    },
    /// Anything else.
    Other(Error),
}

impl Engine {
    /// Opens an upload, or attaches to the one that the keys name. Whoever was attached before is
    /// superseded.
    pub async fn open_upload(&self, start: UploadStart) -> Result<Upload> {
        self.check_not_draining()?;
        let cursor = Order::Completion(start.after);
        if start.after > Sequence(0) && !start.resume {
            // A batch that is not there has no result to be behind; it is not created for that.
            if self.0.store.find(start.keys()).await?.is_none() {
                return Err(cursor_ahead(Sequence(0)));
            }
        }
        let (batch, created) = if start.resume {
            (self.earlier_upload(&start).await?, false)
        } else {
            self.new_upload(start).await?
        };
        // Before it takes anybody's place.
        check_cursor(&batch, cursor)?;
        let attachment = self.0.uploads.attach(&batch).await;
        // Read after the attach: from now on only this caller appends, but for the one chunk that an
        // earlier one may have under way, and an end by the open timeout is in it.
        let batch = self.batch(&batch.head.name()).await?;
        Ok(Upload {
            engine: self.clone(),
            accepted: AtomicU32::new(batch.total),
            batch,
            created,
            attachment,
            no_room: watch::Sender::new(None),
        })
    }

    async fn earlier_upload(&self, start: &UploadStart) -> Result<Batch> {
        let found = self.0.store.find(start.keys()).await?;
        let batch = found.ok_or(StoreError::NoBatch)?;
        let head = &batch.head;
        let other_queue = start
            .queue
            .as_ref()
            .is_some_and(|queue| *queue != head.queue);
        let unset = BatchOptions::default();
        let other_options = start.options != unset && start.options != head.options;
        let what = match head.upload {
            None if head.source.is_some() => "is a redrive",
            None => "was submitted whole",
            Some(_) if other_queue => "has another queue",
            Some(_) if other_options => "has other options",
            Some(_) => return Ok(batch),
        };
        let message = format!("batch {} {what}", head.id);
        Err(
            Error::new(ErrorKind::Conflict, "BATCH_ID_CONFLICT", message)
                .with("batch_id", &head.id),
        )
    }

    async fn new_upload(&self, start: UploadStart) -> Result<(Batch, bool)> {
        let queue = start.queue.clone().unwrap_or_default();
        self.check_queue_or_known(&queue, start.keys()).await?;
        let new = NewBatch {
            tenant: start.tenant,
            id: start.batch_id,
            request_id: start.request_id,
            uid: BatchUid(entropy::uuid()),
            fingerprint: fingerprint(start.queue.as_ref(), &start.options, &[]),
            queue,
            options: start.options,
            on_disconnect: OnDisconnect::Continue,
            content: Content::Appended(start.terms),
        };
        let submitted = self.create_to_the_end(new).await?;
        Ok((submitted.batch, submitted.created))
    }
}

impl Upload {
    /// The batch as it was when this caller attached.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Whether this caller created it.
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// Why items that come are not appended, while [`append`](Self::append) waits for room.
    pub fn no_room(&self) -> watch::Receiver<Option<Error>> {
        self.no_room.subscribe()
    }

    /// Fires when another caller goes on with the upload.
    pub fn superseded(&self) -> CancellationToken {
        self.attachment.superseded()
    }

    /// Appends items from index `first` on, durably; answers how many the batch has then. Items
    /// that are there already must be equal and are dropped. While as much is accepted and not over
    /// as may be, it waits.
    ///
    /// If its future is dropped the items may be appended or not.
    pub async fn append(
        &self,
        mut first: u32,
        mut items: Vec<ItemSpec>,
    ) -> Result<u32, AppendError> {
        let appending = Appending(&self.no_room);
        loop {
            self.check_may_go_on()?;
            let accepted = self.accepted.load(Ordering::Relaxed);
            let Some(known) = accepted.checked_sub(first) else {
                return Err(AppendError::Gap { accepted });
            };
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            let rest = Arc::new(items.split_off(items.len().min(known)));
            self.compare(first, &items).await?;
            if rest.is_empty() {
                return Ok(accepted);
            }
            let store = &self.engine.0.store;
            let appended = store.append_items(self.batch.head.no, accepted, Arc::clone(&rest));
            match appended.await {
                // What an earlier caller had under way came first: compare that too.
                Err(StoreError::WrongCount(total)) if total > accepted => {
                    self.accepted.store(total, Ordering::Relaxed);
                    (first, items) = (accepted, Arc::unwrap_or_clone(rest));
                }
                Err(StoreError::Full(full)) if !full.never => {
                    appending.waits(&full);
                    self.room(&rest, &appending).await?;
                    (first, items) = (accepted, Arc::unwrap_or_clone(rest));
                }
                total => {
                    let total = total?;
                    self.accepted.store(total, Ordering::Relaxed);
                    self.attachment.went_on();
                    return Ok(total);
                }
            }
        }
    }

    /// Says that these were all items, `total` of them. Saying it again is OK.
    pub async fn seal(&self, total: u32) -> Result<Batch> {
        self.check_may_go_on()?;
        let sealed = self.engine.0.store.seal(self.batch.head.no, total).await;
        let Err(refused @ (StoreError::Sealed | StoreError::Ended)) = sealed else {
            return Ok(sealed?);
        };
        let batch = self.engine.batch(&self.batch.head.name()).await?;
        match batch.state {
            BatchState::Running | BatchState::Completed if batch.total == total => Ok(batch),
            BatchState::Running | BatchState::Completed => {
                Err(StoreError::WrongCount(batch.total).into())
            }
            BatchState::Open
            | BatchState::Cancelling
            | BatchState::Cancelled
            | BatchState::Failed
            | BatchState::Expired => Err(refused.into()),
        }
    }

    /// Waits until it looks as if items could be appended, or would be refused for good.
    async fn room(&self, items: &[ItemSpec], appending: &Appending<'_>) -> Result<()> {
        let (store, no) = (&self.engine.0.store, self.batch.head.no);
        let superseded = self.superseded();
        while store.is_open(no)
            && let Err(full) = store.room_for(&self.batch.head.tenant, items)
        {
            if full.never {
                break;
            }
            appending.waits(&full);
            self.check_may_go_on()?;
            tokio::select! {
                () = superseded.cancelled() => {}
                () = self.engine.0.draining.cancelled() => {}
                () = tokio::time::sleep(limits::ROOM_LOOK) => {}
            }
        }
        Ok(())
    }

    fn check_may_go_on(&self) -> Result<()> {
        if self.superseded().is_cancelled() {
            return Err(superseded());
        }
        self.engine.check_not_draining()
    }

    /// Whether the items from `first` on are those that are stored there.
    async fn compare(&self, first: u32, items: &[ItemSpec]) -> Result<(), AppendError> {
        let mut rest = items;
        let mut next = first;
        while !rest.is_empty() {
            let count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let no = self.batch.head.no;
            let stored = self.engine.0.store.specs(no, next, count).await?;
            let read = stored.len();
            for (index, (stored, sent)) in (next..).zip(stored.into_iter().zip(rest)) {
                let stored = stored.map_err(|_| StoreError::Corrupt)?;
                if stored != *sent {
                    return Err(AppendError::Item {
                        index,
                        reason: "ITEM_MISMATCH",
                        message: format!("item {index} is stored with other content"),
                    });
                }
            }
            next += u32::try_from(read).unwrap_or(u32::MAX);
            rest = &rest[read.min(rest.len())..];
        }
        Ok(())
    }
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        let at_fault = match error {
            StoreError::DuplicateId { index, .. } => Some((index, "DUPLICATE_ITEM_ID")),
            StoreError::MixedIds(index) => Some((index, "INVALID_FIELD")),
            StoreError::Conflict { .. }
            | StoreError::NoBatch
            | StoreError::NoItem(_)
            | StoreError::Sealed
            | StoreError::Ended
            | StoreError::NotOver
            | StoreError::Redriven
            | StoreError::WrongCount(_)
            | StoreError::DiskFull
            | StoreError::Full(_)
            | StoreError::QueueFull
            | StoreError::Closed
            | StoreError::OutcomeUnknown
            | StoreError::Corrupt
            | StoreError::NoLetters
            | StoreError::Read(_) => None,
        };
        match at_fault {
            Some((index, reason)) => Self::Item {
                index,
                reason,
                message: error.to_string(),
            },
            None => Self::Other(error.into()),
        }
    }
}

impl From<AppendError> for Error {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Gap { accepted } => {
                let message = format!("the batch has {accepted} items; go on from there");
                Self::new(ErrorKind::Invalid, "ITEM_GAP", message).with("accepted_items", accepted)
            }
            AppendError::Item {
                index,
                reason,
                message,
            } => Self::new(ErrorKind::Invalid, reason, message).with("index", index),
            AppendError::Other(error) => error,
        }
    }
}

/// Another caller goes on with the upload.
pub fn superseded() -> Error {
    let message = "another call goes on with this upload; only the newest may";
    Error::new(ErrorKind::Superseded, "UPLOAD_SUPERSEDED", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::admission::Bound;

    /// Once a wait had ended with an error, or with what another call had appended, the next one was
    /// no news to those who are told.
    #[test]
    fn a_wait_for_room_is_told_anew_each_time_and_when_what_lacks_is_another() {
        let full = |tenant| Full {
            tenant,
            bound: Bound::QueuedItems,
            most: 2,
            never: false,
        };
        let (quota, all) = (full(Some(Tenant::default())), full(None));
        let (sender, mut told) = watch::channel(None);
        let mut news = || {
            let is_news = told.has_changed().unwrap();
            let why = told.borrow_and_update();
            is_news.then(|| why.as_ref().map(Error::reason))
        };
        for _ in 0..2 {
            let appending = Appending(&sender);
            assert_eq!(news(), None, "it does not wait yet");
            appending.waits(&quota);
            assert_eq!(news(), Some(Some("QUOTA")));
            appending.waits(&quota);
            assert_eq!(news(), None, "the same");
            appending.waits(&all);
            assert_eq!(news(), Some(Some("QUEUE_FULL")));
            drop(appending);
            assert_eq!(news(), Some(None), "it waits no more");
        }
    }
}
