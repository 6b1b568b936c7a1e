//! When the handlers of the latest items returned: a table of fixed size that forgets.
//!
//! A record's own time has milliseconds and is that of its transaction; promptness is measured in
//! less and from the handler's return. So that instant is noted here under the item and looked up
//! by whoever hands its record over. A place that was taken meanwhile by another item loses one
//! measurement, nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

/// Places of the table: some times more than items are between handler and reader at once, the
/// slots of a large pool and what one page of the journal holds. 16 bytes each.
const PLACES: usize = 1 << 14;

/// What a place holds while it is empty or being written. No item has this index.
const VACANT: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Returned {
    origin: Instant,
    places: Box<[Place]>,
}

/// An item and when its handler returned, in nanoseconds since the origin.
#[derive(Debug)]
struct Place {
    item: AtomicU64,
    at: AtomicU64,
}

impl Default for Returned {
    fn default() -> Self {
        Self {
            origin: clock::instant(),
            places: (0..PLACES)
                .map(|_| Place {
                    item: AtomicU64::new(VACANT),
                    at: AtomicU64::new(0),
                })
                .collect(),
        }
    }
}

impl Returned {
    /// Notes that the handler of an item returned at `at`.
    pub(crate) fn note(&self, batch: u32, index: u32, at: Instant) {
        let (place, item) = self.place(batch, index);
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        place.item.store(VACANT, Ordering::SeqCst);
        place
            .at
            .store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::SeqCst);
        place.item.store(item, Ordering::SeqCst);
    }

    /// How long ago the handler of an item returned, or `since` if that was later; `None` if it is
    /// not known any more.
    pub(crate) fn waited(
        &self,
        (batch, index): (u32, u32),
        since: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let (place, item) = self.place(batch, index);
        if place.item.load(Ordering::SeqCst) != item {
            return None;
        }
        let nanos = place.at.load(Ordering::SeqCst);
        // Read again: the two halves belong together only if nobody wrote in between.
        if place.item.load(Ordering::SeqCst) != item {
            return None;
        }
        let at = self.origin + Duration::from_nanos(nanos);
        Some(now.saturating_duration_since(at.max(since)))
    }

    /// Neighbours of a batch have places side by side, so that only another batch can take them.
    fn place(&self, batch: u32, index: u32) -> (&Place, u64) {
        let spread = batch.wrapping_mul(0x9e37_79b9).wrapping_add(index);
        let at = usize::try_from(spread).expect("a number of 32 bits") % PLACES;
        (&self.places[at], u64::from(batch) << 32 | u64::from(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_found_until_another_item_takes_its_place() {
        let returned = Returned::default();
        let at = returned.origin + Duration::from_secs(1);
        let later = |seconds| at + Duration::from_secs(seconds);
        returned.note(7, 0, at);
        returned.note(7, 1, later(1));
        let waited = |item, since| returned.waited(item, since, later(3));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(waited((7, 0), at), seconds(3));
        assert_eq!(waited((7, 1), at), seconds(2));
        assert_eq!(waited((7, 1), later(2)), seconds(1), "it waited only since");
        assert_eq!(waited((7, 2), at), None);
        assert_eq!(waited((8, 0), at), None);
        returned.note(7, u32::try_from(PLACES).unwrap(), later(2));
        assert_eq!(waited((7, 0), at), None, "its place is taken");
    }
}
