//! What holds an item back, and the queues that are paused as a whole.

use super::Scheduler;
use crate::base::clock::Timestamp;
use crate::domain::ids::{ItemKey, QueueName};
use crate::store::waiting::Hold;

impl Scheduler {
    /// Grants nothing of a queue until it is resumed.
    pub(crate) fn pause_queue(&mut self, queue: &QueueName, why: &str) {
        self.paused.insert(queue.clone(), why.into());
        // Whoever waits in it to run alone holds nobody else up meanwhile.
        if let Some(rotation) = self.queues.get(queue) {
            let let_go = self
                .alone
                .take_if(|alone| rotation.marked.contains(alone))
                .is_some();
            self.held_back |= let_go;
        }
    }

    /// Grants what is due of a queue again.
    pub(crate) fn resume_queue(&mut self, queue: &QueueName) {
        self.paused.remove(queue);
    }

    /// Why a queue is paused, if it is.
    pub(crate) fn queue_pause(&self, queue: &QueueName) -> Option<&str> {
        self.paused.get(queue).map(AsRef::as_ref)
    }

    /// The queues that are paused, and why.
    pub(crate) fn paused_queues(&self) -> impl Iterator<Item = (&QueueName, &str)> {
        self.paused.iter().map(|(queue, why)| (queue, &**why))
    }

    /// What holds a pending item back; `None` if it is not pending as far as is durable.
    pub(crate) fn hold(&self, item: ItemKey, now: Timestamp) -> Option<Hold> {
        let ItemKey { batch, index } = item;
        let batch = self.batches.get(&batch)?;
        let is_pending = index < batch.total
            && !batch.is_terminal(index)
            && batch.running_attempt(index).is_none();
        if !is_pending {
            return None;
        }
        if !batch.is_active() || batch.overdue(now).is_some() {
            return Some(Hold::Ending);
        }
        if batch.is_withheld(index) {
            return Some(Hold::Unrecorded);
        }
        if let Some(why) = self.queue_pause(&batch.head.queue) {
            return Some(Hold::QueuePaused(why.into()));
        }
        if let Some(pause) = &batch.paused {
            return Some(Hold::BatchPaused(pause.clone()));
        }
        if let Some(begins) = batch.head.options.not_before.filter(|&at| at > now) {
            return Some(Hold::NotBefore(begins));
        }
        let past = batch.pasts.get(&index);
        if let Some(past) = past.filter(|past| past.since > now) {
            let (until, spent) = (past.since, past.spent);
            return Some(Hold::Backoff { until, spent });
        }
        if batch.stands_aside(now) {
            let running = batch.leases.len();
            return Some(Hold::Parallelism { running });
        }
        let is_marked = past.is_some_and(|past| past.crashes > 0);
        let another_alone = self.alone.is_some_and(|alone| alone.item != item);
        let waits_alone = self.alone.is_some() && self.leases > 0;
        if is_marked && (another_alone || waits_alone || self.marked_running.is_some()) {
            return Some(Hold::Marked);
        }
        if another_alone {
            return Some(Hold::HeldBack);
        }
        if past.is_none() && batch.is_clogged() {
            return Some(Hold::RetriesFirst);
        }
        let rotation = self.queues.get(&batch.head.queue);
        let in_line = rotation.map_or(0, |it| it.shares.in_line(&batch.head.tenant));
        Some(Hold::InLine {
            ahead: batch.ahead_at_most(index),
            others: in_line.saturating_sub(usize::from(batch.seat.is_some())),
        })
    }
}
