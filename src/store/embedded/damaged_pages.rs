//! Damages pages of a store's file: what needs none of them goes on, and what does ends all the same.

use std::ops::Range;
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
use crate::store::{
    Charge, Content, Created, LeaseEnd, NewBatch, Redrive, Store, StoreError, Verdict,
};

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
    damage_leaves(dir, name, |leaves| {
        let late = (leaves.len() - 1) * 3 / 4;
        late..late + 1
    });
}

/// The same for some of its leaves.
fn damage_leaves(dir: &Path, name: &str, which: impl Fn(&[usize]) -> Range<usize>) {
    let file = dir.join("sooner.db");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name=?";
    let root: u32 = Connection::open(&file)
        .unwrap()
        .query_row(sql, [name], |row| row.get(0))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let mut leaves = Vec::new();
    find_leaves(&bytes, root, &mut leaves);
    assert!(leaves.len() > 1, "{name} has one page");
    for &leaf in &leaves[which(&leaves)] {
        bytes[(leaf - 1) * PAGE_BYTES] ^= 4;
    }
    std::fs::write(&file, bytes).unwrap();
}

/// The leaves beneath a page of a b-tree, in order.
fn find_leaves(bytes: &[u8], page: u32, leaves: &mut Vec<usize>) {
    let number = usize::try_from(page).unwrap();
    let page = &bytes[(number - 1) * PAGE_BYTES..][..PAGE_BYTES];
    if matches!(page[0], 10 | 13) {
        leaves.push(number);
        return;
    }
    let short = |at: usize| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
    let cells = (0..short(3)).map(|cell| short(12 + 2 * cell));
    // The last child stands in the page's head.
    for at in cells.chain([8]) {
        let child = u32::from_be_bytes(page[at..][..4].try_into().unwrap());
        find_leaves(bytes, child, leaves);
    }
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

// Each look began with the same damaged batches, and five hundred of them left room for no other.
#[tokio::test]
async fn what_has_expired_goes_although_five_hundred_before_it_cannot() {
    const BATCHES: u32 = 1100;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    create(&store, new_batch(Some("b"), None, Content::Whole(items(1)))).await;
    let leased = store.lease(&QueueName::default(), 1, 3).await.unwrap();
    let end = LeaseEnd::Finish(Ending::Failed(failed()));
    store
        .settle(vec![settlement(&leased.leases[0], end)])
        .await
        .unwrap();
    store.close();
    let file = || Connection::open(dir.path().join("sooner.db")).unwrap();
    let copies = (2..=BATCHES).map(|no| {
        format!(
            "UPDATE one SET id = {no}, public_id = 'b-{no}', expires_ms = expires_ms + 1;
             INSERT INTO batches SELECT * FROM one;"
        )
    });
    let copies = copies.collect::<String>();
    let sql = format!(
        "CREATE TEMP TABLE one AS SELECT * FROM batches; BEGIN; {copies} COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    file().execute_batch(&sql).unwrap();
    damage_leaves(dir.path(), "batches", |leaves| 0..leaves.len() / 2);
    let store = open(&dir);
    let left = || {
        let sql =
            "SELECT count(*) FROM batches INDEXED BY batches_expiry WHERE state IN (3, 5, 6, 7)";
        file()
            .query_row(sql, [], |row| row.get::<_, u32>(0))
            .unwrap()
    };
    assert_eq!(left(), BATCHES);
    let mut looks = 0;
    while store.trim(Some(Timestamp(i64::MAX))).await.unwrap() {
        looks += 1;
        assert!(looks < BATCHES, "{} are left", left());
    }
    let left = left();
    assert!((500..BATCHES - 300).contains(&left), "{left} are left");
    assert!(!store.fatal().is_cancelled());
    store.close();
}

#[tokio::test]
async fn what_is_over_ends_although_the_times_of_others_are_damaged() {
    const ITEMS: u32 = 1300;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut stale = items(ITEMS);
    for item in &mut stale {
        item.start_by = Some(Timestamp(1));
    }
    let batch = create(&store, new_batch(Some("b"), None, Content::Whole(stale))).await;
    store.close();
    damage_leaves(dir.path(), "item_times", |leaves| 1..leaves.len());
    let store = open(&dir);
    store.end_overdue().await.unwrap();
    let batch = store.batch(&batch.head.name()).await.unwrap();
    assert!(
        (100..ITEMS).contains(&batch.tally.expired),
        "{:?}",
        batch.tally
    );
    assert!(!store.fatal().is_cancelled());
    store.close();
}

// Its `start_by` was noted again: damage where it was noted ended the server, and each start after it.
#[tokio::test]
async fn what_is_given_back_needs_none_of_the_times() {
    const ITEMS: u32 = 1300;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut early = items(ITEMS);
    for item in &mut early {
        item.start_by = Some(clock::now().plus(Duration::from_secs(3600)));
    }
    create(&store, new_batch(Some("b"), None, Content::Whole(early))).await;
    store.close();
    damage_leaves(dir.path(), "item_times", |leaves| 0..leaves.len());
    let store = open(&dir);
    let want = usize::try_from(ITEMS).unwrap();
    let leased = store.lease(&QueueName::default(), want, 3).await.unwrap();
    let end = LeaseEnd::Release {
        due: Timestamp(1),
        error: failed(),
        charge: Charge::Release,
    };
    let given_back = leased.leases.iter().map(|it| settlement(it, end.clone()));
    let verdicts = store.settle(given_back.collect()).await;
    assert_eq!(verdicts, Ok(vec![Verdict::Released; want]));
    assert!(!store.fatal().is_cancelled());
    store.close();
}
