//! The table of results: the journals.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Sql, at, cached, crc, damaged, is_corrupt};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::ids::{BatchNo, ItemKey, Sequence};
use crate::domain::item::{Ending, Record, TerminalState};
use crate::store::embedded::codec::{self, ResultMeta};

/// What [`read_result`] reads, in its order.
pub(super) const RESULT_COLUMNS: &str = "id, item, state, attempts, finished_ms, meta, crc, output";

/// Inserts a result under its sequence.
pub(crate) fn insert_result(
    db: &Connection,
    batch: BatchNo,
    record: &Record,
    nonce: u128,
) -> Sql<()> {
    let id = ItemKey {
        batch,
        index: record.sequence.0,
    }
    .packed();
    let item = ItemKey {
        batch,
        index: record.index,
    }
    .packed();
    let meta = ResultMeta {
        id: record.id.clone(),
        worker: record.worker.clone(),
        queued: record.queued,
        ran: record.ran,
        nonce,
    };
    let meta = codec::encode_result(&record.ending, &meta);
    let output = match &record.ending {
        Ending::Succeeded(output) => output.bytes(),
        Ending::Failed(_) | Ending::Cancelled(_) | Ending::Expired(_) => &[],
    };
    let (state, attempts, finished) = (
        record.ending.state() as u8,
        record.attempts,
        record.finished.0,
    );
    let crc = result_crc(
        [id, item, state.into(), attempts.into(), finished],
        &meta,
        output,
    );
    cached(
        db,
        "INSERT INTO results(id, item, state, attempts, finished_ms, meta, crc, output) VALUES (?,?,?,?,?,?,?,?)",
    )?
    .execute(params![id, item, state, attempts, finished, meta, crc, output])?;
    Ok(())
}

/// How far one read of a journal goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Records at most.
    pub(crate) records_max: usize,
    /// Bytes of outputs after which no further record is read; the first always is.
    pub(crate) bytes_max: usize,
}

/// The results behind `after`, in order, at least up to `last` as far as `reach` goes. A damaged
/// record keeps its sequence, even if its page cannot be read any more.
pub(crate) fn results(
    db: &Connection,
    batch: BatchNo,
    after: Sequence,
    last: Sequence,
    reach: Reach,
) -> Sql<Vec<Record>> {
    match read_page(db, batch, after, reach) {
        Ok(records) if is_whole(&records, after, last) => Ok(records),
        Err(error) if !is_corrupt(&error) => Err(error),
        Ok(_) | Err(_) => salvage(db, batch, after, last, reach),
    }
}

fn read_page(db: &Connection, batch: BatchNo, after: Sequence, reach: Reach) -> Sql<Vec<Record>> {
    let (from, to) = (at(batch, after.0), at(batch, u32::MAX));
    let sql =
        format!("SELECT {RESULT_COLUMNS} FROM results WHERE id>? AND id<=? ORDER BY id LIMIT ?");
    let mut select = cached(db, &sql)?;
    let most = i64::try_from(reach.records_max).unwrap_or(i64::MAX);
    let mut rows = select.query(params![from, to, most])?;
    let (mut records, mut bytes) = (Vec::new(), 0);
    while bytes < reach.bytes_max
        && let Some(row) = rows.next()?
    {
        let (record, _) = read_result(row)?;
        bytes += 128 + output_bytes(&record);
        records.push(record);
    }
    Ok(records)
}

/// Whether no sequence is missing.
fn is_whole(records: &[Record], after: Sequence, last: Sequence) -> bool {
    let dense = records
        .iter()
        .zip(after.0 + 1..)
        .all(|(record, sequence)| record.sequence.0 == sequence);
    dense && (!records.is_empty() || last <= after)
}

/// Reads record by record, with an error in place of each that is not there or cannot be read.
fn salvage(
    db: &Connection,
    batch: BatchNo,
    after: Sequence,
    last: Sequence,
    reach: Reach,
) -> Sql<Vec<Record>> {
    let sql = format!("SELECT {RESULT_COLUMNS} FROM results WHERE id=?");
    let mut select = cached(db, &sql)?;
    let (mut records, mut bytes) = (Vec::new(), 0);
    for sequence in (after.0 + 1..=last.0).take(reach.records_max) {
        if bytes >= reach.bytes_max {
            break;
        }
        let read = select
            .query_row([at(batch, sequence)], read_result)
            .optional();
        let record = match read {
            Ok(Some((record, _))) => record,
            Err(error) if !is_corrupt(&error) => return Err(error),
            Ok(None) | Err(_) => lost(Sequence(sequence), index_at(db, batch, sequence)?),
        };
        bytes += 128 + output_bytes(&record);
        records.push(record);
    }
    Ok(records)
}

/// The index of the item whose result has that sequence: the unique index knows without the row.
/// An index no item has if that is damaged too.
pub(super) fn index_at(db: &Connection, batch: BatchNo, sequence: u32) -> Sql<u32> {
    // The plus keeps SQLite from looking for the row by its id.
    let sql = "SELECT item FROM results INDEXED BY sqlite_autoindex_results_1 \
               WHERE item>=? AND item<=? AND +id=?";
    let key = (at(batch, 0), at(batch, u32::MAX), at(batch, sequence));
    match cached(db, sql)?.query_row(key, |row| row.get(0)).optional() {
        Ok(item) => Ok(item.map_or(u32::MAX, lower_half)),
        Err(error) if is_corrupt(&error) => Ok(u32::MAX),
        Err(error) => Err(error),
    }
}

/// What is shown of a record that cannot be read at all.
pub(super) fn lost(sequence: Sequence, index: u32) -> Record {
    let (ending, _) = corrupt(None);
    Record {
        sequence,
        ..unattempted(index, None, ending, Timestamp(0))
    }
}

/// The result of an item, and the nonce of the attempt that recorded it.
pub(crate) fn result_of(db: &Connection, item: ItemKey) -> Sql<Option<(Record, u128)>> {
    let sql = format!("SELECT {RESULT_COLUMNS} FROM results WHERE item=?");
    let read = cached(db, &sql)?
        .query_row([item.packed()], read_result)
        .optional();
    match read {
        Err(error) if is_corrupt(&error) => {
            // The unique index still knows which sequence it has.
            let sql = "SELECT id FROM results WHERE item=?";
            let id = cached(db, sql)?
                .query_row([item.packed()], |row| row.get(0))
                .optional()?;
            Ok(id.map(|id| (lost(Sequence(lower_half(id)), item.index), 0)))
        }
        read => Ok(read?.map(|(record, nonce)| (record, nonce.unwrap_or_default()))),
    }
}

/// The indexes of a batch's terminal items, from the index alone.
pub(crate) fn terminal_indexes(
    db: &Connection,
    batch: BatchNo,
    mut each: impl FnMut(u32),
) -> Sql<()> {
    let (from, to) = (at(batch, 0), at(batch, u32::MAX));
    let mut select = db.prepare("SELECT item FROM results WHERE item>=? AND item<=?")?;
    let mut rows = select.query([from, to])?;
    while let Some(row) = rows.next()? {
        let item = ItemKey::unpack(row.get(0)?).ok_or_else(|| damaged(0, "item of a result"))?;
        each(item.index);
    }
    Ok(())
}

fn output_bytes(record: &Record) -> usize {
    match &record.ending {
        Ending::Succeeded(output) => output.bytes().len(),
        Ending::Failed(error) | Ending::Cancelled(error) | Ending::Expired(error) => {
            error.message.len()
        }
    }
}

fn result_crc(numbers: [i64; 5], meta: &[u8], output: &[u8]) -> i64 {
    let numbers = numbers.map(i64::to_le_bytes);
    crc(&[numbers.as_flattened(), meta, output])
}

/// The record of a row, and the nonce of the attempt that recorded it unless the row is damaged.
pub(super) fn read_result(row: &Row<'_>) -> Sql<(Record, Option<u128>)> {
    let (id, item): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (state, attempts, finished): (i64, u32, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
    let meta = row.get_ref(5)?.as_blob()?;
    let output: Vec<u8> = row.get(7)?;
    let crc = result_crc([id, item, state, attempts.into(), finished], meta, &output);
    let terminal = TerminalState::from_number(state);
    let decoded = match terminal {
        Some(state) if crc == row.get::<_, i64>(6)? => {
            codec::decode_result(state, meta, output).ok()
        }
        Some(_) | None => None,
    };
    let nonce = decoded.as_ref().map(|(_, meta)| meta.nonce);
    let (ending, meta) = decoded.unwrap_or_else(|| corrupt(terminal));
    let record = Record {
        sequence: Sequence(lower_half(id)),
        index: lower_half(item),
        id: meta.id,
        ending,
        attempts,
        worker: meta.worker,
        queued: meta.queued,
        ran: meta.ran,
        finished: Timestamp(finished),
    };
    Ok((record, nonce))
}

/// The index or sequence in a packed key.
fn lower_half(key: i64) -> u32 {
    u32::try_from(key & i64::from(u32::MAX)).expect("32 bits are left")
}

/// What is shown of a record whose checksum does not match: its state where that is readable, an
/// error, and no output.
fn corrupt(state: Option<TerminalState>) -> (Ending, ResultMeta) {
    let error = ItemError::of(Reason::CORRUPT_RECORD, "the stored record is damaged");
    let ending = match state {
        Some(TerminalState::Cancelled) => Ending::Cancelled(error),
        Some(TerminalState::Expired) => Ending::Expired(error),
        Some(TerminalState::Succeeded | TerminalState::Failed) | None => Ending::Failed(error),
    };
    let zero = Duration::ZERO;
    (
        ending,
        ResultMeta {
            id: None,
            worker: "".into(),
            queued: zero,
            ran: zero,
            nonce: 0,
        },
    )
}

/// The record of an item that ends without an attempt of its own.
pub(crate) fn unattempted(
    index: u32,
    id: Option<Box<str>>,
    ending: Ending,
    now: Timestamp,
) -> Record {
    let zero = Duration::ZERO;
    Record {
        sequence: Sequence(0),
        index,
        id,
        ending,
        attempts: 0,
        worker: "".into(),
        queued: zero,
        ran: zero,
        finished: now,
    }
}
