//! The embedded keeper: one `SQLite` file, one writer thread, a scheduler in memory.
//!
//! ```text
//!   verbs ──▶ writer (queue ▶ group ▶ one transaction ▶ publish ▶ answer)      changes
//!     │          │ rows, codec          │ scheduler, hints, in_flight
//!     ├──▶ readers (short transactions, watchdog)                              reads
//!     └──▶ scheduler (pure, in memory) ▶ in_flight ▶ readers                   leases
//!              recovery rebuilds it; checkpoint empties the log beside it all
//! ```

mod avoided;
mod batch_columns;
mod census;
mod checkpoint;
mod chores;
mod codec;
mod copies;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod damaged_pages;
mod data_dir;
mod disk;
mod elimination;
mod group;
mod hints;
mod id_index;
mod in_flight;
mod keeper;
mod leases;
mod letters;
mod lists;
mod operation;
mod queues;
mod reader;
mod reads;
mod recovery;
mod removals;
mod rows;
mod scheduler;
mod schema;
mod wal_scan;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use self::checkpoint::{Checkpointer, Checkpoints};
use self::chores::{Chores, Copying};
use self::data_dir::{DataDir, damage};
use self::hints::Hints;
use self::in_flight::InFlight;
use self::keeper::Keeper;
use self::operation::{Answer, Request};
use self::reader::Readers;
use self::scheduler::Scheduler;
use self::schema::Role;
use self::writer::Writer;
use crate::base::metrics::Metrics;
use crate::base::{clock, limits};
use crate::domain::batch::Batch;
use crate::domain::ids::BatchNo;
use crate::domain::item::ItemSpec;
use crate::domain::page_token::PageKey;
use crate::domain::pause::Pause;
use crate::domain::weights::Weights;
use crate::store::admission::Limits;
use crate::store::{CancelCounts, Created, NewBatch, Settlement, StoreError, Verdict};

pub use self::data_dir::OpenError;
pub use self::disk::Reserve;
pub use self::recovery::{Orphan, Recovered};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data directory; created if it is not there.
    pub data_dir: PathBuf,
    /// The room that is kept for results when the disk is nearly full. With one, some is set aside
    /// too, for when it is full.
    pub reserve: Option<Reserve>,
    /// How much may be accepted and not over.
    pub limits: Limits,
    /// How long a batch stays once it is over that says nothing of its own.
    pub retention: Duration,
    /// Where it counts, and whoever stands on it too.
    pub metrics: Arc<Metrics>,
    /// How tenants share its queues.
    pub weights: Weights,
}

impl StoreOptions {
    /// A store without bounds that keeps no room for results, and batches as long as a server does by
    /// default, and counts for itself.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            reserve: None,
            limits: Limits::default(),
            retention: limits::RETENTION_DEFAULT,
            metrics: Arc::default(),
            weights: Weights::default(),
        }
    }
}

/// The store. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    writer: Writer,
    /// For those who follow and look up.
    readers: Readers,
    /// For the inputs of leases alone: an attempt must not wait behind a thousand watchers' pages.
    inputs: Readers,
    checkpointer: Checkpointer,
    /// Held while it is closed.
    close: Mutex<()>,
}

/// What the threads of the store share.
#[derive(Debug)]
struct Shared {
    dir: DataDir,
    scheduler: Mutex<Scheduler>,
    in_flight: Mutex<InFlight>,
    hints: Hints,
    checkpoints: Arc<Checkpoints>,
    /// Fires when the store cannot go on.
    fatal: CancellationToken,
    closing: AtomicBool,
    /// Whether the directory may be somebody else's by now. Changed under the lock of `in_flight`.
    released: AtomicBool,
    /// Whether room is set aside for a full disk.
    ballast: bool,
    limits: Limits,
    /// How long a batch stays that says nothing of its own.
    retention: Duration,
    /// What the places of lists are signed with.
    page_key: PageKey,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Something could not be written: the process must end.
    fn fail(&self) {
        self.metrics.store_fsync_errors.inc();
        self.fatal.cancel();
    }

    /// Writes nothing any more and gives the directory up.
    fn release(&self) {
        let _in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !self.released.swap(true, Ordering::Relaxed) {
            self.dir.release();
        }
    }

    /// Writes to the in-flight file, and answers what was written to. A full disk only costs crash
    /// marks; any other failure is fatal.
    fn trace(
        &self,
        write: impl FnOnce(&mut InFlight) -> std::io::Result<()>,
    ) -> Option<Arc<std::fs::File>> {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A handler that outlives its store must not write into the next one's file.
        if self.released.load(Ordering::Relaxed) {
            return None;
        }
        let written = write(&mut in_flight);
        self.traced(&written).then(|| in_flight.file())
    }

    /// Whether the trace is there.
    fn traced(&self, written: &std::io::Result<()>) -> bool {
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                tracing::warn!(%error, "running items leave no trace: the disk is full");
            }
            Err(error) => {
                tracing::error!(%error, "writing the in-flight file failed; the process ends");
                self.fail();
            }
            Ok(()) => {}
        }
        written.is_ok()
    }
}

/// The writing connection to a database file that is all there.
fn connect_whole(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |error| recovery::Error::Sqlite(error).at(path);
    let db = schema::connect(path, Role::Writer).map_err(sqlite)?;
    schema::checkpoint(&db, "TRUNCATE").map_err(sqlite)?;
    // By its name: opening the file and closing it again would drop SQLite's locks on it.
    let length = path.metadata();
    let length = length.map_err(|error| OpenError::Io(path.to_owned(), error))?;
    if length.len() < schema::file_bytes(&db).map_err(sqlite)? {
        return Err(OpenError::Damaged(damage(path, "its end is missing")));
    }
    Ok(db)
}

impl Store {
    /// Opens the store of a data directory, or creates one, and brings it back to where it was.
    ///
    /// Blocks; call it before serving.
    ///
    /// # Panics
    /// If this was built with an `SQLite` that is too old to be trusted.
    pub fn open(options: &StoreOptions) -> Result<(Self, Recovered), OpenError> {
        assert!(
            schema::sqlite_is_fit(),
            "the SQLite built in is too old to be trusted with a log"
        );
        let dir = DataDir::take(&options.data_dir)?;
        let path = dir.database();
        let sqlite = |error| recovery::Error::Sqlite(error).at(&path);
        let place = dir.path().to_owned();
        let io = |error| OpenError::Io(place.clone(), error);
        let interrupted = InFlight::read(&dir.in_flight()).map_err(io)?;

        let db = connect_whole(&path)?;
        db.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
        let mut restored =
            recovery::recover(&db, &interrupted, clock::now()).map_err(|error| error.at(&path))?;
        restored.scheduler.weigh(options.weights.clone());
        let page_key = rows::page_key(&db).map_err(sqlite)?;
        db.execute_batch("COMMIT").map_err(sqlite)?;
        // Only now: the marks are durable.
        let in_flight = InFlight::create(&dir.in_flight()).map_err(io)?;
        if options.reserve.is_some() {
            dir.keep_ballast();
        }
        dir.sync_names().map_err(io)?;

        let fatal = CancellationToken::new();
        let checkpoints = Arc::new(Checkpoints::new(Arc::clone(&options.metrics)));
        let checkpointer =
            Checkpointer::start(&path, Arc::clone(&checkpoints), fatal.clone()).map_err(sqlite)?;
        let readers = Readers::start(&path, limits::READERS).map_err(sqlite)?;
        let inputs = Readers::start(&path, 1).map_err(sqlite)?;
        let shared = Arc::new(Shared {
            dir,
            scheduler: Mutex::new(restored.scheduler),
            in_flight: Mutex::new(in_flight),
            hints: Hints::default(),
            checkpoints,
            fatal,
            closing: AtomicBool::new(false),
            released: AtomicBool::new(false),
            ballast: options.reserve.is_some(),
            limits: options.limits.clone(),
            retention: options.retention,
            page_key,
            metrics: Arc::clone(&options.metrics),
        });
        let chores = Chores {
            sweeps: restored.sweeps,
            copies: Copying::of(restored.copies),
        };
        let mut keeper = Keeper::new(db, Arc::clone(&shared), options, chores);
        if !restored.unrecorded.is_empty() && keeper.finish(restored.unrecorded).is_err() {
            return Err(io(std::io::Error::other(
                "recording what ended with the last run failed",
            )));
        }
        let writer = Writer::start(keeper);
        Ok((
            Self(Arc::new(Inner {
                shared,
                writer,
                readers,
                inputs,
                checkpointer,
                close: Mutex::default(),
            })),
            restored.found,
        ))
    }

    /// Where it counts.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.shared.metrics
    }

    /// Fires when the store cannot go on: the process must end with code 74.
    pub fn fatal(&self) -> CancellationToken {
        self.0.shared.fatal.clone()
    }

    /// Notes that the process is about to end on purpose: what still runs gets no crash mark for it.
    pub fn excuse_running(&self) {
        self.0.shared.trace(InFlight::excuse_all);
    }

    /// Finishes what is queued, closes, and lets others take the data directory, even if handles to
    /// this store live on. Verbs called later answer `Closed`. Blocks.
    pub fn close(&self) {
        // A second call waits for the first: nothing is released before all has ended.
        let _alone = self.0.close.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.shared.closing.store(true, Ordering::Relaxed);
        self.0.readers.stop();
        self.0.inputs.stop();
        self.0.checkpointer.stop();
        self.0.writer.stop();
        self.0.shared.release();
    }

    /// Creates a batch, all or nothing, or finds the one that an equal submit created.
    pub async fn create_batch(&self, batch: NewBatch) -> Result<Created, StoreError> {
        let Answer::Created(created) = self.0.writer.ask(Request::Create(Box::new(batch))).await?
        else {
            unreachable!("a create is answered by its batch");
        };
        Ok(*created)
    }

    /// Appends items to an open batch, from index `first` on, and answers how many it has then.
    pub async fn append_items(
        &self,
        batch: BatchNo,
        first: u32,
        items: Arc<Vec<ItemSpec>>,
    ) -> Result<u32, StoreError> {
        let Answer::Accepted(count) = self
            .0
            .writer
            .ask(Request::Append {
                batch,
                first,
                items,
            })
            .await?
        else {
            unreachable!("an append is answered by a count");
        };
        Ok(count)
    }

    /// Says that the open batch has all its items, `total` of them. It may be over by that.
    pub async fn seal(&self, batch: BatchNo, total: u32) -> Result<Batch, StoreError> {
        let Answer::Batch(batch) = self.0.writer.ask(Request::Seal { batch, total }).await? else {
            unreachable!("a seal is answered by its batch");
        };
        Ok(*batch)
    }

    /// Ends leases, each with its verdict, in order.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Verdict>, StoreError> {
        let Answer::Settled(verdicts) = self.0.writer.ask(Request::Settle(settlements)).await?
        else {
            unreachable!("a settlement is answered by verdicts");
        };
        Ok(verdicts)
    }

    /// Ends the batches whose time is over, and the items that wait beyond their own.
    pub async fn end_overdue(&self) -> Result<(), StoreError> {
        loop {
            let now = clock::now();
            let batches = {
                let scheduler = &self.0.shared.scheduler;
                let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
                !scheduler.overdue(now).is_empty()
            };
            let is_due = move |db: &_, _| rows::is_time_due(db, now);
            if !batches && !self.0.readers.run(is_due).await? {
                return Ok(());
            }
            if batches {
                self.0.writer.ask(Request::EndOverdue).await?;
            }
            // A chunk of items at most; others get their turn in between.
            let stale = self.0.writer.ask(Request::EndStale).await?;
            if !matches!(stale, Answer::Looked { more: true }) {
                return Ok(());
            }
        }
    }

    /// Pauses a batch: once it answers, nothing of it starts until it is resumed. Attempts that run
    /// end as they will. Repeating it gives it the new reason.
    pub async fn pause_batch(&self, batch: BatchNo, reason: &str) -> Result<Batch, StoreError> {
        let pause = Some(Pause::by_hand(reason));
        self.pause(Request::Pause { batch, pause }).await
    }

    /// Lets a paused batch go on. One that is not paused stays as it is.
    pub async fn resume_batch(&self, batch: BatchNo) -> Result<Batch, StoreError> {
        let pause = None;
        self.pause(Request::Pause { batch, pause }).await
    }

    async fn pause(&self, request: Request) -> Result<Batch, StoreError> {
        let Answer::Batch(batch) = self.0.writer.ask(request).await? else {
            unreachable!("a pause is answered by its batch");
        };
        Ok(*batch)
    }

    /// Cancels a batch. Once it answers, no attempt of it starts any more.
    pub async fn cancel_batch(
        &self,
        batch: BatchNo,
        reason: &str,
    ) -> Result<CancelCounts, StoreError> {
        self.cancel(Request::Cancel {
            batch,
            items: None,
            reason: reason.into(),
        })
        .await
    }

    /// Cancels some items of a batch. Once it answers, no attempt of theirs starts any more.
    pub async fn cancel_items(
        &self,
        batch: BatchNo,
        items: Vec<u32>,
    ) -> Result<CancelCounts, StoreError> {
        self.cancel(Request::Cancel {
            batch,
            items: Some(items),
            reason: "".into(),
        })
        .await
    }

    async fn cancel(&self, request: Request) -> Result<CancelCounts, StoreError> {
        let Answer::Cancelled(counts) = self.0.writer.ask(request).await? else {
            unreachable!("a cancel is answered by counts");
        };
        Ok(counts)
    }
}
