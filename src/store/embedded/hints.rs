//! Lossy wake-ups: "the journal of this batch has grown", "this queue has work".
//!
//! They carry no data. Whoever is woken reads the store; whoever is not looks again after a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::domain::ids::{BatchNo, QueueName};

/// The cells that readers and pools wait on.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    journals: Mutex<HashMap<BatchNo, watch::Sender<()>>>,
    queues: Mutex<HashMap<QueueName, Arc<Notify>>>,
}

impl Hints {
    /// A receiver that changes whenever the batch does. Subscribe before reading.
    pub(crate) fn journal(&self, batch: BatchNo) -> watch::Receiver<()> {
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        // Cells nobody waits on any more are dropped here: a batch may never change again.
        if journals.len() > 64 && journals.len().is_power_of_two() {
            journals.retain(|_, cell| cell.receiver_count() > 0);
        }
        journals
            .entry(batch)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe()
    }

    /// Wakes the readers of those batches.
    pub(crate) fn journals_grew(&self, batches: impl Iterator<Item = BatchNo>) {
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in batches {
            if journals
                .get(&batch)
                .is_some_and(|cell| cell.send(()).is_err())
            {
                journals.remove(&batch);
            }
        }
    }

    /// The cell of a queue.
    pub(crate) fn queue(&self, queue: &QueueName) -> Arc<Notify> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(queue.clone()).or_default())
    }

    /// Wakes the pool of a queue.
    pub(crate) fn work_came(&self, queue: &QueueName) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = queues.get(queue) {
            cell.notify_one();
        }
    }

    /// Wakes every pool.
    pub(crate) fn work_came_everywhere(&self) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.values().for_each(|cell| cell.notify_one());
    }
}
