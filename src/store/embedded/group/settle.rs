//! Staging the end of a lease: with a result, or with another attempt.

use super::{Group, Refusal, lock};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::EndCause;
use crate::domain::ids::{LeaseToken, Sequence};
use crate::domain::item::{Ending, ItemTime, Record};
use crate::store::embedded::codec::AttemptMeta;
use crate::store::embedded::rows::{self, AttemptKind, AttemptRow};
use crate::store::embedded::scheduler::{LiveBatch, Past, Standing};
use crate::store::{Charge, LeaseEnd, Settlement, StoreError, Verdict};

/// When an item's next attempt is due, why the last one gave no result, and what that counts for.
type Given<'a> = (Timestamp, &'a ItemError, Charge);

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
        let late = settlement.finish_by.is_some_and(|by| by <= self.now);
        let lets_succeed = !late && cause.is_none_or(EndCause::lets_succeed);
        match (standing, &settlement.end) {
            (Standing::Held, LeaseEnd::Finish(Ending::Succeeded(_))) if late => {
                let ending = ItemTime::FinishBy.ending("it ended after the item's time");
                self.finish(settlement, ending).map(Verdict::Overruled)
            }
            (Standing::Held, LeaseEnd::Finish(ending)) => self
                .finish(settlement, ending.clone())
                .map(Verdict::Recorded),
            (Standing::Cancelled, LeaseEnd::Finish(ending @ Ending::Succeeded(_)))
                if lets_succeed =>
            {
                self.finish(settlement, ending.clone())
                    .map(Verdict::Recorded)
            }
            (Standing::Held, LeaseEnd::Release { due, error, charge }) => {
                let too_late = |by| (*due).max(self.now) >= by;
                if settlement.finish_by.is_some_and(too_late) {
                    let end = (*due, error, *charge);
                    return self.give_up(settlement, end).map(Verdict::Overruled);
                }
                self.release(settlement, (*due, error, *charge))?;
                Ok(Verdict::Released)
            }
            (Standing::Cancelled, LeaseEnd::Finish(_) | LeaseEnd::Release { .. }) => {
                let when = if settlement.worker.is_empty() {
                    "before its attempt began"
                } else {
                    "while it ran"
                };
                let alone = || {
                    let told = format!("cancelled {when}");
                    Ending::Cancelled(ItemError::of(Reason::ITEM_CANCELLED, &told))
                };
                let told = format!("its batch ended {when}");
                let ending = cause.map_or_else(alone, |cause| cause.ending(&told));
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

    /// Ends an item whose next attempt would come after its time: waiting for that helps nobody. The
    /// attempt that failed has its row, so that why it did is not lost.
    fn give_up(&mut self, settlement: &Settlement, end: Given<'_>) -> Result<Sequence, Refusal> {
        self.note_attempt(settlement, end)?;
        let told = format!(
            "no attempt may follow in its time; the last: {}",
            end.1.reason
        );
        let nobody = Settlement {
            worker: "".into(),
            ..settlement.clone()
        };
        self.finish(&nobody, ItemTime::FinishBy.ending(&told))
    }

    pub(super) fn release(
        &mut self,
        settlement: &Settlement,
        end: Given<'_>,
    ) -> Result<(), Refusal> {
        let (due, _, charge) = end;
        let LeaseToken { item, attempt, .. } = settlement.token;
        let mut scheduler = lock(self.scheduler);
        let batch = self
            .touch(&mut scheduler, item.batch)
            .ok_or(StoreError::Ended)?;
        let before = batch.pasts.get(&item.index).copied().unwrap_or_default();
        let past = match charge {
            Charge::Nothing => before,
            Charge::Attempt | Charge::Release | Charge::Stop | Charge::Unbegun => Past {
                attempts: attempt,
                spent: settlement.spent,
                releases: before.releases + u32::from(charge == Charge::Release),
                began: before.began || charge.began(),
                ..before
            },
        };
        scheduler.end_lease(item, &mut self.undo);
        drop(scheduler);
        self.note_attempt(settlement, end)?;
        self.effects.ended.push(item);
        self.effects.resumed.push((item, past, due));
        Ok(())
    }

    /// Writes down an attempt that gave no result, unless there was none. Beside telling of it, that
    /// outdates its trace among what runs, should the power go before the trace has gone.
    fn note_attempt(
        &self,
        settlement: &Settlement,
        (due, error, charge): Given<'_>,
    ) -> rusqlite::Result<()> {
        let kind = match charge {
            Charge::Attempt => AttemptKind::Failed,
            Charge::Release => AttemptKind::Released,
            Charge::Stop => AttemptKind::Stopped,
            Charge::Unbegun => AttemptKind::Unbegun,
            Charge::Nothing => return Ok(()),
        };
        let LeaseToken { item, attempt, .. } = settlement.token;
        let meta = AttemptMeta {
            error: Some(error.clone()),
            started_ms: Some(settlement.started.0),
            worker: settlement.worker.clone(),
        };
        let row = AttemptRow {
            item,
            number: attempt,
            kind,
            ended: Some(self.now),
            next: due,
            meta,
        };
        rows::insert_attempt(self.db, &row)
    }
}
