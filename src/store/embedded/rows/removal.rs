//! Removing batches: one statement takes a batch off the books, chunks take its rows, its own last.
//!
//! Nothing remembers how far a removal has come: what is still there is what is still to be removed.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Sql, at, cached};
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::ids::BatchNo;

/// How much may still be removed at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    rows: usize,
    bytes: usize,
    /// Results removed so far.
    pub(crate) records: u64,
}

impl Budget {
    /// That of one transaction.
    pub(crate) fn new() -> Self {
        Self {
            rows: limits::TRIM_ROWS_MAX,
            bytes: limits::TRIM_BYTES_MAX,
            records: 0,
        }
    }

    /// Whether nothing more goes into this transaction.
    pub(crate) fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }

    /// How many rows go before the last one that does; `None` if none goes.
    fn before_last(&self) -> Option<i64> {
        let rows = self.rows.checked_sub(1)?;
        Some(i64::try_from(rows).unwrap_or(i64::MAX))
    }

    fn spend(&mut self, rows: usize, bytes: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Takes a batch off the books: nobody finds it any more, and its ids are free for others.
pub(crate) fn remove_batch(db: &Connection, no: BatchNo) -> Sql<()> {
    // No caller can name a batch so.
    cached(
        db,
        "UPDATE batches SET state=8, public_id=':' || id, request_id=NULL WHERE id=?",
    )?
    .execute([no.0])?;
    Ok(())
}

/// Whether a redrive still copies from the batch.
pub(crate) fn is_redriven(db: &Connection, no: BatchNo) -> Sql<bool> {
    cached(db, "SELECT 1 FROM redrives WHERE source=?")?.exists([no.0])
}

/// Batches whose retention is over, the longest ones first, but those that a redrive copies from.
pub(crate) fn expired(db: &Connection, by: Timestamp, most: usize) -> Sql<Vec<BatchNo>> {
    let sql = "SELECT id FROM batches WHERE expires_ms<=? AND state IN (3, 5, 6, 7) \
               AND id NOT IN (SELECT source FROM redrives) ORDER BY expires_ms LIMIT ?";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    cached(db, sql)?
        .query_map(params![by.0, most], |row| row.get(0).map(BatchNo))?
        .collect()
}

/// The next batch that is off the books and still has rows.
pub(crate) fn next_removed(db: &Connection, after: BatchNo) -> Sql<Option<BatchNo>> {
    let sql = "SELECT id FROM batches WHERE state = 8 AND id>? ORDER BY id LIMIT 1";
    cached(db, sql)?
        .query_row([after.0], |row| row.get(0).map(BatchNo))
        .optional()
}

/// Removes rows of a batch that is off the books, as many as the budget has; its own row once no
/// other is left.
pub(crate) fn remove_some(db: &Connection, no: BatchNo, budget: &mut Budget) -> Sql<()> {
    let results =
        "SELECT id, length(output) FROM results WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?";
    budget.records += remove_payloads(
        db,
        no,
        budget,
        [results, "DELETE FROM results WHERE id BETWEEN ? AND ?"],
    )?;
    let items = "SELECT id, length(input) FROM items WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?";
    remove_payloads(
        db,
        no,
        budget,
        [items, "DELETE FROM items WHERE id BETWEEN ? AND ?"],
    )?;
    remove_attempts(db, no, budget)?;
    remove_item_times(db, no, budget)?;
    remove_item_ids(db, no, budget)?;
    if !budget.is_spent() {
        cached(db, "DELETE FROM batches WHERE id=?")?.execute([no.0])?;
        budget.spend(1, 0);
    }
    Ok(())
}

/// Removes rows that are keyed by a place in the batch: first those that `select` tells with their
/// sizes are counted, then `delete` removes that stretch. Answers how many.
fn remove_payloads(
    db: &Connection,
    no: BatchNo,
    budget: &mut Budget,
    [select, delete]: [&str; 2],
) -> Sql<u64> {
    if budget.is_spent() {
        return Ok(0);
    }
    let (from, to) = (at(no, 0), at(no, u32::MAX));
    let most = i64::try_from(budget.rows).unwrap_or(i64::MAX);
    let (mut last, mut count) = (None, 0);
    {
        let mut select = cached(db, select)?;
        let mut rows = select.query(params![from, to, most])?;
        while !budget.is_spent()
            && let Some(row) = rows.next()?
        {
            last = Some(row.get::<_, i64>(0)?);
            let bytes: i64 = row.get(1)?;
            budget.spend(1, usize::try_from(bytes).unwrap_or(usize::MAX));
            count += 1;
        }
    }
    if let Some(last) = last {
        cached(db, delete)?.execute([from, last])?;
    }
    Ok(count)
}

/// Removes what stands in `attempts`: an item may have a thousand.
fn remove_attempts(db: &Connection, no: BatchNo, budget: &mut Budget) -> Sql<()> {
    let Some(before_last) = budget.before_last() else {
        return Ok(());
    };
    let (from, to) = (at(no, 0), at(no, u32::MAX));
    let sql =
        "SELECT item, n FROM attempts WHERE item BETWEEN ? AND ? ORDER BY item, n LIMIT 1 OFFSET ?";
    let last: Option<(i64, u32)> = cached(db, sql)?
        .query_row(params![from, to, before_last], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (item, n) = last.unwrap_or((to, u32::MAX));
    let sql = "DELETE FROM attempts WHERE item>=? AND (item, n)<=(?, ?)";
    let gone = cached(db, sql)?.execute(params![from, item, n])?;
    budget.spend(gone, 0);
    Ok(())
}

/// Removes what stands in `item_times`.
fn remove_item_times(db: &Connection, no: BatchNo, budget: &mut Budget) -> Sql<()> {
    let Some(before_last) = budget.before_last() else {
        return Ok(());
    };
    let (from, to) = (at(no, 0), at(no, u32::MAX));
    let sql = "SELECT item, kind FROM item_times WHERE item BETWEEN ? AND ? ORDER BY item, kind LIMIT 1 OFFSET ?";
    let last: Option<(i64, i64)> = cached(db, sql)?
        .query_row(params![from, to, before_last], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (item, kind) = last.unwrap_or((to, i64::MAX));
    let sql = "DELETE FROM item_times WHERE item>=? AND (item, kind)<=(?, ?)";
    let gone = cached(db, sql)?.execute(params![from, item, kind])?;
    budget.spend(gone, 0);
    Ok(())
}

/// Removes what stands in `item_ids`.
fn remove_item_ids(db: &Connection, no: BatchNo, budget: &mut Budget) -> Sql<()> {
    let Some(before_last) = budget.before_last() else {
        return Ok(());
    };
    let sql =
        "SELECT run, h, idx FROM item_ids WHERE batch=? ORDER BY run, h, idx LIMIT 1 OFFSET ?";
    let last: Option<(i64, i64, i64)> = cached(db, sql)?
        .query_row(params![no.0, before_last], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let (run, hash, index) = last.unwrap_or((i64::MAX, i64::MAX, i64::MAX));
    let sql = "DELETE FROM item_ids WHERE batch=? AND (run, h, idx)<=(?, ?, ?)";
    let gone = cached(db, sql)?.execute(params![no.0, run, hash, index])?;
    budget.spend(gone, 0);
    Ok(())
}
