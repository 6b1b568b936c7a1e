//! The verbs about a queue as a whole, and what holds an item of one back.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::Store;
use super::operation::Request;
use crate::base::clock;
use crate::domain::ids::{BatchNo, ItemKey, QueueName};
use crate::store::StoreError;
use crate::store::waiting::{Hold, QueueLoad};

impl Store {
    /// Pauses a queue: once it answers, nothing of it starts until it is resumed, restarts included.
    /// Attempts that run end as they will. Repeating it gives it the new reason.
    pub async fn pause_queue(&self, queue: &QueueName, why: &str) -> Result<(), StoreError> {
        let (queue, pause) = (queue.clone(), Some(why.into()));
        self.0
            .writer
            .ask(Request::PauseQueue { queue, pause })
            .await?;
        Ok(())
    }

    /// Lets a paused queue go on. One that is not paused stays as it is.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<(), StoreError> {
        let (queue, pause) = (queue.clone(), None);
        self.0
            .writer
            .ask(Request::PauseQueue { queue, pause })
            .await?;
        Ok(())
    }

    /// The queues that are paused or had a batch since the start. It walks through the open batches,
    /// not through items.
    pub fn queue_loads(&self) -> BTreeMap<QueueName, QueueLoad> {
        let scheduler = &self.0.shared.scheduler;
        let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loads: BTreeMap<QueueName, QueueLoad> = scheduler
            .queues()
            .map(|queue| (queue.clone(), QueueLoad::default()))
            .collect();
        for (queue, why) in scheduler.paused_queues() {
            loads.entry(queue.clone()).or_default().paused = Some(why.into());
        }
        drop(scheduler);
        self.each_batch(|batch| {
            let load = loads.entry(batch.head.queue.clone()).or_default();
            let running = u64::from(batch.running());
            load.batches += 1;
            load.running += running;
            load.pending += batch.open_items().saturating_sub(running);
        });
        loads
    }

    /// What holds a pending item back, as far as the store knows; `None` if it is not pending.
    pub fn hold(&self, batch: BatchNo, index: u32) -> Option<Hold> {
        let scheduler = &self.0.shared.scheduler;
        let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        scheduler.hold(ItemKey { batch, index }, clock::now())
    }
}
