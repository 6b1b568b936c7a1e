//! Staging an upload: its items, chunk by chunk, and its end.

use super::{Group, Refusal, lock};
use crate::base::limits;
use crate::domain::batch::{Batch, BatchEvent, BatchState};
use crate::domain::ids::BatchNo;
use crate::domain::item::ItemSpec;
use crate::store::StoreError;
use crate::store::embedded::id_index::{Entry, IdIndex, Suspects};
use crate::store::embedded::rows;

/// The items of one append.
struct Chunk<'a> {
    first: u32,
    items: &'a [ItemSpec],
    /// The hashes of their ids, if they have some.
    ids: Option<Vec<Entry>>,
}

impl Group<'_> {
    pub(super) fn append(
        &mut self,
        no: BatchNo,
        first: u32,
        items: &[ItemSpec],
    ) -> Result<u32, Refusal> {
        let ids = rows::entries(first, items);
        let chunk = Chunk { first, items, ids };
        let (total, suspects) = {
            let mut scheduler = lock(self.scheduler);
            let batch = self.touch(&mut scheduler, no).ok_or(StoreError::Ended)?;
            if batch.state != BatchState::Open {
                return Err(StoreError::Sealed.into());
            }
            let total = chunk
                .end()
                .filter(|&total| first == batch.staged_total && total <= limits::BATCH_ITEMS_MAX)
                .ok_or(StoreError::WrongCount(batch.staged_total))?;
            let known = batch.ids.get_or_insert_default();
            chunk.check_alike(known.named())?;
            (total, chunk.suspects(known))
        };
        chunk.check_apart()?;
        // Without the lock: leases wait for it, and nobody else appends meanwhile.
        for (index, suspects) in suspects {
            let id = chunk.id(index);
            let earlier = rows::named(self.db, no, id, &suspects).map_err(Refusal::of_read)?;
            if let Some(first) = earlier {
                let id = id.into();
                return Err(StoreError::DuplicateId { index, first, id }.into());
            }
        }
        rows::insert_items(self.db, no, first, items)?;
        let run = {
            let mut scheduler = lock(self.scheduler);
            let batch = self
                .touch(&mut scheduler, no)
                .expect("a batch is let go only after a commit");
            batch.staged_total = total;
            let known = batch.ids.get_or_insert_default();
            known.append(chunk.ids);
            known.is_run_due().then(|| known.take_run())
        };
        if let Some(run) = run {
            rows::insert_run(self.db, no, &run)?;
        }
        self.effects.extended.push(no);
        Ok(total)
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

impl Chunk<'_> {
    fn end(&self) -> Option<u32> {
        self.first.checked_add(self.items.len().try_into().ok()?)
    }

    /// The id of the item at that index of the batch.
    fn id(&self, index: u32) -> &str {
        let place = usize::try_from(index - self.first).expect("an index fits into memory");
        let id = self.items[place].id.as_deref();
        id.expect("only items with ids have entries")
    }

    /// Every item of a batch has an id of its own, or none has.
    fn check_alike(&self, named: Option<bool>) -> Result<(), StoreError> {
        let has_id = |item: &ItemSpec| item.id.is_some();
        let Some(named) = named.or_else(|| self.items.first().map(has_id)) else {
            return Ok(());
        };
        let other = (self.first..)
            .zip(self.items)
            .find(|(_, item)| has_id(item) != named);
        other.map_or(Ok(()), |(index, _)| Err(StoreError::MixedIds(index)))
    }

    /// No two items of the chunk have one id.
    fn check_apart(&self) -> Result<(), StoreError> {
        let mut ids = self.ids.clone().unwrap_or_default();
        ids.sort_unstable();
        for same in ids.chunk_by(|(left, _), (right, _)| left == right) {
            for (place, &(_, index)) in same.iter().enumerate() {
                let id = self.id(index);
                let mut earlier = same[..place].iter();
                if let Some(&(_, first)) = earlier.find(|&&(_, other)| self.id(other) == id) {
                    let id = id.into();
                    return Err(StoreError::DuplicateId { index, first, id });
                }
            }
        }
        Ok(())
    }

    /// Which of the items may have an id that the upload has used before.
    fn suspects(&self, known: &IdIndex) -> Vec<(u32, Suspects)> {
        let entries = self.ids.iter().flatten();
        entries
            .map(|&(hash, index)| (index, known.suspects(hash)))
            .filter(|(_, suspects)| !suspects.is_empty())
            .collect()
    }
}
