//! The verbs of whoever computes: leases, and the trace they leave.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::scheduler::{Demand, Grant};
use super::{Store, rows};
use crate::base::{clock, entropy};
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::ids::{ItemKey, QueueName};
use crate::domain::item::ItemSpec;
use crate::store::{Damaged, Lease, LeaseEnd, Leased, Settlement, StoreError};

impl Store {
    /// Leases up to `want` due items of a queue, taking turns between its batches. Answers at once.
    ///
    /// Not cancel safe: leases whose future is dropped are held by nobody until a restart.
    /// `crashes_max` is how often the server may die under an item that says nothing of its own.
    pub async fn lease(
        &self,
        queue: &QueueName,
        want: usize,
        crashes_max: u32,
    ) -> Result<Leased, StoreError> {
        let shared = &self.0.shared;
        if shared.closing.load(Ordering::Relaxed) || shared.fatal.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let (grants, next_due) = {
            let mut scheduler = shared
                .scheduler
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let demand = Demand {
                queue,
                want,
                crashes_max,
            };
            let grants = scheduler.grant(demand, clock::now(), entropy::nonce);
            (grants, scheduler.next_due(queue))
        };
        if grants.is_empty() {
            return Ok(Leased {
                leases: Vec::new(),
                next_due,
            });
        }
        shared.trace(|in_flight| in_flight.begin(grants.iter().map(|grant| grant.token)));
        if shared.fatal.is_cancelled() {
            // Nothing starts that leaves no trace.
            return Err(StoreError::Closed);
        }
        let mut specs = match self.read_specs(&grants).await {
            Ok(specs) => specs,
            Err(error) => {
                self.give_back(grants).await;
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

    /// Notified when a queue has work.
    pub fn work_hint(&self, queue: &QueueName) -> Arc<Notify> {
        self.0.shared.hints.queue(queue)
    }

    /// Gives leases back whose inputs cannot be read now. A cancel that came meanwhile counts.
    async fn give_back(&self, grants: Vec<Grant>) {
        let now = clock::now();
        let settlements = grants.into_iter().map(|grant| Settlement {
            token: grant.token,
            head: grant.head,
            id: None,
            end: LeaseEnd::Release {
                due: now,
                error: ItemError::of(Reason::INTERRUPTED, "the input could not be read"),
                charged: false,
            },
            spent: grant.past.spent,
            worker: "".into(),
            queued: Duration::ZERO,
            started: now,
            ran: Duration::ZERO,
        });
        if let Err(error) = self.settle(settlements.collect()).await {
            tracing::error!(%error, "leases could not be given back; their items wait for a restart");
        }
    }

    async fn read_specs(
        &self,
        grants: &[Grant],
    ) -> Result<HashMap<ItemKey, Result<ItemSpec, Damaged>>, StoreError> {
        let mut keys: Vec<_> = grants.iter().map(|grant| grant.token.item).collect();
        keys.sort_unstable();
        self.0
            .inputs
            .run(move |db, _| {
                let mut specs = HashMap::with_capacity(keys.len());
                for batch in keys.chunk_by(|left, right| left.batch == right.batch) {
                    let no = batch[0].batch;
                    let indexes: Vec<_> = batch.iter().map(|key| key.index).collect();
                    for (index, spec) in rows::items(db, no, &indexes)? {
                        specs.insert(ItemKey { batch: no, index }, spec);
                    }
                }
                Ok(specs)
            })
            .await
    }
}
