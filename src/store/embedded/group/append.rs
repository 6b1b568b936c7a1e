//! Staging an upload: its items, chunk by chunk, and its end.

use super::{Group, Refusal, lock};
use crate::base::limits;
use crate::domain::batch::{Batch, BatchEvent, BatchState};
use crate::domain::ids::BatchNo;
use crate::domain::item::ItemSpec;
use crate::store::embedded::id_index::{Entry, IdIndex, Suspects};
use crate::store::embedded::rows;
use crate::store::embedded::scheduler::Load;
use crate::store::{StoreError, input_bytes};

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
        let more = Load {
            batches: 0,
            items: items.len() as u64,
            bytes: input_bytes(items),
        };
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
            let suspects = chunk.suspects(known);
            let tenant = batch.head.tenant.clone();
            let there = [scheduler.loads(), &self.effects.loads];
            self.admission.check(&tenant, there, more)?;
            (total, suspects)
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
            let known = batch.ids.get_or_insert_default();
            known.append(chunk.ids);
            let run = known.is_run_due().then(|| known.take_run());
            let bytes = batch.input_bytes + more.bytes;
            scheduler.stage_items(no, total, bytes);
            run
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rusqlite::Connection;

    use super::*;
    use crate::base::clock;
    use crate::store::admission::Limits;
    use crate::store::conformance::new_batch;
    use crate::store::embedded::avoided::Avoided;
    use crate::store::embedded::group::Admission;
    use crate::store::embedded::operation::{Answer, Request};
    use crate::store::embedded::scheduler::Scheduler;
    use crate::store::embedded::schema::{self, Role};
    use crate::store::{Content, Created};

    const RUN: u32 = 65_536;

    /// What groups are written to, without the thread that does it.
    struct Desk {
        db: Connection,
        scheduler: Mutex<Scheduler>,
        limits: Limits,
        avoided: Avoided,
        _dir: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sooner.db");
            schema::create(&path).unwrap();
            Self {
                db: schema::connect(&path, Role::Writer).unwrap(),
                scheduler: Mutex::default(),
                limits: Limits::default(),
                avoided: Avoided::default(),
                _dir: dir,
            }
        }

        fn admission(&self) -> Admission<'_> {
            Admission {
                disk_is_low: false,
                limits: &self.limits,
            }
        }

        /// A group of one operation, that is committed or, as on a full disk, rolled back.
        fn write(&self, request: &Request, commits: bool) -> Result<Answer, StoreError> {
            self.db.execute_batch("BEGIN IMMEDIATE").unwrap();
            let keeping = crate::store::embedded::group::Keeping {
                retention: limits::RETENTION_DEFAULT,
                avoided: &self.avoided,
            };
            let admission = self.admission();
            let connections = crate::store::embedded::group::Connections {
                db: &self.db,
                beside: None,
            };
            let now = clock::now();
            let mut group = Group::new(connections, &self.scheduler, now, admission, keeping);
            let answer = group.stage(request).map_err(|refusal| match refusal {
                Refusal::Refused(refused) => refused,
                Refusal::Failed(error) => panic!("{error}"),
            });
            group.close().unwrap();
            if !commits {
                group.take_back();
                self.db.execute_batch("ROLLBACK").unwrap();
                let scheduler = lock(&self.scheduler);
                assert_eq!(*scheduler.loads(), scheduler.recounted());
                return answer;
            }
            self.db.execute_batch("COMMIT").unwrap();
            let effects = group.into_effects();
            let mut scheduler = lock(&self.scheduler);
            for batch in effects.admitted {
                scheduler.admit(batch, clock::now());
            }
            for no in effects.extended {
                scheduler.batch_mut(no).unwrap().extend(clock::now());
            }
            for no in effects.sealed {
                scheduler.batch_mut(no).unwrap().ids = None;
            }
            answer
        }

        fn upload(&self) -> BatchNo {
            let content = Content::Appended(crate::domain::settings::UploadTerms::default());
            let new = Request::Create(Box::new(new_batch(Some("u"), None, content)));
            let Answer::Created(created) = self.write(&new, true).unwrap() else {
                panic!()
            };
            let (Created::New(batch) | Created::Existing(batch)) = *created;
            batch.head.no
        }

        /// The index up to which there are items now, or the index of the item whose id an earlier
        /// one has, and of that.
        fn append(&self, no: BatchNo, first: u32, ids: &[u32], commits: bool) -> Appended {
            let item = |id: &u32| ItemSpec {
                id: Some(id.to_string().into()),
                ..ItemSpec::default()
            };
            let items: Vec<_> = ids.iter().map(item).collect();
            let items = Arc::new(items);
            let append = Request::Append {
                batch: no,
                first,
                items,
            };
            match self.write(&append, commits) {
                Ok(Answer::Accepted(total)) => Appended::Up(total),
                Err(StoreError::DuplicateId { index, first, .. }) => Appended::Again(index, first),
                other => panic!("{other:?}"),
            }
        }
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Appended {
        Up(u32),
        Again(u32, u32),
    }

    #[test]
    fn a_run_that_is_rolled_back_hides_no_id_and_keeps_none() {
        use Appended::{Again, Up};
        assert_eq!(usize::try_from(RUN).unwrap(), limits::ID_RUN_ITEMS);
        let desk = Desk::new();
        let no = desk.upload();
        let most: Vec<_> = (0..RUN - 1).collect();
        assert_eq!(desk.append(no, 0, &most, true), Up(RUN - 1));
        // It completes a run, which is not durable then.
        let last = [RUN, RUN + 1];
        assert_eq!(desk.append(no, RUN - 1, &last, false), Up(RUN + 1));
        for early in [0, 7, RUN - 2] {
            let again = desk.append(no, RUN - 1, &[RUN, early], true);
            assert_eq!(again, Again(RUN, early), "memory has it again");
        }
        assert_eq!(
            desk.append(no, RUN - 1, &last, true),
            Up(RUN + 1),
            "what was rolled back was never there"
        );
        assert_eq!(desk.append(no, RUN + 1, &[RUN + 2], true), Up(RUN + 2));
        // The seal writes the last run.
        let seal = Request::Seal {
            batch: no,
            total: RUN + 2,
        };
        desk.write(&seal, false).unwrap();
        let places = [(7, 7), (RUN - 1, RUN), (RUN, RUN + 1), (RUN + 1, RUN + 2)];
        for (index, id) in places {
            let again = desk.append(no, RUN + 2, &[id], true);
            assert_eq!(again, Again(RUN + 2, index), "it is open again");
        }
        desk.write(&seal, true).unwrap();
        for (index, id) in places {
            let found = rows::index_of(&desk.db, no, RUN + 2, &id.to_string(), &[]);
            assert_eq!(found.unwrap(), Some(index));
        }
        let none = rows::index_of(&desk.db, no, RUN + 2, &(RUN - 1).to_string(), &[]);
        assert_eq!(none.unwrap(), None, "an id, not a position");
    }
}
