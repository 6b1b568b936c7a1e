//! The local pool of one queue: it leases as many items as it has free slots and runs them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::attempt::Executor;
use super::settler::{ItemLog, Settler, tell_start};
use super::slots::{Slots, Taken};
use super::{Handler, QueueSettings};
use crate::base::metrics::Metrics;
use crate::base::tasks::Tasks;
use crate::base::{clock, limits};
use crate::domain::ids::QueueName;
use crate::domain::retry::MAX_CRASHES_DEFAULT;
use crate::store::{Lease, Leased, Store, StoreError};

/// The pool of one queue.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) queue: QueueName,
    pub(crate) settings: QueueSettings,
    pub(crate) slots: Arc<Slots>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) store: Store,
    pub(crate) settler: Settler,
    /// Where attempts run: the handlers' threads.
    pub(crate) attempts: Tasks,
    pub(crate) draining: CancellationToken,
    pub(crate) halt: CancellationToken,
    pub(crate) input_bytes_max: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) item_log: ItemLog,
    pub(crate) metrics: Arc<Metrics>,
}

impl Pool {
    /// Leases and runs until the drain begins.
    pub(crate) async fn run(self) {
        let crashes_max = self
            .settings
            .retry
            .max_crashes
            .unwrap_or(MAX_CRASHES_DEFAULT);
        let work = self.store.work_hint(&self.queue);
        let queue_metrics = self.metrics.queue(self.queue.as_str());
        let executor = Arc::new(Executor {
            handler: Arc::clone(&self.handler),
            settings: self.settings.clone(),
            halt: self.halt.clone(),
            input_bytes_max: self.input_bytes_max,
            output_bytes_max: self.output_bytes_max,
            queue_metrics: queue_metrics.clone(),
            metrics: Arc::clone(&self.metrics),
        });
        loop {
            let taken = tokio::select! {
                biased;
                () = self.draining.cancelled() => return,
                taken = self.slots.take() => taken,
            };
            let free = match taken {
                Taken::Some(free) => free,
                Taken::Throttled(wait) => {
                    queue_metrics.throttled();
                    tokio::select! {
                        () = self.draining.cancelled() => return,
                        () = tokio::time::sleep(wait) => continue,
                    }
                }
            };
            let want = free.len();
            // Not inside the select: a lease call that is dropped would lose its leases.
            let next_due = match self.store.lease(&self.queue, want, crashes_max).await {
                Ok(Leased { leases, next_due }) => {
                    let all = leases.len() == want;
                    self.slots.not_started(want - leases.len());
                    self.start(&executor, leases.into_iter().zip(free).collect());
                    if all {
                        continue;
                    }
                    next_due
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::error!(queue = %self.queue, %error, "leasing failed; tried again");
                    self.slots.not_started(want);
                    None
                }
            };
            let idle = next_due.map_or(limits::WORK_HINT_LOST_MAX, |due| due.since(clock::now()));
            tokio::select! {
                () = self.draining.cancelled() => return,
                () = work.notified() => {}
                () = tokio::time::sleep(idle.clamp(Duration::from_millis(1), limits::WORK_HINT_LOST_MAX)) => {}
            }
        }
    }

    /// Starts an attempt for each lease.
    fn start(&self, executor: &Arc<Executor>, leases: Vec<(Lease, OwnedSemaphorePermit)>) {
        for (lease, _) in &leases {
            tell_start(self.item_log, lease);
        }
        let (executor, settler) = (Arc::clone(executor), self.settler.clone());
        let attempts = self.attempts.clone();
        // One task that starts them all: only it crosses over to the handlers' threads and wakes one.
        self.attempts.spawn(async move {
            for (lease, slot) in leases {
                let (executor, settler) = (Arc::clone(&executor), settler.clone());
                attempts.spawn(async move {
                    let slot = Arc::new(slot);
                    let settlement = executor.run(lease, &slot).await;
                    settler.settle(settlement).await;
                    drop(slot);
                });
            }
        });
    }
}
