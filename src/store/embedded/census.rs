//! What the store holds and takes up, counted when somebody asks.

use std::path::Path;
use std::sync::PoisonError;

use super::Store;
use super::disk::Room;
use super::scheduler::{LiveBatch, Load, Loads};
use crate::base::metrics::{Backlog, Footprint};
use crate::base::{clock, limits};
use crate::domain::ids::Tenant;
use crate::domain::item::ItemSpec;
use crate::domain::pause::PausedBy;
use crate::store::admission::Full;
use crate::store::{StoreError, input_bytes};

impl Store {
    /// How much is accepted and not over. It walks through the open batches, not through items.
    pub fn backlog(&self) -> Backlog {
        let now = clock::now();
        let mut backlog = Backlog::default();
        {
            let scheduler = &self.0.shared.scheduler;
            let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
            for queue in scheduler.queues() {
                // A figure that is left out would stay what it was.
                let none = PausedBy::ALL.map(|by| ((queue.as_str().into(), by.name()), 0));
                backlog.paused.extend(none);
            }
        }
        self.each_batch(|batch| {
            backlog.batches += 1;
            if let Some(pause) = &batch.paused {
                let labels = (batch.head.queue.as_str().into(), pause.by.name());
                *backlog.paused.entry(labels).or_default() += 1;
            }
            let running = u64::from(batch.running());
            backlog.running += running;
            backlog.pending += batch.open_items().saturating_sub(running);
            let waited = batch.oldest_arrival().map(|since| now.since(since));
            backlog.oldest = backlog.oldest.max(waited.unwrap_or_default());
        });
        backlog
    }

    /// Looks at every batch that is not over, some at a time: whoever wants the scheduler gets it in
    /// between, and so the whole is not of one instant.
    pub(super) fn each_batch(&self, mut look: impl FnMut(&LiveBatch)) {
        let locked = || {
            let scheduler = &self.0.shared.scheduler;
            scheduler.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let numbers = locked().numbers();
        for some in numbers.chunks(limits::CENSUS_BATCHES) {
            let scheduler = locked();
            let live = some.iter().filter_map(|&no| scheduler.batch(no));
            live.for_each(&mut look);
        }
    }

    /// Whether these items could be appended now, as far as bounds on what is not over are concerned;
    /// else which of them is in the way. Somebody else may be faster.
    pub fn room_for(&self, tenant: &Tenant, items: &[ItemSpec]) -> Result<(), Full> {
        let more = Load {
            batches: 0,
            items: items.len() as u64,
            bytes: input_bytes(items),
        };
        let scheduler = &self.0.shared.scheduler;
        let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        let there = [scheduler.loads(), &Loads::default()];
        self.0.shared.limits.check(tenant, there, more)
    }

    /// Whether what is counted as accepted and not over is what the batches are, and no more than may be.
    #[cfg(test)]
    pub(crate) fn counts_are_sound(&self) -> bool {
        let scheduler = &self.0.shared.scheduler;
        let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        let loads = scheduler.loads();
        *loads == scheduler.recounted() && self.0.shared.limits.hold(loads)
    }

    /// Whether nothing is counted as accepted and not over.
    #[cfg(test)]
    pub(crate) fn holds_nothing(&self) -> bool {
        let scheduler = &self.0.shared.scheduler;
        let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
        *scheduler.loads() == Loads::default()
    }

    /// What it takes up on its disk. Asks the file system, on a reading thread: it may be slow.
    pub async fn footprint(&self) -> Result<Footprint, StoreError> {
        // Before it is a read itself.
        let oldest_read = self.0.readers.oldest().max(self.0.inputs.oldest());
        let database = self.0.shared.dir.database();
        let log = self.0.shared.dir.wal();
        let sizes = self.0.readers.run(move |_, _| {
            // While the store opens and closes there is no log, and then its size is 0.
            let bytes = |path: &Path| path.metadata().map_or(0, |file| file.len());
            let room = Room::of(&database).map_or(0, |room| room.free);
            Ok((bytes(&database), bytes(&log), room))
        });
        let (database_bytes, log_bytes, free_bytes) = sizes.await?;
        Ok(Footprint {
            database_bytes,
            log_bytes,
            free_bytes,
            oldest_read,
        })
    }
}
