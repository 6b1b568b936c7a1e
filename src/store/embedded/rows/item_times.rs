//! The table of items' own times: a row for each that is to be looked at when it has come.

use rusqlite::{Connection, Row, params};

use super::{Sql, cached, damaged};
use crate::base::clock::Timestamp;
use crate::domain::ids::ItemKey;
use crate::domain::item::{ItemSpec, ItemTime};

/// A time that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeRow {
    pub(crate) item: ItemKey,
    pub(crate) kind: ItemTime,
}

/// Notes the times that an item has of its own.
pub(super) fn insert_times(db: &Connection, item: ItemKey, spec: &ItemSpec) -> Sql<()> {
    for kind in ItemTime::ALL {
        if let Some(at) = kind.of(spec) {
            let sql = "INSERT INTO item_times(item, kind, at_ms) VALUES (?,?,?)";
            cached(db, sql)?.execute(params![item.packed(), kind as u8, at.0])?;
        }
    }
    Ok(())
}

/// Whether a time has come.
pub(crate) fn is_time_due(db: &Connection, now: Timestamp) -> Sql<bool> {
    cached(db, "SELECT EXISTS(SELECT 1 FROM item_times WHERE at_ms<=?)")?
        .query_row([now.0], |row| row.get(0))
}

/// Times that have come, the longest ago first.
pub(crate) fn due_times(db: &Connection, now: Timestamp, most: usize) -> Sql<Vec<TimeRow>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let sql = "SELECT item, kind FROM item_times WHERE at_ms<=? ORDER BY at_ms LIMIT ?";
    cached(db, sql)?
        .query_map(params![now.0, most], read_time)?
        .collect()
}

/// Forgets a time: it means nothing any more.
pub(crate) fn remove_time(db: &Connection, TimeRow { item, kind }: TimeRow) -> Sql<()> {
    cached(db, "DELETE FROM item_times WHERE item=? AND kind=?")?
        .execute(params![item.packed(), kind as u8])?;
    Ok(())
}

/// Has a time looked at again later.
pub(crate) fn put_time_off(
    db: &Connection,
    TimeRow { item, kind }: TimeRow,
    until: Timestamp,
) -> Sql<()> {
    cached(db, "UPDATE item_times SET at_ms=? WHERE item=? AND kind=?")?.execute(params![
        until.0,
        item.packed(),
        kind as u8
    ])?;
    Ok(())
}

fn read_time(row: &Row<'_>) -> Sql<TimeRow> {
    Ok(TimeRow {
        item: ItemKey::unpack(row.get(0)?).ok_or_else(|| damaged(0, "item of a time"))?,
        kind: ItemTime::from_number(row.get(1)?).ok_or_else(|| damaged(1, "kind of a time"))?,
    })
}
