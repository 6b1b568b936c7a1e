//! One transaction: the operations that were waiting, checked, staged and written together.
//!
//! An operation is checked against the scheduler as the group's earlier operations left it, so that
//! two equal submits, or a finish and a cancel of one item, cannot both pass. What it changes in the
//! scheduler either can be taken back ([`Undo`]) or waits in [`Effects`] until the commit: nothing
//! new is granted or visible before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::codec::AttemptMeta;
use super::rows::{self, AttemptKind, AttemptRow, BatchRow};
use super::scheduler::{LiveBatch, Past, Scheduler, Standing, Undo};
use super::writer::{Answer, Request};
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::{Batch, BatchEvent, BatchHead, BatchState};
use crate::domain::ids::{BatchId, BatchNo, ItemKey, LeaseToken, Sequence};
use crate::domain::item::{Ending, ItemSpec, Record};
use crate::store::{
    CancelCounts, Content, Created, Key, LeaseEnd, NewBatch, Settlement, StoreError, Verdict,
};

/// A group being staged.
pub(crate) struct Group<'a> {
    db: &'a Connection,
    scheduler: &'a Mutex<Scheduler>,
    now: Timestamp,
    undo: Vec<Undo>,
    touched: BTreeMap<BatchNo, Before>,
    effects: Effects,
}

/// What happens once the group is durable.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Batches that are new.
    pub(crate) admitted: Vec<LiveBatch>,
    /// Batches that have more items.
    pub(crate) extended: Vec<BatchNo>,
    /// Items that get another turn.
    pub(crate) resumed: Vec<(ItemKey, Past, Timestamp)>,
    /// Items whose lease or life is over.
    pub(crate) ended: Vec<ItemKey>,
    /// Whom to ask to stop.
    pub(crate) stops: Vec<CancellationToken>,
    /// Batches of which remaining items are to be recorded as cancelled.
    pub(crate) cancelled: Vec<BatchNo>,
    /// Batches that are over.
    pub(crate) retired: Vec<BatchNo>,
    /// Batches about which something changed.
    pub(crate) changed: Vec<BatchNo>,
}

/// A batch before the group touched it.
struct Before {
    state: BatchState,
    total: u32,
    cancel_reason: Box<str>,
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

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl<'a> Group<'a> {
    /// An empty group. The caller has begun a transaction on `db`.
    pub(crate) fn new(db: &'a Connection, scheduler: &'a Mutex<Scheduler>, now: Timestamp) -> Self {
        let (undo, touched, effects) = (Vec::new(), BTreeMap::new(), Effects::default());
        Self {
            db,
            scheduler,
            now,
            undo,
            touched,
            effects,
        }
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
        let mut scheduler = self
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for &no in self.touched.keys() {
            let batch = scheduler
                .batch_mut(no)
                .expect("a touched batch is not over yet");
            let all_ended = batch.tally.terminal() == batch.staged_total;
            let over = all_ended
                .then(|| batch.state.apply(BatchEvent::ItemsEnded).ok())
                .flatten();
            let mut snapshot = batch.snapshot();
            if let Some(state) = over {
                batch.state = state;
                snapshot.state = state;
                snapshot.finished = Some(self.now);
                self.effects.retired.push(no);
            }
            self.effects.changed.push(no);
            rows::update_batch(self.db, &snapshot)?;
        }
        Ok(())
    }

    /// The group is durable: what is left to do.
    pub(crate) fn into_effects(self) -> Effects {
        self.effects
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
            batch.staged_total = before.total;
            batch.cancel_reason = before.cancel_reason;
            batch.swept = before.swept;
            scheduler.wake(no);
        }
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

    fn create(&mut self, new: &NewBatch) -> Result<Created, Refusal> {
        if let Some(row) = self.earlier(new)? {
            let mut batch = row.batch;
            if let Some(live) = lock(self.scheduler).batch(batch.head.no) {
                batch.running = live.snapshot().running;
            }
            return Ok(Created::Existing(batch));
        }
        let (items, state): (&[ItemSpec], _) = match &new.content {
            Content::Whole(items) => (items, BatchState::Running),
            Content::Appended => (&[], BatchState::Open),
        };
        let total = u32::try_from(items.len()).expect("the caller bounds a submit");
        let no = rows::insert_batch(self.db, new, state, self.now)?;
        rows::insert_items(self.db, no, 0, items)?;
        let head = BatchHead {
            no,
            id: new.id.clone().unwrap_or_else(|| BatchId::from(new.uid)),
            uid: new.uid,
            queue: new.queue.clone(),
            options: new.options.clone(),
            on_disconnect: new.on_disconnect,
            created: self.now,
        };
        let batch = LiveBatch::new(Arc::new(head), state, total);
        let snapshot = batch.snapshot();
        self.effects.admitted.push(batch);
        Ok(Created::New(snapshot))
    }

    /// The batch that the keys of a submit name, if there is one and it has the same content.
    fn earlier(&self, new: &NewBatch) -> Result<Option<BatchRow>, Refusal> {
        let by_id = new
            .id
            .as_ref()
            .map(|id| rows::batch_by_id(self.db, id))
            .transpose()?
            .flatten();
        let by_request = new
            .request_id
            .as_ref()
            .map(|id| rows::batch_by_request(self.db, id))
            .transpose()?
            .flatten();
        // Every key that is given must name the same batch.
        let (row, key) = match (by_id, by_request) {
            (None, None) => return Ok(None),
            (Some(row), other) => {
                let same =
                    new.request_id.is_none() || other.is_some_and(|other| is_same(&row, &other));
                if !same {
                    return Err(StoreError::Conflict(Key::RequestId).into());
                }
                (row, Key::BatchId)
            }
            (None, Some(_)) if new.id.is_some() => {
                return Err(StoreError::Conflict(Key::BatchId).into());
            }
            (None, Some(row)) => (row, Key::RequestId),
        };
        let appended = matches!(new.content, Content::Appended);
        if row.fingerprint != new.fingerprint || row.appended != appended {
            return Err(StoreError::Conflict(key).into());
        }
        Ok(Some(row))
    }

    fn append(&mut self, no: BatchNo, first: u32, items: &[ItemSpec]) -> Result<u32, Refusal> {
        {
            let mut scheduler = lock(self.scheduler);
            let batch = self.touch(&mut scheduler, no).ok_or(StoreError::Ended)?;
            if batch.state != BatchState::Open {
                return Err(StoreError::Sealed.into());
            }
            let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
            let total = first
                .checked_add(count)
                .filter(|&total| total <= limits::BATCH_ITEMS_MAX);
            if first != batch.staged_total || total.is_none() {
                return Err(StoreError::WrongCount(batch.staged_total).into());
            }
            batch.staged_total += count;
        }
        rows::insert_items(self.db, no, first, items)?;
        self.effects.extended.push(no);
        Ok(first + u32::try_from(items.len()).unwrap_or(u32::MAX))
    }

    fn seal(&mut self, no: BatchNo, total: u32) -> Result<Batch, Refusal> {
        let mut scheduler = lock(self.scheduler);
        let batch = self.touch(&mut scheduler, no).ok_or(StoreError::Ended)?;
        if total == 0 || total != batch.staged_total {
            return Err(StoreError::WrongCount(batch.staged_total).into());
        }
        batch.state = batch
            .state
            .apply(BatchEvent::Sealed)
            .map_err(|_| StoreError::Sealed)?;
        Ok(batch.snapshot())
    }

    fn settle(&mut self, settlement: &Settlement) -> Result<Verdict, Refusal> {
        let token = settlement.token;
        let standing = lock(self.scheduler).standing(token);
        let by_batch = lock(self.scheduler)
            .batch(token.item.batch)
            .is_some_and(|batch| !batch.is_active());
        match (standing, &settlement.end) {
            (Standing::Held, LeaseEnd::Finish(ending))
            | (Standing::Cancelled, LeaseEnd::Finish(ending @ Ending::Succeeded(_))) => self
                .finish(settlement, ending.clone())
                .map(Verdict::Recorded),
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
                let reason = if by_batch {
                    Reason::BATCH_CANCELLED
                } else {
                    Reason::ITEM_CANCELLED
                };
                let error = ItemError::of(reason, "cancelled while it ran");
                self.finish(settlement, Ending::Cancelled(error))
                    .map(Verdict::Cancelled)
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

    fn finish(&mut self, settlement: &Settlement, ending: Ending) -> Result<Sequence, Refusal> {
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
        let mut scheduler = lock(self.scheduler);
        self.record(
            &mut scheduler,
            settlement.token.item.batch,
            record,
            settlement.token.nonce,
        )
        .map_err(Refusal::Failed)
    }

    fn release(
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

    fn cancel_batch(&mut self, no: BatchNo, reason: &str) -> Result<CancelCounts, Refusal> {
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

    fn cancel_items(&mut self, no: BatchNo, indexes: &[u32]) -> Result<CancelCounts, Refusal> {
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

    fn end_unattempted(
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

    /// Gives a record its sequence and writes it.
    fn record(
        &mut self,
        scheduler: &mut MutexGuard<'_, Scheduler>,
        no: BatchNo,
        mut record: Record,
        nonce: u128,
    ) -> rusqlite::Result<Sequence> {
        let item = ItemKey {
            batch: no,
            index: record.index,
        };
        self.touch(scheduler, no);
        record.sequence = scheduler.end(item, record.ending.state(), &mut self.undo);
        rows::insert_result(self.db, no, &record, nonce)?;
        self.effects.ended.push(item);
        Ok(record.sequence)
    }

    /// The batch, if it is not over, remembered as it was before this group.
    fn touch<'s>(
        &mut self,
        scheduler: &'s mut MutexGuard<'_, Scheduler>,
        no: BatchNo,
    ) -> Option<&'s mut LiveBatch> {
        let batch = scheduler.batch_mut(no)?;
        self.touched.entry(no).or_insert_with(|| Before {
            state: batch.state,
            total: batch.staged_total,
            cancel_reason: batch.cancel_reason.clone(),
            swept: batch.swept,
        });
        Some(batch)
    }
}

fn is_same(left: &BatchRow, right: &BatchRow) -> bool {
    left.batch.head.no == right.batch.head.no
}

fn lock(scheduler: &Mutex<Scheduler>) -> MutexGuard<'_, Scheduler> {
    scheduler.lock().unwrap_or_else(PoisonError::into_inner)
}
