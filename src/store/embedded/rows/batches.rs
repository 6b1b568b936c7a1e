//! The table of batches.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::{Sql, cached, crc, damaged};
use crate::base::clock::Timestamp;
use crate::domain::batch::{Batch, BatchHead, BatchState, EndCause};
use crate::domain::failures::Failures;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::ids::{BatchId, BatchName, BatchNo, BatchUid, QueueName, RequestId, Tenant};
use crate::domain::tally::Tally;
use crate::store::embedded::{batch_columns, codec};
use crate::store::{Content, Key, Keys, Mismatch, NewBatch, StoreError};

pub(super) const BATCH_COLUMNS: &str = "id, public_id, uid, state, items, succeeded, failed, cancelled, expired, \
     created_ms, finished_ms, cancel_reason, queue, options, crc, fingerprint, last_seq, kind, paused, cause, failures, tenant, \
     source_id, input_bytes, started_ms, expires_ms";

/// A batch as its row tells it, with the keys of its submission.
#[derive(Clone, Debug)]
pub(crate) struct BatchRow {
    pub(crate) batch: Batch,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) last_sequence: u32,
}

/// Inserts a batch and answers its number.
pub(crate) fn insert_batch(
    db: &Connection,
    new: &NewBatch,
    state: BatchState,
    now: Timestamp,
) -> Sql<BatchNo> {
    let id = new.id.clone().unwrap_or_else(|| BatchId::from(new.uid));
    let (items, kind) = match &new.content {
        Content::Whole(items) => (items.len(), 0),
        Content::Appended(_) => (0, 1),
        Content::Copied(_) => (0, 2),
    };
    let options = codec::encode_settings(&codec::Settings {
        options: new.options.clone(),
        on_disconnect: new.on_disconnect,
        upload: new.content.upload().unwrap_or_default(),
    });
    let uid = new.uid.0.as_bytes();
    cached(
        db,
        "INSERT INTO batches(tenant, public_id, request_id, uid, fingerprint, kind, state, items, \
         input_bytes, created_ms, queue, source_id, crc, options) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )?
    .execute(params![
        new.tenant.as_str(),
        id.as_str(),
        new.request_id.as_ref().map(RequestId::as_str),
        uid,
        new.fingerprint.0,
        kind,
        state as u8,
        i64::try_from(items).unwrap_or(i64::MAX),
        i64::try_from(new.content.input_bytes()).unwrap_or(i64::MAX),
        now.0,
        new.queue.as_str(),
        new.content.source().map(BatchId::as_str),
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
        "UPDATE batches SET state=?, items=?, input_bytes=?, succeeded=?, failed=?, cancelled=?, expired=?, last_seq=?, \
         finished_ms=?, cancel_reason=?, paused=?, cause=?, failures=?, started_ms=?, expires_ms=? WHERE id=?",
    )?
    .execute(params![
        batch.state as u8,
        batch.total,
        i64::try_from(batch.input_bytes).unwrap_or(i64::MAX),
        tally.succeeded,
        tally.failed,
        tally.cancelled,
        tally.expired,
        tally.terminal(),
        batch.finished.map(|at| at.0),
        batch.cancel_reason,
        batch.paused.as_ref().map(batch_columns::encode_pause),
        batch.cause.map_or(0, |cause| cause as u8),
        batch_columns::encode_failures(&batch.failures),
        batch.started.map(|at| at.0),
        batch.expires.map(|at| at.0),
        batch.head.no.0,
    ])?;
    Ok(())
}

/// The batch of that number, unless it is being removed.
pub(crate) fn batch(db: &Connection, no: BatchNo) -> Sql<Option<BatchRow>> {
    cached(
        db,
        &format!("SELECT {BATCH_COLUMNS} FROM batches WHERE id=? AND state<>8"),
    )?
    .query_row([no.0], read_batch)
    .optional()
}

/// The batch of that name.
pub(crate) fn batch_by_name(db: &Connection, name: &BatchName) -> Sql<Option<BatchRow>> {
    cached(
        db,
        &format!("SELECT {BATCH_COLUMNS} FROM batches WHERE tenant=? AND public_id=?"),
    )?
    .query_row(params![name.tenant.as_str(), name.id.as_str()], read_batch)
    .optional()
}

/// The batch that the tenant submitted under that key.
fn batch_by_request(db: &Connection, tenant: &Tenant, id: &RequestId) -> Sql<Option<BatchRow>> {
    cached(
        db,
        &format!("SELECT {BATCH_COLUMNS} FROM batches WHERE tenant=? AND request_id=?"),
    )?
    .query_row(params![tenant.as_str(), id.as_str()], read_batch)
    .optional()
}

/// The batch that the keys of a submit name and the key it was found by. Every key that is given
/// must name the same one.
pub(crate) fn batch_by_keys(
    db: &Connection,
    keys: Keys<'_>,
) -> Sql<Result<Option<(BatchRow, Key)>, StoreError>> {
    let Keys {
        tenant,
        id,
        request_id,
    } = keys;
    let name = id.map(|id| BatchName {
        tenant: tenant.clone(),
        id: id.clone(),
    });
    let by_id = name
        .map(|name| batch_by_name(db, &name))
        .transpose()?
        .flatten();
    let by_request = request_id
        .map(|id| batch_by_request(db, tenant, id))
        .transpose()?
        .flatten();
    let no = |row: &BatchRow| row.batch.head.no;
    let conflict = |key, row: &BatchRow| {
        let holder = row.batch.head.id.clone();
        Err(StoreError::Conflict {
            key,
            holder,
            mismatch: Mismatch::Keys,
        })
    };
    Ok(match (by_id, by_request) {
        (None, None) => Ok(None),
        (Some(row), other) => {
            let same = request_id.is_none() || other.is_some_and(|other| no(&other) == no(&row));
            if same {
                Ok(Some((row, Key::BatchId)))
            } else {
                conflict(Key::RequestId, &row)
            }
        }
        (None, Some(row)) if id.is_some() => conflict(Key::BatchId, &row),
        (None, Some(row)) => Ok(Some((row, Key::RequestId))),
    })
}

/// The batches that are not over, oldest first.
pub(crate) fn live_batches(db: &Connection) -> Sql<Vec<BatchRow>> {
    let sql = format!("SELECT {BATCH_COLUMNS} FROM batches WHERE state IN (1, 2, 4) ORDER BY id");
    db.prepare(&sql)?.query_map([], read_batch)?.collect()
}

pub(super) fn read_batch(row: &Row<'_>) -> Sql<BatchRow> {
    let uid: [u8; 16] = row.get(2)?;
    let options: Vec<u8> = row.get(13)?;
    if crc(&[&uid, &options]) != row.get::<_, i64>(14)? {
        return Err(damaged(13, "checksum of a batch"));
    }
    let settings =
        codec::decode_settings(&options).map_err(|_| damaged(13, "options of a batch"))?;
    let appended = row.get::<_, i64>(17)? == 1;
    let source = row.get_ref(22)?.as_str_or_null()?.map(BatchId::parse);
    let state =
        BatchState::from_number(row.get(3)?).ok_or_else(|| damaged(3, "state of a batch"))?;
    let paused = match row.get_ref(18)?.as_str_or_null()? {
        Some(text) => {
            let pause = batch_columns::decode_pause(text);
            Some(pause.ok_or_else(|| damaged(18, "pause of a batch"))?)
        }
        None => None,
    };
    let failures = match row.get_ref(20)?.as_blob_or_null()? {
        Some(blob) => {
            batch_columns::decode_failures(blob).map_err(|_| damaged(20, "failures of a batch"))?
        }
        None => Failures::default(),
    };
    let head = BatchHead {
        no: BatchNo(row.get(0)?),
        tenant: Tenant::parse(row.get_ref(21)?.as_str()?)
            .map_err(|_| damaged(21, "tenant of a batch"))?,
        id: BatchId::parse(row.get_ref(1)?.as_str()?).map_err(|_| damaged(1, "id of a batch"))?,
        uid: BatchUid(Uuid::from_bytes(uid)),
        queue: QueueName::parse(row.get_ref(12)?.as_str()?)
            .map_err(|_| damaged(12, "queue of a batch"))?,
        options: settings.options,
        on_disconnect: settings.on_disconnect,
        upload: appended.then_some(settings.upload),
        source: source
            .transpose()
            .map_err(|_| damaged(22, "source of a batch"))?,
        created: Timestamp(row.get(9)?),
    };
    Ok(BatchRow {
        batch: Batch {
            head: Arc::new(head),
            state,
            total: row.get(4)?,
            input_bytes: row.get::<_, i64>(23)?.unsigned_abs(),
            running: 0,
            tally: Tally {
                succeeded: row.get(5)?,
                failed: row.get(6)?,
                cancelled: row.get(7)?,
                expired: row.get(8)?,
            },
            started: row.get::<_, Option<i64>>(24)?.map(Timestamp),
            finished: row.get::<_, Option<i64>>(10)?.map(Timestamp),
            expires: row.get::<_, Option<i64>>(25)?.map(Timestamp),
            cancel_reason: row.get::<_, String>(11)?.into(),
            paused,
            cause: EndCause::from_number(row.get(19)?),
            failures: Arc::new(failures),
        },
        fingerprint: Fingerprint(row.get(15)?),
        last_sequence: row.get(16)?,
    })
}
