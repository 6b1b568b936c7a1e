//! Staging redrives and purges of dead letters.
//!
//! A redrive creates its batch with the first chunk of letters. If there are more, the batch stays
//! open and a row in `redrives` says how far it is; later groups copy a chunk each, and the last one
//! seals it. A chunk is as large as there is room for among what may be accepted; without any the
//! copies wait. Letters are marked in the transaction that copies them, so that none runs twice and none
//! is lost, wherever the process dies.

use std::sync::Arc;

use super::{Group, Refusal, lock};
use crate::base::limits;
use crate::domain::batch::{Batch, BatchEvent, BatchHead, BatchState};
use crate::domain::dead_letter::{Chosen, LetterPlace};
use crate::domain::ids::{BatchId, BatchNo, Sequence, Tenant};
use crate::domain::settings::OnDisconnect;
use crate::store::embedded::chores::Left;
use crate::store::embedded::copies::{self, Copies, CopyReach};
use crate::store::embedded::rows::{self, RedriveRow};
use crate::store::embedded::scheduler::{LiveBatch, Load};
use crate::store::{Content, Created, NewBatch, Redrive, StoreError};

impl Group<'_> {
    pub(super) fn redrive(&mut self, redrive: &Redrive) -> Result<Created, Refusal> {
        let source = rows::batch(self.db, redrive.source).map_err(Refusal::of_read)?;
        let source = source.ok_or(StoreError::NoBatch)?.batch;
        let new = NewBatch {
            tenant: source.head.tenant.clone(),
            id: None,
            request_id: redrive.request_id.clone(),
            uid: redrive.uid,
            queue: source.head.queue.clone(),
            options: source.head.options.for_redrive(),
            on_disconnect: OnDisconnect::Continue,
            fingerprint: redrive.fingerprint,
            content: Content::Copied(redrive.source_id.clone()),
        };
        if let Some(row) = self.earlier(&new)? {
            return Ok(Created::Existing(self.standing(row)));
        }
        let until = self.last_sequence(&source);
        let span = (redrive.after, until);
        let copies = self
            .collect(&source.head, &redrive.chosen, span, limits::SWEEP_ITEMS_MAX)
            .map_err(Refusal::of_read)?;
        if copies.items.is_empty() && copies.waits.is_none() {
            return Err(StoreError::NoLetters.into());
        }
        self.check_first(&new.tenant, &copies)?;
        let left = copies.left(&new.tenant, until);
        let batch = self.create_copy(&new, &copies, left == Left::Nothing)?;
        if left != Left::Nothing {
            let row = RedriveRow {
                batch: batch.head.no,
                source: redrive.source,
                after: copies.reached,
                until,
                chosen: redrive.chosen.clone(),
            };
            rows::insert_redrive(self.db, &row)?;
            self.effects.copying.push((batch.head.no, left));
        }
        Ok(Created::New(batch))
    }

    /// Whether a new batch of those letters is let in, or of the first if there is no room for it.
    fn check_first(&self, tenant: &Tenant, copies: &Copies) -> Result<(), StoreError> {
        let mut more = Load {
            batches: 1,
            items: copies.items.len() as u64,
            bytes: copies.input_bytes(),
        };
        if let (0, Some(bytes)) = (more.items, copies.waits) {
            (more.items, more.bytes) = (1, bytes);
        }
        self.check_room(tenant, more)
    }

    /// Collects the next letters that were chosen, of so many at most, as far as there is room for them.
    fn collect(
        &self,
        source: &BatchHead,
        chosen: &Chosen,
        span: (Sequence, Sequence),
        most: usize,
    ) -> rusqlite::Result<Copies> {
        let room = self.room(&source.tenant);
        let reach = CopyReach::chunk(most, self.admission.limits, room);
        let copies = copies::collect(self.reading(), source, chosen, span, reach)?;
        if let Some(full) = &copies.oversized {
            tracing::warn!(tenant = source.tenant.unless_default(), batch = %source.id, limit = %full.setting(),
                "dead letters that are larger than a limit are not redriven");
        }
        Ok(copies)
    }

    /// Creates the new batch with its first items; it stays open unless these are all.
    fn create_copy(
        &mut self,
        new: &NewBatch,
        copies: &Copies,
        whole: bool,
    ) -> rusqlite::Result<Batch> {
        let state = if whole {
            BatchState::Running
        } else {
            BatchState::Open
        };
        let no = rows::insert_batch(self.db, new, state, self.now)?;
        let total = u32::try_from(copies.items.len()).expect("a chunk is short");
        let mut batch = LiveBatch::new(Arc::new(self.head(no, new)), state, total);
        batch.input_bytes = copies.input_bytes();
        let ids = self.insert_copies(&batch.head.id.clone(), (no, 0), copies)?;
        if let Some(known) = &mut batch.ids {
            known.append(Some(ids));
        } else {
            let mut ids = ids;
            ids.sort_unstable();
            rows::insert_run(self.db, no, &ids)?;
        }
        let snapshot = batch.snapshot();
        rows::update_batch(self.db, &snapshot)?;
        self.take_in(batch);
        Ok(snapshot)
    }

    /// Copies the next chunk of a redrive's letters into its batch and seals it after the last.
    /// Answers what is left.
    pub(crate) fn copy(&mut self, no: BatchNo) -> rusqlite::Result<Left> {
        let open = {
            let scheduler = lock(self.scheduler);
            let batch = scheduler.batch(no);
            let batch = batch.filter(|batch| batch.state == BatchState::Open);
            batch.map(|batch| (batch.head.id.clone(), batch.staged_total))
        };
        let Some((id, first)) = open else {
            // It ended early: what is not copied yet stays a dead letter.
            rows::end_redrive(self.db, no)?;
            return Ok(Left::Nothing);
        };
        let mut left = Left::Nothing;
        if let Some((copies, from, all)) = self.next_copies(no)? {
            self.append_copies(&id, (no, first), &copies)?;
            left = all;
            // Who was woken in vain writes nothing: a commit without changes costs no sync.
            if left != Left::Nothing && copies.reached != from {
                rows::move_redrive(self.db, no, copies.reached)?;
            }
        }
        if left == Left::Nothing {
            self.end_redrive(no)?;
        }
        Ok(left)
    }

    /// Seals a redrive's batch with what it has; what is not copied stays a dead letter.
    pub(crate) fn end_redrive(&mut self, no: BatchNo) -> rusqlite::Result<()> {
        rows::end_redrive(self.db, no)?;
        if let Some(batch) = self.touch(&mut lock(self.scheduler), no)
            && let Ok(sealed) = batch.state.apply(BatchEvent::Sealed)
        {
            batch.state = sealed;
        }
        Ok(())
    }

    /// The next chunk of a redrive, where it begins, and what is left behind it. `None` if its source is
    /// gone.
    fn next_copies(&self, no: BatchNo) -> rusqlite::Result<Option<(Copies, Sequence, Left)>> {
        let Some(row) = rows::redrive(self.db, no)? else {
            return Ok(None);
        };
        let Some(source) = rows::batch(self.db, row.source)? else {
            return Ok(None);
        };
        let (span, most) = ((row.after, row.until), limits::CHORE_ITEMS_MAX as usize);
        let copies = self.collect(&source.batch.head, &row.chosen, span, most)?;
        let left = copies.left(&source.batch.head.tenant, row.until);
        Ok(Some((copies, row.after, left)))
    }

    fn append_copies(
        &mut self,
        id: &BatchId,
        (no, first): (BatchNo, u32),
        copies: &Copies,
    ) -> rusqlite::Result<()> {
        if copies.items.is_empty() {
            return Ok(());
        }
        let ids = self.insert_copies(id, (no, first), copies)?;
        let run = {
            let mut scheduler = lock(self.scheduler);
            let batch = self
                .touch(&mut scheduler, no)
                .expect("a batch is let go only after a commit");
            let more = u32::try_from(copies.items.len()).expect("a chunk is short");
            let total = batch.staged_total + more;
            let input_bytes = batch.input_bytes + copies.input_bytes();
            let known = batch.ids.get_or_insert_default();
            known.append(Some(ids));
            let run = known.is_run_due().then(|| known.take_run());
            scheduler.stage_items(no, total, input_bytes);
            run
        };
        if let Some(run) = run {
            rows::insert_run(self.db, no, &run)?;
        }
        self.effects.extended.push(no);
        Ok(())
    }

    /// Inserts items from `first` on and marks the letters that they were. Answers their ids' entries.
    fn insert_copies(
        &mut self,
        id: &BatchId,
        (no, first): (BatchNo, u32),
        copies: &Copies,
    ) -> rusqlite::Result<Vec<(i64, u32)>> {
        rows::insert_stored_items(self.db, no, first, &copies.items)?;
        for &letter in &copies.letters {
            let was_one = rows::mark_redriven(self.db, letter, id)?;
            debug_assert!(
                was_one,
                "nothing else changes letters between look and copy"
            );
        }
        self.effects.redriven += copies.letters.len() as u64;
        self.effects.copied_bytes += copies.bytes;
        let specs = copies.items.iter().map(|item| &item.spec);
        Ok(rows::entries(first, specs).expect("copies have ids"))
    }

    /// Takes letters off the list. Answers how many of them were on it.
    pub(super) fn purge(&mut self, letters: &[LetterPlace]) -> rusqlite::Result<u32> {
        let mut purged = 0;
        for &letter in letters {
            purged += u32::from(rows::mark_purged(self.db, letter)?);
        }
        self.effects.purged += u64::from(purged);
        Ok(purged)
    }

    /// The newest sequence of a batch, as staged.
    fn last_sequence(&self, batch: &Batch) -> Sequence {
        let scheduler = lock(self.scheduler);
        let live = scheduler.batch(batch.head.no);
        live.map_or_else(|| batch.last_sequence(), LiveBatch::last_sequence)
    }
}
