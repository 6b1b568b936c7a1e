//! How the queues stand, and pausing one as a whole.

use super::Engine;
use crate::domain::ids::QueueName;
use crate::domain::rate::Rate;
use crate::error::{Error, ErrorKind, Result};

/// How a queue stands.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDetails {
    /// Its name.
    pub name: QueueName,
    /// Why it is paused, if it is; empty if nobody said.
    pub paused: Option<Box<str>>,
    /// What computes its items, such as `exec`; `None` if nobody serves it.
    pub handler: Option<&'static str>,
    /// Attempts at once; 0 if nobody serves it.
    pub slots: usize,
    /// How many attempts may start per second, if that is limited.
    pub rate: Option<Rate>,
    /// Batches of it that are not over.
    pub batches: u64,
    /// Items that wait for an attempt.
    pub pending: u64,
    /// Items whose attempt runs.
    pub running: u64,
}

impl Engine {
    /// How the queues stand: those that are configured, and others that have batches or are paused.
    pub fn queues(&self) -> Vec<QueueDetails> {
        let mut loads = self.0.store.queue_loads();
        for name in self.0.options.queues.keys() {
            loads.entry(name.clone()).or_default();
        }
        let all = loads.into_iter().map(|(name, load)| {
            let settings = self.0.options.queues.get(&name);
            let served = settings.filter(|queue| queue.handler.is_some());
            QueueDetails {
                paused: load.paused,
                handler: served.and_then(|queue| Some(queue.handler.as_ref()?.kind())),
                slots: served.map_or(0, |queue| queue.slots),
                rate: served.and_then(|queue| queue.rate),
                batches: load.batches,
                pending: load.pending,
                running: load.running,
                name,
            }
        });
        all.collect()
    }

    /// Pauses a queue: once it answers, nothing of it starts until it is resumed, restarts included.
    /// Attempts that run go on. Repeating it gives it the new reason.
    pub async fn pause_queue(&self, name: &QueueName, why: &str) -> Result<QueueDetails> {
        self.queue(name)?;
        self.0.store.pause_queue(name, why).await?;
        self.queue(name)
    }

    /// Lets a paused queue go on. One that is not paused stays as it is.
    pub async fn resume_queue(&self, name: &QueueName) -> Result<QueueDetails> {
        self.queue(name)?;
        self.0.store.resume_queue(name).await?;
        self.queue(name)
    }

    fn queue(&self, name: &QueueName) -> Result<QueueDetails> {
        let found = self.queues().into_iter().find(|queue| queue.name == *name);
        found.ok_or_else(|| {
            let message =
                format!("there is no queue {name}: it is not configured and has no batch");
            Error::new(ErrorKind::NotFound, "QUEUE_NOT_FOUND", message).with("queue", name)
        })
    }
}
