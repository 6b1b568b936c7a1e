//! Why a batch that is followed stands still: it is paused, or its queue is, or nobody serves that.

use std::time::Duration;

use super::connect::Clients;
use super::output::preview;
use crate::wire;

/// After how much silence it is asked why nothing comes: soon enough for whoever looks on, rarely enough
/// for a batch of long items.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Characters of somebody's reason that are told.
const WHY_CHARS_MAX: usize = 200;

/// What was told last of a batch that stands still. Each standstill is told once.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    told: Option<String>,
}

impl Standstill {
    /// Asks how the batch stands. Answers what is to be said about it, if anything is.
    pub(super) async fn look(&mut self, clients: &Clients, id: &str, uid: &str) -> Option<String> {
        let request = wire::GetBatchRequest {
            batch_id: id.to_owned(),
            wait: None,
        };
        // Where that fails, the stream will tell it.
        let answer = clients.batches.clone().get_batch(request).await.ok()?;
        let batch = answer.into_inner().batch?;
        if batch.batch_uid != uid {
            return None;
        }
        self.look_at(clients, &batch).await
    }

    /// The same of a batch that was just asked for.
    pub(super) async fn look_at(
        &mut self,
        clients: &Clients,
        batch: &wire::Batch,
    ) -> Option<String> {
        let flags = &clients.flags;
        let why = if batch.paused {
            Some(
                paused("batch", &batch.batch_id, &batch.pause_reason)
                    + &go_on("", &batch.batch_id, flags),
            )
        } else if is_idle(batch.counts.as_ref()) {
            held_back(clients, &batch.queue).await
        } else {
            None
        };
        self.news(why)
    }

    /// Takes note of why it stands still, if it does. Answers that if it was not told yet.
    pub(super) fn news(&mut self, why: Option<String>) -> Option<String> {
        if self.told == why {
            return None;
        }
        self.told.clone_from(&why);
        why
    }

    /// It goes on.
    pub(super) fn is_over(&mut self) {
        self.told = None;
    }
}

/// Whether items wait and none runs.
pub(super) fn is_idle(counts: Option<&wire::Counts>) -> bool {
    counts.is_some_and(|counts| counts.running == 0 && counts.pending > 0)
}

/// Why nothing of a queue starts.
async fn held_back(clients: &Clients, name: &str) -> Option<String> {
    let request = wire::ListQueuesRequest {};
    let answer = clients.admin.clone().list_queues(request).await.ok()?;
    let mut queues = answer.into_inner().queues.into_iter();
    let queue = queues.find(|queue| queue.name == name)?;
    if queue.handler.is_empty() {
        return Some(format!("nobody serves the queue {name}; its items wait"));
    }
    let told =
        || paused("queue", name, &queue.pause_reason) + &go_on("queue ", name, &clients.flags);
    queue.paused.then(told)
}

fn paused(what: &str, name: &str, why: &str) -> String {
    match &*preview(why, WHY_CHARS_MAX) {
        "" => format!("{what} {name} is paused"),
        why => format!("{what} {name} is paused: {why}"),
    }
}

fn go_on(what: &str, name: &str, flags: &str) -> String {
    format!("; to go on: sooner {what}resume {name}{flags}")
}
