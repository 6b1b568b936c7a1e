//! Staging the end of a lease: with a result, or with another attempt.

use super::{Group, Refusal, lock};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::EndCause;
use crate::domain::ids::{LeaseToken, Sequence};
use crate::domain::item::{Ending, Record};
use crate::store::embedded::codec::AttemptMeta;
use crate::store::embedded::rows::{self, AttemptKind, AttemptRow};
use crate::store::embedded::scheduler::{LiveBatch, Past, Standing};
use crate::store::{LeaseEnd, Settlement, StoreError, Verdict};

impl Group<'_> {
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<Verdict, Refusal> {
        let token = settlement.token;
        // The look at the clock may come a little later; nothing succeeds after its batch's time.
        let overdue = lock(self.scheduler)
            .batch(token.item.batch)
            .and_then(|batch| batch.overdue(self.now));
        if let Some(cause) = overdue {
            self.end_early(token.item.batch, cause);
        }
        let (standing, cause) = {
            let scheduler = lock(self.scheduler);
            let batch = scheduler.batch(token.item.batch);
            let ending = batch.filter(|batch| !batch.is_active());
            (scheduler.standing(token), ending.map(LiveBatch::cause))
        };
        let lets_succeed = cause.is_none_or(EndCause::lets_succeed);
        match (standing, &settlement.end) {
            (Standing::Held, LeaseEnd::Finish(ending)) => self
                .finish(settlement, ending.clone())
                .map(Verdict::Recorded),
            (Standing::Cancelled, LeaseEnd::Finish(ending @ Ending::Succeeded(_)))
                if lets_succeed =>
            {
                self.finish(settlement, ending.clone())
                    .map(Verdict::Recorded)
            }
            (
                Standing::Held,
                LeaseEnd::Release {
                    due,
                    error,
                    charged,
                },
            ) => {
                self.release(settlement, (*due, error, *charged))?;
                Ok(Verdict::Released)
            }
            (Standing::Cancelled, LeaseEnd::Finish(_) | LeaseEnd::Release { .. }) => {
                let alone = || {
                    let told = "cancelled while it ran";
                    Ending::Cancelled(ItemError::of(Reason::ITEM_CANCELLED, told))
                };
                let told = "its batch ended while it ran";
                let ending = cause.map_or_else(alone, |cause| cause.ending(told));
                self.finish(settlement, ending).map(Verdict::Overruled)
            }
            (Standing::Lost, _) => Ok(Verdict::Superseded),
            (Standing::Terminal | Standing::Gone, _) => {
                Ok(match rows::result_of(self.db, token.item)? {
                    Some((record, nonce)) if nonce == token.nonce => {
                        Verdict::AlreadyMine(record.sequence)
                    }
                    Some(_) => Verdict::Superseded,
                    None => Verdict::Gone,
                })
            }
        }
    }

    pub(super) fn finish(
        &mut self,
        settlement: &Settlement,
        ending: Ending,
    ) -> Result<Sequence, Refusal> {
        let record = Record {
            sequence: Sequence(0),
            index: settlement.token.item.index,
            id: settlement.id.clone(),
            ending,
            attempts: settlement.spent,
            worker: settlement.worker.clone(),
            queued: settlement.queued,
            ran: settlement.ran,
            finished: self.now,
        };
        let token = settlement.token;
        self.record(token.item.batch, record, token.nonce)
            .map_err(Refusal::Failed)
    }

    pub(super) fn release(
        &mut self,
        settlement: &Settlement,
        (due, error, charged): (Timestamp, &ItemError, bool),
    ) -> Result<(), Refusal> {
        let LeaseToken { item, attempt, .. } = settlement.token;
        let mut scheduler = lock(self.scheduler);
        let batch = self
            .touch(&mut scheduler, item.batch)
            .ok_or(StoreError::Ended)?;
        let before = batch.pasts.get(&item.index).copied().unwrap_or_default();
        let past = Past {
            attempts: attempt,
            spent: settlement.spent,
            releases: before.releases + u32::from(!charged),
            ..before
        };
        scheduler.end_lease(item, &mut self.undo);
        drop(scheduler);
        let meta = AttemptMeta {
            error: Some(error.clone()),
            started_ms: Some(settlement.started.0),
            worker: settlement.worker.clone(),
        };
        let kind = if charged {
            AttemptKind::Failed
        } else {
            AttemptKind::Released
        };
        let row = AttemptRow {
            item,
            number: attempt,
            kind,
            ended: self.now,
            next: due,
            meta,
        };
        rows::insert_attempt(self.db, &row)?;
        self.effects.ended.push(item);
        self.effects.resumed.push((item, past, due));
        Ok(())
    }
}
