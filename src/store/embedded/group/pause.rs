//! Staging a pause of a batch or a queue, and its end.

use std::sync::Arc;

use super::{Group, Refusal, lock};
use crate::domain::batch::Batch;
use crate::domain::ids::{BatchNo, QueueName};
use crate::domain::pause::Pause;
use crate::store::StoreError;
use crate::store::embedded::rows;

impl Group<'_> {
    /// Pauses a batch, or lets it go on if there is no pause.
    pub(super) fn pause(&mut self, no: BatchNo, pause: Option<&Pause>) -> Result<Batch, Refusal> {
        let mut scheduler = lock(self.scheduler);
        let Some(batch) = self.touch(&mut scheduler, no) else {
            drop(scheduler);
            let row = rows::batch(self.db, no).map_err(Refusal::of_read)?;
            let refusal = row.map_or(StoreError::NoBatch, |_| StoreError::Ended);
            return Err(refusal.into());
        };
        if !batch.is_active() {
            return Err(StoreError::Ended.into());
        }
        if batch.paused.is_some() && pause.is_none() {
            let tally = batch.tally;
            Arc::make_mut(&mut batch.failures).resume(&tally);
        }
        batch.paused = pause.cloned();
        let snapshot = batch.snapshot();
        if pause.is_none() {
            self.effects.unpaused.push(no);
        }
        Ok(snapshot)
    }

    /// Pauses a queue, or lets it go on if there is no reason.
    pub(super) fn pause_queue(
        &mut self,
        queue: &QueueName,
        pause: Option<&str>,
    ) -> rusqlite::Result<()> {
        match pause {
            Some(why) => rows::pause_queue(self.db, queue, why)?,
            None => rows::resume_queue(self.db, queue)?,
        }
        let pause = pause.map(Into::into);
        self.effects.queue_pauses.push((queue.clone(), pause));
        Ok(())
    }
}
