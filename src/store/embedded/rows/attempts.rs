//! The table of executions that ended without a result.

use rusqlite::{Connection, Row, params};

use super::{Sql, at, cached, damaged};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, PastAttempt, Reason};
use crate::domain::ids::{BatchNo, ItemKey};
use crate::store::embedded::codec::{self, AttemptMeta};

/// Why an execution ended without a result. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AttemptKind {
    /// It failed and was charged.
    Failed = 1,
    /// Its handler gave it back without having begun.
    Released = 2,
    /// The server died under it.
    Crashed = 3,
    /// Not an execution: the item was cancelled while it ran.
    CancelAsked = 4,
    /// The server stopped it.
    Stopped = 5,
    /// The server could not begin it. An item has one such row: it tells the last number, and why.
    Unbegun = 6,
}

impl AttemptKind {
    /// Whether it has begun, as far as anybody knows.
    pub(crate) fn began(self) -> bool {
        match self {
            Self::Failed | Self::Crashed | Self::CancelAsked | Self::Stopped => true,
            Self::Released | Self::Unbegun => false,
        }
    }
}

/// A row of `attempts`.
#[derive(Clone, Debug)]
pub(crate) struct AttemptRow {
    pub(crate) item: ItemKey,
    pub(crate) number: u32,
    pub(crate) kind: AttemptKind,
    /// When it ended; on disk 0 if that is not known.
    pub(crate) ended: Option<Timestamp>,
    pub(crate) next: Timestamp,
    pub(crate) meta: AttemptMeta,
}

/// Inserts an execution that ended without a result. One that could not begin takes the place of the
/// item's last such one: it may be so for days.
pub(crate) fn insert_attempt(db: &Connection, row: &AttemptRow) -> Sql<()> {
    if row.kind == AttemptKind::Unbegun {
        cached(db, "DELETE FROM attempts WHERE item=? AND kind=?")?
            .execute(params![row.item.packed(), row.kind as u8])?;
    }
    // A cancel may be asked twice while an item runs; everything else has a number of its own.
    cached(db, "INSERT OR IGNORE INTO attempts(item, n, kind, ended_ms, next_ms, meta) VALUES (?,?,?,?,?,?)")?
        .execute(params![
            row.item.packed(),
            row.number,
            row.kind as u8,
            row.ended.map_or(0, |ended| ended.0),
            row.next.0,
            codec::encode_attempt(&row.meta),
        ])?;
    Ok(())
}

/// A batch's executions without a result, by item, then by number.
pub(crate) fn attempts_of_batch(
    db: &Connection,
    batch: BatchNo,
    mut each: impl FnMut(AttemptRow),
) -> Sql<()> {
    let (from, to) = (at(batch, 0), at(batch, u32::MAX));
    let sql = "SELECT item, n, kind, ended_ms, next_ms, meta FROM attempts WHERE item>=? AND item<=? ORDER BY item, n";
    let mut select = db.prepare(sql)?;
    let mut rows = select.query([from, to])?;
    while let Some(row) = rows.next()? {
        each(read_attempt(row)?);
    }
    Ok(())
}

/// The last executions of an item without a result, oldest first.
pub(crate) fn attempts_of_item(
    db: &Connection,
    item: ItemKey,
    most: usize,
) -> Sql<Vec<PastAttempt>> {
    let sql = "SELECT item, n, kind, ended_ms, next_ms, meta FROM attempts WHERE item=? AND n>0 ORDER BY n DESC LIMIT ?";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows: Vec<_> = cached(db, sql)?
        .query_map(params![item.packed(), most], read_attempt)?
        .collect::<Sql<_>>()?;
    let told = rows.into_iter().rev().map(|row| PastAttempt {
        number: row.number,
        began: row.kind.began(),
        started: row.meta.started_ms.map(Timestamp),
        ended: row.ended,
        next: Some(row.next),
        error: Some(
            row.meta
                .error
                .unwrap_or_else(|| ItemError::of(Reason::INTERRUPTED, "")),
        ),
        worker: row.meta.worker,
    });
    Ok(told.collect())
}

fn read_attempt(row: &Row<'_>) -> Sql<AttemptRow> {
    let kind = match row.get(2)? {
        1 => AttemptKind::Failed,
        2 => AttemptKind::Released,
        3 => AttemptKind::Crashed,
        4 => AttemptKind::CancelAsked,
        5 => AttemptKind::Stopped,
        6 => AttemptKind::Unbegun,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(2, other)),
    };
    Ok(AttemptRow {
        item: ItemKey::unpack(row.get(0)?).ok_or_else(|| damaged(0, "item of an attempt"))?,
        number: row.get(1)?,
        kind,
        ended: Some(row.get(3)?).filter(|&ended| ended != 0).map(Timestamp),
        next: Timestamp(row.get(4)?),
        meta: codec::decode_attempt(row.get_ref(5)?.as_blob()?)
            .map_err(|_| damaged(5, "error of an attempt"))?,
    })
}
