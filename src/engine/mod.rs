//! Floor 3: what happens to batches and items. It knows no wire, no command line and no SQL.
//!
//! ```text
//!   submission ─▶ store                      feed ◀─ store (journal at a cursor)
//!   pool ─▶ store.lease ─▶ attempt ─▶ settler ─▶ store.settle
//!   upload ─▶ store, uploads: who goes on with which
//!   presence: streams per batch, for those that end when nobody listens
//!   trim: batches whose retention is over, and the rows of deleted ones; lists: pages of both
//!   adapters, own_threads: what a handler computes on
//! ```

mod adapters;
mod attempt;
mod dead_letters;
mod errors;
mod feed;
mod handler;
mod lists;
mod lookup;
mod overdue;
mod own_threads;
mod pace;
mod pool;
mod presence;
mod queues;
mod settler;
mod slots;
#[cfg(test)]
mod states;
mod submission;
mod trim;
mod upload;
mod uploads;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::adapters::{Blocking, HandlerFn, blocking, handler_fn};
pub use self::attempt::LOCAL_WORKER;
pub use self::dead_letters::{LetterPage, LetterQuery, RedriveRequest};
pub use self::feed::{Feed, Order, Turn};
pub use self::handler::{Attempt, Handler};
pub use self::lists::{BatchList, BatchQuery, ItemList, ItemQuery};
pub use self::lookup::ItemDetails;
pub use self::own_threads::apart;
use self::pool::Pool;
use self::presence::Presence;
pub use self::presence::Stream;
pub use self::queues::QueueDetails;
pub use self::settler::ItemLog;
use self::settler::Settler;
use self::slots::Slots;
pub use self::submission::{Submission, Submitted};
pub use self::upload::{AppendError, Upload, UploadStart, superseded};
use self::uploads::Uploads;
pub use self::waiting::{Waiting, WaitingReason};
use crate::base::metrics::Metrics;
use crate::base::tasks::Tasks;
use crate::base::{clock, limits};
use crate::domain::ids::QueueName;
use crate::domain::rate::Rate;
use crate::domain::retry::RetrySettings;
use crate::store::Store;
pub use crate::store::{CancelCounts, Damaged, ItemView, Reserve};

/// How a queue computes its items.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// What computes them; without one they wait.
    pub handler: Option<Arc<dyn Handler>>,
    /// Attempts at once.
    pub slots: usize,
    /// Limit of an attempt where neither item nor batch sets one.
    pub item_timeout: Duration,
    /// Retry settings where neither item nor batch sets them.
    pub retry: RetrySettings,
    /// How many attempts may start per second, if that is limited.
    pub rate: Option<Rate>,
}

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The queues by name. Others are refused.
    pub queues: HashMap<QueueName, QueueSettings>,
    /// How long a batch may be without a stream that asked to be cancelled then.
    pub disconnect_grace: Duration,
    /// Whether batches go once their retention is over, and the rows of deleted ones.
    pub trims: bool,
    /// Which items are logged.
    pub item_log: ItemLog,
    /// Bytes of one input. Submits are refused over it before; appended items fail by it.
    pub input_bytes_max: usize,
    /// Bytes of one output.
    pub output_bytes_max: usize,
}

/// The engine. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    options: EngineOptions,
    tasks: Tasks,
    attempts: Tasks,
    presence: Presence,
    uploads: Uploads,
    settler: Settler,
    /// Of the queues that have a handler.
    slots: HashMap<QueueName, Arc<Slots>>,
    /// Fires when nothing new starts any more.
    draining: CancellationToken,
    /// Fires when what runs must stop.
    halt: CancellationToken,
}

impl Engine {
    /// Starts the pools of all queues that have a handler.
    ///
    /// `io` runs what must never wait for a handler; `handlers` runs the handlers and what looks after
    /// them. A handler that may block it must have been set [`apart`] before.
    pub fn start(store: Store, options: EngineOptions, io: &Tasks, handlers: &Tasks) -> Self {
        let draining = CancellationToken::new();
        let presence = Presence::new(
            store.clone(),
            options.disconnect_grace,
            draining.clone(),
            io.sibling(),
        );
        let settler = Settler::start(store.clone(), options.item_log, &io.sibling());
        let uploads = Uploads::of(store.clone());
        let tasks = io.sibling();
        tasks.spawn(uploads.clone().watch_over(draining.clone()));
        tasks.spawn(overdue::watch_over(store.clone(), draining.clone()));
        if options.trims {
            tasks.spawn(trim::watch_over(store.clone(), draining.clone()));
        }
        let served = options.queues.iter();
        let served = served.filter(|(_, queue)| queue.handler.is_some());
        let slots = served.map(|(name, queue)| {
            let slots = Slots::new(queue.slots, queue.rate);
            (name.clone(), Arc::new(slots))
        });
        let slots = slots.collect();
        let engine = Self(Arc::new(Inner {
            slots,
            store,
            options,
            tasks,
            attempts: handlers.sibling(),
            presence,
            uploads,
            settler,
            draining,
            halt: CancellationToken::new(),
        }));
        for (name, settings) in &engine.0.options.queues {
            if let Some(handler) = &settings.handler {
                let pool = Pool {
                    queue: name.clone(),
                    settings: settings.clone(),
                    slots: Arc::clone(&engine.0.slots[name]),
                    handler: Arc::clone(handler),
                    store: engine.0.store.clone(),
                    settler: engine.0.settler.clone(),
                    attempts: engine.0.attempts.clone(),
                    draining: engine.0.draining.clone(),
                    halt: engine.0.halt.clone(),
                    input_bytes_max: engine.0.options.input_bytes_max,
                    output_bytes_max: engine.0.options.output_bytes_max,
                    item_log: engine.0.options.item_log,
                    metrics: Arc::clone(engine.0.store.metrics()),
                };
                engine.0.tasks.spawn(pool.run());
            } else {
                tracing::warn!(queue = %name, "nobody serves this queue: its items wait");
            }
        }
        engine
    }

    /// Where it counts.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        self.0.store.metrics()
    }

    /// Fires when nothing new is accepted or started any more.
    pub fn draining(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// Stops in order: nothing new starts; what runs may finish until `grace` is nearly over, is
    /// then asked to stop and is pending again, without a charge; all outcomes are recorded.
    pub async fn drain(&self, grace: Duration) {
        self.0.draining.cancel();
        let longest = self
            .0
            .options
            .queues
            .values()
            .filter_map(|queue| queue.handler.as_ref());
        let stop_grace = longest
            .map(|handler| handler.stop_grace())
            .max()
            .unwrap_or_default();
        let patience = grace.saturating_sub(stop_grace);
        // A pool that gives leases back on a full disk waits for room, perhaps for ever.
        if tokio::time::timeout(grace, self.0.tasks.all_ended())
            .await
            .is_err()
        {
            tracing::warn!("something still waits for the store; it goes on at the next start");
        }
        if tokio::time::timeout(patience, self.0.attempts.all_ended())
            .await
            .is_err()
        {
            tracing::info!("the grace is nearly over: what still runs is asked to stop");
            self.0.halt.cancel();
            let rest = stop_grace + limits::WORK_HINT_LOST_MAX;
            if tokio::time::timeout(rest, self.0.attempts.all_ended())
                .await
                .is_err()
            {
                // Their leases stay in the in-flight file: the next start finds them.
                tracing::warn!("some attempts do not stop and are left to the next start");
            }
        }
        // A full disk takes no outcome: those items run again, uncharged.
        if tokio::time::timeout(limits::LAST_OUTCOMES_MAX, self.0.settler.finish())
            .await
            .is_err()
        {
            tracing::error!("some outcomes could not be recorded; their items run again");
        }
        tracing::debug!(at = clock::now().0, "drained");
    }
}
