//! Reading: a few threads with a connection each, short transactions, and a watchdog.
//!
//! A read transaction that stays open keeps the log from being emptied, so each read is one page,
//! copied out before anything is sent, and one that takes too long is interrupted and tried again
//! with half the page.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle};
use tokio::sync::oneshot;

use super::rows;
use super::schema::{self, Role};
use crate::base::{clock, limits, tasks};
use crate::store::StoreError;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The reading threads.
pub(crate) struct Readers {
    jobs: Mutex<Option<Sender<Read>>>,
    readings: Arc<[Arc<Reading>]>,
    stop_watchdog: Sender<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What one thread reads, for the watchdog.
struct Reading {
    interrupt: InterruptHandle,
    since: Mutex<Option<Instant>>,
}

impl Readers {
    /// Starts so many threads on the store at `path`.
    pub(crate) fn start(path: &Path, count: usize) -> rusqlite::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Read>();
        let queue = Arc::new(Mutex::new(queue));
        let mut readings = Vec::new();
        let mut threads = Vec::new();
        for _ in 0..count {
            let db = schema::connect(path, Role::Reader)?;
            let reading = Arc::new(Reading {
                interrupt: db.get_interrupt_handle(),
                since: Mutex::default(),
            });
            readings.push(Arc::clone(&reading));
            let queue = Arc::clone(&queue);
            threads.push(tasks::thread("sooner-reader", move || {
                read(&db, &reading, &queue);
            }));
        }
        let readings: Arc<[_]> = readings.into();
        let watched = Arc::clone(&readings);
        let (stop_watchdog, stopped) = mpsc::channel();
        threads.push(tasks::thread("sooner-read-watchdog", move || {
            watch(&watched, &stopped);
        }));
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            readings,
            stop_watchdog,
            threads: Mutex::new(threads),
        })
    }

    /// Runs `job` on a reading thread; `scale` says what part of the page to read, 1 at first.
    ///
    /// A read that the watchdog interrupts is tried again with half of it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl Fn(&Connection, usize) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |db: &Connection| {
            let mut part = 1;
            let outcome = loop {
                match in_one_state(db, || job(db, part)) {
                    Err(error) if is_interrupt(&error) && part < limits::PAGE_RECORDS_MAX => {
                        part *= 2;
                    }
                    outcome => break outcome,
                }
            };
            // Nobody waits any more: the caller went away.
            drop(answer.send(outcome));
        });
        {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.as_ref()
                .and_then(|jobs| jobs.send(job).ok())
                .ok_or(StoreError::Closed)?;
        }
        let outcome = answered.await.map_err(|_| StoreError::Closed)?;
        outcome.map_err(|error| {
            let corrupt = rows::is_corrupt(&error);
            if corrupt {
                StoreError::Corrupt
            } else {
                StoreError::Read(error.to_string())
            }
        })
    }

    /// How long the longest read under way has lasted, since it began or was last interrupted.
    pub(crate) fn oldest(&self) -> Duration {
        let since =
            |reading: &Arc<Reading>| *reading.since.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = self.readings.iter().filter_map(since).min();
        oldest.map_or(Duration::ZERO, |since| {
            clock::instant().saturating_duration_since(since)
        })
    }

    /// Finishes what was asked and ends the threads.
    pub(crate) fn stop(&self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A second stop finds the watchdog gone.
        self.stop_watchdog.send(()).ok();
        for thread in self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // A reader that panicked has told so already.
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
}

fn read(db: &Connection, reading: &Reading, queue: &Mutex<Receiver<Read>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        *reading.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::instant());
        job(db);
        *reading.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn watch(readings: &[Arc<Reading>], stopped: &Receiver<()>) {
    while stopped.recv_timeout(limits::READ_MAX / 4) == Err(mpsc::RecvTimeoutError::Timeout) {
        for reading in readings {
            let mut since = reading.since.lock().unwrap_or_else(PoisonError::into_inner);
            if since.is_some_and(|since| clock::instant().duration_since(since) > limits::READ_MAX)
            {
                reading.interrupt.interrupt();
                *since = Some(clock::instant());
                tracing::warn!(
                    "a read took longer than {:?} and was interrupted",
                    limits::READ_MAX
                );
            }
        }
    }
}

/// Reads one state of the file: else each statement takes and frees a lock of its own, and pages that
/// the one before has read are forgotten as soon as somebody has written.
fn in_one_state<T>(
    db: &Connection,
    read: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    db.prepare_cached("BEGIN")?.execute([])?;
    let outcome = read();
    let ended = db
        .prepare_cached("COMMIT")
        .and_then(|mut it| it.execute([]));
    if ended.is_err() {
        // An interrupt may have met this instead of the read; nothing was written, so nothing is lost.
        drop(db.execute_batch("ROLLBACK"));
    }
    outcome
}

fn is_interrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}
