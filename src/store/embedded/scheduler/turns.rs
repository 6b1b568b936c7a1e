//! Whose turn it is among the batches of one queue that have due items.
//!
//! A batch sits in line from when it has a due item, and again behind everybody each time it was
//! granted one. The front of the highest priority's line is next, unless a batch has sat for
//! [`TURN_AGED`](limits::TURN_AGED), whatever its priority: then whoever sat longest is next.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::ids::BatchNo;

/// The line. A place in it is its number: who came later has a higher one.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    seats: BTreeMap<u64, Seat>,
    lines: BTreeMap<Reverse<i32>, BTreeMap<u64, BatchNo>>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    batch: BatchNo,
    priority: i32,
    since: Timestamp,
}

impl Turns {
    /// Sits a batch down behind everybody; answers its place.
    pub(crate) fn join(&mut self, batch: BatchNo, priority: i32, now: Timestamp) -> u64 {
        let place = self.next;
        self.next += 1;
        let seat = Seat {
            batch,
            priority,
            since: now,
        };
        self.seats.insert(place, seat);
        let line = self.lines.entry(Reverse(priority)).or_default();
        line.insert(place, batch);
        place
    }

    /// Takes the batch out whose turn it is.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<BatchNo> {
        let (&oldest, seat) = self.seats.first_key_value()?;
        let place = if now.since(seat.since) >= limits::TURN_AGED {
            oldest
        } else {
            let (_, highest) = self.lines.first_key_value()?;
            *highest.first_key_value()?.0
        };
        self.leave(place)
    }

    /// Takes the batch out that sits at a place, if one still does.
    pub(crate) fn leave(&mut self, place: u64) -> Option<BatchNo> {
        let Seat {
            batch, priority, ..
        } = self.seats.remove(&place)?;
        let line = self.lines.get_mut(&Reverse(priority))?;
        line.remove(&place);
        if line.is_empty() {
            self.lines.remove(&Reverse(priority));
        }
        Some(batch)
    }

    /// How many batches sit.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp(millis)
    }

    fn take_all(turns: &mut Turns, now: Timestamp) -> Vec<u32> {
        std::iter::from_fn(|| turns.take(now).map(|batch| batch.0)).collect()
    }

    #[test]
    fn the_highest_priority_goes_first_and_within_it_whoever_sat_longer() {
        let mut turns = Turns::default();
        for (batch, priority) in [(1, 0), (2, 5), (3, -1), (4, 5), (5, 0)] {
            turns.join(BatchNo(batch), priority, at(0));
        }
        assert_eq!(take_all(&mut turns, at(1)), [2, 4, 1, 5, 3]);
    }

    #[test]
    fn whoever_sat_for_too_long_goes_before_all() {
        let mut turns = Turns::default();
        let aged = i64::try_from(limits::TURN_AGED.as_millis()).unwrap();
        turns.join(BatchNo(1), -7, at(0));
        turns.join(BatchNo(2), 9, at(1));
        turns.join(BatchNo(3), -7, at(aged));
        assert_eq!(turns.take(at(aged - 1)), Some(BatchNo(2)));
        turns.join(BatchNo(2), 9, at(aged - 1));
        assert_eq!(take_all(&mut turns, at(aged)), [1, 2, 3]);
    }
}
