//! Staging the end of a batch before its items': the intent at once, their records in chunks.

use super::stale::unknown_outcome;
use super::{Group, lock};
use crate::base::limits;
use crate::domain::batch::{BatchEvent, EndCause};
use crate::domain::failures::FailureAction;
use crate::domain::ids::{BatchNo, ItemKey};
use crate::domain::item::Ending;
use crate::domain::pause::Pause;
use crate::store::embedded::rows;

impl Group<'_> {
    /// Ends an active batch early. Nothing of it starts any more, what runs is asked to stop, and its
    /// remaining items get their records in later groups. Answers whether it was active.
    pub(super) fn end_early(&mut self, no: BatchNo, cause: EndCause) -> bool {
        let mut scheduler = lock(self.scheduler);
        let Some(batch) = self.touch(&mut scheduler, no) else {
            return false;
        };
        if !batch.is_active() {
            return false;
        }
        batch.state = batch
            .state
            .apply(BatchEvent::EndAsked)
            .expect("an active batch can end");
        batch.cause = Some(cause);
        batch.paused = None;
        self.effects.stops.push(batch.stop.clone());
        self.effects.ending.push(no);
        true
    }

    /// Ends the batches whose time is over.
    pub(super) fn end_overdue(&mut self) {
        let overdue = lock(self.scheduler).overdue(self.now);
        for (no, cause) in overdue {
            self.end_early(no, cause);
        }
    }

    /// What a record that was just staged means for its batch: enough succeeded, or too many failed.
    pub(super) fn judge(&mut self, no: BatchNo) {
        let (verdict, action) = {
            let mut scheduler = lock(self.scheduler);
            let Some(batch) = self.touch(&mut scheduler, no) else {
                return;
            };
            if !batch.is_active() {
                return;
            }
            let options = &batch.head.options;
            if options
                .enough
                .is_some_and(|enough| batch.tally.succeeded >= enough)
            {
                drop(scheduler);
                self.end_early(no, EndCause::Enough);
                return;
            }
            let Some(policy) = &options.failure_policy else {
                return;
            };
            let verdict = policy.verdict(&batch.tally, batch.failures.since);
            (verdict, policy.action)
        };
        let Some(verdict) = verdict else { return };
        match action {
            FailureAction::Cancel => {
                self.end_early(no, EndCause::FailurePolicy);
            }
            FailureAction::Pause => {
                let mut scheduler = lock(self.scheduler);
                // A batch that was paused by hand meanwhile keeps that reason.
                if let Some(batch) = self.touch(&mut scheduler, no)
                    && batch.paused.is_none()
                    && batch.has_more()
                {
                    let pause = Pause::by_policy(&verdict);
                    batch.paused = Some(pause.clone());
                    let id = batch.head.id.clone();
                    self.effects.policy_paused.push((id, pause));
                }
            }
        }
    }

    /// Records up to a chunk of the remaining items of a batch that ends early. Answers whether more
    /// is left.
    pub(crate) fn sweep(&mut self, no: BatchNo) -> rusqlite::Result<bool> {
        let (from, total, cause) = {
            let mut scheduler = lock(self.scheduler);
            let Some(batch) = self.touch(&mut scheduler, no) else {
                return Ok(false);
            };
            (batch.swept, batch.staged_total, batch.cause())
        };
        let to = from.saturating_add(limits::CHORE_ITEMS_MAX).min(total);
        for (index, id) in (from..to).zip(rows::client_ids(self.reading(), no, from, to)?) {
            // Running items end by their own settlement.
            let is_left = lock(self.scheduler).batch(no).is_some_and(|batch| {
                !batch.is_terminal(index) && !batch.leases.contains_key(&index)
            });
            if is_left {
                let ending = cause.ending("its batch ended before it ran");
                self.end_unattempted(ItemKey { batch: no, index }, id, ending)?;
            }
        }
        if let Some(batch) = lock(self.scheduler).batch_mut(no) {
            batch.swept = to;
        }
        Ok(to < total)
    }

    /// Ends an item that no attempt runs of. Of one that runs at most once and may have run nobody says
    /// that it did not, whatever else ends it.
    pub(super) fn end_unattempted(
        &mut self,
        item: ItemKey,
        id: Option<Box<str>>,
        ending: Ending,
    ) -> rusqlite::Result<()> {
        let (spent, is_unknown) = {
            let scheduler = lock(self.scheduler);
            let batch = scheduler.batch(item.batch);
            let past = batch.and_then(|batch| batch.pasts.get(&item.index));
            let is_unknown = batch.is_some_and(|batch| batch.is_outcome_unknown(item.index));
            (past.map_or(0, |past| past.spent), is_unknown)
        };
        let ending = if is_unknown {
            unknown_outcome()
        } else {
            ending
        };
        let mut record = rows::unattempted(item.index, id, ending, self.now);
        record.attempts = if is_unknown { 1 } else { spent };
        self.record(item.batch, record, 0).map(|_| ())
    }
}
