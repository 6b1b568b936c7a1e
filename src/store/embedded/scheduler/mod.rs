//! Which item runs next. Pure: no I/O, no clock, no chance of its own; the same calls give the same grants.
//!
//! **Fairness.** The slots of a queue go round its tenants, a tenant's turns round its batches, and a
//! batch's turns to its items in order, retries first. Among tenants, batches that have a due item
//! and do not stand aside, as long as that is so:
//!
//! - While a tenant X waits for a turn, another tenant Y gets at most ⌈weight of Y / weight of X⌉.
//! - While a batch waits for a turn, another one of its tenant of the same priority gets at most one.
//!   One of a lower priority gets at most one, and only once it is aged: once it has waited for
//!   [`TURN_AGED`](crate::base::limits::TURN_AGED). One of a higher priority gets as many as it can
//!   use, and at most one from when the waiting one is aged.
//!
//! So a batch gets its next grant within B x (1 + the sum over the other tenants of those ⌈quotients⌉)
//! grants of its queue, where B batches of its tenant are of its priority; at equal weights that is B
//! x tenants. To which come turns of higher priorities and aged ones of its tenant, and marked items.
//! A batch's size appears nowhere. Nothing is reserved: a slot never stays empty while anything of the
//! queue may run, and who comes back to a queue has earned nothing while it was away.
//!
//! Of a queue that is paused nothing is granted. A batch stands aside while it is paused, before its
//! time, or while as many of its items run as it wants at once.
//!
//! Items under which the server died are marked and have rules of their own: see `marked.rs`.

mod bitmap;
#[cfg(test)]
mod bound;
mod live_batch;
mod load;
mod marked;
mod rotation;
mod shares;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub(crate) use self::live_batch::{LiveBatch, LiveLease, Past};
pub(crate) use self::load::{Load, Loads, Room};
use self::marked::Marked;
use self::rotation::Rotation;
use crate::base::clock::Timestamp;
use crate::domain::attempt::UnderWay;
use crate::domain::batch::{Batch, BatchHead, BatchState, EndCause};
use crate::domain::ids::{BatchNo, ItemKey, LeaseToken, QueueName, Sequence};
use crate::domain::item::TerminalState;
use crate::domain::weights::Weights;

/// The batches that are not over and the leases on their items.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// Boxed: they are large, and a table of them that grows would hold everybody up.
    batches: HashMap<BatchNo, Box<LiveBatch>>,
    queues: HashMap<QueueName, Rotation>,
    weights: Weights,
    leases: usize,
    loads: Loads,
    /// When the time of batches is over that have a limit.
    time_limits: BTreeSet<(Timestamp, BatchNo)>,
    /// The marked item that runs, or waits to run, with nothing beside it.
    alone: Option<Marked>,
    /// Queues of which nothing is granted, and why.
    paused: HashMap<QueueName, Box<str>>,
    /// The marked item that runs.
    marked_running: Option<ItemKey>,
    /// Whether a grant was refused because of a marked item.
    held_back: bool,
}

/// What a pool asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand<'a> {
    pub(crate) queue: &'a QueueName,
    /// Items at most.
    pub(crate) want: usize,
    /// Deaths of the server that an item may cause which says nothing of its own.
    pub(crate) crashes_max: u32,
}

/// A lease given out.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) token: LeaseToken,
    pub(crate) head: Arc<BatchHead>,
    pub(crate) past: Past,
    pub(crate) ready_since: Timestamp,
    pub(crate) stop: CancellationToken,
}

/// What a lease's holder may still do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything.
    Held,
    /// Only report a success.
    Cancelled,
    /// Nothing: the item is someone else's, or pending.
    Lost,
    /// Nothing: the item has its result.
    Terminal,
    /// Nothing: the batch is over or was never there.
    Gone,
}

/// How to take one staged change back.
#[derive(Debug)]
pub(crate) enum Undo {
    /// An item got its result.
    End { item: ItemKey, state: TerminalState },
    /// A lease was ended.
    Lease { item: ItemKey, lease: LiveLease },
    /// A lease's item was cancelled.
    Mark { item: ItemKey },
}

impl Scheduler {
    /// Says how tenants share queues from now on.
    pub(crate) fn weigh(&mut self, weights: Weights) {
        self.weights = weights;
    }

    /// Takes a batch in. Its items are due at once, but those with a past, which [`Scheduler::resume`] places.
    pub(crate) fn admit(&mut self, batch: LiveBatch, now: Timestamp) {
        let no = batch.head.no;
        let load = batch.load();
        self.loads.change(&batch.head.tenant, Load::default(), load);
        if let Some((at, _)) = batch.ends_at() {
            self.time_limits.insert((at, no));
        }
        self.batches.insert(no, Box::new(batch));
        self.wake(no, now);
    }

    /// The batch, if it is not over.
    pub(crate) fn batch(&self, no: BatchNo) -> Option<&LiveBatch> {
        self.batches.get(&no).map(AsRef::as_ref)
    }

    /// The batch, if it is not over.
    pub(crate) fn batch_mut(&mut self, no: BatchNo) -> Option<&mut LiveBatch> {
        self.batches.get_mut(&no).map(AsMut::as_mut)
    }

    /// The batches that take more items.
    pub(crate) fn open_uploads(&self) -> Vec<Batch> {
        let open = self.batches.values();
        open.filter(|batch| batch.state == BatchState::Open && batch.head.upload.is_some())
            .map(|batch| batch.snapshot())
            .collect()
    }

    /// Lets a batch go that is over.
    pub(crate) fn retire(&mut self, no: BatchNo) {
        let Some(mut batch) = self.batches.remove(&no) else {
            return;
        };
        let load = batch.load();
        self.loads.change(&batch.head.tenant, load, Load::default());
        if let Some((at, _)) = batch.ends_at() {
            self.time_limits.remove(&(at, no));
        }
        // In a queue that nobody serves nobody else would take its seat away.
        if let Some(rotation) = self.queues.get_mut(&batch.head.queue) {
            rotation.leave(&mut batch);
        }
    }

    /// The numbers of the batches that are not over.
    pub(crate) fn numbers(&self) -> Vec<BatchNo> {
        self.batches.keys().copied().collect()
    }

    /// The queues that a batch was in since the start.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &QueueName> {
        self.queues.keys()
    }

    /// The active batches whose time is over, and why.
    pub(crate) fn overdue(&self, now: Timestamp) -> Vec<(BatchNo, EndCause)> {
        let over = self.time_limits.range(..=(now, BatchNo(u32::MAX)));
        over.filter_map(|&(_, no)| Some((no, self.batches.get(&no)?.overdue(now)?)))
            .collect()
    }

    /// Puts a batch in line that may have a due item now, unless it is there.
    pub(crate) fn wake(&mut self, no: BatchNo, now: Timestamp) {
        if let Some(batch) = self.batches.get_mut(&no) {
            let rotation = self.queues.entry(batch.head.queue.clone()).or_default();
            rotation.line_up(batch, now);
        }
    }

    /// Puts a batch in line that was paused: while it was, it did not wait.
    pub(crate) fn unpause(&mut self, no: BatchNo, now: Timestamp) {
        if let Some(batch) = self.batches.get_mut(&no)
            && let Some(rotation) = self.queues.get_mut(&batch.head.queue)
        {
            rotation.leave(batch);
            batch.free_since = now;
            rotation.line_up(batch, now);
        }
    }

    /// Gives an item that was leased, now or before a restart, its next turn at `due`.
    pub(crate) fn resume(&mut self, item: ItemKey, past: Past, due: Timestamp) {
        let Some(batch) = self.batches.get_mut(&item.batch) else {
            return;
        };
        batch.pasts.insert(item.index, Past { since: due, ..past });
        let rotation = self.queues.entry(batch.head.queue.clone()).or_default();
        if past.crashes > 0 {
            let marked = Marked {
                crashes: past.crashes,
                item,
            };
            rotation.marked_waiting.push(Reverse((due, marked)));
            return;
        }
        batch.wait(item.index, due);
        if batch.seat.is_none() {
            rotation.sleep(batch, due);
        }
    }

    /// Grants what a pool asks for, as far as it is due, taking turns between the queue's batches.
    pub(crate) fn grant(
        &mut self,
        demand: Demand<'_>,
        now: Timestamp,
        mut nonce: impl FnMut() -> u128,
    ) -> Vec<Grant> {
        let mut grants = Vec::new();
        if self.paused.contains_key(demand.queue) {
            return grants;
        }
        while grants.len() < demand.want {
            let marked = self.take_marked(demand, now);
            let Some(item) = marked.or_else(|| self.take_turn(demand.queue, now)) else {
                break;
            };
            let batch = self
                .batches
                .get_mut(&item.batch)
                .expect("a batch in line is not over");
            let past = batch.pasts.get(&item.index).copied().unwrap_or_default();
            let token = LeaseToken {
                item,
                attempt: past.attempts + 1,
                nonce: nonce(),
            };
            let stop = batch.stop.child_token();
            let lease = LiveLease {
                attempt: UnderWay {
                    number: token.attempt,
                    started: now,
                },
                nonce: token.nonce,
                stop: stop.clone(),
                cancelled: false,
            };
            let ready_since = batch.ready_since(item.index);
            batch.leases.insert(item.index, lease);
            batch.started.get_or_insert(now);
            self.leases += 1;
            if let Some(rotation) = self.queues.get_mut(demand.queue) {
                rotation.line_up(batch, now);
            }
            grants.push(Grant {
                token,
                head: Arc::clone(&batch.head),
                past,
                ready_since,
                stop,
            });
        }
        grants
    }

    /// When a waiting item of `queue` is due next, if one waits.
    pub(crate) fn next_due(&self, queue: &QueueName) -> Option<Timestamp> {
        if self.alone.is_some() || self.paused.contains_key(queue) {
            // Nothing starts before that one has ended, or the queue goes on, and then whom it
            // concerns is told.
            return None;
        }
        let rotation = self.queues.get(queue)?;
        let unmarked = rotation.next_alarm();
        let marked = rotation.marked_waiting.peek().map(|Reverse((due, _))| *due);
        [unmarked, marked].into_iter().flatten().min()
    }

    /// What the holder of `token` may do with it.
    pub(crate) fn standing(&self, token: LeaseToken) -> Standing {
        let Some(batch) = self.batches.get(&token.item.batch) else {
            return Standing::Gone;
        };
        if batch.is_terminal(token.item.index) {
            return Standing::Terminal;
        }
        match batch.leases.get(&token.item.index) {
            Some(lease) if lease.nonce != token.nonce => Standing::Lost,
            Some(lease) if lease.cancelled || !batch.is_active() => Standing::Cancelled,
            Some(_) => Standing::Held,
            None => Standing::Lost,
        }
    }

    /// Stages an item's result and the end of its lease, if it has one.
    ///
    /// # Panics
    /// If the batch is over or the item has its result: the caller has looked.
    pub(crate) fn end(
        &mut self,
        item: ItemKey,
        state: TerminalState,
        undo: &mut Vec<Undo>,
    ) -> Sequence {
        self.end_lease(item, undo);
        let batch = self
            .batches
            .get_mut(&item.batch)
            .expect("the caller has looked");
        assert!(
            !batch.is_terminal(item.index),
            "an item has at most one result"
        );
        undo.push(Undo::End { item, state });
        let before = batch.load();
        let sequence = batch.end(item.index, state);
        self.loads.change(&batch.head.tenant, before, batch.load());
        sequence
    }

    /// Stages the end of a lease without a result.
    pub(crate) fn end_lease(&mut self, item: ItemKey, undo: &mut Vec<Undo>) {
        let Some(batch) = self.batches.get_mut(&item.batch) else {
            return;
        };
        let was_full = batch.is_full();
        if let Some(lease) = batch.leases.remove(&item.index) {
            batch.was_full |= was_full;
            batch.ending.insert(item.index, lease.attempt);
            self.leases -= 1;
            undo.push(Undo::Lease { item, lease });
        }
    }

    /// Stages that only a success of a live lease counts any more; answers what asks its holder to stop.
    pub(crate) fn mark_cancelled(
        &mut self,
        item: ItemKey,
        undo: &mut Vec<Undo>,
    ) -> Option<CancellationToken> {
        let lease = self
            .batches
            .get_mut(&item.batch)?
            .leases
            .get_mut(&item.index)?;
        if !lease.cancelled {
            lease.cancelled = true;
            undo.push(Undo::Mark { item });
        }
        Some(lease.stop.clone())
    }

    /// Takes staged changes back, the newest first.
    pub(crate) fn undo(&mut self, staged: Vec<Undo>) {
        for change in staged.into_iter().rev() {
            match change {
                Undo::End { item, state } => {
                    if let Some(batch) = self.batches.get_mut(&item.batch) {
                        let before = batch.load();
                        batch.unend(item.index, state);
                        self.loads.change(&batch.head.tenant, before, batch.load());
                    }
                }
                Undo::Lease { item, lease } => {
                    if let Some(batch) = self.batches.get_mut(&item.batch) {
                        batch.ending.remove(&item.index);
                        batch.leases.insert(item.index, lease);
                        self.leases += 1;
                    }
                }
                Undo::Mark { item } => {
                    let batch = self.batches.get_mut(&item.batch);
                    if let Some(lease) = batch.and_then(|batch| batch.leases.get_mut(&item.index)) {
                        lease.cancelled = false;
                    }
                }
            }
        }
    }

    /// Lets go of what held others back while `item` ran; answers whether its batch may have stood
    /// aside because of it. Call it once its end is durable.
    pub(crate) fn ended(&mut self, item: ItemKey, now: Timestamp) -> bool {
        self.marked_running.take_if(|running| *running == item);
        self.alone.take_if(|alone| alone.item == item);
        let Some(batch) = self.batches.get_mut(&item.batch) else {
            return false;
        };
        batch.ending.remove(&item.index);
        if let Some(rotation) = self.queues.get_mut(&batch.head.queue) {
            rotation.look_again(batch, now);
        }
        batch.head.options.max_parallelism.is_some()
    }

    /// Whether grants were refused because of a marked item since this was last asked.
    pub(crate) fn take_held_back(&mut self) -> bool {
        std::mem::take(&mut self.held_back)
    }

    fn take_turn(&mut self, queue: &QueueName, now: Timestamp) -> Option<ItemKey> {
        if self.alone.is_some() {
            self.held_back = true;
            return None;
        }
        let rotation = self.queues.get_mut(queue)?;
        rotation.take_turn(&mut self.batches, &self.weights, now)
    }
}
