//! Staging a batch that comes in, or the finding that it had come before.

use std::sync::Arc;

use super::{Group, Refusal, lock};
use crate::domain::batch::{Batch, BatchHead, BatchState};
use crate::domain::ids::{BatchId, BatchNo};
use crate::domain::item::ItemSpec;
use crate::store::embedded::rows::{self, BatchRow};
use crate::store::embedded::scheduler::{LiveBatch, Load};
use crate::store::{Content, Created, Mismatch, NewBatch, StoreError};

impl Group<'_> {
    pub(super) fn create(&mut self, new: &NewBatch) -> Result<Created, Refusal> {
        if let Some(row) = self.earlier(new)? {
            return Ok(Created::Existing(self.standing(row)));
        }
        let (items, state): (&[ItemSpec], _) = match &new.content {
            Content::Whole(items) => (items, BatchState::Running),
            Content::Appended(_) | Content::Copied(_) => (&[], BatchState::Open),
        };
        let total = u32::try_from(items.len()).expect("the caller bounds a submit");
        let input_bytes = new.content.input_bytes();
        let more = Load {
            batches: 1,
            items: total.into(),
            bytes: input_bytes,
        };
        self.check_room(&new.tenant, more)?;
        let no = rows::insert_batch(self.db, new, state, self.now)?;
        rows::insert_items(self.db, no, 0, items)?;
        if let Some(mut ids) = rows::entries(0, items) {
            ids.sort_unstable();
            rows::insert_run(self.db, no, &ids)?;
        }
        let mut batch = LiveBatch::new(Arc::new(self.head(no, new)), state, total);
        batch.input_bytes = input_bytes;
        let snapshot = batch.snapshot();
        self.take_in(batch);
        Ok(Created::New(snapshot))
    }

    /// A batch that had come before, as it stands.
    pub(super) fn standing(&self, row: BatchRow) -> Batch {
        let mut batch = row.batch;
        if let Some(live) = lock(self.scheduler).batch(batch.head.no) {
            batch.running = live.running();
        }
        batch
    }

    /// What never changes of a batch that comes in.
    pub(super) fn head(&self, no: BatchNo, new: &NewBatch) -> BatchHead {
        BatchHead {
            no,
            tenant: new.tenant.clone(),
            id: new.id.clone().unwrap_or_else(|| BatchId::from(new.uid)),
            uid: new.uid,
            queue: new.queue.clone(),
            options: new.options.clone(),
            on_disconnect: new.on_disconnect,
            upload: new.content.upload(),
            source: new.content.source().cloned(),
            created: self.now,
        }
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
