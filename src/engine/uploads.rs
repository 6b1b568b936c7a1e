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
    /// When somebody last went on with it.
    since: Timestamp,
    /// Tells the caller that goes on with it that another one does.
    superseded: Option<CancellationToken>,
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
            };
            (upload.head.no, upload)
        });
        let open = Mutex::new(open.collect());
        Self(Arc::new(Inner { store, open }))
    }

    /// Counts a caller as the one that goes on with the upload, in place of an earlier one.
    pub(crate) fn attach(&self, batch: &Batch) -> Attachment {
        let superseded = CancellationToken::new();
        let upload = Open {
            head: Arc::clone(&batch.head),
            since: clock::now(),
            superseded: Some(superseded.clone()),
        };
        let earlier = self.open().insert(batch.head.no, upload);
        if let Some(earlier) = earlier.and_then(|earlier| earlier.superseded) {
            earlier.cancel();
        }
        Attachment {
            uploads: self.clone(),
            batch: batch.head.no,
            superseded,
        }
    }

    /// Ends uploads whose time is over, until `draining`.
    pub(crate) async fn watch_over(self, draining: CancellationToken) {
        loop {
            tokio::select! {
                () = draining.cancelled() => return,
                () = tokio::time::sleep(limits::OPEN_TIMEOUT_LOOK) => {}
            }
            for head in self.overdue(clock::now()) {
                match self.end(&head).await {
                    Ok(()) => {
                        tracing::info!(batch = %head.id, then = ?head.upload.map(|terms| terms.on_open_timeout), "nobody went on with an upload within its open_timeout");
                    }
                    Err(StoreError::Sealed | StoreError::Ended | StoreError::NoBatch) => {}
                    Err(error) => {
                        // A full disk, perhaps: it is looked at again.
                        tracing::warn!(batch = %head.id, %error, "an upload could not be ended");
                        continue;
                    }
                }
                self.forget_unless_attached(head.no);
            }
        }
    }

    fn overdue(&self, now: Timestamp) -> Vec<Arc<BatchHead>> {
        let is_overdue = |upload: &&Open| {
            let terms = upload.head.upload.unwrap_or_default();
            let open_timeout = terms.open_timeout.unwrap_or(limits::OPEN_TIMEOUT_DEFAULT);
            upload.superseded.is_none() && upload.since.plus(open_timeout) <= now
        };
        let open = self.open();
        open.values()
            .filter(is_overdue)
            .map(|upload| Arc::clone(&upload.head))
            .collect()
    }

    async fn end(&self, head: &BatchHead) -> Result<(), StoreError> {
        let store = &self.0.store;
        let batch = store.batch(&head.id).await?;
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

    fn forget_unless_attached(&self, batch: BatchNo) {
        let mut open = self.open();
        if open
            .get(&batch)
            .is_some_and(|upload| upload.superseded.is_none())
        {
            open.remove(&batch);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<BatchNo, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Whoever superseded this caller stands there now.
        if !self.superseded.is_cancelled()
            && let Some(upload) = self.uploads.open().get_mut(&self.batch)
        {
            upload.superseded = None;
        }
    }
}
