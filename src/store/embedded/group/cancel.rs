//! Staging cancels: the intent at once, the records of a whole batch in chunks.

use tokio_util::sync::CancellationToken;

use super::{Group, Refusal, lock};
use crate::base::limits;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::{Batch, BatchEvent, BatchState};
use crate::domain::ids::{BatchNo, ItemKey};
use crate::domain::item::Ending;
use crate::store::embedded::codec::AttemptMeta;
use crate::store::embedded::rows::{self, AttemptKind, AttemptRow};
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
            let row = rows::batch(self.db, no)
                .map_err(Refusal::of_read)?
                .ok_or(StoreError::NoBatch)?;
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
        if lock(self.scheduler).batch(no).is_none() {
            rows::batch(self.db, no)
                .map_err(Refusal::of_read)?
                .ok_or(StoreError::NoBatch)?;
            let finished = u32::try_from(indexes.len()).unwrap_or(u32::MAX);
            return Ok(CancelCounts {
                finished,
                ..CancelCounts::default()
            });
        }
        let mut counts = CancelCounts::default();
        for &index in indexes {
            let item = ItemKey { batch: no, index };
            match self.stage_cancel(item) {
                Fate::Finished => counts.finished += 1,
                Fate::Stopping(stop) => {
                    counts.stopping += 1;
                    self.effects.stops.push(stop);
                    self.note_cancel(item)?;
                }
                Fate::NeverStarted => {
                    counts.never_started += 1;
                    let id = rows::client_ids(self.db, no, index, index + 1)?.remove(0);
                    self.end_unattempted(item, id, Reason::ITEM_CANCELLED)?;
                }
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
        for (index, id) in (from..to).zip(rows::client_ids(self.db, no, from, to)?) {
            // Running items end by their own settlement.
            let is_left = lock(self.scheduler).batch(no).is_some_and(|batch| {
                !batch.is_terminal(index) && !batch.leases.contains_key(&index)
            });
            if is_left {
                self.end_unattempted(ItemKey { batch: no, index }, id, Reason::BATCH_CANCELLED)?;
            }
        }
        if let Some(batch) = lock(self.scheduler).batch_mut(no) {
            batch.swept = to;
        }
        Ok(to < total)
    }

    fn stage_cancel(&mut self, item: ItemKey) -> Fate {
        let mut scheduler = lock(self.scheduler);
        match self.touch(&mut scheduler, item.batch) {
            Some(batch) if !batch.is_terminal(item.index) => {
                let stop = scheduler.mark_cancelled(item, &mut self.undo);
                stop.map_or(Fate::NeverStarted, Fate::Stopping)
            }
            Some(_) | None => Fate::Finished,
        }
    }

    /// Makes it durable that a running item was cancelled: it must not run again after a crash.
    fn note_cancel(&self, item: ItemKey) -> rusqlite::Result<()> {
        let meta = AttemptMeta {
            error: None,
            started_ms: None,
            worker: "".into(),
        };
        let (kind, number, ended) = (AttemptKind::CancelAsked, 0, self.now);
        rows::insert_attempt(
            self.db,
            &AttemptRow {
                item,
                number,
                kind,
                ended,
                next: ended,
                meta,
            },
        )
    }

    fn end_unattempted(
        &mut self,
        item: ItemKey,
        id: Option<Box<str>>,
        reason: Reason,
    ) -> rusqlite::Result<()> {
        let past = lock(self.scheduler)
            .batch(item.batch)
            .and_then(|batch| batch.pasts.get(&item.index))
            .copied();
        let error = ItemError::of(reason, "cancelled before it ran");
        let mut record = rows::unattempted(item.index, id, Ending::Cancelled(error), self.now);
        record.attempts = past.unwrap_or_default().spent;
        self.record(item.batch, record, 0).map(|_| ())
    }
}

/// What a cancel meets.
enum Fate {
    /// The item waits.
    NeverStarted,
    /// Its attempt runs; this asks it to stop.
    Stopping(CancellationToken),
    /// It has its result.
    Finished,
}
