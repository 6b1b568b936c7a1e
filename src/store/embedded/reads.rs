//! The verbs of whoever reads: journals, batches, items.

use std::sync::PoisonError;

use tokio::sync::watch;

use super::scheduler::LiveBatch;
use super::{Store, rows};
use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::domain::attempt::PastAttempt;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{BatchName, BatchNo, ItemKey, Sequence};
use crate::domain::item::{ItemSpec, Record};
use crate::store::{Damaged, ItemView, Keys, Page, StoreError};

impl Store {
    /// The records behind `after`, in sequence order, and the batch as it stood just before.
    pub async fn read_log(&self, batch: BatchNo, after: Sequence) -> Result<Page, StoreError> {
        let page = self.0.readers.run(move |db, part| {
            let Some(row) = rows::batch(db, batch)? else {
                return Ok(None);
            };
            let reach = rows::Reach {
                records_max: (limits::PAGE_RECORDS_MAX / part).max(1),
                bytes_max: limits::PAGE_BYTES_MAX / part,
            };
            let last = row.batch.last_sequence();
            let records = rows::results(db, batch, after, last, reach)?;
            Ok(Some(Page {
                records,
                batch: row.batch,
            }))
        });
        let mut page = page.await?.ok_or(StoreError::NoBatch)?;
        self.count_running(&mut page.batch);
        Ok(page)
    }

    /// The record of the item at `index`, if it is terminal, and the batch as it stood just before.
    pub async fn read_by_index(&self, batch: BatchNo, index: u32) -> Result<Page, StoreError> {
        let page = self.0.readers.run(move |db, _| {
            let Some(row) = rows::batch(db, batch)? else {
                return Ok(None);
            };
            let record = rows::result_of(db, ItemKey { batch, index })?.map(|(record, _)| record);
            Ok(Some(Page {
                records: record.into_iter().collect(),
                batch: row.batch,
            }))
        });
        let mut page = page.await?.ok_or(StoreError::NoBatch)?;
        self.count_running(&mut page.batch);
        Ok(page)
    }

    /// The batch of that name.
    pub async fn batch(&self, name: &BatchName) -> Result<Batch, StoreError> {
        let name = name.clone();
        let row = self
            .0
            .readers
            .run(move |db, _| rows::batch_by_name(db, &name))
            .await?;
        let mut batch = row.ok_or(StoreError::NoBatch)?.batch;
        self.count_running(&mut batch);
        Ok(batch)
    }

    /// The batch that the keys of a submit name, if there is one. Every key that is given must name
    /// the same.
    pub async fn find(&self, keys: Keys<'_>) -> Result<Option<Batch>, StoreError> {
        let tenant = keys.tenant.clone();
        let (id, request_id) = (keys.id.cloned(), keys.request_id.cloned());
        let found = self.0.readers.run(move |db, _| {
            let keys = Keys {
                tenant: &tenant,
                id: id.as_ref(),
                request_id: request_id.as_ref(),
            };
            rows::batch_by_keys(db, keys)
        });
        let Some((row, _)) = found.await?? else {
            return Ok(None);
        };
        let mut batch = row.batch;
        self.count_running(&mut batch);
        Ok(Some(batch))
    }

    /// The uploads that take more items.
    pub fn open_uploads(&self) -> Vec<Batch> {
        let scheduler = self
            .0
            .shared
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scheduler.open_uploads()
    }

    /// Whether the batch is an upload that takes more items.
    pub fn is_open(&self, batch: BatchNo) -> bool {
        let scheduler = self
            .0
            .shared
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scheduler
            .batch(batch)
            .is_some_and(|live| live.state == BatchState::Open)
    }

    /// The indexes of items that their caller named, in the order asked for.
    pub async fn indexes(
        &self,
        batch: BatchNo,
        ids: Vec<Box<str>>,
    ) -> Result<Vec<u32>, StoreError> {
        // Memory before disk: an id that a run takes over in between is then found there.
        let unwritten = self.unwritten(batch, &ids);
        let found = self.0.readers.run(move |db, _| {
            let Some(row) = rows::batch(db, batch)? else {
                return Ok(Err(StoreError::NoBatch));
            };
            let total = row.batch.total;
            let index_of = |place: usize, id: &str| {
                let unwritten = unwritten.get(place).map_or(&[][..], Vec::as_slice);
                let index = rows::index_of(db, batch, total, id, unwritten)?;
                Ok(index.ok_or_else(|| StoreError::NoItem(id.into())))
            };
            ids.iter()
                .enumerate()
                .map(|(place, id)| index_of(place, id))
                .collect::<rusqlite::Result<Result<Vec<_>, _>>>()
        });
        found.await?
    }

    /// An item as it stands.
    pub async fn item(
        &self,
        batch: BatchNo,
        index: u32,
        with_spec: bool,
    ) -> Result<ItemView, StoreError> {
        let item = ItemKey { batch, index };
        // Memory before disk: an item that ends in between is then terminal, never lost.
        let (running, next_due) = {
            let scheduler = self
                .0
                .shared
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let live = scheduler.batch(batch);
            let running = live.and_then(|live| live.running_attempt(index));
            let past = live.and_then(|live| live.pasts.get(&index));
            (
                running,
                past.filter(|past| {
                    running.is_none() && !past.withheld && past.since > clock::now()
                })
                .map(|past| past.since),
            )
        };
        let view = self.0.readers.run(move |db, _| {
            if rows::batch(db, batch)?.is_none() {
                return Ok(None);
            }
            let record = rows::result_of(db, item)?.map(|(record, _)| record);
            let mut past = rows::attempts_of_item(db, item, limits::ATTEMPTS_TOLD_MAX)?;
            let last = record
                .as_ref()
                .and_then(|record| last_attempt(record, &past));
            if last.is_some() && past.len() == limits::ATTEMPTS_TOLD_MAX {
                past.remove(0);
            }
            past.extend(last);
            let (_, spec) = rows::items(db, batch, &[index])?.remove(0);
            let id = spec.as_ref().ok().and_then(|spec| spec.id.clone());
            Ok(Some(ItemView {
                index,
                id,
                running: running.filter(|_| record.is_none()),
                next_due: next_due.filter(|_| record.is_none()),
                record,
                past,
                spec: with_spec.then_some(spec),
            }))
        });
        view.await?.ok_or(StoreError::NoBatch)
    }

    /// The items from `first` on, as many as fit into a page, each unless its record is damaged.
    pub async fn specs(
        &self,
        batch: BatchNo,
        first: u32,
        count: u32,
    ) -> Result<Vec<Result<ItemSpec, Damaged>>, StoreError> {
        let indexes: Vec<u32> = (first..first.saturating_add(count)).collect();
        let specs = self.0.readers.run(move |db, part| {
            let some = indexes.len().div_ceil(part).max(1);
            let some = &indexes[..some.min(indexes.len())];
            if rows::batch(db, batch)?.is_none() {
                return Ok(None);
            }
            rows::items_within(db, batch, some, limits::SPECS_BYTES_MAX / part).map(Some)
        });
        let specs = specs.await?.ok_or(StoreError::NoBatch)?;
        Ok(specs.into_iter().map(|(_, spec)| spec).collect())
    }

    /// Changes whenever the batch's journal or state does. Subscribe before reading.
    pub fn journal_hint(&self, batch: BatchNo) -> watch::Receiver<()> {
        self.0.shared.hints.journal(batch)
    }

    /// For each id the items of an open upload that may have it and that no run tells.
    fn unwritten(&self, batch: BatchNo, ids: &[Box<str>]) -> Vec<Vec<u32>> {
        let hashes: Vec<_> = ids.iter().map(|id| rows::id_hash(id)).collect();
        let scheduler = self
            .0
            .shared
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(known) = scheduler.batch(batch).and_then(|live| live.ids.as_ref()) else {
            return Vec::new();
        };
        let suspects = |&hash: &i64| known.suspects(hash).indexes;
        hashes.iter().map(suspects).collect()
    }

    pub(super) fn count_running(&self, batch: &mut Batch) {
        let scheduler = self
            .0
            .shared
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let live = scheduler.batch(batch.head.no);
        let leases = live.map_or(0, LiveBatch::running);
        // It is on disk once something else of the batch is.
        batch.started = batch.started.or(live.and_then(|live| live.started));
        // A lease may outlive its item's record for a moment; the counts sum to the total all the same.
        let open = batch.total - batch.tally.terminal();
        batch.running = leases.min(open);
    }
}

/// The attempt that gave a record, if one did. It has no row of its own: what it was is in the record,
/// and its number follows those that gave none.
fn last_attempt(record: &Record, past: &[PastAttempt]) -> Option<PastAttempt> {
    if record.worker.is_empty() {
        return None;
    }
    let ran = i64::try_from(record.ran.as_millis()).unwrap_or(i64::MAX);
    Some(PastAttempt {
        number: past.last().map_or(1, |last| last.number + 1),
        began: true,
        started: Some(Timestamp(record.finished.0.saturating_sub(ran))),
        ended: Some(record.finished),
        next: None,
        error: record.ending.error().cloned(),
        worker: record.worker.clone(),
    })
}
