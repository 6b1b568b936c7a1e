//! The verbs around dead letters.

use std::sync::Arc;

use rusqlite::Connection;

use super::Store;
use super::copies::{self, CopyReach};
use super::operation::{Answer, Request};
use super::rows::{self, Gone, Stretch};
use super::scheduler::Room;
use crate::base::limits;
use crate::domain::batch::{Batch, BatchHead};
use crate::domain::dead_letter::{Chosen, DeadLetter, LetterPlace};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::ids::{BatchNo, ItemKey, RequestId, Sequence, Tenant};
use crate::store::{
    Created, FirstLetter, FirstPlace, Keys, LetterReach, LetterSearch, Letters, Mismatch, Redrive,
    Standing, StoreError,
};

impl Store {
    /// Looks for dead letters, newest first, as far as one look goes.
    pub async fn letters(
        &self,
        search: LetterSearch,
        reach: LetterReach,
    ) -> Result<Letters, StoreError> {
        let look = self.0.readers.run(move |db, part| {
            let visits = (reach.visits / part).max(1);
            look(db, &search, LetterReach { visits, ..reach })
        });
        look.await
    }

    /// Whether each of those items of a batch is a dead letter, in the order asked for.
    pub async fn standings(
        &self,
        batch: BatchNo,
        indexes: Vec<u32>,
    ) -> Result<Vec<Standing>, StoreError> {
        let standings = self.0.readers.run(move |db, _| {
            let of = |&index: &u32| rows::standing(db, ItemKey { batch, index });
            indexes.iter().map(of).collect()
        });
        standings.await
    }

    /// Looks for the first dead letter of a batch behind `after` that was chosen and can be run again.
    pub async fn first_letter(
        &self,
        source: Arc<BatchHead>,
        chosen: Chosen,
        after: Sequence,
    ) -> Result<FirstLetter, StoreError> {
        let shared = Arc::clone(&self.0.shared);
        let first = self.0.readers.run(move |db, part| {
            let reach = CopyReach {
                letters: 1,
                visits: (limits::LETTER_VISITS_LOOK / part).max(1),
                bytes: usize::MAX,
                room: Room::BOUNDLESS,
                limits: &shared.limits,
            };
            let until = Sequence(u32::MAX - 1);
            let copies = copies::collect(db, &source, &chosen, (after, until), reach)?;
            let place = match copies.letters.first() {
                Some(letter) => FirstPlace::Behind(Sequence(letter.sequence.0 - 1)),
                None if copies.reached == until => FirstPlace::Nowhere,
                None => FirstPlace::NotUpTo(copies.reached),
            };
            Ok(FirstLetter {
                place,
                oversized: copies.oversized,
            })
        });
        first.await
    }

    /// The batch that an equal redrive with this key made, if one did.
    pub async fn find_redrive(
        &self,
        tenant: &Tenant,
        request_id: &RequestId,
        fingerprint: Fingerprint,
    ) -> Result<Option<Batch>, StoreError> {
        let (tenant, request_id) = (tenant.clone(), request_id.clone());
        let found = self.0.readers.run(move |db, _| {
            let keys = Keys {
                tenant: &tenant,
                id: None,
                request_id: Some(&request_id),
            };
            rows::batch_by_keys(db, keys)
        });
        let Some((row, key)) = found.await?? else {
            return Ok(None);
        };
        let mut batch = row.batch;
        if row.fingerprint != fingerprint {
            return Err(StoreError::Conflict {
                key,
                holder: batch.head.id.clone(),
                mismatch: Mismatch::Content,
            });
        }
        self.count_running(&mut batch);
        Ok(Some(batch))
    }

    /// Makes a new batch of dead letters, or finds the one that an equal call with the same key made.
    /// If there are many, the rest of them follow by themselves.
    pub async fn redrive(&self, redrive: Redrive) -> Result<Created, StoreError> {
        let request = Request::Redrive(Box::new(redrive));
        let Answer::Created(created) = self.0.writer.ask(request).await? else {
            unreachable!("a redrive is answered by its batch");
        };
        Ok(*created)
    }

    /// Takes dead letters off the list and answers how many of these were on it.
    pub async fn purge(&self, letters: Vec<LetterPlace>) -> Result<u32, StoreError> {
        let Answer::Purged(count) = self.0.writer.ask(Request::Purge(letters)).await? else {
            unreachable!("a purge is answered by a count");
        };
        Ok(count)
    }
}

fn look(db: &Connection, search: &LetterSearch, reach: LetterReach) -> rusqlite::Result<Letters> {
    let mut found = Letters::default();
    let mut stretch = Stretch::of(search.within);
    if let Some(after) = search.after {
        stretch.below = stretch.below.min(rows::packed(after));
    }
    let mut head: Option<(BatchNo, Option<Arc<BatchHead>>)> = None;
    let is_full = |found: &Letters| {
        let enough = found.letters.len() == reach.letters || found.bytes >= reach.bytes;
        reach.letters > 0 && enough
    };
    while let Some(place) = rows::newest_letter(db, stretch, search.redriven)? {
        if found.visits == reach.visits || is_full(&found) {
            return Ok(found);
        }
        found.visits += 1;
        found.next = Some(place);
        stretch.below = rows::packed(place);
        if head.as_ref().is_none_or(|(no, _)| *no != place.batch) {
            head = Some((place.batch, meant(db, search, place.batch)?));
        }
        let Some((_, Some(head))) = &head else {
            // Nor are the other letters of that batch.
            let start = LetterPlace {
                sequence: Sequence(0),
                ..place
            };
            found.next = Some(start);
            stretch.below = rows::packed(start);
            continue;
        };
        let letter = rows::letter(db, place)?;
        if letter.gone == Gone::Purged || !search.filter.matches(&letter.record) {
            continue;
        }
        let error = letter.record.ending.error();
        found
            .reasons
            .count(error.map_or("", |error| &*error.reason));
        if reach.letters > 0 {
            found.bytes += error.map_or(0, |error| error.message.len()) + LETTER_BYTES;
            found.letters.push(DeadLetter {
                head: Arc::clone(head),
                record: letter.record,
                redriven_to: match letter.gone {
                    Gone::Redriven(batch) => Some(batch),
                    Gone::No | Gone::Purged => None,
                },
            });
        }
    }
    found.next = None;
    Ok(found)
}

/// What a letter costs beside its message: its ids, most of all.
const LETTER_BYTES: usize = 512;

/// The head of a batch whose letters are looked for, if they are.
fn meant(
    db: &Connection,
    search: &LetterSearch,
    no: BatchNo,
) -> rusqlite::Result<Option<Arc<BatchHead>>> {
    let head = match rows::batch(db, no) {
        Ok(row) => row.map(|row| row.batch.head),
        // The batch cannot be shown by itself either.
        Err(error) if rows::is_corrupt(&error) => None,
        Err(error) => return Err(error),
    };
    let queue = search.filter.queue.as_ref();
    let is_meant = |head: &Arc<BatchHead>| {
        head.tenant == search.tenant && queue.is_none_or(|queue| *queue == head.queue)
    };
    Ok(head.filter(is_meant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::Reason;
    use crate::domain::ids::{BatchUid, QueueName};
    use crate::domain::item::{Ending, ItemSpec};
    use crate::store::conformance::{failed, new_batch, open, settlement};
    use crate::store::{Content, LeaseEnd};

    /// Damages a record or an item of a closed store as a disk does: its checksum stays.
    fn damage(dir: &tempfile::TempDir, sql: &str) {
        let db = Connection::open(dir.path().join("sooner.db")).unwrap();
        assert_eq!(db.execute(sql, []).unwrap(), 1);
    }

    #[tokio::test]
    async fn a_damaged_letter_is_listed_and_is_not_redriven() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let new = new_batch(
            Some("b"),
            None,
            Content::Whole(vec![ItemSpec::default(); 4]),
        );
        let Created::New(batch) = store.create_batch(new).await.unwrap() else {
            panic!("it is new")
        };
        let leased = store.lease(&QueueName::default(), 4, 3).await.unwrap();
        for lease in &leased.leases {
            let end = LeaseEnd::Finish(Ending::Failed(failed()));
            store.settle(vec![settlement(lease, end)]).await.unwrap();
        }
        store.close();
        let first = ItemKey {
            batch: batch.head.no,
            index: 0,
        }
        .packed();
        damage(
            &dir,
            &format!("UPDATE results SET meta=x'00' WHERE id={}", first + 2),
        );
        damage(
            &dir,
            &format!("UPDATE results SET attempts=7 WHERE id={}", first + 3),
        );
        damage(
            &dir,
            &format!("UPDATE items SET input=x'00' WHERE id={}", first + 3),
        );
        let store = open(&dir);
        let reach = LetterReach {
            visits: 9,
            letters: 9,
            bytes: usize::MAX,
        };
        let found = store.letters(LetterSearch::default(), reach).await.unwrap();
        let told = found.letters.iter().map(|letter| {
            let error = letter.record.ending.error().unwrap();
            (letter.record.sequence.0, &*error.reason)
        });
        let corrupt = Reason::CORRUPT_RECORD.name;
        let expected = [(4, "EXIT_1"), (3, corrupt), (2, corrupt), (1, "EXIT_1")];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        let redrive = Redrive {
            source: batch.head.no,
            source_id: batch.head.id.clone(),
            request_id: None,
            uid: BatchUid(uuid::Uuid::from_u128(7)),
            fingerprint: Fingerprint([7; 32]),
            after: Sequence(0),
            chosen: Chosen::default(),
        };
        let Created::New(copy) = store.redrive(redrive).await.unwrap() else {
            panic!("it is new")
        };
        // The first is whole; of the last the record is, but not the item.
        assert_eq!(copy.total, 1);
        let left = store.letters(LetterSearch::default(), reach).await.unwrap();
        assert_eq!(left.letters.len(), 3);
        store.close();
    }
}
