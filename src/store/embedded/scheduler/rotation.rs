//! One queue: which of its batches wait for a turn, and which for their time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::LiveBatch;
use super::marked::Marked;
use super::shares::Shares;
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::ids::{BatchNo, ItemKey};
use crate::domain::weights::Weights;

/// One queue's batches.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Those with due items.
    pub(super) shares: Shares,
    /// Those that look again at a time. An entry that is not its batch's alarm is stale.
    sleeping: BinaryHeap<Reverse<(Timestamp, BatchNo)>>,
    pub(super) marked: BTreeSet<Marked>,
    pub(super) marked_waiting: BinaryHeap<Reverse<(Timestamp, Marked)>>,
}

impl Rotation {
    /// Sits a batch down that has none, if it has a due item and does not stand aside. Else it looks
    /// again when its time has come; a resume and the end of one of its leases bring it back too.
    pub(super) fn line_up(&mut self, batch: &mut LiveBatch, now: Timestamp) {
        if batch.seat.is_some() || !batch.is_active() {
            return;
        }
        let came_due = batch.alarm.take_if(|at| *at <= now);
        let since = came_due.unwrap_or(now).max(batch.free_since);
        let begins = batch.head.options.not_before.filter(|&at| at > now);
        let looks_again = if begins.is_some() {
            begins
        } else if batch.overdue(now).is_some() {
            // By then it has ended, unless the clock was set back.
            Some(now.plus(limits::OVERDUE_LOOK))
        } else if batch.stands_aside(now) {
            None
        } else if batch.first_due(now).is_some() {
            let head = &batch.head;
            let priority = head.options.priority;
            let place = self.shares.join(&head.tenant, head.no, priority, since);
            batch.seat = Some(place);
            None
        } else {
            batch.next_due()
        };
        if let Some(at) = looks_again {
            self.sleep(batch, at);
        }
    }

    /// A batch's item has ended: it may have a due item no longer, or have room for one again.
    pub(super) fn look_again(&mut self, batch: &mut LiveBatch, now: Timestamp) {
        if batch.seat.is_some() && batch.first_due(now).is_none() {
            self.leave(batch);
        }
        if std::mem::take(&mut batch.was_full) {
            batch.free_since = now;
        }
        self.line_up(batch, now);
    }

    /// Lets a batch look again at a time, unless it does so before.
    pub(super) fn sleep(&mut self, batch: &mut LiveBatch, until: Timestamp) {
        if batch.alarm.is_none_or(|at| until < at) {
            batch.alarm = Some(until);
            self.sleeping.push(Reverse((until, batch.head.no)));
        }
    }

    /// A batch gives its seat up without a turn.
    pub(super) fn leave(&mut self, batch: &mut LiveBatch) {
        if let Some(place) = batch.seat.take() {
            self.shares.leave(&batch.head.tenant, place);
        }
    }

    /// When the first of those that wait for their time looks again.
    pub(super) fn next_alarm(&self) -> Option<Timestamp> {
        self.sleeping.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the item whose turn it is.
    pub(super) fn take_turn(
        &mut self,
        batches: &mut HashMap<BatchNo, Box<LiveBatch>>,
        weights: &Weights,
        now: Timestamp,
    ) -> Option<ItemKey> {
        self.rouse(batches, now);
        while let Some(no) = self.shares.first(now) {
            let batch = batches.get_mut(&no).expect("who is over has left");
            let place = batch.seat.take().expect("who has a turn has a seat");
            let may_run = batch.is_active() && !batch.stands_aside(now);
            let due = may_run.then(|| batch.take_due(now)).flatten();
            let tenant = &batch.head.tenant;
            let Some(index) = due else {
                self.shares.leave(tenant, place);
                self.line_up(batch, now);
                continue;
            };
            self.shares.serve(tenant, place, weights.of(tenant));
            batch.free_since = now;
            return Some(ItemKey { batch: no, index });
        }
        None
    }

    /// Sits those down whose time has come.
    fn rouse(&mut self, batches: &mut HashMap<BatchNo, Box<LiveBatch>>, now: Timestamp) {
        while let Some(&Reverse((at, no))) = self.sleeping.peek()
            && at <= now
        {
            self.sleeping.pop();
            if let Some(batch) = batches.get_mut(&no)
                && batch.alarm == Some(at)
            {
                self.line_up(batch, now);
            }
        }
    }
}
