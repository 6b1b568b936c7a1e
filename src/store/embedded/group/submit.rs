//! Staging a batch that comes in, or the finding that it had come before.

use std::sync::Arc;

use super::{Group, Refusal, lock};
use crate::domain::batch::{BatchHead, BatchState};
use crate::domain::ids::BatchId;
use crate::domain::item::ItemSpec;
use crate::store::embedded::rows::{self, BatchRow};
use crate::store::embedded::scheduler::LiveBatch;
use crate::store::{Content, Created, Mismatch, NewBatch, StoreError};

impl Group<'_> {
    pub(super) fn create(&mut self, new: &NewBatch) -> Result<Created, Refusal> {
        if let Some(row) = self.earlier(new)? {
            let mut batch = row.batch;
            if let Some(live) = lock(self.scheduler).batch(batch.head.no) {
                batch.running = live.running();
            }
            return Ok(Created::Existing(batch));
        }
        self.admission.check()?;
        let (items, state): (&[ItemSpec], _) = match &new.content {
            Content::Whole(items) => (items, BatchState::Running),
            Content::Appended(_) => (&[], BatchState::Open),
        };
        let total = u32::try_from(items.len()).expect("the caller bounds a submit");
        let no = rows::insert_batch(self.db, new, state, self.now)?;
        rows::insert_items(self.db, no, 0, items)?;
        if let Some(mut ids) = rows::entries(0, items) {
            ids.sort_unstable();
            rows::insert_run(self.db, no, &ids)?;
        }
        let head = BatchHead {
            no,
            tenant: new.tenant.clone(),
            id: new.id.clone().unwrap_or_else(|| BatchId::from(new.uid)),
            uid: new.uid,
            queue: new.queue.clone(),
            options: new.options.clone(),
            on_disconnect: new.on_disconnect,
            upload: new.content.upload(),
            created: self.now,
        };
        let batch = LiveBatch::new(Arc::new(head), state, total);
        let snapshot = batch.snapshot();
        self.effects.admitted.push(batch);
        Ok(Created::New(snapshot))
    }

    /// The batch that the keys of a submit name, if there is one and it has the same content.
    pub(super) fn earlier(&self, new: &NewBatch) -> Result<Option<BatchRow>, Refusal> {
        let found = rows::batch_by_keys(self.db, new.keys()).map_err(Refusal::of_read)??;
        let Some((row, key)) = found else {
            return Ok(None);
        };
        let appended = new.content.upload().is_some();
        let was_appended = row.batch.head.upload.is_some();
        if row.fingerprint != new.fingerprint || was_appended != appended {
            return Err(StoreError::Conflict {
                key,
                holder: row.batch.head.id.clone(),
                mismatch: Mismatch::Content,
            }
            .into());
        }
        Ok(Some(row))
    }
}
