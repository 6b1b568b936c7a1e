//! Brings outcomes to the store, many in one call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::base::tasks::Tasks;
use crate::domain::attempt::ItemError;
use crate::domain::batch::BatchHead;
use crate::domain::ids::item_id_text;
use crate::store::{Lease, LeaseEnd, Settlement, Store, Verdict};

/// Which items are logged, on target `sooner::item`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ItemLog {
    /// Every attempt.
    All,
    /// Attempts that did not succeed.
    #[default]
    Failed,
    /// None.
    None,
}

/// An outcome on its way, and its place among the bytes that may wait.
#[derive(Debug)]
struct Waiting {
    settlement: Settlement,
    room: OwnedSemaphorePermit,
}

/// The queue of outcomes on their way to the store.
#[derive(Clone, Debug)]
pub(crate) struct Settler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<Option<mpsc::Sender<Waiting>>>,
    /// Kibibytes of outputs that may still come in.
    room: Arc<Semaphore>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Settler {
    /// Starts the task that empties the queue.
    pub(crate) fn start(store: Store, log: ItemLog, tasks: &Tasks) -> Self {
        let (queue, outcomes) = mpsc::channel(limits::SETTLED_QUEUE_MAX);
        let task = tasks.spawn(run(store, log, outcomes));
        Self(Arc::new(Inner {
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(limits::SETTLED_BYTES_MAX / 1024)),
            task: Mutex::new(Some(task)),
        }))
    }

    /// Hands an outcome over; waits while the queue is full, so that a slow disk holds the pool back.
    pub(crate) async fn settle(&self, settlement: Settlement) {
        let queue = self
            .0
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(queue) = queue else { return };
        let kibibytes = settlement
            .output_bytes()
            .min(limits::SETTLED_BYTES_MAX)
            .div_ceil(1024);
        let kibibytes = u32::try_from(kibibytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0.room).acquire_many_owned(kibibytes).await;
        let room = room.expect("the room is never closed");
        // A settler that is gone leaves the lease to the next start, like a crash would.
        drop(queue.send(Waiting { settlement, room }).await);
    }

    /// Waits until every outcome handed over is recorded. Nothing can be handed over after.
    pub(crate) async fn finish(&self) {
        self.0
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let task = self
            .0
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            // A settler that panicked has told so already.
            drop(task.await);
        }
    }
}

async fn run(store: Store, log: ItemLog, mut outcomes: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::new();
    // While one call is committed the next outcomes gather: that is all the coalescing there is.
    // The bytes that may wait bound what one call brings.
    while outcomes
        .recv_many(&mut waiting, limits::SETTLED_QUEUE_MAX)
        .await
        > 0
    {
        let (settlements, rooms): (Vec<_>, Vec<_>) = waiting
            .drain(..)
            .map(|one| (one.settlement, one.room))
            .unzip();
        let lines: Vec<_> = settlements
            .iter()
            .map(|settlement| Line::of(log, settlement))
            .collect();
        let accepted: Vec<_> = settlements.iter().map(accepted_at).collect();
        match store.settle(settlements).await {
            Ok(verdicts) => {
                let (metrics, now) = (store.metrics(), clock::now());
                for ((line, accepted), verdict) in lines.into_iter().zip(accepted).zip(verdicts) {
                    if matches!(verdict, Verdict::Recorded(_) | Verdict::Overruled(_)) {
                        metrics
                            .end_to_end
                            .observe(now.since(accepted).as_secs_f64());
                    }
                    if let Some(line) = line {
                        line.tell(verdict);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "outcomes could not be recorded; their items run again");
            }
        }
        drop(rooms);
    }
}

/// When the item was accepted: an item of a later attempt that was uploaded counts from its batch.
fn accepted_at(settlement: &Settlement) -> Timestamp {
    if settlement.token.attempt == 1 {
        Timestamp(settlement.started.0 - i64::try_from(settlement.queued.as_millis()).unwrap_or(0))
    } else {
        settlement.head.created
    }
}

/// Says that an attempt begins, if every attempt is told.
pub(crate) fn tell_start(log: ItemLog, lease: &Lease) {
    if log == ItemLog::All {
        let id = lease.spec.as_ref().ok().and_then(|spec| spec.id.as_deref());
        tracing::info!(
            target: "sooner::item",
            tenant = lease.head.tenant.unless_default(),
            batch_id = %lease.head.id,
            item_id = item_id_text(id, lease.token.item.index),
            attempt = lease.token.attempt,
            state = "running",
            "attempt started"
        );
    }
}

/// What is told of an attempt that ended, once its outcome is durable.
struct Line {
    head: Arc<BatchHead>,
    item_id: String,
    attempt: u32,
    state: &'static str,
    error: Option<ItemError>,
    queued: Duration,
    ran: Duration,
}

impl Line {
    fn of(log: ItemLog, settlement: &Settlement) -> Option<Self> {
        let (state, error) = match &settlement.end {
            LeaseEnd::Finish(ending) => (ending.state().name(), ending.error()),
            LeaseEnd::Release { error, .. } => ("pending", Some(error)),
        };
        let told = match log {
            ItemLog::All => true,
            ItemLog::Failed => error.is_some(),
            ItemLog::None => false,
        };
        told.then(|| Self {
            head: Arc::clone(&settlement.head),
            item_id: item_id_text(settlement.id.as_deref(), settlement.token.item.index),
            attempt: settlement.token.attempt,
            state,
            error: error.cloned(),
            queued: settlement.queued,
            ran: settlement.ran,
        })
    }

    fn tell(self, verdict: Verdict) {
        let state = match verdict {
            Verdict::Recorded(_) | Verdict::AlreadyMine(_) | Verdict::Released => self.state,
            Verdict::Overruled(_) => "overruled",
            Verdict::Superseded | Verdict::Gone => "superseded",
        };
        let (reason, error) = self
            .error
            .map_or_else(Default::default, |it| (it.reason, it.message));
        // JSON has no number for the u128 that this is.
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "sooner::item",
            tenant = self.head.tenant.unless_default(),
            batch_id = %self.head.id,
            item_id = self.item_id,
            attempt = self.attempt,
            state,
            reason = &*reason,
            error = &*error,
            queued_ms = millis(self.queued),
            ran_ms = millis(self.ran),
            "attempt ended"
        );
    }
}
