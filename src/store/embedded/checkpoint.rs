//! Copies the log into the database file, beside the writer.
//!
//! A thread of its own copies the bulk and pays for the file's sync. Under steady writing it never
//! reaches the log's end, so once the log is large and little of it is left, it asks the writer,
//! who copies the rest between two transactions; the next commit then starts the log anew. A
//! checkpoint that blocks (RESTART, TRUNCATE) would wait for readers while holding the writer's lock.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio_util::sync::CancellationToken;

use super::schema::{self, Role};
use crate::base::metrics::Metrics;
use crate::base::tasks;

/// How often the thread looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// New bytes from which on it copies. Less would sync the file for little.
const COPY_BYTES: usize = 4 << 20;

/// What a commit writes beside its payload: about four pages for a lone result.
const COMMIT_BYTES: usize = 64 << 10;

/// Length of the log from which on the writer is asked to finish it.
const FINISH_FRAMES: i64 = (32 << 20) / (16 << 10);

/// Frames the writer may be left with: about 2 MB, some milliseconds.
const REST_FRAMES_MAX: i64 = 128;

/// Length at which it is asked whatever the rest is.
const URGENT_FRAMES: i64 = (128 << 20) / (16 << 10);

/// Length that means a reader is stuck: worth a warning.
const ALARM_FRAMES: i64 = (512 << 20) / (16 << 10);

/// What the thread and the writer tell each other.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    new_bytes: AtomicUsize,
    finish: AtomicBool,
    metrics: Arc<Metrics>,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    stop: Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpoints {
    /// Nothing to copy yet; failures are counted in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// The writer has committed `bytes` of payload.
    pub(crate) fn note_commit(&self, bytes: usize) {
        self.new_bytes
            .fetch_add(bytes + COMMIT_BYTES, Ordering::Relaxed);
    }

    /// Whether the writer should copy the rest now.
    pub(crate) fn take_request(&self) -> bool {
        self.finish.swap(false, Ordering::Relaxed)
    }
}

impl Checkpointer {
    /// Starts the thread on the store at `path`. A failed copy fires `fatal`.
    pub(crate) fn start(
        path: &Path,
        checkpoints: Arc<Checkpoints>,
        fatal: CancellationToken,
    ) -> rusqlite::Result<Self> {
        let db = schema::connect(path, Role::Checkpointer)?;
        let (stop, stopped) = mpsc::channel();
        let thread = tasks::thread("sooner-checkpoint", move || {
            run(&db, &checkpoints, &fatal, &stopped);
        });
        Ok(Self {
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        // A second stop finds it gone.
        self.stop.send(()).ok();
        if let Some(thread) = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            drop(thread.join());
        }
    }
}

fn run(
    db: &Connection,
    checkpoints: &Checkpoints,
    fatal: &CancellationToken,
    stopped: &Receiver<()>,
) {
    while stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
        if fatal.is_cancelled() {
            return;
        }
        if checkpoints.new_bytes.load(Ordering::Relaxed) < COPY_BYTES {
            continue;
        }
        checkpoints.new_bytes.store(0, Ordering::Relaxed);
        match schema::checkpoint(db, "PASSIVE") {
            Ok((frames, copied)) => {
                let rest = frames - copied;
                if (frames > FINISH_FRAMES && rest < REST_FRAMES_MAX) || frames > URGENT_FRAMES {
                    checkpoints.finish.store(true, Ordering::Relaxed);
                }
                if frames > ALARM_FRAMES {
                    tracing::warn!(
                        frames,
                        copied,
                        "the write-ahead log is long: a reader may be stuck"
                    );
                }
            }
            Err(error) if may_be_repeated(&error) => {
                tracing::warn!(%error, "the log could not be copied this time");
            }
            Err(error) => {
                tracing::error!(%error, "copying the log failed; the process ends");
                checkpoints.metrics.store_fsync_errors.inc();
                fatal.cancel();
                return;
            }
        }
    }
}

/// Whether a checkpoint that failed so did no harm and may be tried again: somebody read, or the
/// disk is full. After any other error nothing is known of what is on the disk.
pub(crate) fn may_be_repeated(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    code == Some(ErrorCode::DatabaseBusy) || code == Some(ErrorCode::DiskFull)
}
