//! One transaction: the operations that were waiting, checked, staged and written together.
//!
//! An operation is checked against the scheduler as the group's earlier operations left it, so that
//! two equal submits, or a finish and a cancel of one item, cannot both pass. What it changes in the
//! scheduler either can be taken back ([`Undo`]) or waits in [`Effects`] until the commit: nothing
//! new is granted or visible before.

mod admission;
mod append;
mod cancel;
mod early;
mod effects;
mod pause;
mod redrive;
mod remove;
mod settle;
mod stale;
mod submit;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

pub(crate) use self::admission::Admission;
pub(crate) use self::effects::{Applied, Effects, Removed};
pub(crate) use self::remove::Keeping;
use super::avoided::Snag;
use super::operation::{Answer, Request};
use super::rows;
use super::scheduler::{LiveBatch, Scheduler, Undo};
use crate::base::clock::Timestamp;
use crate::domain::batch::{BatchEvent, BatchState, EndCause};
use crate::domain::failures::Failures;
use crate::domain::ids::{BatchNo, ItemKey, Sequence};
use crate::domain::item::{Ending, Record};
use crate::domain::pause::Pause;
use crate::store::StoreError;

/// A group being staged.
pub(crate) struct Group<'a> {
    db: &'a Connection,
    beside: Option<&'a Connection>,
    scheduler: &'a Mutex<Scheduler>,
    now: Timestamp,
    admission: Admission<'a>,
    keeping: Keeping<'a>,
    /// What it is at that damage may be in the way of.
    snag: Option<Snag>,
    undo: Vec<Undo>,
    touched: BTreeMap<BatchNo, Before>,
    effects: Effects,
}

/// What a group works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections<'a> {
    /// What has begun the transaction.
    pub(crate) db: &'a Connection,
    /// What the group's only part reads with instead, if some of the file is known to be damaged.
    pub(crate) beside: Option<&'a Connection>,
}

/// A batch before the group touched it.
struct Before {
    state: BatchState,
    total: u32,
    input_bytes: u64,
    cancel_reason: Box<str>,
    paused: Option<Pause>,
    cause: Option<EndCause>,
    failures: Arc<Failures>,
    swept: u32,
}

/// Why an operation, or the whole group, does not go through.
pub(crate) enum Refusal {
    /// This operation is refused; the others go on.
    Refused(StoreError),
    /// The database failed.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl Refusal {
    /// Of a read that comes before anything is staged: damage concerns this operation alone.
    fn of_read(error: rusqlite::Error) -> Self {
        if rows::is_corrupt(&error) {
            Self::Refused(StoreError::Corrupt)
        } else {
            Self::Failed(error)
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl<'a> Group<'a> {
    /// An empty group.
    pub(crate) fn new(
        Connections { db, beside }: Connections<'a>,
        scheduler: &'a Mutex<Scheduler>,
        now: Timestamp,
        admission: Admission<'a>,
        keeping: Keeping<'a>,
    ) -> Self {
        let (undo, touched, effects) = (Vec::new(), BTreeMap::new(), Effects::default());
        Self {
            db,
            beside,
            scheduler,
            now,
            admission,
            keeping,
            snag: None,
            undo,
            touched,
            effects,
        }
    }

    /// What may meet damage without harm to the transaction, if some is known. It sees nothing that the
    /// group has written: only for what was there before.
    pub(super) fn reading(&self) -> &'a Connection {
        self.beside.unwrap_or(self.db)
    }

    /// Checks and stages one operation.
    pub(crate) fn stage(&mut self, request: &Request) -> Result<Answer, Refusal> {
        match request {
            Request::Create(batch) => self
                .create(batch)
                .map(|created| Answer::Created(Box::new(created))),
            Request::Append {
                batch,
                first,
                items,
            } => self.append(*batch, *first, items).map(Answer::Accepted),
            Request::Seal { batch, total } => self
                .seal(*batch, *total)
                .map(|batch| Answer::Batch(Box::new(batch))),
            Request::Settle(settlements) => {
                let verdicts = settlements.iter().map(|settlement| self.settle(settlement));
                verdicts.collect::<Result<_, _>>().map(Answer::Settled)
            }
            Request::EndOverdue => {
                self.end_overdue();
                Ok(Answer::Done)
            }
            Request::EndStale => {
                let more = self.end_stale()?;
                Ok(Answer::Looked { more })
            }
            Request::EndInterrupted(item) => {
                self.end_interrupted(*item)?;
                Ok(Answer::Done)
            }
            Request::Remove(batch) => {
                self.remove(*batch)?;
                Ok(Answer::Done)
            }
            Request::Trim { expired_by } => {
                let more = self.trim(*expired_by)?;
                Ok(Answer::Looked { more })
            }
            Request::Pause { batch, pause } => {
                let paused = self.pause(*batch, pause.as_ref());
                paused.map(|batch| Answer::Batch(Box::new(batch)))
            }
            Request::PauseQueue { queue, pause } => {
                self.pause_queue(queue, pause.as_deref())?;
                Ok(Answer::Done)
            }
            Request::Redrive(redrive) => self
                .redrive(redrive)
                .map(|created| Answer::Created(Box::new(created))),
            Request::EndRedrive(batch) => {
                self.end_redrive(*batch)?;
                Ok(Answer::Done)
            }
            Request::Purge(letters) => {
                let purged = self.purge(letters)?;
                Ok(Answer::Purged(purged))
            }
            Request::Cancel {
                batch,
                items,
                reason,
            } => {
                let counts = match items {
                    Some(indexes) => self.cancel_items(*batch, indexes),
                    None => self.cancel_batch(*batch, reason),
                }?;
                Ok(Answer::Cancelled(counts))
            }
        }
    }

    /// Writes what has changed about each batch; those whose items have all ended are over.
    pub(crate) fn close(&mut self) -> rusqlite::Result<()> {
        let mut snapshots = Vec::with_capacity(self.touched.len());
        let mut runs = Vec::new();
        // Not while writing: leases and reads wait for this lock.
        let mut scheduler = lock(self.scheduler);
        for &no in self.touched.keys() {
            let batch = scheduler
                .batch_mut(no)
                .expect("a touched batch is not over yet");
            let all_ended = batch.tally.terminal() == batch.staged_total;
            let over = all_ended
                .then(|| batch.state.apply(BatchEvent::ItemsEnded(batch.cause)).ok())
                .flatten();
            if over.is_some() {
                // What is over does not wait for anybody.
                batch.paused = None;
            }
            if batch.state != BatchState::Open
                && let Some(ids) = &mut batch.ids
            {
                // No more items come: the last run.
                runs.push((no, ids.take_run()));
                self.effects.sealed.push(no);
            }
            let mut snapshot = batch.snapshot();
            if let Some(state) = over {
                batch.state = state;
                snapshot.state = state;
                snapshot.finished = Some(self.now);
                let retention = batch
                    .head
                    .options
                    .retention
                    .unwrap_or(self.keeping.retention);
                snapshot.expires = Some(self.now.plus(retention));
                self.effects.retired.push(no);
            }
            self.effects.changed.push(no);
            snapshots.push(snapshot);
        }
        drop(scheduler);
        for (no, run) in runs {
            rows::insert_run(self.db, no, &run)?;
        }
        for snapshot in &snapshots {
            rows::update_batch(self.db, snapshot)?;
        }
        Ok(())
    }

    /// The group is durable: what is left to do.
    pub(crate) fn into_effects(self) -> Effects {
        self.effects
    }

    /// What has failed, if the group did because of that.
    pub(crate) fn snag(&self) -> Option<Snag> {
        self.snag
    }

    /// The group is not durable: takes everything back that it staged.
    pub(crate) fn take_back(self) {
        let mut scheduler = lock(self.scheduler);
        scheduler.undo(self.undo);
        for (no, before) in self.touched {
            let batch = scheduler
                .batch_mut(no)
                .expect("a batch is let go only after a commit");
            batch.state = before.state;
            batch.cancel_reason = before.cancel_reason;
            batch.paused = before.paused;
            batch.cause = before.cause;
            batch.failures = before.failures;
            batch.swept = before.swept;
            if let Some(ids) = &mut batch.ids {
                ids.take_back(before.total);
            }
            scheduler.stage_items(no, before.total, before.input_bytes);
            scheduler.wake(no, self.now);
        }
    }

    /// Gives a record its sequence and writes it.
    pub(super) fn record(
        &mut self,
        no: BatchNo,
        mut record: Record,
        nonce: u128,
    ) -> rusqlite::Result<Sequence> {
        let index = record.index;
        let item = ItemKey { batch: no, index };
        let is_judged = {
            let mut scheduler = lock(self.scheduler);
            self.touch(&mut scheduler, no);
            let state = record.ending.state();
            record.sequence = scheduler.end(item, state, &mut self.undo);
            *self.effects.tally.of(state) += 1;
            let batch = scheduler
                .batch_mut(no)
                .expect("a batch is let go only after a commit");
            if let Ending::Failed(error) | Ending::Expired(error) = &record.ending {
                Arc::make_mut(&mut batch.failures).count(&error.reason);
                let queue = batch.head.queue.clone();
                *self.effects.dead.entry(queue).or_default() += 1;
            }
            let options = &batch.head.options;
            options.enough.is_some() || options.failure_policy.is_some()
        };
        if is_judged {
            self.judge(no);
        }
        rows::insert_result(self.db, no, &record, nonce)?;
        self.effects.ended.push(item);
        Ok(record.sequence)
    }

    /// The batch, if it is not over, remembered as it was before this group.
    pub(super) fn touch<'s>(
        &mut self,
        scheduler: &'s mut MutexGuard<'_, Scheduler>,
        no: BatchNo,
    ) -> Option<&'s mut LiveBatch> {
        let batch = scheduler.batch_mut(no)?;
        self.touched.entry(no).or_insert_with(|| Before {
            state: batch.state,
            total: batch.staged_total,
            input_bytes: batch.input_bytes,
            cancel_reason: batch.cancel_reason.clone(),
            paused: batch.paused.clone(),
            cause: batch.cause,
            failures: Arc::clone(&batch.failures),
            swept: batch.swept,
        });
        Some(batch)
    }
}

fn lock(scheduler: &Mutex<Scheduler>) -> MutexGuard<'_, Scheduler> {
    scheduler.lock().unwrap_or_else(PoisonError::into_inner)
}
