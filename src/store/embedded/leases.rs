//! The verbs of whoever computes: leases, and the trace they leave.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::rows::StoredItem;
use super::scheduler::{Demand, Grant};
use super::{Store, rows};
use crate::base::clock::{self, Timestamp};
use crate::base::{entropy, limits, tasks};
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::BatchHead;
use crate::domain::ids::{ItemKey, LeaseToken, QueueName};
use crate::store::{Charge, Damaged, Lease, LeaseEnd, Leased, Settlement, StoreError};

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
        let (mut leases, mut rounds) = (Vec::new(), 0);
        let next_due = loop {
            let demand = Demand {
                queue,
                want: want - leases.len(),
                crashes_max,
            };
            let (granted, grants, next_due) = {
                let scheduler = &shared.scheduler;
                let mut scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
                // Now, not before the lock: nothing begins before it was accepted.
                let granted = clock::now();
                let grants = scheduler.grant(demand, granted, entropy::nonce);
                (granted, grants, scheduler.next_due(queue))
            };
            if grants.is_empty() {
                break next_due;
            }
            let specs = match self.read_specs(&grants).await {
                Ok(specs) => specs,
                Err(error) => {
                    let grants = grants.into_iter().map(|grant| {
                        let end = given_back(
                            "the input could not be read",
                            limits::UNREAD_WAIT,
                            Charge::Nothing,
                        );
                        unstarted(grant.token, grant.head, grant.past.spent, end)
                    });
                    self.give_back(grants.collect()).await;
                    if leases.is_empty() {
                        return Err(error);
                    }
                    break None;
                }
            };
            let stale = sort_out(grants, granted, specs, &mut leases);
            if stale.is_empty() {
                break next_due;
            }
            // They take nobody's place: others are looked for instead. What was granted beside them
            // does not wait for more of them, and a drain not for a million.
            let settled = self.settle(stale).await;
            rounds += 1;
            if !leases.is_empty() || rounds == limits::STALE_ROUNDS_MAX {
                break Some(clock::now());
            }
            settled?;
        };
        let leases = self.leave_traces(leases).await?;
        Ok(Leased { leases, next_due })
    }

    /// Notified when a queue has work.
    pub fn work_hint(&self, queue: &QueueName) -> Arc<Notify> {
        self.0.shared.hints.queue(queue)
    }

    /// Notes which leases begin. Those of items that run at most once begin only once that is certain
    /// to outlive a power cut: one sync for all of them.
    async fn leave_traces(&self, leases: Vec<Lease>) -> Result<Vec<Lease>, StoreError> {
        let shared = &self.0.shared;
        if leases.is_empty() {
            return Ok(leases);
        }
        let begun = leases.iter().map(|lease| (lease.token, lease.granted));
        let file = shared.trace(|in_flight| in_flight.begin(begun));
        let once = |lease: &Lease| lease.head.options.at_most_once;
        let written = file.is_some();
        let synced = match file {
            Some(file) if leases.iter().any(once) => shared.traced(&synced(file).await),
            _ => written,
        };
        if shared.fatal.is_cancelled() {
            // Nothing starts that leaves no trace.
            return Err(StoreError::Closed);
        }
        if synced {
            return Ok(leases);
        }
        let (untraced, leases): (Vec<_>, _) = leases.into_iter().partition(once);
        if !untraced.is_empty() {
            // What is on the disk must not be taken for an attempt that began.
            let charge = if written {
                Charge::Unbegun
            } else {
                let items = untraced.iter().map(|lease| lease.token.item);
                shared.trace(|in_flight| in_flight.end(items));
                Charge::Nothing
            };
            let untraced = untraced.into_iter().map(|lease| {
                let end = given_back("the disk is full", limits::UNTRACED_WAIT, charge);
                unstarted(lease.token, lease.head, lease.spent, end)
            });
            self.give_back(untraced.collect()).await;
        }
        Ok(leases)
    }

    /// Gives leases back that never started. A cancel that came meanwhile counts.
    async fn give_back(&self, unstarted: Vec<Settlement>) {
        if let Err(error) = self.settle(unstarted).await {
            tracing::error!(%error, "leases could not be given back; their items wait for a restart");
        }
    }

    async fn read_specs(
        &self,
        grants: &[Grant],
    ) -> Result<HashMap<ItemKey, Result<StoredItem, Damaged>>, StoreError> {
        let mut keys: Vec<_> = grants.iter().map(|grant| grant.token.item).collect();
        keys.sort_unstable();
        self.0
            .inputs
            .run(move |db, _| {
                let mut specs = HashMap::with_capacity(keys.len());
                for batch in keys.chunk_by(|left, right| left.batch == right.batch) {
                    let no = batch[0].batch;
                    let indexes: Vec<_> = batch.iter().map(|key| key.index).collect();
                    for (index, spec) in rows::stored_items(db, no, &indexes)? {
                        specs.insert(ItemKey { batch: no, index }, spec);
                    }
                }
                Ok(specs)
            })
            .await
    }
}

/// Makes leases of what was granted; answers the ends of items that are not worth an attempt any more.
fn sort_out(
    grants: Vec<Grant>,
    granted: Timestamp,
    mut specs: HashMap<ItemKey, Result<StoredItem, Damaged>>,
    leases: &mut Vec<Lease>,
) -> Vec<Settlement> {
    let now = clock::now();
    let mut stale = Vec::new();
    for grant in grants {
        let item = specs.remove(&grant.token.item).unwrap_or(Err(Damaged));
        let origin = item.as_ref().ok().and_then(|item| item.origin);
        let spec = item.map(|item| item.spec);
        if let Ok(spec) = &spec
            && let Some(late) = spec.overdue(grant.past.began, now)
        {
            let end = LeaseEnd::Finish(late.ending("its time was over before it ran"));
            let settlement = unstarted(grant.token, grant.head, grant.past.spent, end);
            let id = spec.id.clone();
            stale.push(Settlement { id, ..settlement });
            continue;
        }
        leases.push(Lease {
            spec,
            origin,
            token: grant.token,
            head: grant.head,
            spent: grant.past.spent,
            releases: grant.past.releases,
            began: grant.past.began,
            crashes: grant.past.crashes,
            ready_since: grant.ready_since,
            granted,
            stop: grant.stop,
        });
    }
    stale
}

/// The end of a lease that no handler has seen.
fn unstarted(token: LeaseToken, head: Arc<BatchHead>, spent: u32, end: LeaseEnd) -> Settlement {
    Settlement {
        token,
        head,
        id: None,
        end,
        finish_by: None,
        spent,
        worker: "".into(),
        queued: Duration::ZERO,
        started: clock::now(),
        ran: Duration::ZERO,
    }
}

fn given_back(why: &str, wait: Duration, charge: Charge) -> LeaseEnd {
    LeaseEnd::Release {
        due: clock::now().plus(wait),
        error: ItemError::of(Reason::INTERRUPTED, why),
        charge,
    }
}

/// Syncs a file on a thread of its own: a slow disk holds up nobody but who waits for this.
async fn synced(file: Arc<File>) -> io::Result<()> {
    let (answer, answered) = oneshot::channel();
    tasks::thread("sooner-sync", move || {
        // Whoever asked may have gone.
        drop(answer.send(file.sync_data()));
    });
    let synced = answered.await;
    synced.unwrap_or_else(|_| Err(io::Error::other("the syncing thread died")))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::settings::BatchOptions;
    use crate::store::conformance::{items, new_batch, open};
    use crate::store::embedded::in_flight::InFlight;
    use crate::store::item_ends::until;
    use crate::store::{Content, Created};

    #[tokio::test]
    async fn on_a_full_disk_what_runs_at_most_once_waits_and_uses_up_no_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let mut batches = Vec::new();
        for (id, at_most_once) in [("once", true), ("often", false)] {
            let mut new = new_batch(Some(id), None, Content::Whole(items(1)));
            new.options = BatchOptions {
                at_most_once,
                ..BatchOptions::default()
            };
            match store.create_batch(new).await.unwrap() {
                Created::New(batch) => batches.push(batch.head.no),
                Created::Existing(batch) => panic!("{batch:?} was there"),
            }
        }
        let full = InFlight::create(Path::new("/dev/full")).unwrap();
        let shared = &store.0.shared;
        let put = |file| std::mem::replace(&mut *shared.in_flight.lock().unwrap(), file);
        let real = put(full);
        let lease = async || store.lease(&QueueName::default(), 2, 3).await.unwrap();
        let leased = lease().await.leases;
        let all: Vec<_> = leased.iter().map(|it| it.token.item.batch).collect();
        assert_eq!(all, batches[1..], "what may run twice runs");
        let view = store.item(batches[0], 0, false).await.unwrap();
        assert_eq!((view.past, view.running), (Vec::new(), None));
        let due = view.next_due.expect("it waits");

        drop(put(real));
        until(due).await;
        let leased = lease().await.leases;
        assert_eq!(leased[0].token.attempt, 1);
        store.close();
    }
}
