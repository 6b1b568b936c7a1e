//! Marked items.
//!
//! An item under which the server died may be what killed it. So one marked item of the whole server
//! runs at a time, fewest marks first, beside unmarked ones; one whose next death would be its last
//! runs with nothing beside it, so that no innocent item shares its fate.

use std::cmp::Reverse;

use super::{Demand, Scheduler};
use crate::base::clock::Timestamp;
use crate::domain::ids::ItemKey;

/// A marked item; the one with the fewest marks comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Marked {
    pub(super) crashes: u32,
    pub(super) item: ItemKey,
}

impl Scheduler {
    /// Takes the queue's next marked item, if one is due and may run now.
    pub(super) fn take_marked(&mut self, demand: Demand<'_>, now: Timestamp) -> Option<ItemKey> {
        let rotation = self.queues.get_mut(demand.queue)?;
        while let Some(&Reverse((due, marked))) = rotation.marked_waiting.peek()
            && due <= now
        {
            rotation.marked_waiting.pop();
            rotation.marked.insert(marked);
        }
        loop {
            let stands_aside = |marked: &Marked| {
                let batch = self.batches.get(&marked.item.batch);
                batch.is_some_and(|batch| batch.stands_aside(now))
            };
            // Whoever waits to run alone is not overtaken, or nobody would ever run again; but who
            // stands aside waits for nothing.
            self.alone
                .take_if(|alone| rotation.marked.contains(alone) && stands_aside(alone));
            let alone = self.alone.filter(|alone| rotation.marked.contains(alone));
            let mut ready = rotation
                .marked
                .iter()
                .filter(|marked| !stands_aside(marked));
            let next = alone.or_else(|| ready.next().copied())?;
            let batch = self.batches.get(&next.item.batch);
            let Some(batch) = batch.filter(|batch| batch.may_run(next.item.index)) else {
                rotation.marked.remove(&next);
                self.alone.take_if(|alone| *alone == next);
                continue;
            };
            let own = batch
                .pasts
                .get(&next.item.index)
                .and_then(|past| past.crashes_max);
            let most = own
                .or(batch.head.options.retry.max_crashes)
                .unwrap_or(demand.crashes_max);
            // One at its limit is granted only to be recorded; it needs no precaution.
            if next.crashes < most {
                let another_alone = self.alone.is_some_and(|alone| alone != next);
                let last_chance = next.crashes + 1 >= most;
                if last_chance && !another_alone {
                    self.alone = Some(next);
                }
                if another_alone
                    || self.marked_running.is_some()
                    || (last_chance && self.leases > 0)
                {
                    self.held_back = true;
                    return None;
                }
                self.marked_running = Some(next.item);
            }
            rotation.marked.remove(&next);
            return Some(next.item);
        }
    }
}
