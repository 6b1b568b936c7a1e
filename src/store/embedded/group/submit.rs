//! Staging what brings work in: create, append, seal.

use std::sync::Arc;

use super::{Group, Refusal, lock};
use crate::base::limits;
use crate::domain::batch::{Batch, BatchEvent, BatchHead, BatchState};
use crate::domain::ids::{BatchId, BatchNo};
use crate::domain::item::ItemSpec;
use crate::store::embedded::rows::{self, BatchRow};
use crate::store::embedded::scheduler::LiveBatch;
use crate::store::{Content, Created, Key, Mismatch, NewBatch, StoreError};

impl Group<'_> {
    pub(super) fn create(&mut self, new: &NewBatch) -> Result<Created, Refusal> {
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
    pub(super) fn earlier(&self, new: &NewBatch) -> Result<Option<BatchRow>, Refusal> {
        let by_id = new
            .id
            .as_ref()
            .map(|id| rows::batch_by_id(self.db, id))
            .transpose()
            .map_err(Refusal::of_read)?
            .flatten();
        let by_request = new
            .request_id
            .as_ref()
            .map(|id| rows::batch_by_request(self.db, id))
            .transpose()
            .map_err(Refusal::of_read)?
            .flatten();
        // Every key that is given must name the same batch.
        let (row, key) = match (by_id, by_request) {
            (None, None) => return Ok(None),
            (Some(row), other) => {
                let same =
                    new.request_id.is_none() || other.is_some_and(|other| is_same(&row, &other));
                if !same {
                    return Err(conflict(Key::RequestId, &row, Mismatch::Keys));
                }
                (row, Key::BatchId)
            }
            (None, Some(row)) if new.id.is_some() => {
                return Err(conflict(Key::BatchId, &row, Mismatch::Keys));
            }
            (None, Some(row)) => (row, Key::RequestId),
        };
        let appended = matches!(new.content, Content::Appended);
        if row.fingerprint != new.fingerprint || row.appended != appended {
            return Err(conflict(key, &row, Mismatch::Content));
        }
        Ok(Some(row))
    }

    pub(super) fn append(
        &mut self,
        no: BatchNo,
        first: u32,
        items: &[ItemSpec],
    ) -> Result<u32, Refusal> {
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

    pub(super) fn seal(&mut self, no: BatchNo, total: u32) -> Result<Batch, Refusal> {
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
}

fn is_same(left: &BatchRow, right: &BatchRow) -> bool {
    left.batch.head.no == right.batch.head.no
}

fn conflict(key: Key, row: &BatchRow, mismatch: Mismatch) -> Refusal {
    let holder = row.batch.head.id.clone();
    StoreError::Conflict {
        key,
        holder,
        mismatch,
    }
    .into()
}
