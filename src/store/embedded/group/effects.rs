//! What a group changes once it is durable, and not before.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use crate::base::clock::Timestamp;
use crate::domain::ids::{BatchId, BatchNo, ItemKey, QueueName};
use crate::domain::pause::Pause;
use crate::domain::tally::Tally;
use crate::store::embedded::chores::Left;
use crate::store::embedded::scheduler::{LiveBatch, Loads, Past, Scheduler};

/// How much was removed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Removed {
    /// Batches taken off the books because somebody asked for it.
    pub(crate) deleted: u64,
    /// The same because their retention was over.
    pub(crate) expired: u64,
    /// Results gone from the file.
    pub(crate) records: u64,
}

/// What happens once the group is durable.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Batches that are new.
    pub(crate) admitted: Vec<LiveBatch>,
    /// What they add to the work that is not over.
    pub(crate) loads: Loads,
    /// Batches that have more items.
    pub(crate) extended: Vec<BatchNo>,
    /// Batches that get no more items.
    pub(crate) sealed: Vec<BatchNo>,
    /// Batches that go on.
    pub(crate) unpaused: Vec<BatchNo>,
    /// Queues that are paused, and why, or that go on; in order.
    pub(crate) queue_pauses: Vec<(QueueName, Option<Box<str>>)>,
    /// Items that get another turn.
    pub(crate) resumed: Vec<(ItemKey, Past, Timestamp)>,
    /// Items that got their result, by state.
    pub(crate) tally: Tally,
    /// Items that became dead letters, by queue.
    pub(crate) dead: BTreeMap<QueueName, u64>,
    /// Dead letters that are run again.
    pub(crate) redriven: u64,
    /// Bytes of their items.
    pub(crate) copied_bytes: usize,
    /// Dead letters that were taken off the list.
    pub(crate) purged: u64,
    /// Redrives of which more is to be copied.
    pub(crate) copying: Vec<(BatchNo, Left)>,
    /// Items whose lease or life is over.
    pub(crate) ended: Vec<ItemKey>,
    /// Whom to ask to stop.
    pub(crate) stops: Vec<CancellationToken>,
    /// Batches that end early, whose remaining items are to be recorded.
    pub(crate) ending: Vec<BatchNo>,
    /// What was removed.
    pub(crate) removed: Removed,
    /// Batches that their failure policy paused.
    pub(crate) policy_paused: Vec<(BatchId, Pause)>,
    /// Batches that are over.
    pub(crate) retired: Vec<BatchNo>,
    /// Batches about which something changed.
    pub(crate) changed: Vec<BatchNo>,
}

/// What else follows from the changes.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Queues in which something may be due now, each once.
    pub(crate) queues: Vec<QueueName>,
    /// Items accepted.
    pub(crate) accepted: u64,
    /// Whether grants were refused because of a marked item, and may be possible now.
    pub(crate) held_back: bool,
}

impl Effects {
    /// Lets the scheduler know what is durable.
    pub(crate) fn apply(&mut self, scheduler: &mut Scheduler, now: Timestamp) -> Applied {
        let mut applied = Applied::default();
        let queues = &mut applied.queues;
        for batch in self.admitted.drain(..) {
            queues.push(batch.head.queue.clone());
            applied.accepted += u64::from(batch.total);
            scheduler.admit(batch, now);
        }
        for &no in &self.extended {
            if let Some(batch) = scheduler.batch_mut(no) {
                applied.accepted += u64::from(batch.staged_total - batch.total);
                batch.extend(now);
                queues.push(batch.head.queue.clone());
            }
            scheduler.wake(no, now);
        }
        for &no in &self.unpaused {
            queues.extend(queue_of(scheduler, no));
            scheduler.unpause(no, now);
        }
        for (queue, pause) in self.queue_pauses.drain(..) {
            if let Some(why) = pause {
                scheduler.pause_queue(&queue, &why);
            } else {
                scheduler.resume_queue(&queue);
                queues.push(queue);
            }
        }
        for &no in &self.sealed {
            if let Some(batch) = scheduler.batch_mut(no) {
                batch.ids = None;
            }
        }
        for &item in &self.ended {
            if scheduler.ended(item, now) {
                queues.extend(queue_of(scheduler, item.batch));
            }
            if let Some(batch) = scheduler.batch_mut(item.batch)
                && batch.is_terminal(item.index)
            {
                batch.forget(item.index);
            }
        }
        for &(item, past, due) in &self.resumed {
            scheduler.resume(item, past, due);
            queues.extend(queue_of(scheduler, item.batch));
        }
        for &no in &self.retired {
            scheduler.retire(no);
        }
        queues.sort_unstable();
        queues.dedup();
        applied.held_back = scheduler.take_held_back();
        applied
    }
}

fn queue_of(scheduler: &Scheduler, no: BatchNo) -> Option<QueueName> {
    scheduler.batch(no).map(|batch| batch.head.queue.clone())
}
