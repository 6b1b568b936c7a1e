//! The slots of one queue and the rate at which attempts may start in them: what its pool takes from,
//! and what tells others how the queue stands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::{clock, limits};
use crate::domain::rate::{Rate, TokenBucket};

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    count: usize,
    bucket: Option<Mutex<TokenBucket>>,
}

/// Slots that may be filled now. Those that are dropped are free again.
#[derive(Debug)]
pub(crate) enum Taken {
    /// At least one.
    Some(Vec<OwnedSemaphorePermit>),
    /// None: the rate allows the next attempt only after this time.
    Throttled(Duration),
}

impl Slots {
    /// So many slots, all free, and a full bucket.
    pub(crate) fn new(slots: usize, rate: Option<Rate>) -> Self {
        let bucket = rate.map(|rate| Mutex::new(TokenBucket::new(rate, clock::instant())));
        Self {
            free: Arc::new(Semaphore::new(slots)),
            count: slots,
            bucket,
        }
    }

    /// Waits for one free slot and takes all there are and that the rate allows to be filled.
    ///
    /// Cancel safe: slots not returned are free again, and the rate is asked last.
    pub(crate) async fn take(&self) -> Taken {
        let first = Arc::clone(&self.free)
            .acquire_owned()
            .await
            .expect("the slots are never closed");
        let mut free = vec![first];
        while let Ok(slot) = Arc::clone(&self.free).try_acquire_owned() {
            free.push(slot);
        }
        let Some(bucket) = &self.bucket else {
            return Taken::Some(free);
        };
        let want = u32::try_from(free.len()).unwrap_or(u32::MAX);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::instant();
        let allowed = bucket.take(want, now);
        if allowed == 0 {
            return Taken::Throttled(bucket.next_in(now).max(limits::RATE_LOOK));
        }
        free.truncate(usize::try_from(allowed).unwrap_or(usize::MAX));
        Taken::Some(free)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether an attempt is in each of them.
    pub(crate) fn are_all_busy(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// How long until the rate allows an attempt, if it allows none now.
    pub(crate) fn throttled_for(&self) -> Option<Duration> {
        let bucket = self.bucket.as_ref()?;
        let bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        Some(bucket.next_in(clock::instant())).filter(|wait| !wait.is_zero())
    }

    /// Gives back what the rate allowed and no attempt started with.
    pub(crate) fn not_started(&self, attempts: usize) {
        if let Some(bucket) = &self.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.put_back(u32::try_from(attempts).unwrap_or(u32::MAX));
        }
    }
}
