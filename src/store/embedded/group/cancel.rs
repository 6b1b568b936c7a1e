//! Staging cancels: the intent at once, the records of a whole batch in chunks.

use std::sync::MutexGuard;

use super::{Group, Refusal, lock};
use crate::base::limits;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::{Batch, BatchEvent, BatchState};
use crate::domain::ids::{BatchNo, ItemKey};
use crate::domain::item::Ending;
use crate::store::embedded::codec::AttemptMeta;
use crate::store::embedded::rows::{self, AttemptKind, AttemptRow};
use crate::store::embedded::scheduler::Scheduler;
use crate::store::{CancelCounts, StoreError};

impl Group<'_> {
    pub(super) fn cancel_batch(
        &mut self,
        no: BatchNo,
        reason: &str,
    ) -> Result<CancelCounts, Refusal> {
        let mut scheduler = lock(self.scheduler);
        let Some(batch) = self.touch(&mut scheduler, no) else {
            drop(scheduler);
            let row = rows::batch(self.db, no)?.ok_or(StoreError::NoBatch)?;
            return match row.batch.state {
                BatchState::Cancelled => Ok(CancelCounts {
                    finished: row.batch.total,
                    ..CancelCounts::default()
                }),
                BatchState::Open
                | BatchState::Running
                | BatchState::Completed
                | BatchState::Cancelling => Err(StoreError::Ended.into()),
            };
        };
        let Batch {
            total,
            running,
            tally,
            ..
        } = batch.snapshot();
        let finished = tally.terminal();
        let counts = CancelCounts {
            never_started: total - finished - running,
            stopping: running,
            finished,
        };
        if batch.state != BatchState::Cancelling {
            batch.state = batch
                .state
                .apply(BatchEvent::CancelAsked)
                .map_err(|_| StoreError::Ended)?;
            batch.cancel_reason = reason.into();
            self.effects.stops.push(batch.stop.clone());
            self.effects.cancelled.push(no);
        }
        Ok(counts)
    }

    pub(super) fn cancel_items(
        &mut self,
        no: BatchNo,
        indexes: &[u32],
    ) -> Result<CancelCounts, Refusal> {
        let mut counts = CancelCounts::default();
        for &index in indexes {
            let item = ItemKey { batch: no, index };
            let mut scheduler = lock(self.scheduler);
            let Some(batch) = self.touch(&mut scheduler, no) else {
                drop(scheduler);
                rows::batch(self.db, no)?.ok_or(StoreError::NoBatch)?;
                counts.finished += 1;
                continue;
            };
            if batch.is_terminal(index) {
                counts.finished += 1;
            } else if let Some(stop) = scheduler.mark_cancelled(item, &mut self.undo) {
                counts.stopping += 1;
                self.effects.stops.push(stop);
                let meta = AttemptMeta {
                    error: None,
                    started_ms: None,
                    worker: "".into(),
                };
                let (kind, number) = (AttemptKind::CancelAsked, 0);
                let row = AttemptRow {
                    item,
                    number,
                    kind,
                    ended: self.now,
                    next: self.now,
                    meta,
                };
                rows::insert_attempt(self.db, &row)?;
            } else {
                counts.never_started += 1;
                let id = rows::client_ids(self.db, no, index, index + 1)?
                    .pop()
                    .and_then(|(_, id)| id);
                self.end_unattempted(&mut scheduler, item, id, Reason::ITEM_CANCELLED)?;
            }
        }
        Ok(counts)
    }

    /// Records up to a chunk of a cancelled batch's remaining items. Answers whether more is left.
    pub(crate) fn sweep(&mut self, no: BatchNo) -> rusqlite::Result<bool> {
        let (from, total) = {
            let mut scheduler = lock(self.scheduler);
            let Some(batch) = self.touch(&mut scheduler, no) else {
                return Ok(false);
            };
            (batch.swept, batch.staged_total)
        };
        let to = from
            .saturating_add(u32::try_from(limits::SWEEP_ITEMS_MAX).unwrap_or(u32::MAX))
            .min(total);
        for (index, id) in rows::client_ids(self.db, no, from, to)? {
            let mut scheduler = lock(self.scheduler);
            let Some(batch) = scheduler.batch_mut(no) else {
                return Ok(false);
            };
            // Running items end by their own settlement.
            if batch.is_terminal(index) || batch.leases.contains_key(&index) {
                continue;
            }
            self.end_unattempted(
                &mut scheduler,
                ItemKey { batch: no, index },
                id,
                Reason::BATCH_CANCELLED,
            )?;
        }
        if let Some(batch) = lock(self.scheduler).batch_mut(no) {
            batch.swept = to;
        }
        Ok(to < total)
    }

    pub(super) fn end_unattempted(
        &mut self,
        scheduler: &mut MutexGuard<'_, Scheduler>,
        item: ItemKey,
        id: Option<Box<str>>,
        reason: Reason,
    ) -> rusqlite::Result<()> {
        let past = scheduler
            .batch(item.batch)
            .and_then(|batch| batch.pasts.get(&item.index))
            .copied();
        let error = ItemError::of(reason, "cancelled before it ran");
        let mut record = rows::unattempted(item.index, id, Ending::Cancelled(error), self.now);
        record.attempts = past.unwrap_or_default().spent;
        self.record(scheduler, item.batch, record, 0).map(|_| ())
    }
}
