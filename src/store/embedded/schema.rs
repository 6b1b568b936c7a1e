//! The tables, the settings of every connection, and the format's version.
//!
//! Rows are keyed by packed integers, `batch << 32 | index` for items and `batch << 32 | sequence`
//! for results, so that a batch's rows lie together and a page is one range read. Results are only
//! ever inserted; the unique index on `item` is the last line behind "one result per item".

use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

/// Marks the file as ours: "SOON".
pub(crate) const APPLICATION_ID: i32 = 0x534F_4F4E;

/// The format's version. Raise it with a migration, never without.
pub(crate) const FORMAT_VERSION: i32 = 1;

/// The oldest SQLite without the WAL-reset bug (sqlite.org/wal.html#walresetbug): two connections,
/// one checkpointing, is our very set-up.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// A lone 1 KiB result rewrites about four pages whatever their size, and large pages keep the tail
/// of commit times short when the disk is busy. It cannot change once the file exists.
const PAGE_BYTES: u32 = 16 << 10;

const TABLES: &str = "
CREATE TABLE meta(k TEXT PRIMARY KEY, v ANY NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE batches(
  id            INTEGER PRIMARY KEY AUTOINCREMENT,  -- 1..2^31-1, never reused
  tenant        TEXT NOT NULL,
  public_id     TEXT NOT NULL,
  request_id    TEXT,
  uid           BLOB NOT NULL,
  fingerprint   BLOB NOT NULL,
  kind          INTEGER NOT NULL,                   -- 0 submitted whole, 1 appended, 2 redriven
  state         INTEGER NOT NULL,                   -- domain::batch::BatchState; 8 while it is removed
  paused        TEXT,                               -- domain::pause::PausedBy, a space, and why, if it is paused
  cause         INTEGER NOT NULL DEFAULT 0,         -- domain::batch::EndCause, 0 if it did not end early
  failures      BLOB,                               -- codec::Failures, NULL if nothing failed
  items         INTEGER NOT NULL,
  input_bytes   INTEGER NOT NULL DEFAULT 0,         -- of all its items
  succeeded     INTEGER NOT NULL DEFAULT 0,
  failed        INTEGER NOT NULL DEFAULT 0,
  cancelled     INTEGER NOT NULL DEFAULT 0,
  expired       INTEGER NOT NULL DEFAULT 0,
  last_seq      INTEGER NOT NULL DEFAULT 0,         -- the sum of the four, checked at start
  created_ms    INTEGER NOT NULL,
  started_ms    INTEGER,                            -- of its first attempt
  finished_ms   INTEGER,
  expires_ms    INTEGER,                            -- when it may be removed, once it is over
  source_id     TEXT,                               -- the batch whose dead letters it runs again
  cancel_reason TEXT NOT NULL DEFAULT '',
  queue         TEXT NOT NULL,
  crc           INTEGER NOT NULL,                   -- over uid and options
  options       BLOB NOT NULL                       -- codec::BatchOptions
) STRICT;
CREATE UNIQUE INDEX batches_id ON batches(tenant, public_id);
CREATE UNIQUE INDEX batches_request ON batches(tenant, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX batches_live ON batches(id) WHERE state IN (1, 2, 4);
CREATE INDEX batches_expiry ON batches(expires_ms) WHERE state IN (3, 5, 6, 7);
CREATE INDEX batches_removed ON batches(id) WHERE state = 8;
CREATE INDEX batches_tenant ON batches(tenant, id);

CREATE TABLE items(
  id        INTEGER PRIMARY KEY,                    -- batch << 32 | index
  client_id TEXT,
  spec      BLOB,                                   -- codec::ItemSpec, NULL if all default
  crc       INTEGER NOT NULL,                       -- over id, client_id, spec and input
  input     BLOB NOT NULL
) STRICT;

CREATE TABLE results(
  id          INTEGER PRIMARY KEY,                  -- batch << 32 | sequence
  item        INTEGER NOT NULL UNIQUE,              -- batch << 32 | index
  state       INTEGER NOT NULL,                     -- domain::item::TerminalState
  attempts    INTEGER NOT NULL,
  finished_ms INTEGER NOT NULL,
  redriven_to TEXT,                                 -- the batch that runs it again, '' if it was purged
  meta        BLOB NOT NULL,                        -- codec::ResultMeta
  crc         INTEGER NOT NULL,                     -- over all of the above but redriven_to, and output
  output      BLOB NOT NULL
) STRICT;
CREATE INDEX results_dead ON results(id) WHERE state IN (4, 6) AND redriven_to IS NULL;
CREATE INDEX results_redriven ON results(id) WHERE redriven_to IS NOT NULL;

-- Executions that ended without a result, and cancels of running items.
CREATE TABLE attempts(
  item     INTEGER NOT NULL,
  n        INTEGER NOT NULL,                        -- number of the execution; 0 marks a cancel
  kind     INTEGER NOT NULL,                        -- rows::AttemptKind
  ended_ms INTEGER NOT NULL,
  next_ms  INTEGER NOT NULL,
  meta     BLOB NOT NULL,                           -- codec::AttemptMeta
  PRIMARY KEY(item, n)
) STRICT, WITHOUT ROWID;

-- Only for batches whose items have ids of their own. h is a 64-bit hash; collisions are legal,
-- readers compare the text. A run is written sorted; appended items come in several.
CREATE TABLE item_ids(
  batch INTEGER NOT NULL, run INTEGER NOT NULL, h INTEGER NOT NULL, idx INTEGER NOT NULL,
  PRIMARY KEY(batch, run, h, idx)
) STRICT, WITHOUT ROWID;

-- Only for items with time limits of their own.
CREATE TABLE item_times(
  item INTEGER NOT NULL, kind INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  PRIMARY KEY(item, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX item_times_due ON item_times(at_ms);

-- Redrives under way: which dead letters of a batch are still to be copied into the new one.
CREATE TABLE redrives(
  batch     INTEGER PRIMARY KEY,                    -- the new one
  source    INTEGER NOT NULL,
  after_seq INTEGER NOT NULL,
  until_seq INTEGER NOT NULL,
  filter    BLOB NOT NULL
) STRICT;

-- Only queues that are paused.
CREATE TABLE queues(name TEXT PRIMARY KEY, paused TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The only one that writes.
    Writer,
    /// Copies the WAL into the file.
    Checkpointer,
    /// Reads.
    Reader,
}

/// Whether the SQLite this was built with is fit for us.
pub(crate) fn sqlite_is_fit() -> bool {
    rusqlite::version_number() >= SQLITE_VERSION_MIN
}

/// Opens a connection with the settings of its role. The file must exist.
pub(crate) fn connect(path: &std::path::Path, role: Role) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    settle_in(&db, role)?;
    Ok(db)
}

/// Creates the file with its tables. It is whole once the caller has renamed it into place.
pub(crate) fn create(path: &std::path::Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.pragma_update(None, "page_size", PAGE_BYTES)?;
    settle_in(&db, Role::Writer)?;
    db.execute_batch(TABLES)?;
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.pragma_update(None, "user_version", FORMAT_VERSION)?;
    checkpoint(&db, "TRUNCATE")?;
    // The last connection's close removes the WAL.
    db.close().map_err(|(_, error)| error)
}

/// Runs a checkpoint and answers the WAL's frames and how many of them are in the file now.
pub(crate) fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<(i64, i64)> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}

/// How long the file must be by its own account.
pub(crate) fn file_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(number("page_count")?.unsigned_abs() * number("page_size")?.unsigned_abs())
}

/// How much of the file is free to be written anew.
pub(crate) fn free_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(number("freelist_count")?.unsigned_abs() * number("page_size")?.unsigned_abs())
}

fn settle_in(db: &Connection, role: Role) -> rusqlite::Result<()> {
    // Stepped to its end: an I/O error on the way to WAL shows only at the second step.
    let modes = db
        .prepare("PRAGMA journal_mode=WAL")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    if modes != ["wal"] {
        // A file system without shared memory, such as some of the network.
        let told = Some("the file system cannot carry a write-ahead log".to_owned());
        return Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_CANTOPEN),
            told,
        ));
    }
    // FULL: the WAL is synced before COMMIT returns. The file does not remember it.
    db.pragma_update(None, "synchronous", "FULL")?;
    // A checkpoint inside COMMIT stalls it, and swallows the error if its sync fails.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.pragma_update(
        None,
        "cache_size",
        if role == Role::Writer {
            -65_536
        } else {
            -8_192
        },
    )?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "foreign_keys", false)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "query_only", role == Role::Reader)?;
    // Only our own process may hold locks, and a checkpoint never waits.
    db.busy_timeout(if role == Role::Checkpointer {
        Duration::ZERO
    } else {
        Duration::from_secs(10)
    })?;
    db.set_prepared_statement_cache_capacity(64);
    // Else a statement with a bound LIMIT is compiled anew each time that it is bound.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}
