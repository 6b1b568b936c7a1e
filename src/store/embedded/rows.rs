//! Every SQL statement of the store, and the checksums over its rows.

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::codec::{self, AttemptMeta, ResultMeta};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, PastAttempt, Reason};
use crate::domain::batch::{Batch, BatchHead, BatchState};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::ids::{BatchId, BatchNo, BatchUid, ItemKey, QueueName, RequestId, Sequence};
use crate::domain::item::{Ending, ItemSpec, Record, TerminalState};
use crate::domain::tally::Tally;
use crate::store::{Damaged, NewBatch};

type Sql<T> = rusqlite::Result<T>;

/// The tenant of every batch as long as nobody authenticates.
const TENANT: &str = "default";

const BATCH_COLUMNS: &str = "id, public_id, uid, state, items, succeeded, failed, cancelled, expired, \
     created_ms, finished_ms, cancel_reason, queue, options, crc, fingerprint, last_seq, kind";

const RESULT_COLUMNS: &str = "id, item, state, attempts, finished_ms, meta, crc, output";

/// Why an execution ended without a result. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AttemptKind {
    /// It failed and was charged.
    Failed = 1,
    /// It was given back without a charge.
    Released = 2,
    /// The server died under it.
    Crashed = 3,
    /// Not an execution: the item was cancelled while it ran.
    CancelAsked = 4,
}

/// A batch as its row tells it, with the keys of its submission.
#[derive(Clone, Debug)]
pub(crate) struct BatchRow {
    pub(crate) batch: Batch,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) last_sequence: u32,
    pub(crate) appended: bool,
}

/// A row of `attempts`.
#[derive(Clone, Debug)]
pub(crate) struct AttemptRow {
    pub(crate) item: ItemKey,
    pub(crate) number: u32,
    pub(crate) kind: AttemptKind,
    pub(crate) ended: Timestamp,
    pub(crate) next: Timestamp,
    pub(crate) meta: AttemptMeta,
}

/// The checksum over the parts of a row. Each part is preceded by its length.
fn crc(parts: &[&[u8]]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    i64::from(hasher.finalize())
}

/// The 64-bit hash under which an item id is indexed. Stable for ever.
fn id_hash(id: &str) -> i64 {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
    i64::from_le_bytes(*head)
}

fn cached<'a>(db: &'a Connection, sql: &str) -> Sql<CachedStatement<'a>> {
    db.prepare_cached(sql)
}

// Batches.

/// Inserts a batch and answers its number.
pub(crate) fn insert_batch(
    db: &Connection,
    new: &NewBatch,
    state: BatchState,
    now: Timestamp,
) -> Sql<BatchNo> {
    let id = new.id.clone().unwrap_or_else(|| BatchId::from(new.uid));
    let (items, kind) = match &new.content {
        crate::store::Content::Whole(items) => (items.len(), 0),
        crate::store::Content::Appended => (0, 1),
    };
    let options = codec::encode_options(&new.options, new.on_disconnect);
    let uid = new.uid.0.as_bytes();
    cached(
        db,
        "INSERT INTO batches(tenant, public_id, request_id, uid, fingerprint, kind, state, items, \
         created_ms, queue, crc, options) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
    )?
    .execute(params![
        TENANT,
        id.as_str(),
        new.request_id.as_ref().map(RequestId::as_str),
        uid,
        new.fingerprint.0,
        kind,
        state as u8,
        i64::try_from(items).unwrap_or(i64::MAX),
        now.0,
        new.queue.as_str(),
        crc(&[uid, &options]),
        options,
    ])?;
    let no = u32::try_from(db.last_insert_rowid())
        .ok()
        .filter(|&no| no <= i32::MAX.cast_unsigned());
    Ok(BatchNo(no.ok_or(
        rusqlite::Error::IntegralValueOutOfRange(0, db.last_insert_rowid()),
    )?))
}

/// Writes what has changed about a batch.
pub(crate) fn update_batch(db: &Connection, batch: &Batch) -> Sql<()> {
    let tally = batch.tally;
    cached(
        db,
        "UPDATE batches SET state=?, items=?, succeeded=?, failed=?, cancelled=?, expired=?, last_seq=?, \
         finished_ms=?, cancel_reason=? WHERE id=?",
    )?
    .execute(params![
        batch.state as u8,
        batch.total,
        tally.succeeded,
        tally.failed,
        tally.cancelled,
        tally.expired,
        tally.terminal(),
        batch.finished.map(|at| at.0),
        batch.cancel_reason,
        batch.head.no.0,
    ])?;
    Ok(())
}

/// The batch of that number.
pub(crate) fn batch(db: &Connection, no: BatchNo) -> Sql<Option<BatchRow>> {
    cached(
        db,
        &format!("SELECT {BATCH_COLUMNS} FROM batches WHERE id=?"),
    )?
    .query_row([no.0], read_batch)
    .optional()
}

/// The batch of that name.
pub(crate) fn batch_by_id(db: &Connection, id: &BatchId) -> Sql<Option<BatchRow>> {
    cached(
        db,
        &format!("SELECT {BATCH_COLUMNS} FROM batches WHERE tenant=? AND public_id=?"),
    )?
    .query_row(params![TENANT, id.as_str()], read_batch)
    .optional()
}

/// The batch submitted under that key.
pub(crate) fn batch_by_request(db: &Connection, id: &RequestId) -> Sql<Option<BatchRow>> {
    cached(
        db,
        &format!("SELECT {BATCH_COLUMNS} FROM batches WHERE tenant=? AND request_id=?"),
    )?
    .query_row(params![TENANT, id.as_str()], read_batch)
    .optional()
}

/// The batches that are not over, oldest first.
pub(crate) fn live_batches(db: &Connection) -> Sql<Vec<BatchRow>> {
    let sql = format!("SELECT {BATCH_COLUMNS} FROM batches WHERE state IN (1, 2, 4) ORDER BY id");
    db.prepare(&sql)?.query_map([], read_batch)?.collect()
}

fn read_batch(row: &Row<'_>) -> Sql<BatchRow> {
    let uid: [u8; 16] = row.get(2)?;
    let options: Vec<u8> = row.get(13)?;
    if crc(&[&uid, &options]) != row.get::<_, i64>(14)? {
        return Err(damaged(13, "checksum of a batch"));
    }
    let (options, on_disconnect) =
        codec::decode_options(&options).map_err(|_| damaged(13, "options of a batch"))?;
    let state =
        BatchState::from_number(row.get(3)?).ok_or_else(|| damaged(3, "state of a batch"))?;
    let head = BatchHead {
        no: BatchNo(row.get(0)?),
        id: BatchId::parse(row.get_ref(1)?.as_str()?).map_err(|_| damaged(1, "id of a batch"))?,
        uid: BatchUid(Uuid::from_bytes(uid)),
        queue: QueueName::parse(row.get_ref(12)?.as_str()?)
            .map_err(|_| damaged(12, "queue of a batch"))?,
        options,
        on_disconnect,
        created: Timestamp(row.get(9)?),
    };
    Ok(BatchRow {
        batch: Batch {
            head: Arc::new(head),
            state,
            total: row.get(4)?,
            running: 0,
            tally: Tally {
                succeeded: row.get(5)?,
                failed: row.get(6)?,
                cancelled: row.get(7)?,
                expired: row.get(8)?,
            },
            finished: row.get::<_, Option<i64>>(10)?.map(Timestamp),
            cancel_reason: row.get::<_, String>(11)?.into(),
        },
        fingerprint: Fingerprint(row.get(15)?),
        last_sequence: row.get(16)?,
        appended: row.get::<_, i64>(17)? == 1,
    })
}

fn damaged(column: usize, what: &str) -> rusqlite::Error {
    let cause = format!("the {what} is damaged").into();
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, cause)
}

// Items.

/// Inserts items from `first` on, and the run of their ids if they have some.
pub(crate) fn insert_items(
    db: &Connection,
    batch: BatchNo,
    first: u32,
    items: &[ItemSpec],
) -> Sql<()> {
    let mut insert = cached(
        db,
        "INSERT INTO items(id, client_id, spec, crc, input) VALUES (?,?,?,?,?)",
    )?;
    let mut run = Vec::new();
    for (index, item) in (first..).zip(items) {
        let key = ItemKey { batch, index }.packed();
        let (spec, input) = (codec::encode_spec(item), item.input.bytes());
        let crc = item_crc(key, item.id.as_deref(), spec.as_deref(), input);
        insert.execute(params![key, item.id, spec, crc, input])?;
        if let Some(id) = &item.id {
            run.push((id_hash(id), index));
        }
    }
    run.sort_unstable();
    let mut insert = cached(
        db,
        "INSERT INTO item_ids(batch, run, h, idx) VALUES (?,?,?,?)",
    )?;
    for (hash, index) in run {
        insert.execute(params![batch.0, first, hash, index])?;
    }
    Ok(())
}

/// The items of those indexes, ascending, as far as `bytes_max` reaches but at least one.
pub(crate) fn items(
    db: &Connection,
    batch: BatchNo,
    indexes: &[u32],
    bytes_max: usize,
) -> Sql<Vec<(u32, Result<ItemSpec, Damaged>)>> {
    let mut select = cached(
        db,
        "SELECT client_id, spec, crc, input FROM items WHERE id=?",
    )?;
    let mut items = Vec::with_capacity(indexes.len());
    let mut bytes = 0;
    for &index in indexes {
        if bytes >= bytes_max {
            break;
        }
        let key = ItemKey { batch, index }.packed();
        let item = select
            .query_row([key], |row| read_item(key, row))
            .optional()?
            .unwrap_or(Err(Damaged));
        bytes += item.as_ref().map_or(0, |item| item.input.bytes().len());
        items.push((index, item));
    }
    Ok(items)
}

/// The ids of the items from `first` up to, but not including, `end`.
pub(crate) fn client_ids(
    db: &Connection,
    batch: BatchNo,
    first: u32,
    end: u32,
) -> Sql<Vec<(u32, Option<Box<str>>)>> {
    let from = ItemKey {
        batch,
        index: first,
    }
    .packed();
    let to = ItemKey { batch, index: end }.packed();
    cached(
        db,
        "SELECT id, client_id FROM items WHERE id>=? AND id<? ORDER BY id",
    )?
    .query_map([from, to], |row| {
        let key = ItemKey::unpack(row.get(0)?).ok_or_else(|| damaged(0, "key of an item"))?;
        Ok((key.index, row.get::<_, Option<String>>(1)?.map(Into::into)))
    })?
    .collect()
}

/// The index of the item that its caller named `id`, or whose decimal position it is.
pub(crate) fn index_of(db: &Connection, batch: BatchNo, total: u32, id: &str) -> Sql<Option<u32>> {
    let mut run: Option<i64> = Some(-1);
    let mut any = false;
    while let Some(after) = run {
        run = cached(db, "SELECT min(run) FROM item_ids WHERE batch=? AND run>?")?
            .query_row(params![batch.0, after], |row| row.get(0))?;
        let Some(run) = run else { break };
        any = true;
        let mut select = cached(
            db,
            "SELECT idx, client_id FROM item_ids JOIN items ON items.id = (? << 32 | idx) \
             WHERE batch=? AND run=? AND h=?",
        )?;
        let mut rows = select.query(params![batch.0, batch.0, run, id_hash(id)])?;
        while let Some(row) = rows.next()? {
            if row.get_ref(1)?.as_str_or_null()? == Some(id) {
                return Ok(Some(row.get(0)?));
            }
        }
    }
    let decimal = id
        .parse()
        .ok()
        .filter(|index: &u32| *index < total && index.to_string() == id);
    Ok(decimal.filter(|_| !any))
}

fn item_crc(key: i64, id: Option<&str>, spec: Option<&[u8]>, input: &[u8]) -> i64 {
    let id = id.unwrap_or_default().as_bytes();
    crc(&[&key.to_le_bytes(), id, spec.unwrap_or_default(), input])
}

fn read_item(key: i64, row: &Row<'_>) -> Sql<Result<ItemSpec, Damaged>> {
    let id: Option<String> = row.get(0)?;
    let spec = row.get_ref(1)?.as_blob_or_null()?;
    let input: Vec<u8> = row.get(3)?;
    if item_crc(key, id.as_deref(), spec, &input) != row.get::<_, i64>(2)? {
        return Ok(Err(Damaged));
    }
    Ok(codec::decode_spec(id.map(Into::into), spec, input).map_err(|_| Damaged))
}

// Results.

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

/// The results behind `after`, in order, at most `records_max` and as far as `bytes_max` reaches
/// but at least one. A damaged record keeps its sequence.
pub(crate) fn results(
    db: &Connection,
    batch: BatchNo,
    after: Sequence,
    records_max: usize,
    bytes_max: usize,
) -> Sql<Vec<Record>> {
    let from = ItemKey {
        batch,
        index: after.0,
    }
    .packed();
    let to = ItemKey {
        batch,
        index: u32::MAX,
    }
    .packed();
    let sql =
        format!("SELECT {RESULT_COLUMNS} FROM results WHERE id>? AND id<=? ORDER BY id LIMIT ?");
    let mut select = cached(db, &sql)?;
    let mut rows = select.query(params![
        from,
        to,
        i64::try_from(records_max).unwrap_or(i64::MAX)
    ])?;
    let (mut records, mut bytes) = (Vec::new(), 0);
    while bytes < bytes_max
        && let Some(row) = rows.next()?
    {
        let (record, _) = read_result(row)?;
        bytes += 128 + output_bytes(&record);
        records.push(record);
    }
    Ok(records)
}

/// The result of an item, and the nonce of the attempt that recorded it.
pub(crate) fn result_of(db: &Connection, item: ItemKey) -> Sql<Option<(Record, u128)>> {
    let sql = format!("SELECT {RESULT_COLUMNS} FROM results WHERE item=?");
    cached(db, &sql)?
        .query_row([item.packed()], read_result)
        .optional()
}

/// The indexes of a batch's terminal items, from the index alone.
pub(crate) fn terminal_indexes(
    db: &Connection,
    batch: BatchNo,
    mut each: impl FnMut(u32),
) -> Sql<()> {
    let from = ItemKey { batch, index: 0 }.packed();
    let to = ItemKey {
        batch,
        index: u32::MAX,
    }
    .packed();
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

fn read_result(row: &Row<'_>) -> Sql<(Record, u128)> {
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
    Ok((record, meta.nonce))
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
    let zero = std::time::Duration::ZERO;
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

// Attempts.

/// Inserts an execution that ended without a result.
pub(crate) fn insert_attempt(db: &Connection, row: &AttemptRow) -> Sql<()> {
    // A cancel may be asked twice while an item runs; everything else has a number of its own.
    cached(db, "INSERT OR IGNORE INTO attempts(item, n, kind, ended_ms, next_ms, meta) VALUES (?,?,?,?,?,?)")?
        .execute(params![
            row.item.packed(),
            row.number,
            row.kind as u8,
            row.ended.0,
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
    let from = ItemKey { batch, index: 0 }.packed();
    let to = ItemKey {
        batch,
        index: u32::MAX,
    }
    .packed();
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
        started: row.meta.started_ms.map(Timestamp),
        ended: row.ended,
        next: Some(row.next),
        error: row
            .meta
            .error
            .unwrap_or_else(|| ItemError::of(Reason::INTERRUPTED, "")),
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
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(2, other)),
    };
    Ok(AttemptRow {
        item: ItemKey::unpack(row.get(0)?).ok_or_else(|| damaged(0, "item of an attempt"))?,
        number: row.get(1)?,
        kind,
        ended: Timestamp(row.get(3)?),
        next: Timestamp(row.get(4)?),
        meta: codec::decode_attempt(row.get_ref(5)?.as_blob()?)
            .map_err(|_| damaged(5, "error of an attempt"))?,
    })
}

/// The record of an item that ends without an attempt of its own.
pub(crate) fn unattempted(
    index: u32,
    id: Option<Box<str>>,
    ending: Ending,
    now: Timestamp,
) -> Record {
    let zero = std::time::Duration::ZERO;
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
