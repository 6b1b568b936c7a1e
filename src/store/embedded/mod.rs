//! The embedded keeper: one `SQLite` file, one writer thread, a scheduler in memory.
//!
//! ```text
//!   verbs ──▶ writer (queue ▶ group ▶ one transaction ▶ publish ▶ answer)      changes
//!     │          │ rows, codec          │ scheduler, hints, in_flight
//!     ├──▶ readers (short transactions, watchdog)                              reads
//!     └──▶ scheduler (pure, in memory) ▶ in_flight ▶ readers                   leases
//!              recovery rebuilds it; checkpoint empties the log beside it all
//! ```

mod checkpoint;
mod codec;
#[cfg(test)]
mod damage;
mod data_dir;
mod group;
mod hints;
mod in_flight;
mod keeper;
mod reader;
mod recovery;
mod rows;
mod scheduler;
mod schema;
mod wal_scan;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::checkpoint::{Checkpointer, Checkpoints};
use self::data_dir::DataDir;
use self::hints::Hints;
use self::in_flight::InFlight;
use self::keeper::Keeper;
use self::reader::Readers;
use self::scheduler::{Grant, Scheduler};
use self::schema::Role;
use self::writer::{Answer, Request, Writer};
use crate::base::{clock, entropy, limits};
use crate::domain::batch::Batch;
use crate::domain::ids::{BatchId, BatchNo, ItemKey, LeaseToken, QueueName, RequestId, Sequence};
use crate::domain::item::ItemSpec;
use crate::store::{
    CancelCounts, Created, Damaged, ItemView, Lease, Leased, NewBatch, Page, Settlement,
    StoreError, Verdict,
};

pub use self::data_dir::OpenError;
pub use self::recovery::{Orphan, Recovered};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data directory; created if it is not there.
    pub data_dir: PathBuf,
    /// Whether room is set aside in it, so that results still land when the disk is full.
    pub ballast: bool,
}

/// The store. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    writer: Writer,
    readers: Readers,
    checkpointer: Checkpointer,
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
    /// Whether room is set aside for a full disk.
    ballast: bool,
}

impl Shared {
    /// Writes to the in-flight file. A full disk only costs crash marks; any other failure is fatal.
    fn trace(&self, write: impl FnOnce(&mut InFlight) -> std::io::Result<()>) {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match write(&mut in_flight) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                tracing::warn!(%error, "running items leave no trace: the disk is full");
            }
            Err(error) => {
                tracing::error!(%error, "writing the in-flight file failed; the process ends");
                self.fatal.cancel();
            }
            Ok(()) => {}
        }
    }
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

        let db = schema::connect(&path, Role::Writer).map_err(sqlite)?;
        schema::checkpoint(&db, "TRUNCATE").map_err(sqlite)?;
        db.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
        let restored =
            recovery::recover(&db, &interrupted, clock::now()).map_err(|error| error.at(&path))?;
        db.execute_batch("COMMIT").map_err(sqlite)?;
        // Only now: the marks are durable.
        let in_flight = InFlight::create(&dir.in_flight()).map_err(io)?;
        if options.ballast {
            dir.keep_ballast();
        }
        dir.sync_names().map_err(io)?;

        let fatal = CancellationToken::new();
        let checkpoints = Arc::new(Checkpoints::default());
        let checkpointer =
            Checkpointer::start(&path, Arc::clone(&checkpoints), fatal.clone()).map_err(sqlite)?;
        let readers = Readers::start(&path).map_err(sqlite)?;
        let shared = Arc::new(Shared {
            dir,
            scheduler: Mutex::new(restored.scheduler),
            in_flight: Mutex::new(in_flight),
            hints: Hints::default(),
            checkpoints,
            fatal,
            closing: AtomicBool::new(false),
            ballast: options.ballast,
        });
        let mut keeper = Keeper::new(db, Arc::clone(&shared), restored.sweeps);
        if !restored.cancels.is_empty() && keeper.finish_cancels(restored.cancels).is_err() {
            return Err(io(std::io::Error::other(
                "recording the cancels of the last run failed",
            )));
        }
        let writer = Writer::start(keeper);
        Ok((
            Self(Arc::new(Inner {
                shared,
                writer,
                readers,
                checkpointer,
            })),
            restored.found,
        ))
    }

    /// Fires when the store cannot go on: the process must end with code 74.
    pub fn fatal(&self) -> CancellationToken {
        self.0.shared.fatal.clone()
    }

    /// Finishes what is queued and closes. Verbs called later answer `Closed`. Blocks.
    pub fn close(&self) {
        self.0.shared.closing.store(true, Ordering::Relaxed);
        self.0.readers.stop();
        self.0.checkpointer.stop();
        self.0.writer.stop();
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
        items: Vec<ItemSpec>,
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

    /// Leases up to `want` due items of a queue, taking turns between its batches. Answers at once.
    ///
    /// Not cancel safe: leases whose future is dropped are held by nobody until a restart.
    pub async fn lease(&self, queue: &QueueName, want: usize) -> Result<Leased, StoreError> {
        let shared = &self.0.shared;
        if shared.closing.load(Ordering::Relaxed) || shared.fatal.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let (grants, next_due) = {
            let mut scheduler = shared
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let grants = scheduler.grant(queue, want, clock::now(), entropy::nonce);
            (grants, scheduler.next_due(queue))
        };
        if grants.is_empty() {
            return Ok(Leased {
                leases: Vec::new(),
                next_due,
            });
        }
        shared.trace(|in_flight| in_flight.begin(grants.iter().map(|grant| grant.token)));
        let mut specs = match self.read_specs(&grants).await {
            Ok(specs) => specs,
            Err(error) => {
                self.take_back(&grants);
                return Err(error);
            }
        };
        let granted = clock::now();
        let leases = grants.into_iter().map(|grant| Lease {
            spec: specs.remove(&grant.token.item).unwrap_or(Err(Damaged)),
            token: grant.token,
            head: grant.head,
            spent: grant.past.spent,
            releases: grant.past.releases,
            crashes: grant.past.crashes,
            ready_since: grant.ready_since,
            granted,
            stop: grant.stop,
        });
        Ok(Leased {
            leases: leases.collect(),
            next_due,
        })
    }

    /// Notes which process group computes an item, so that it can be found if this process dies.
    pub fn note_process_group(&self, token: LeaseToken, process_group: u32) {
        self.0
            .shared
            .trace(|in_flight| in_flight.note_process_group(token, process_group));
    }

    /// The records behind `after`, in sequence order, and the batch as it stood just before.
    pub async fn read_log(&self, batch: BatchNo, after: Sequence) -> Result<Page, StoreError> {
        let page = self.0.readers.run(move |db, part| {
            let Some(row) = rows::batch(db, batch)? else {
                return Ok(None);
            };
            let reach = rows::Reach {
                records_max: (limits::PAGE_RECORDS_MAX / part).max(1),
                bytes_max: limits::PAGE_BYTES_MAX / part,
            };
            let last = row.batch.last_sequence();
            let records = rows::results(db, batch, after, last, reach)?;
            Ok(Some(Page {
                records,
                batch: row.batch,
            }))
        });
        let mut page = page.await?.ok_or(StoreError::NoBatch)?;
        self.count_running(&mut page.batch);
        Ok(page)
    }

    /// The record of the item at `index`, if it is terminal, and the batch as it stood just before.
    pub async fn read_by_index(&self, batch: BatchNo, index: u32) -> Result<Page, StoreError> {
        let page = self.0.readers.run(move |db, _| {
            let Some(row) = rows::batch(db, batch)? else {
                return Ok(None);
            };
            let record = rows::result_of(db, ItemKey { batch, index })?.map(|(record, _)| record);
            Ok(Some(Page {
                records: record.into_iter().collect(),
                batch: row.batch,
            }))
        });
        let mut page = page.await?.ok_or(StoreError::NoBatch)?;
        self.count_running(&mut page.batch);
        Ok(page)
    }

    /// The batch of that name.
    pub async fn batch(&self, id: &BatchId) -> Result<Batch, StoreError> {
        let id = id.clone();
        let row = self
            .0
            .readers
            .run(move |db, _| rows::batch_by_id(db, &id))
            .await?;
        let mut batch = row.ok_or(StoreError::NoBatch)?.batch;
        self.count_running(&mut batch);
        Ok(batch)
    }

    /// Whether one of the keys names a batch.
    pub async fn is_known(
        &self,
        id: Option<&BatchId>,
        request_id: Option<&RequestId>,
    ) -> Result<bool, StoreError> {
        let (id, request_id) = (id.cloned(), request_id.cloned());
        let found = self.0.readers.run(move |db, _| {
            let by_id = id
                .as_ref()
                .map(|id| rows::batch_by_id(db, id))
                .transpose()?
                .flatten();
            let by_request = request_id
                .as_ref()
                .map(|id| rows::batch_by_request(db, id))
                .transpose()?;
            Ok(by_id.is_some() || by_request.flatten().is_some())
        });
        found.await
    }

    /// The indexes of items that their caller named, in the order asked for.
    pub async fn indexes(
        &self,
        batch: BatchNo,
        ids: Vec<Box<str>>,
    ) -> Result<Vec<u32>, StoreError> {
        let found = self.0.readers.run(move |db, _| {
            let total = rows::batch(db, batch)?.map_or(0, |row| row.batch.total);
            let index_of = |id: &str| {
                let index = rows::index_of(db, batch, total, id)?;
                Ok(index.ok_or_else(|| id.into()))
            };
            ids.iter()
                .map(|id| index_of(id))
                .collect::<rusqlite::Result<Result<Vec<_>, _>>>()
        });
        found.await?.map_err(StoreError::NoItem)
    }

    /// An item as it stands.
    pub async fn item(
        &self,
        batch: BatchNo,
        index: u32,
        with_spec: bool,
    ) -> Result<ItemView, StoreError> {
        let item = ItemKey { batch, index };
        // Memory before disk: an item that ends in between is then terminal, never lost.
        let (running, next_due) = {
            let scheduler = self
                .0
                .shared
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let live = scheduler.batch(batch);
            let lease = live.and_then(|live| live.leases.get(&index));
            let past = live.and_then(|live| live.pasts.get(&index));
            (
                lease.map(|lease| lease.attempt),
                past.filter(|_| lease.is_none()).map(|past| past.since),
            )
        };
        let view = self.0.readers.run(move |db, _| {
            let record = rows::result_of(db, item)?.map(|(record, _)| record);
            let past = rows::attempts_of_item(db, item, limits::ATTEMPTS_TOLD_MAX)?;
            let (_, spec) = rows::items(db, batch, &[index], usize::MAX)?.remove(0);
            let id = spec.as_ref().ok().and_then(|spec| spec.id.clone());
            Ok(ItemView {
                index,
                id,
                running: running.filter(|_| record.is_none()),
                next_due: next_due.filter(|_| record.is_none()),
                record,
                past,
                spec: with_spec.then_some(spec),
            })
        });
        view.await
    }

    /// Changes whenever the batch's journal or state does. Subscribe before reading.
    pub fn journal_hint(&self, batch: BatchNo) -> watch::Receiver<()> {
        self.0.shared.hints.journal(batch)
    }

    /// Notified when a queue has work.
    pub fn work_hint(&self, queue: &QueueName) -> Arc<Notify> {
        self.0.shared.hints.queue(queue)
    }

    fn count_running(&self, batch: &mut Batch) {
        let scheduler = self
            .0
            .shared
            .scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let leases = scheduler
            .batch(batch.head.no)
            .map_or(0, |live| live.leases.len());
        // A lease may outlive its item's record for a moment; the counts sum to the total all the same.
        let open = batch.total - batch.tally.terminal();
        batch.running = u32::try_from(leases).unwrap_or(u32::MAX).min(open);
    }

    fn take_back(&self, grants: &[Grant]) {
        let shared = &self.0.shared;
        {
            let mut scheduler = shared
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for grant in grants {
                scheduler.take_back(grant);
            }
        }
        shared.trace(|in_flight| in_flight.end(grants.iter().map(|grant| grant.token.item)));
    }

    async fn read_specs(
        &self,
        grants: &[Grant],
    ) -> Result<HashMap<ItemKey, Result<ItemSpec, Damaged>>, StoreError> {
        let mut keys: Vec<_> = grants.iter().map(|grant| grant.token.item).collect();
        keys.sort_unstable();
        self.0
            .readers
            .run(move |db, _| {
                let mut specs = HashMap::with_capacity(keys.len());
                for batch in keys.chunk_by(|left, right| left.batch == right.batch) {
                    let no = batch[0].batch;
                    let indexes: Vec<_> = batch.iter().map(|key| key.index).collect();
                    for (index, spec) in rows::items(db, no, &indexes, usize::MAX)? {
                        specs.insert(ItemKey { batch: no, index }, spec);
                    }
                }
                Ok(specs)
            })
            .await
    }
}
