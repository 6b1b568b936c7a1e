//! Damages pages of a store's file: what needs none of them goes on, and what does ends all the same.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::base::clock::{self, Timestamp};
use crate::base::entropy;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::dead_letter::Chosen;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::ids::{BatchId, BatchUid, QueueName, Sequence};
use crate::domain::item::{Ending, ItemSpec};
use crate::domain::payload::Payload;
use crate::store::conformance::{failed, new_batch, open, settlement};
use crate::store::{Content, Created, LeaseEnd, NewBatch, Redrive, Store, StoreError};

const PAGE_BYTES: usize = 16 << 10;

/// Letters of a redrive that takes three transactions.
const MANY: u32 = 2500;

/// Items of 200 bytes: about seventy of them fill a page.
fn items(count: u32) -> Vec<ItemSpec> {
    let item = |index| ItemSpec {
        input: Payload::text(format!("{index:0200}")),
        ..ItemSpec::default()
    };
    (0..count).map(item).collect()
}

async fn create(store: &Store, new: NewBatch) -> Batch {
    match store.create_batch(new).await.unwrap() {
        Created::New(batch) => batch,
        Created::Existing(batch) => panic!("{batch:?} was there"),
    }
}

/// Flips a bit in the head of a page behind the middle of a table or an index of a closed store.
fn damage(dir: &Path, name: &str) {
    let file = dir.join("sooner.db");
    let root: u32 = Connection::open(&file)
        .unwrap()
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name=?",
            [name],
            |row| row.get(0),
        )
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let leaf = late_leaf(&bytes, usize::try_from(root).unwrap());
    bytes[(leaf - 1) * PAGE_BYTES] ^= 4;
    std::fs::write(&file, bytes).unwrap();
}

/// The leaf behind the middle beneath a page of a b-tree; the page itself if it is a leaf.
fn late_leaf(bytes: &[u8], page: usize) -> usize {
    let page_bytes = &bytes[(page - 1) * PAGE_BYTES..][..PAGE_BYTES];
    let short = |at: usize| {
        usize::from(u16::from_be_bytes(
            page_bytes[at..][..2].try_into().unwrap(),
        ))
    };
    if matches!(page_bytes[0], 10 | 13) {
        return page;
    }
    let cells = short(3);
    let cell = short(12 + 2 * (cells * 3 / 4));
    let child = u32::from_be_bytes(page_bytes[cell..][..4].try_into().unwrap());
    late_leaf(bytes, child.try_into().unwrap())
}

/// The batch with this id once it is as it should be.
async fn becomes(store: &Store, id: &BatchId, is_so: impl Fn(&Batch) -> bool) -> Batch {
    let until = clock::instant() + Duration::from_secs(20);
    loop {
        let batch = store.batch(&id.into()).await.unwrap();
        if is_so(&batch) {
            return batch;
        }
        assert!(clock::instant() < until, "{batch:?}");
        tokio::task::yield_now().await;
    }
}

// One item that could not be read kept its whole batch from ending until the next start, and then again.
#[tokio::test]
async fn a_batch_that_ends_early_ends_although_items_of_it_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let batch = create(
        &store,
        new_batch(Some("b"), None, Content::Whole(items(500))),
    )
    .await;
    store.close();
    damage(dir.path(), "items");
    let store = open(&dir);
    store.cancel_batch(batch.head.no, "").await.unwrap();
    let over = becomes(&store, &batch.head.id, |batch| batch.state.is_terminal()).await;
    assert_eq!(over.tally.cancelled, 500);
    assert!(!store.fatal().is_cancelled());
    store.close();
}

// The look at the clock met the same item again and again, and ended nothing any more.
#[tokio::test]
async fn what_is_over_ends_although_an_item_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut stale = items(500);
    for item in &mut stale {
        item.start_by = Some(Timestamp(1));
    }
    let batch = create(&store, new_batch(Some("b"), None, Content::Whole(stale))).await;
    store.close();
    damage(dir.path(), "items");
    let store = open(&dir);
    store.end_overdue().await.unwrap();
    let over = becomes(&store, &batch.head.id, |batch| batch.state.is_terminal()).await;
    assert_eq!(over.tally.expired, 500);
    assert!(!store.fatal().is_cancelled());
    store.close();
}

fn redrive(source: &Batch, sequences: Vec<Sequence>) -> Redrive {
    let reason = None;
    Redrive {
        source: source.head.no,
        source_id: source.head.id.clone(),
        request_id: None,
        uid: BatchUid(entropy::uuid()),
        fingerprint: Fingerprint([7; 32]),
        after: Sequence(0),
        chosen: Chosen { reason, sequences },
    }
}

/// A closed store whose one batch has failed.
async fn broken(dir: &tempfile::TempDir) -> Batch {
    let store = open(dir);
    let batch = create(
        &store,
        new_batch(Some("b"), None, Content::Whole(items(MANY))),
    )
    .await;
    let want = usize::try_from(MANY).unwrap();
    let leased = store.lease(&QueueName::default(), want, 3).await.unwrap();
    let end = |lease| settlement(lease, LeaseEnd::Finish(Ending::Failed(failed())));
    store
        .settle(leased.leases.iter().map(end).collect())
        .await
        .unwrap();
    store.close();
    batch
}

// The redrive stood still until the next start, and then again: its batch never had all its items.
#[tokio::test]
async fn a_redrive_passes_over_letters_whose_items_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = broken(&dir).await;
    damage(dir.path(), "items");
    let store = open(&dir);
    let created = store.redrive(redrive(&source, Vec::new())).await.unwrap();
    let (Created::New(copy) | Created::Existing(copy)) = created;
    let copy = becomes(&store, &copy.head.id, |it| it.state != BatchState::Open).await;
    let lost = MANY - copy.total;
    assert!((1..100).contains(&lost), "{lost} are lost");
    assert!(!store.fatal().is_cancelled());
    store.close();
}

// Letters cannot be marked beside a damaged page, and perhaps nobody can tell which there are.
#[tokio::test]
async fn a_redrive_that_cannot_go_on_is_refused_or_ends_with_what_it_has() {
    for table in ["results", "results_dead"] {
        let dir = tempfile::tempdir().unwrap();
        let source = broken(&dir).await;
        damage(dir.path(), table);
        let store = open(&dir);
        let named = |sequences: std::ops::RangeInclusive<u32>| {
            redrive(&source, sequences.map(Sequence).collect())
        };
        // What lies elsewhere is not concerned, before and after.
        let first = store.redrive(named(1..=100)).await.unwrap();
        assert!(
            matches!(first, Created::New(copy) if copy.total == 100),
            "{table}"
        );
        match store.redrive(redrive(&source, Vec::new())).await {
            Ok(Created::New(copy) | Created::Existing(copy)) => {
                let copy = becomes(&store, &copy.head.id, |it| it.state != BatchState::Open).await;
                assert!(
                    (1..MANY - 100).contains(&copy.total),
                    "{table}: {}",
                    copy.total
                );
            }
            Err(refused) => assert_eq!(refused, StoreError::Corrupt, "{table}"),
        }
        let last = store.redrive(named(MANY - 99..=MANY)).await.unwrap();
        assert!(
            matches!(last, Created::New(copy) if copy.total == 100),
            "{table}"
        );
        assert!(!store.fatal().is_cancelled(), "{table}");
        store.close();
    }
}
