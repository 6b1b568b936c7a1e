//! Flips bits in a store's file: damage is reported, never served.

use std::path::Path;

use crate::domain::attempt::Reason;
use crate::domain::ids::{BatchId, BatchNo, QueueName, Sequence};
use crate::domain::item::{Ending, ItemSpec, Record};
use crate::domain::payload::Payload;
use crate::domain::settings::{BatchOptions, UploadTerms};
use crate::store::conformance::{new_batch, settlement};
use crate::store::waiting::Hold;
use crate::store::{
    Content, Created, Damaged, LeaseEnd, NewBatch, OpenError, Store, StoreError, StoreOptions,
};

const ITEMS: u32 = 60;

/// Items of each upload.
const UPLOADED: u32 = 150;

/// An upload that is open and one that is sealed, whose ids are in a run.
const UPLOADS: [&str; 2] = ["open", "sealed"];

const PAGE_BYTES: usize = 16 << 10;

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(&StoreOptions::new(path.to_owned())).map(|(store, _)| store)
}

/// A batch with a result of about 2 KiB for all items but the last, in `path`.
async fn fill(path: &Path) -> Vec<Record> {
    let store = open(path).unwrap();
    let items = crate::store::conformance::items(ITEMS);
    let new = new_batch(Some("b"), None, Content::Whole(items));
    let Created::New(batch) = store.create_batch(new).await.unwrap() else {
        panic!()
    };
    let leases = store
        .lease(&QueueName::default(), ITEMS as usize - 1, 3)
        .await
        .unwrap()
        .leases;
    for lease in &leases {
        let output = Payload::text(format!("{:02000}", lease.token.item.index));
        let end = LeaseEnd::Finish(Ending::Succeeded(output));
        store.settle(vec![settlement(lease, end)]).await.unwrap();
    }
    let records = journal(&store).await;
    assert_eq!(records.len(), ITEMS as usize - 1);
    assert_eq!(batch.total, ITEMS);
    for name in UPLOADS {
        let content = Content::Appended(UploadTerms::default());
        let new = NewBatch {
            queue: QueueName::parse("unserved").unwrap(),
            ..new_batch(Some(name), None, content)
        };
        let Created::New(batch) = store.create_batch(new).await.unwrap() else {
            panic!()
        };
        let no = batch.head.no;
        for first in [0, UPLOADED / 2] {
            let chunk = (first..first + UPLOADED / 2).map(uploaded);
            let items = chunk.collect::<Vec<_>>().into();
            store.append_items(no, first, items).await.unwrap();
        }
        if name == "sealed" {
            store.seal(no, UPLOADED).await.unwrap();
        }
    }
    store.close();
    records
}

/// The item at `index` of an upload. A flipped bit of its id makes it the id of another.
fn uploaded(index: u32) -> ItemSpec {
    ItemSpec {
        id: Some(format!("n-{:03}", UPLOADED - 1 - index).into()),
        input: Payload::text(format!("{index:0200}")),
        ..ItemSpec::default()
    }
}

/// Looks for every item by its id. Answers one that is not found.
async fn find_all(store: &Store, no: BatchNo, place: &str) -> Option<u32> {
    let id = |index| uploaded(index).id.unwrap();
    let all = store.indexes(no, (0..UPLOADED).map(id).collect()).await;
    if let Ok(all) = all {
        assert!(all.into_iter().eq(0..UPLOADED), "{place}");
        return None;
    }
    let mut lost = None;
    for index in 0..UPLOADED {
        match store.indexes(no, vec![id(index)]).await {
            Ok(found) => assert_eq!(found, [index], "{place}"),
            Err(StoreError::NoItem(_) | StoreError::Corrupt) => lost = Some(index),
            Err(other) => panic!("{place}: {other:?}"),
        }
    }
    lost
}

/// Looks for every uploaded item by its id and goes on with the open upload. Answers how many
/// items are not found or not whole.
async fn look_at_uploads(store: &Store, place: &str) -> u32 {
    let mut damaged = 0;
    for name in UPLOADS {
        let Ok(batch) = store.batch(&BatchId::parse(name).unwrap().into()).await else {
            damaged += 1;
            continue;
        };
        let no = batch.head.no;
        assert_eq!(batch.total, UPLOADED, "{place}: {name}");
        for (index, spec) in (0..).zip(store.specs(no, 0, UPLOADED).await.unwrap()) {
            match spec {
                Ok(spec) => assert_eq!(spec, uploaded(index), "{place}: {name}"),
                Err(Damaged) => damaged += 1,
            }
        }
        let lost = find_all(store, no, place).await;
        damaged += u32::from(lost.is_some());
        if name == "sealed" {
            continue;
        }
        // An id that is found is refused; one that the damage hides may come again.
        for index in [lost.unwrap_or(7), 7] {
            let (again, total) = (vec![uploaded(index)], batch.total);
            let appended = store.append_items(no, total, again.into()).await;
            let refused = matches!(
                appended,
                Err(StoreError::DuplicateId { first, .. }) if first == index
            );
            let hidden = lost.is_some() && !matches!(appended, Err(StoreError::DuplicateId { .. }));
            assert!(
                refused || hidden,
                "{place}: {index} again came to {appended:?}"
            );
        }
    }
    damaged
}

async fn journal(store: &Store) -> Vec<Record> {
    let batch = store
        .batch(&BatchId::parse("b").unwrap().into())
        .await
        .unwrap();
    let mut records: Vec<Record> = Vec::new();
    loop {
        let after = records.last().map_or(Sequence(0), |record| record.sequence);
        let page = store.read_log(batch.head.no, after).await.unwrap();
        if page.records.is_empty() {
            return records;
        }
        records.extend(page.records);
    }
}

#[tokio::test]
async fn every_flipped_bit_is_refused_or_shown_in_its_place() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let truth = fill(&whole).await;
    let bytes = std::fs::read(whole.join("sooner.db")).unwrap();
    let (mut refused, mut shown, mut harmless, mut uploads) = (0, 0, 0, 0);
    for page in 0..bytes.len() / PAGE_BYTES {
        for at in [0, 3, 9, PAGE_BYTES / 2, PAGE_BYTES - 700] {
            let dir = root.path().join(format!("{page}-{at}"));
            std::fs::create_dir(&dir).unwrap();
            let mut flipped = bytes.clone();
            flipped[page * PAGE_BYTES + at] ^= 4;
            std::fs::write(dir.join("sooner.db"), flipped).unwrap();
            let Ok(store) = open(&dir) else {
                refused += 1;
                continue;
            };
            // A damaged row of the batch is an error of its own.
            if store
                .batch(&BatchId::parse("b").unwrap().into())
                .await
                .is_err()
            {
                refused += 1;
                store.close();
                continue;
            }
            let read = journal(&store).await;
            assert_eq!(
                read.len(),
                truth.len(),
                "page {page} byte {at}: no sequence is skipped"
            );
            let mut any = false;
            for (read, truth) in read.iter().zip(&truth) {
                assert_eq!(read.sequence, truth.sequence, "page {page} byte {at}");
                let corrupt = Reason::CORRUPT_RECORD.name;
                if read
                    .ending
                    .error()
                    .is_some_and(|error| &*error.reason == corrupt)
                {
                    any = true;
                } else {
                    assert_eq!(read, truth, "page {page} byte {at}: damage was served");
                }
            }
            // The last item's input may be what is damaged: it is leased all the same.
            let leased = store
                .lease(&QueueName::default(), 5, 3)
                .await
                .unwrap()
                .leases;
            assert!(leased.len() <= 1);
            uploads += look_at_uploads(&store, &format!("page {page} byte {at}")).await;
            if any {
                shown += 1;
            } else {
                harmless += 1;
            }
            store.close();
        }
    }
    assert!(
        refused > 0 && shown > 0 && harmless > 0 && uploads > 0,
        "{refused} {shown} {harmless} {uploads}"
    );
}

// Items were looked for by their ids alone, so that one whose id a flipped bit had made that of
// another was answered in the other's place.
#[tokio::test]
async fn an_item_whose_id_damage_makes_that_of_another_is_not_taken_for_it() {
    let root = tempfile::tempdir().unwrap();
    fill(root.path()).await;
    let file = root.path().join("sooner.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let (own, other) = (b"n-016", b"n-012");
    let is_own = |at: &usize| bytes[*at..].starts_with(own);
    let places: Vec<_> = (0..bytes.len()).filter(is_own).collect();
    assert_eq!(places.len(), UPLOADS.len(), "each upload has it once");
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(other);
    }
    std::fs::write(&file, bytes).unwrap();
    let store = open(root.path()).unwrap();
    let damaged = look_at_uploads(&store, "the last digit").await;
    assert_eq!(damaged, 4, "in each one record and one id");
    store.close();
}

// A server that ends whenever it removes a damaged batch would end again after each start.
#[tokio::test]
async fn removing_what_is_damaged_never_ends_the_server() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    fill(&whole).await;
    let b = BatchId::parse("b").unwrap().into();
    let store = open(&whole).unwrap();
    let no = store.batch(&b).await.unwrap().head.no;
    store.cancel_batch(no, "").await.unwrap();
    let mut hint = store.journal_hint(no);
    while !store.batch(&b).await.unwrap().state.is_terminal() {
        hint.changed().await.unwrap();
    }
    store.close();
    let bytes = std::fs::read(whole.join("sooner.db")).unwrap();
    let (mut refused, mut whole_again, mut left) = (0, 0, 0);
    for page in 1..bytes.len() / PAGE_BYTES {
        for at in [0, PAGE_BYTES / 2] {
            let dir = root.path().join(format!("{page}-{at}"));
            std::fs::create_dir(&dir).unwrap();
            let mut flipped = bytes.clone();
            flipped[page * PAGE_BYTES + at] ^= 4;
            std::fs::write(dir.join("sooner.db"), flipped).unwrap();
            let Ok(store) = open(&dir) else {
                refused += 1;
                continue;
            };
            let removed = match store.delete_batch(no).await {
                Ok(()) => loop {
                    match store.trim(None).await {
                        Ok(true) => {}
                        ended => break ended,
                    }
                },
                Err(error) => Err(error),
            };
            assert!(
                !store.fatal().is_cancelled(),
                "page {page} byte {at}: {removed:?}"
            );
            if removed.is_ok() {
                whole_again += 1;
            } else {
                left += 1;
            }
            store.close();
        }
    }
    assert!(
        refused > 0 && whole_again > 0 && left > 0,
        "{refused} {whole_again} {left}"
    );
}

// SQLite commits no transaction that met a damaged page, so an answer alone does not undo the harm.
#[tokio::test]
async fn a_submit_that_meets_damage_is_refused_and_what_is_whole_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    fill(&whole).await;
    let bytes = std::fs::read(whole.join("sooner.db")).unwrap();
    let (mut refused, mut accepted) = (0, 0);
    for page in 1..bytes.len() / PAGE_BYTES {
        let dir = root.path().join(page.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut flipped = bytes.clone();
        flipped[page * PAGE_BYTES] ^= 4;
        std::fs::write(dir.join("sooner.db"), flipped).unwrap();
        let Ok(store) = open(&dir) else {
            continue;
        };
        let submit = |id| {
            let items = crate::store::conformance::items(2);
            store.create_batch(new_batch(Some(id), None, Content::Whole(items)))
        };
        // Together, so that they share a group.
        let (named, other, ended) = tokio::join!(submit("b"), submit("new"), store.end_overdue());
        for told in [named.map(|_| ()), other.map(|_| ()), ended] {
            match told {
                Ok(()) => accepted += 1,
                Err(StoreError::Corrupt) => refused += 1,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("page {page}: {error:?}"),
            }
        }
        assert!(!store.fatal().is_cancelled(), "page {page}");
        store.close();
    }
    assert!(refused > 0 && accepted > 0, "{refused} {accepted}");
}

/// Flips a bit in the head of the page that has `text`, in a closed store's file.
fn damage_page_of(dir: &Path, text: &[u8]) {
    let file = dir.join("sooner.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text);
    let page = at.expect("the text is in the file") / PAGE_BYTES;
    bytes[page * PAGE_BYTES] ^= 4;
    std::fs::write(&file, bytes).unwrap();
}

/// Items that ended without a record when their store closed.
const WITHHELD: u32 = 3;

/// Fills a store whose first items were leased when it closed, and had been cancelled unless they run
/// at most once. A batch that is over has its result on the page that theirs belong on.
async fn interrupted(dir: &Path, at_most_once: bool) {
    let store = open(dir).unwrap();
    let one = |id, count, at_most_once| NewBatch {
        options: BatchOptions {
            at_most_once,
            ..BatchOptions::default()
        },
        ..new_batch(
            Some(id),
            None,
            Content::Whole(crate::store::conformance::items(count)),
        )
    };
    let queue = QueueName::default();
    store.create_batch(one("before", 1, false)).await.unwrap();
    let leased = store.lease(&queue, 1, 3).await.unwrap();
    let output = Payload::text("the page of the results");
    let end = LeaseEnd::Finish(Ending::Succeeded(output));
    store
        .settle(vec![settlement(&leased.leases[0], end)])
        .await
        .unwrap();
    let created = store
        .create_batch(one("b", WITHHELD + 1, at_most_once))
        .await;
    let Created::New(batch) = created.unwrap() else {
        panic!("it is new")
    };
    let want = usize::try_from(WITHHELD).unwrap();
    let leased = store.lease(&queue, want, 3).await.unwrap();
    assert_eq!(leased.leases.len(), want);
    let cancelled = (0..WITHHELD).filter(|_| !at_most_once).collect();
    store.cancel_items(batch.head.no, cancelled).await.unwrap();
    store.close();
}

// The start refused to record them, for the damage, and then let them run again.
#[tokio::test]
async fn what_may_not_run_again_does_not_when_damage_is_in_the_way_of_its_record() {
    let cases = [(true, "UNKNOWN_OUTCOME"), (false, "ITEM_CANCELLED")];
    for (at_most_once, reason) in cases {
        let dir = tempfile::tempdir().unwrap();
        interrupted(dir.path(), at_most_once).await;
        let text = b"the page of the results";
        damage_page_of(dir.path(), text);
        let store = open(dir.path()).unwrap();
        let leased = store.lease(&QueueName::default(), 9, 3).await.unwrap();
        let leased = leased.leases.iter().map(|lease| lease.token.item.index);
        assert_eq!(leased.collect::<Vec<_>>(), [WITHHELD], "{reason}");
        let b = BatchId::parse("b").unwrap();
        let no = store.batch(&b.into()).await.unwrap().head.no;
        assert_eq!(store.hold(no, 0), Some(Hold::Unrecorded), "{reason}");
        assert!(!store.fatal().is_cancelled(), "{reason}");
        store.close();
        // The same flip mends the page.
        damage_page_of(dir.path(), text);
        let store = open(dir.path()).unwrap();
        let records = journal(&store).await;
        let told = records.iter().filter_map(|record| record.ending.error());
        let told: Vec<_> = told.map(|error| &*error.reason).collect();
        assert!(told.len() >= WITHHELD as usize, "{told:?}");
        assert!(told.iter().all(|it| *it == reason), "{told:?}");
        store.close();
    }
}
