//! Removals in a random history: what is deleted is gone, and nothing of it stays in the file.

use rusqlite::Connection;

use super::super::*;
use super::Told;
use crate::domain::ids::Sequence;

/// All that has rows of a batch.
const TABLES: [&str; 7] = [
    "batches",
    "items",
    "results",
    "attempts",
    "item_ids",
    "item_times",
    "redrives",
];

impl Told {
    /// Deletes a batch if it is over and nothing is being copied from it.
    pub(super) async fn delete(&mut self, batch: u8) {
        let Some(no) = self.pick(batch) else { return };
        let name = BatchId::parse(&self.batches[&no].id).unwrap().into();
        let before = self.store.batch(&name).await.unwrap();
        // The records of what is being cancelled come by themselves.
        let may_be_over = before.state.is_terminal() || before.cause.is_some();
        match self.store.delete_batch(no).await {
            Ok(()) => assert!(may_be_over, "{before:?}"),
            Err(StoreError::NotOver) => return assert!(!before.state.is_terminal(), "{before:?}"),
            Err(StoreError::Redriven) => return assert!(self.was_redriven(no)),
            Err(other) => panic!("{other:?}"),
        }
        self.batches.remove(&no);
        self.gone.retain(|place, _| place.batch != no);
        assert_eq!(
            self.store.batch(&name).await.unwrap_err(),
            StoreError::NoBatch
        );
        let read = self.store.read_log(no, Sequence(0)).await;
        assert_eq!(read.map(|_| ()), Err(StoreError::NoBatch));
    }

    /// All is over: nothing counts any more, and once it is deleted nothing is left of it.
    pub(super) async fn remove_all(&mut self) {
        let backlog = self.store.backlog();
        assert_eq!((backlog.pending, backlog.running), (0, 0));
        let numbers: Vec<_> = self.batches.keys().copied().collect();
        for no in numbers {
            if self.batches[&no].total == 0 {
                self.cancel(no).await;
            }
            // A redrive that ended early lets go of its source by itself.
            while let Err(refused) = self.store.delete_batch(no).await {
                assert_eq!(refused, StoreError::Redriven);
            }
        }
        while self.store.trim(None).await.unwrap() {}
        assert!(self.store.holds_nothing());
        let file = Connection::open(self.dir.path().join("sooner.db")).unwrap();
        for table in TABLES {
            let sql = format!("SELECT count(*) FROM {table}");
            let rows: i64 = file.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(rows, 0, "{table}");
        }
    }
}
