//! Every SQL statement of the store, one file a table, and the checksums over the rows.

mod attempts;
mod batches;
mod item_ids;
mod item_times;
mod items;
mod letters;
mod lists;
mod meta;
mod queues;
mod redrives;
mod removal;
mod results;

use rusqlite::{CachedStatement, Connection, ErrorCode};

pub(crate) use self::attempts::{
    AttemptKind, AttemptRow, attempts_of_batch, attempts_of_item, insert_attempt,
};
pub(crate) use self::batches::{
    BatchRow, batch, batch_by_keys, batch_by_name, insert_batch, live_batches, update_batch,
};
pub(crate) use self::item_ids::{
    entries, id_hash, index_of, insert_run, is_named, named, upload_entries,
};
pub(crate) use self::item_times::{TimeRow, due_times, is_time_due, put_time_off, remove_time};
pub(crate) use self::items::{
    StoredItem, client_ids, insert_items, insert_stored_items, items, items_within, last_item,
    stored_items,
};
pub(crate) use self::letters::{
    Gone, Stretch, letter, mark_purged, mark_redriven, newest_letter, oldest_letter, packed,
    standing,
};
pub(crate) use self::lists::{Known, batch_page, item_page};
pub(crate) use self::meta::page_key;
pub(crate) use self::queues::{pause_queue, paused_queues, resume_queue};
pub(crate) use self::redrives::{
    RedriveRow, end_redrive, insert_redrive, move_redrive, redrive, redrives,
};
pub(crate) use self::removal::{
    Budget, expired, is_redriven, next_removed, remove_batch, remove_some,
};
pub(crate) use self::results::{
    Reach, insert_result, result_of, results, terminal_indexes, unattempted,
};

use crate::domain::ids::{BatchNo, ItemKey};

type Sql<T> = rusqlite::Result<T>;

/// The checksum over the parts of a row. Each part is preceded by its length.
fn crc(parts: &[&[u8]]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    i64::from(hasher.finalize())
}

/// The packed key of a place in a batch: an item's index or a result's sequence.
fn at(batch: BatchNo, place: u32) -> i64 {
    ItemKey {
        batch,
        index: place,
    }
    .packed()
}

fn cached<'a>(db: &'a Connection, sql: &str) -> Sql<CachedStatement<'a>> {
    db.prepare_cached(sql)
}

fn damaged(column: usize, what: &str) -> rusqlite::Error {
    let cause = format!("the {what} is damaged").into();
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, cause)
}

/// Whether a page or a row is damaged: what stands elsewhere can still be read.
pub(crate) fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    // A column of another type than was written is what a flipped bit in a row's header makes.
    let ill_typed = matches!(
        error,
        Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
    );
    ill_typed || error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}
