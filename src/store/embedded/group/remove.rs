//! Staging the removal of batches: off the books at once, their rows in chunks.

use std::time::Duration;

use super::{Group, Refusal};
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::ids::BatchNo;
use crate::store::StoreError;
use crate::store::embedded::avoided::{Avoided, Snag};
use crate::store::embedded::rows;

/// How long batches are kept, and which must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping<'a> {
    /// How long a batch stays that says nothing of its own.
    pub(crate) retention: Duration,
    /// What is let be because it is damaged.
    pub(crate) avoided: &'a Avoided,
}

impl Group<'_> {
    /// Takes a batch that is over off the books.
    pub(super) fn remove(&mut self, no: BatchNo) -> Result<(), Refusal> {
        self.snag = Some(Snag::Batch(no));
        let removed = self.try_remove(no);
        if !matches!(removed, Err(Refusal::Failed(_))) {
            self.snag = None;
        }
        removed
    }

    fn try_remove(&mut self, no: BatchNo) -> Result<(), Refusal> {
        let row = rows::batch(self.db, no)?;
        if !row.ok_or(StoreError::NoBatch)?.batch.state.is_terminal() {
            return Err(StoreError::NotOver.into());
        }
        if rows::is_redriven(self.db, no)? {
            return Err(StoreError::Redriven.into());
        }
        self.take_off(no)?;
        self.effects.removed.deleted += 1;
        Ok(())
    }

    /// Takes off the books what has expired by then, if that is told, and removes some rows of what is
    /// off them. Answers whether more is left.
    pub(super) fn trim(&mut self, expired_by: Option<Timestamp>) -> Result<bool, Refusal> {
        let (most, avoided) = (limits::TRIM_BATCHES_MAX, self.keeping.avoided);
        let expired = expired_by.map(|by| rows::expired(self.db, by, avoided.reach(most)));
        let mut expired = expired.transpose()?.unwrap_or_default();
        expired.retain(|&no| !avoided.has(Snag::Batch(no)));
        expired.truncate(most);
        let mut more = expired.len() == most;
        for no in expired {
            self.take_off(no)?;
            self.effects.removed.expired += 1;
        }
        let mut budget = rows::Budget::new();
        let mut after = BatchNo(0);
        while let Some(no) = rows::next_removed(self.db, after)? {
            after = no;
            if avoided.has(Snag::Batch(no)) {
                continue;
            }
            if budget.is_spent() {
                more = true;
                break;
            }
            self.snag = Some(Snag::Batch(no));
            rows::remove_some(self.db, no, &mut budget)?;
            self.snag = None;
        }
        self.effects.removed.records += budget.records;
        Ok(more || budget.is_spent())
    }

    fn take_off(&mut self, no: BatchNo) -> rusqlite::Result<()> {
        self.snag = Some(Snag::Batch(no));
        rows::remove_batch(self.db, no)?;
        self.snag = None;
        // Who reads it learns that it is gone.
        self.effects.changed.push(no);
        Ok(())
    }
}
