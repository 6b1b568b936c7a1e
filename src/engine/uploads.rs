//! Who uploads to which batch right now, and what becomes of uploads that nobody goes on with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::domain::batch::{Batch, BatchHead, BatchState};
use crate::domain::ids::BatchNo;
use crate::domain::settings::OnOpenTimeout;
use crate::store::{Store, StoreError};

/// The open uploads.
#[derive(Clone, Debug)]
pub(crate) struct Uploads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    open: Mutex<HashMap<BatchNo, Open>>,
}

/// An upload that takes more items.
#[derive(Debug)]
struct Open {
    head: Arc<BatchHead>,
    /// When somebody last went on with it, or left it.
    since: Timestamp,
    /// Tells the caller that goes on with it that another one does.
    superseded: Option<CancellationToken>,
    /// Fires when an attempt to end it is over: whoever wants to attach waits for that.
    ending: Option<CancellationToken>,
}

/// An overdue upload that is being ended: until this falls nobody can attach.
#[derive(Debug)]
struct Ending {
    uploads: Uploads,
    head: Arc<BatchHead>,
    over: CancellationToken,
}

/// A caller that goes on with an upload. Dropping it says that the caller has gone.
#[derive(Debug)]
pub(crate) struct Attachment {
    uploads: Uploads,
    batch: BatchNo,
    superseded: CancellationToken,
}

impl Uploads {
    /// The uploads that the store holds; the time of each starts anew.
    pub(crate) fn of(store: Store) -> Self {
        let now = clock::now();
        let open = store.open_uploads().into_iter().map(|batch| {
            let upload = Open {
                head: batch.head,
                since: now,
                superseded: None,
                ending: None,
            };
            (upload.head.no, upload)
        });
        let open = Mutex::new(open.collect());
        Self(Arc::new(Inner { store, open }))
    }

    /// Notes an upload that is new: its time counts even if its caller never attaches to it.
    pub(crate) fn enter(&self, batch: &Batch) {
        self.open().entry(batch.head.no).or_insert_with(|| Open {
            head: Arc::clone(&batch.head),
            since: clock::now(),
            superseded: None,
            ending: None,
        });
    }

    /// Counts a caller as the one that goes on with the upload, in place of an earlier one.
    ///
    /// Waits while the upload's end is being written: read the batch afterwards. Cancel safe.
    pub(crate) async fn attach(&self, batch: &Batch) -> Attachment {
        loop {
            let attached = self.try_attach(&mut self.open(), batch);
            match attached {
                Ok(attachment) => return attachment,
                Err(ending) => ending.cancelled().await,
            }
        }
    }

    fn try_attach(
        &self,
        open: &mut HashMap<BatchNo, Open>,
        batch: &Batch,
    ) -> Result<Attachment, CancellationToken> {
        let superseded = CancellationToken::new();
        let earlier = open.get(&batch.head.no);
        if let Some(ending) = earlier.and_then(|earlier| earlier.ending.clone()) {
            return Err(ending);
        }
        let upload = Open {
            head: Arc::clone(&batch.head),
            since: clock::now(),
            superseded: Some(superseded.clone()),
            ending: None,
        };
        // Before the lock falls: a caller that leaves just now must find that it is superseded.
        if let Some(earlier) = open.insert(batch.head.no, upload)
            && let Some(superseded) = earlier.superseded
        {
            superseded.cancel();
        }
        Ok(Attachment {
            uploads: self.clone(),
            batch: batch.head.no,
            superseded,
        })
    }

    /// Ends uploads whose time is over, until `draining`.
    pub(crate) async fn watch_over(self, draining: CancellationToken) {
        loop {
            tokio::select! {
                () = draining.cancelled() => return,
                () = tokio::time::sleep(limits::OPEN_TIMEOUT_LOOK) => {}
            }
            self.forget_ended();
            for batch in self.overdue(clock::now()) {
                let Some(ending) = self.begin_end(batch, clock::now()) else {
                    continue;
                };
                tokio::select! {
                    biased;
                    // An end waits for room on a full disk; a drain does not wait for that.
                    () = draining.cancelled() => return,
                    () = self.end(&ending) => {}
                }
            }
        }
    }

    fn overdue(&self, now: Timestamp) -> Vec<BatchNo> {
        let open = self.open();
        let overdue = open.iter().filter(|(_, upload)| upload.is_overdue(now));
        overdue.map(|(&batch, _)| batch).collect()
    }

    /// Keeps callers from attaching, unless one is there by now.
    fn begin_end(&self, batch: BatchNo, now: Timestamp) -> Option<Ending> {
        let mut open = self.open();
        let upload = open
            .get_mut(&batch)
            .filter(|upload| upload.is_overdue(now))?;
        let over = CancellationToken::new();
        upload.ending = Some(over.clone());
        Some(Ending {
            uploads: self.clone(),
            head: Arc::clone(&upload.head),
            over,
        })
    }

    async fn end(&self, ending: &Ending) {
        let head = &ending.head;
        match self.try_end(head).await {
            Ok(()) => {
                tracing::info!(batch = %head.id, then = ?head.upload.map(|terms| terms.on_open_timeout), "nobody went on with an upload within its open_timeout");
            }
            Err(StoreError::Sealed | StoreError::Ended | StoreError::NoBatch) => {}
            Err(error) => {
                // It is looked at again.
                tracing::warn!(batch = %head.id, %error, "an upload could not be ended");
            }
        }
    }

    /// Does what its terms say with an upload that nobody goes on with.
    pub(super) async fn try_end(&self, head: &BatchHead) -> Result<(), StoreError> {
        let store = &self.0.store;
        let batch = store.batch(&head.name()).await?;
        if batch.state != BatchState::Open {
            return Err(StoreError::Sealed);
        }
        let terms = head.upload.unwrap_or_default();
        match terms.on_open_timeout {
            OnOpenTimeout::Seal if batch.total > 0 => {
                store.seal(head.no, batch.total).await.map(|_| ())
            }
            OnOpenTimeout::Seal | OnOpenTimeout::Cancel => {
                let reason = "nobody went on with the upload within its open_timeout";
                store.cancel_batch(head.no, reason).await.map(|_| ())
            }
        }
    }

    /// Forgets uploads that take no more items, however they ended, once nobody is attached.
    fn forget_ended(&self) {
        let store = &self.0.store;
        self.open()
            .retain(|&batch, upload| upload.superseded.is_some() || store.is_open(batch));
    }

    fn open(&self) -> MutexGuard<'_, HashMap<BatchNo, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(upload) = self.uploads.open().get_mut(&self.head.no) {
            upload.ending = None;
        }
        self.over.cancel();
    }
}

impl Open {
    fn is_overdue(&self, now: Timestamp) -> bool {
        let terms = self.head.upload.unwrap_or_default();
        let open_timeout = terms.open_timeout.unwrap_or(limits::OPEN_TIMEOUT_DEFAULT);
        self.superseded.is_none() && self.since.plus(open_timeout) <= now
    }
}

impl Attachment {
    /// Fires when another caller goes on with the upload.
    pub(crate) fn superseded(&self) -> CancellationToken {
        self.superseded.clone()
    }

    /// The caller's items are durable: the upload's time starts anew.
    pub(crate) fn went_on(&self) {
        if let Some(upload) = self.uploads.open().get_mut(&self.batch) {
            upload.since = clock::now();
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut open = self.uploads.open();
        // Under the lock: whoever superseded this caller stands there now.
        if !self.superseded.is_cancelled()
            && let Some(upload) = open.get_mut(&self.batch)
        {
            upload.superseded = None;
            // While somebody was attached it did not count.
            upload.since = clock::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{entropy, tasks};
    use crate::domain::fingerprint::fingerprint;
    use crate::domain::ids::{BatchUid, QueueName, Tenant};
    use crate::domain::item::ItemSpec;
    use crate::domain::settings::{BatchOptions, OnDisconnect, UploadTerms};
    use crate::store::{Content, Created, NewBatch, StoreOptions};

    async fn upload(store: &Store) -> Batch {
        let options = BatchOptions::default();
        let new = NewBatch {
            tenant: Tenant::default(),
            id: None,
            request_id: None,
            uid: BatchUid(entropy::uuid()),
            fingerprint: fingerprint(None, &options, &[]),
            queue: QueueName::default(),
            options,
            on_disconnect: OnDisconnect::Continue,
            content: Content::Appended(UploadTerms::default()),
        };
        let created = store.create_batch(new).await.unwrap();
        let (Created::New(batch) | Created::Existing(batch)) = created;
        batch
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(dir.path().to_owned());
        let (store, _) = Store::open(&options).unwrap();
        (dir, store)
    }

    fn later() -> Timestamp {
        clock::now().plus(limits::OPEN_TIMEOUT_DEFAULT + Duration::from_secs(1))
    }

    #[tokio::test]
    async fn nobody_attaches_to_an_upload_while_it_is_ended() {
        let (_dir, store) = store();
        let batch = upload(&store).await;
        let no = batch.head.no;
        let items = Arc::new(vec![ItemSpec::default()]);
        store.append_items(no, 0, items).await.unwrap();
        let uploads = Uploads::of(store.clone());
        let ending = uploads.begin_end(no, later()).unwrap();
        let mut attach = Box::pin(uploads.attach(&batch));
        assert!(
            futures_util::poll!(&mut attach).is_pending(),
            "whoever attached now would lose the batch under its feet"
        );
        uploads.end(&ending).await;
        drop(ending);
        let attached = attach.await;
        let read = store.batch(&batch.head.name()).await.unwrap();
        assert_ne!(read.state, BatchState::Open, "the caller is told so");
        uploads.forget_ended();
        assert_eq!(uploads.open().len(), 1, "somebody is attached");
        drop(attached);
        uploads.forget_ended();
        assert_eq!(uploads.open().len(), 0);
        store.close();
    }

    #[tokio::test]
    async fn an_upload_is_not_ended_once_somebody_is_attached() {
        let (_dir, store) = store();
        let batch = upload(&store).await;
        let uploads = Uploads::of(store.clone());
        assert_eq!(uploads.overdue(later()), [batch.head.no]);
        let attached = uploads.attach(&batch).await;
        assert!(uploads.begin_end(batch.head.no, later()).is_none());
        drop(attached);
        uploads.forget_ended();
        assert!(uploads.begin_end(batch.head.no, later()).is_some());
        store.close();
    }

    #[tokio::test]
    async fn an_uploads_time_counts_before_anybody_attaches_and_not_while_somebody_is() {
        let (_dir, store) = store();
        let batch = upload(&store).await;
        let uploads = Uploads::of(store.clone());
        uploads.open().clear();
        uploads.enter(&batch);
        assert_eq!(uploads.overdue(later()), [batch.head.no]);
        let attached = uploads.attach(&batch).await;
        let long_ago = Timestamp(0);
        uploads.open().get_mut(&batch.head.no).unwrap().since = long_ago;
        drop(attached);
        let overdue = uploads.overdue(clock::now());
        assert!(overdue.is_empty(), "a lost connection ends no upload");
        store.close();
    }

    // Its place was taken away if it left between the other's entry and the word that it is superseded.
    #[tokio::test]
    async fn a_caller_that_leaves_as_another_comes_does_not_take_its_place_away() {
        let (_dir, store) = store();
        let batch = upload(&store).await;
        let uploads = Uploads::of(store.clone());
        for _ in 0..50 {
            let first = uploads.attach(&batch).await;
            let mut open = uploads.open();
            let leaves = tasks::thread("leaves", move || drop(first));
            // It should have come as far as it can: to the lock.
            (0..200).for_each(|_| std::thread::yield_now());
            let second = uploads.try_attach(&mut open, &batch).unwrap();
            drop(open);
            leaves.join().unwrap();
            assert!(
                uploads.open()[&batch.head.no].superseded.is_some(),
                "it was forgotten"
            );
            drop(second);
        }
        store.close();
    }
}
