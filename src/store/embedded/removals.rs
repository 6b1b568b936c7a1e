//! The verbs that remove batches.

use super::operation::{Answer, Request};
use super::{Store, rows};
use crate::base::clock::Timestamp;
use crate::domain::ids::BatchNo;
use crate::store::StoreError;

impl Store {
    /// Removes a batch that is over: once this answers nobody finds it any more and its ids are free.
    /// Its rows go by and by, with [`Store::trim`].
    pub async fn delete_batch(&self, batch: BatchNo) -> Result<(), StoreError> {
        self.0.writer.ask(Request::Remove(batch)).await?;
        Ok(())
    }

    /// Removes batches whose retention is over at `expired_by`, if that is told, and a chunk of the rows
    /// of what was removed. Answers whether more is left. Call it again and again, with a pause between.
    pub async fn trim(&self, expired_by: Option<Timestamp>) -> Result<bool, StoreError> {
        // A read, so that the writer is only troubled if there is something to do.
        let any = self.0.readers.run(move |db, _| {
            let expired = expired_by.map(|by| rows::expired(db, by, 1)).transpose()?;
            let is_some = expired.is_some_and(|batches| !batches.is_empty());
            Ok(is_some || rows::next_removed(db, BatchNo(0))?.is_some())
        });
        if !any.await? {
            return Ok(false);
        }
        let trim = Request::Trim { expired_by };
        let Answer::Looked { more } = self.0.writer.ask(trim).await? else {
            unreachable!("a trim is answered by whether more is left");
        };
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::base::{clock, limits};
    use crate::domain::attempt::ItemError;
    use crate::domain::batch::Batch;
    use crate::domain::ids::{BatchId, Sequence};
    use crate::domain::item::ItemSpec;
    use crate::domain::payload::Payload;
    use crate::domain::settings::BatchOptions;
    use crate::store::conformance::{Fixture, done, items, new_batch, settlement};
    use crate::store::{Charge, Content, Created, LeaseEnd};

    const TABLES: [&str; 6] = [
        "batches",
        "items",
        "results",
        "attempts",
        "item_ids",
        "item_times",
    ];

    impl Fixture {
        fn file(&self) -> Connection {
            Connection::open(self.path().join("sooner.db")).unwrap()
        }

        fn rows(&self) -> [i64; 6] {
            let file = self.file();
            TABLES.map(|table| {
                let sql = format!("SELECT count(*) FROM {table}");
                file.query_row(&sql, [], |row| row.get(0)).unwrap()
            })
        }

        async fn submitted(&self, id: &str, items: Vec<ItemSpec>, options: BatchOptions) -> Batch {
            let mut new = new_batch(Some(id), Some(id), Content::Whole(items));
            new.options = options;
            match self.store.create_batch(new).await.unwrap() {
                Created::New(batch) => batch,
                Created::Existing(batch) => panic!("{batch:?} was there"),
            }
        }

        /// A batch whose first item fails once and then ends well, as all others do.
        async fn finished(&self, id: &str, items: Vec<ItemSpec>) -> Batch {
            let batch = self.submitted(id, items, BatchOptions::default()).await;
            self.finish(batch).await
        }

        async fn finish(&self, batch: Batch) -> Batch {
            let lease = self.lease(1).await.remove(0);
            let again = LeaseEnd::Release {
                due: clock::now(),
                error: ItemError::handler("EXIT_1", "no", true),
                charge: Charge::Attempt,
            };
            self.settle(settlement(&lease, again)).await;
            loop {
                let leases = self.lease(1000).await;
                if leases.is_empty() {
                    break;
                }
                let end = |lease| settlement(lease, LeaseEnd::Finish(done("x")));
                let ends = leases.iter().map(end).collect();
                self.store.settle(ends).await.unwrap();
            }
            let batch = self.store.batch(&(&batch.head.id).into()).await.unwrap();
            assert!(batch.state.is_terminal(), "{batch:?}");
            batch
        }

        /// Trims to the end; answers in how many transactions.
        async fn trimmed(&self, by: Option<Timestamp>) -> usize {
            let mut times = 1;
            while self.store.trim(by).await.unwrap() {
                times += 1;
            }
            times
        }
    }

    fn named(count: u32) -> Vec<ItemSpec> {
        let mut items = items(count);
        for (index, item) in items.iter_mut().enumerate() {
            item.id = Some(format!("item-{index}").into());
        }
        items
    }

    #[tokio::test]
    async fn a_deleted_batch_is_gone_at_once_and_its_rows_by_and_by() {
        let fixture = Fixture::new();
        let kept = fixture.finished("kept", named(3)).await;
        let rows = fixture.rows();
        let batch = fixture.finished("b", named(2500)).await;
        let no = batch.head.no;
        let mut hint = fixture.store.journal_hint(no);
        hint.borrow_and_update();
        fixture.store.delete_batch(no).await.unwrap();

        assert!(hint.has_changed().unwrap(), "whoever follows it is told");
        let nothing = Some(StoreError::NoBatch);
        let store = &fixture.store;
        assert_eq!(store.batch(&(&batch.head.id).into()).await.err(), nothing);
        assert_eq!(store.read_log(no, Sequence(7)).await.err(), nothing);
        assert_eq!(store.read_by_index(no, 0).await.err(), nothing);
        assert_eq!(store.item(no, 0, true).await.err(), nothing);
        assert_eq!(
            store.indexes(no, vec!["item-7".into()]).await.err(),
            nothing
        );
        assert_eq!(store.specs(no, 0, 9).await.err(), nothing);
        assert_eq!(store.delete_batch(no).await.err(), nothing);
        assert_eq!(store.cancel_batch(no, "").await.err(), nothing);
        // Both ids are free, before a single row has gone.
        let again = fixture
            .submitted("b", named(1), BatchOptions::default())
            .await;
        let again = fixture.finish(again).await;

        assert!(store.trim(None).await.unwrap(), "more than one chunk");
        let fixture = fixture.reopen();
        assert!(fixture.trimmed(None).await > 1);
        for batch in [&kept, &again] {
            let records = fixture.records(batch, 0).await;
            assert_eq!(records.len(), batch.total as usize);
            let index = fixture.index(batch, "item-0").await;
            assert_eq!(index, Ok(0));
        }
        fixture.store.delete_batch(again.head.no).await.unwrap();
        fixture.trimmed(None).await;
        assert_eq!(fixture.rows(), rows);
    }

    #[tokio::test]
    async fn what_is_not_over_or_still_copied_from_stays() {
        let fixture = Fixture::new();
        let running = fixture
            .submitted("b", named(2), BatchOptions::default())
            .await;
        let no = running.head.no;
        let refused = fixture.store.delete_batch(no).await;
        assert_eq!(refused, Err(StoreError::NotOver));
        let over = fixture.finish(running).await;
        let redrive = "INSERT INTO redrives VALUES (99, ?, 0, 1, x'')";
        fixture.file().execute(redrive, [no.0]).unwrap();
        let refused = fixture.store.delete_batch(no).await;
        assert_eq!(refused, Err(StoreError::Redriven));
        fixture.trimmed(Some(Timestamp(i64::MAX))).await;
        assert_eq!(fixture.records(&over, 0).await.len(), 2);
        fixture.file().execute("DELETE FROM redrives", []).unwrap();
        fixture.trimmed(Some(Timestamp(i64::MAX))).await;
        assert_eq!(fixture.rows(), [0; 6]);
    }

    #[tokio::test]
    async fn a_batch_expires_its_own_retention_or_the_default_after_its_end() {
        let fixture = Fixture::new();
        let own = BatchOptions {
            retention: Some(std::time::Duration::from_secs(60)),
            ..BatchOptions::default()
        };
        let brief = fixture.submitted("brief", items(1), own).await;
        assert_eq!((brief.started, brief.expires), (None, None));
        let brief = fixture.finish(brief).await;
        let long = fixture.finished("long", items(1)).await;
        let after = |batch: &Batch| batch.expires.unwrap().since(batch.finished.unwrap());
        assert_eq!(after(&brief).as_secs(), 60);
        assert_eq!(after(&long), limits::RETENTION_DEFAULT);
        assert!(brief.started >= Some(brief.head.created) && brief.started <= brief.finished);

        fixture.trimmed(None).await;
        fixture
            .trimmed(brief.expires.map(|at| Timestamp(at.0 - 1)))
            .await;
        assert_eq!(fixture.records(&brief, 0).await.len(), 1, "not yet");
        let fixture = fixture.reopen();
        fixture.trimmed(brief.expires).await;
        let id = BatchId::parse("brief").unwrap();
        let gone = fixture.store.batch(&id.into()).await.err();
        assert_eq!(gone, Some(StoreError::NoBatch));
        assert_eq!(fixture.records(&long, 0).await.len(), 1);
        assert_eq!(fixture.rows()[..4], [1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn many_small_batches_go_in_few_transactions_and_large_items_in_many() {
        let fixture = Fixture::new();
        for number in 0..300 {
            let batch = fixture.finished(&format!("small-{number}"), items(1)).await;
            assert_eq!(batch.total, 1);
        }
        let far = Some(Timestamp(i64::MAX));
        assert_eq!(fixture.trimmed(far).await, 1);
        let mut large = items(4);
        for item in &mut large {
            item.input = Payload::data(vec![7; 3 << 20]);
        }
        fixture.finished("large", large).await;
        assert!(fixture.trimmed(far).await >= 2, "4 MiB at once");
        assert_eq!(fixture.rows(), [0; 6]);
    }

    #[tokio::test]
    async fn the_room_of_what_is_removed_is_used_again() {
        let fixture = Fixture::new();
        let pages = || {
            let sql = "PRAGMA page_count";
            fixture
                .file()
                .query_row(sql, [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let round = async || {
            let batch = fixture.finished("b", named(2000)).await;
            fixture.store.delete_batch(batch.head.no).await.unwrap();
            fixture.trimmed(None).await;
            pages()
        };
        let first = round().await;
        let mut last = first;
        for _ in 0..8 {
            last = round().await;
        }
        assert!(last < first + first / 4, "{first} pages became {last}");
    }
}
