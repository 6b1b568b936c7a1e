//! Part of the suite that every keeper must pass: dead letters, each redriven once or purged once.

use std::collections::BTreeMap;

use super::conformance::{Fixture, failed, settlement};
use super::*;
use crate::base::entropy;
use crate::domain::batch::BatchState;
use crate::domain::dead_letter::{Chosen, LetterPlace};
use crate::domain::ids::ItemOrigin;

/// More than one transaction copies.
const MANY: u32 = 2500;

impl Fixture {
    /// A batch all of whose items have failed.
    async fn broken(&self, id: &str, count: u32) -> Batch {
        let batch = self.create(id, count).await;
        self.fail_all(count).await;
        batch
    }

    async fn fail_all(&self, count: u32) {
        let leases = self.lease(count as usize).await;
        assert_eq!(leases.len(), count as usize);
        let failures = leases
            .iter()
            .map(|lease| settlement(lease, LeaseEnd::Finish(Ending::Failed(failed()))));
        self.store.settle(failures.collect()).await.unwrap();
    }

    async fn redrive(&self, source: &Batch) -> Result<Batch, StoreError> {
        let redrive = Redrive {
            source: source.head.no,
            source_id: source.head.id.clone(),
            request_id: None,
            uid: BatchUid(entropy::uuid()),
            fingerprint: Fingerprint([7; 32]),
            after: Sequence(0),
            chosen: Chosen::default(),
        };
        let (Created::New(batch) | Created::Existing(batch)) = self.store.redrive(redrive).await?;
        Ok(batch)
    }

    /// The redrive once all of it is copied.
    async fn sealed(&self, batch: &Batch) -> Batch {
        loop {
            let batch = self.store.batch(&batch.head.name()).await.unwrap();
            if batch.state != BatchState::Open {
                return batch;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The letters that are left, or all of them.
    async fn letters(&self, redriven: bool) -> Letters {
        let search = LetterSearch {
            redriven,
            ..LetterSearch::default()
        };
        let reach = LetterReach {
            visits: 1_000_000,
            letters: 1_000_000,
            bytes: usize::MAX,
        };
        self.store.letters(search, reach).await.unwrap()
    }

    /// Whose items ran again, and how often, by idempotency key.
    async fn ran_again(&self, count: u32) -> BTreeMap<String, u32> {
        let mut keys = BTreeMap::new();
        for lease in self.lease(count as usize + 1).await {
            let origin = lease.origin.expect("it is a copy");
            *keys.entry(origin.to_string()).or_default() += 1;
        }
        keys
    }
}

fn key(batch: &Batch, index: u32) -> String {
    let batch = batch.head.uid;
    ItemOrigin { batch, index }.to_string()
}

#[tokio::test]
async fn a_redrive_goes_on_where_it_was_when_the_store_closed() {
    let fixture = Fixture::new();
    let source = fixture.broken("b", MANY).await;
    let new = fixture.redrive(&source).await.unwrap();
    assert_eq!((new.state, new.total), (BatchState::Open, 1000));
    assert_eq!(new.head.source.as_ref(), Some(&source.head.id));
    let fixture = fixture.reopen().reopen();
    let sealed = fixture.sealed(&new).await;
    assert_eq!((sealed.state, sealed.total), (BatchState::Running, MANY));
    let ran = fixture.ran_again(MANY).await;
    assert_eq!(ran.len(), MANY as usize, "none is lost");
    assert!(ran.values().all(|&times| times == 1), "none runs twice");
    for index in [0, 1, MANY - 1] {
        assert!(ran.contains_key(&key(&source, index)));
        let id = index.to_string();
        assert_eq!(fixture.index(&new, &id).await, Ok(index), "by its old name");
    }
    assert!(fixture.letters(false).await.letters.is_empty());
    let refused = fixture.redrive(&source).await.unwrap_err();
    assert_eq!(refused, StoreError::NoLetters);
}

#[tokio::test]
async fn two_redrives_at_once_share_the_letters() {
    let fixture = Fixture::new();
    let source = fixture.broken("b", MANY).await;
    let (one, other) = tokio::join!(fixture.redrive(&source), fixture.redrive(&source));
    let mut total = 0;
    for redriven in [one, other] {
        match redriven {
            Ok(batch) => total += fixture.sealed(&batch).await.total,
            // The first was so quick that it has them all.
            Err(refused) => assert_eq!(refused, StoreError::NoLetters),
        }
    }
    assert_eq!(total, MANY);
    let ran = fixture.ran_again(MANY).await;
    assert_eq!(ran.len(), MANY as usize);
}

#[tokio::test]
async fn what_is_redriven_is_not_purged_and_what_is_purged_is_not_redriven() {
    let fixture = Fixture::new();
    let source = fixture.broken("b", 3).await;
    let no = source.head.no;
    let places = |sequences: &[u32]| {
        let place = |&sequence: &u32| LetterPlace {
            batch: no,
            sequence: Sequence(sequence),
        };
        sequences.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(fixture.store.purge(places(&[2, 9])).await, Ok(1));
    assert_eq!(fixture.store.purge(places(&[2])).await, Ok(0));
    let new = fixture.redrive(&source).await.unwrap();
    assert_eq!(new.total, 2);
    assert_eq!(fixture.store.purge(places(&[1, 2, 3])).await, Ok(0));
    let fixture = fixture.reopen();
    let all = fixture.letters(true).await.letters;
    assert_eq!(all.len(), 2, "the purged one is not listed");
    assert!(
        all.iter()
            .all(|it| it.redriven_to.as_ref() == Some(&new.head.id))
    );
    let standings = fixture.store.standings(no, vec![0, 1, 2]).await.unwrap();
    let redriven = Standing::Redriven(new.head.id.clone());
    assert_eq!(standings, [redriven.clone(), Standing::Purged, redriven]);
}

#[tokio::test]
async fn a_redrive_that_is_cancelled_takes_no_more_letters() {
    let fixture = Fixture::new();
    let source = fixture.broken("b", MANY).await;
    let new = fixture.redrive(&source).await.unwrap();
    fixture.store.cancel_batch(new.head.no, "").await.unwrap();
    let fixture = fixture.reopen();
    let over = loop {
        let batch = fixture.store.batch(&new.head.name()).await.unwrap();
        if batch.state.is_terminal() {
            break batch;
        }
        tokio::task::yield_now().await;
    };
    let left = fixture.letters(false).await.letters.len();
    assert_eq!(left + over.total as usize, MANY as usize);
    let again = fixture.redrive(&source).await;
    assert_eq!(again.is_ok(), left > 0, "the rest can be redriven");
}

#[tokio::test]
async fn a_look_brings_as_much_as_it_may_and_says_where_to_go_on() {
    let fixture = Fixture::new();
    for id in ["a", "b"] {
        fixture.broken(id, 5).await;
    }
    let names = |letters: &[crate::domain::dead_letter::DeadLetter]| {
        let name = |letter: &crate::domain::dead_letter::DeadLetter| {
            format!("{}{}", letter.head.id, letter.record.sequence.0)
        };
        letters.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    let whole = names(&fixture.letters(false).await.letters);
    assert_eq!(whole, "b5 b4 b3 b2 b1 a5 a4 a3 a2 a1", "newest first");
    for (visits, letters, bytes) in [(1, 9, 1 << 20), (9, 3, 1 << 20), (9, 9, 1), (4, 9, 1100)] {
        let mut search = LetterSearch::default();
        let (mut found, mut looks) = (Vec::new(), 0);
        loop {
            let reach = LetterReach {
                visits,
                letters,
                bytes,
            };
            let look = fixture.store.letters(search.clone(), reach).await.unwrap();
            looks += 1;
            assert!(look.visits <= visits && look.letters.len() <= letters);
            assert_eq!(
                look.reasons.reasons.values().sum::<u32>() as usize,
                look.letters.len()
            );
            found.extend(look.letters);
            search.after = look.next;
            if look.next.is_none() {
                break;
            }
        }
        assert_eq!(names(&found), whole);
        assert!(looks > 2, "{visits} {letters} {bytes}: {looks}");
    }
    // Without letters it only counts, as far as it may look.
    let reach = LetterReach {
        visits: 7,
        letters: 0,
        bytes: 0,
    };
    let look = fixture
        .store
        .letters(LetterSearch::default(), reach)
        .await
        .unwrap();
    assert_eq!((look.visits, look.letters.len()), (7, 0));
    assert_eq!(look.reasons.reasons["EXIT_1"], 7);
}
