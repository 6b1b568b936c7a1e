//! Who reads a batch right now: for batches that end when nobody does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::base::tasks::Tasks;
use crate::domain::batch::Batch;
use crate::domain::ids::BatchNo;
use crate::domain::settings::OnDisconnect;
use crate::store::Store;

/// Open streams per batch, counted only for batches that ask for it.
#[derive(Clone, Debug)]
pub(crate) struct Presence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    grace: Duration,
    draining: CancellationToken,
    tasks: Tasks,
    /// Streams that are open, and how often the batch was left: an older leave does not count.
    streams: Mutex<HashMap<BatchNo, Streams>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    open: usize,
    left: u64,
}

/// A caller that reads a batch. Dropping it says that the caller has gone.
#[derive(Debug)]
pub struct Stream(Option<(Presence, BatchNo)>);

impl Engine {
    /// Counts a caller among the readers of a batch for as long as the answer is kept.
    ///
    /// When the last one goes, a batch submitted with `on_disconnect = CANCEL` is cancelled after
    /// the grace, unless another comes. A drain of the server does not count.
    pub fn attach(&self, batch: &Batch) -> Stream {
        if batch.head.on_disconnect == OnDisconnect::Continue || batch.state.is_terminal() {
            return Stream(None);
        }
        let mut streams = self
            .0
            .presence
            .0
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        streams.entry(batch.head.no).or_default().open += 1;
        Stream(Some((self.0.presence.clone(), batch.head.no)))
    }
}

impl Presence {
    pub(crate) fn new(
        store: Store,
        grace: Duration,
        draining: CancellationToken,
        tasks: Tasks,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            grace,
            draining,
            tasks,
            streams: Mutex::default(),
        }))
    }

    /// Notes that a stream has gone; answers the count of leaves if it was the last.
    fn leave(&self, batch: BatchNo) -> Option<u64> {
        let mut streams = self
            .0
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = streams.get_mut(&batch)?;
        entry.open -= 1;
        entry.left += 1;
        (entry.open == 0).then_some(entry.left)
    }

    async fn cancel_unless_back(self, batch: BatchNo, left: u64) {
        tokio::select! {
            () = self.0.draining.cancelled() => return,
            () = tokio::time::sleep(self.0.grace) => {}
        }
        {
            let mut streams = self
                .0
                .streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if streams
                .get(&batch)
                .is_some_and(|entry| entry.open > 0 || entry.left > left)
            {
                return;
            }
            streams.remove(&batch);
        }
        let reason = format!("nobody read the batch for {:?}", self.0.grace);
        // A batch that has ended meanwhile is what was wanted.
        if let Err(error) = self.0.store.cancel_batch(batch, &reason).await {
            tracing::debug!(batch = batch.0, %error, "a batch without readers was not cancelled");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some((presence, batch)) = self.0.take() else {
            return;
        };
        if let Some(left) = presence.leave(batch) {
            let tasks = presence.0.tasks.clone();
            tasks.spawn(presence.cancel_unless_back(batch, left));
        }
    }
}
