//! Staging cancels, of a batch or of some of its items.

use tokio_util::sync::CancellationToken;

use super::{Group, Refusal, lock};
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::{Batch, BatchState, EndCause};
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
                | BatchState::Cancelling
                | BatchState::Failed
                | BatchState::Expired => Err(StoreError::Ended.into()),
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
        if batch.is_active() {
            batch.cancel_reason = reason.into();
            drop(scheduler);
            self.end_early(no, EndCause::Cancelled);
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
                    let id = rows::client_ids(self.reading(), no, index, index + 1)?.remove(0);
                    let error = ItemError::of(Reason::ITEM_CANCELLED, "cancelled before it ran");
                    self.end_unattempted(item, id, Ending::Cancelled(error))?;
                }
            }
        }
        Ok(counts)
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
                ended: Some(ended),
                next: ended,
                meta,
            },
        )
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
