//! Flips bits in a store's file: damage is reported, never served.

use std::path::Path;
use std::sync::Arc;

use crate::domain::attempt::Reason;
use crate::domain::ids::{BatchId, QueueName, Sequence};
use crate::domain::item::{Ending, Record};
use crate::domain::payload::Payload;
use crate::store::conformance::{new_batch, settlement};
use crate::store::{Content, Created, LeaseEnd, OpenError, Store, StoreOptions};

const ITEMS: u32 = 60;
const PAGE_BYTES: usize = 16 << 10;

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(&StoreOptions {
        data_dir: path.to_owned(),
        ballast: false,
        metrics: Arc::default(),
    })
    .map(|(store, _)| store)
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
    store.close();
    records
}

async fn journal(store: &Store) -> Vec<Record> {
    let batch = store.batch(&BatchId::parse("b").unwrap()).await.unwrap();
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
    let (mut refused, mut shown, mut harmless) = (0, 0, 0);
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
            if store.batch(&BatchId::parse("b").unwrap()).await.is_err() {
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
            if any {
                shown += 1;
            } else {
                harmless += 1;
            }
            store.close();
        }
    }
    assert!(
        refused > 0 && shown > 0 && harmless > 0,
        "{refused} {shown} {harmless}"
    );
}
