//! Whose turn it is among the batches of one tenant that have due items in a queue.
//!
//! A batch sits in line since it has a due item, and again behind everybody each time it was granted
//! one. The front of the highest priority's line is next, unless a batch has sat for
//! [`TURN_AGED`](limits::TURN_AGED), whatever its priority: then whoever sat longest is next.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::ids::BatchNo;

/// A place in line: since when somebody waits there, and who came first within that instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) since: Timestamp,
    pub(crate) arrival: u64,
}

/// The line.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    seats: BTreeMap<Place, Seat>,
    lines: BTreeMap<Reverse<i32>, BTreeMap<Place, BatchNo>>,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    batch: BatchNo,
    priority: i32,
}

impl Turns {
    /// Sits a batch down at a place that nobody else has.
    pub(crate) fn join(&mut self, place: Place, batch: BatchNo, priority: i32) {
        self.seats.insert(place, Seat { batch, priority });
        let line = self.lines.entry(Reverse(priority)).or_default();
        line.insert(place, batch);
    }

    /// The batch whose turn it is.
    pub(crate) fn first(&self, now: Timestamp) -> Option<BatchNo> {
        let (oldest, seat) = self.seats.first_key_value()?;
        if now.since(oldest.since) >= limits::TURN_AGED {
            return Some(seat.batch);
        }
        let (_, highest) = self.lines.first_key_value()?;
        highest.first_key_value().map(|(_, &batch)| batch)
    }

    /// Lets the batch go that sits at a place, if one still does.
    pub(crate) fn leave(&mut self, place: Place) {
        let Some(Seat { priority, .. }) = self.seats.remove(&place) else {
            return;
        };
        if let Some(line) = self.lines.get_mut(&Reverse(priority)) {
            line.remove(&place);
            if line.is_empty() {
                self.lines.remove(&Reverse(priority));
            }
        }
    }

    /// How many batches sit.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether nobody sits.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp(millis)
    }

    /// Batches sit down in this order, each with its priority and since when.
    fn seated(batches: &[(u32, i32, i64)]) -> Turns {
        let mut turns = Turns::default();
        for &(batch, priority, since) in batches {
            turns.join(place(batch, since), BatchNo(batch), priority);
        }
        turns
    }

    fn place(batch: u32, since: i64) -> Place {
        let (since, arrival) = (at(since), batch.into());
        Place { since, arrival }
    }

    fn take_all(mut turns: Turns, now: Timestamp) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some(batch) = turns.first(now) {
            let at = turns.seats.iter().find(|(_, seat)| seat.batch == batch);
            let place = *at.unwrap().0;
            turns.leave(place);
            taken.push(batch.0);
        }
        assert!(turns.is_empty() && turns.lines.is_empty());
        taken
    }

    #[test]
    fn the_highest_priority_goes_first_and_within_it_whoever_sat_longer() {
        let turns = seated(&[(1, 0, 0), (2, 5, 0), (3, -1, 0), (4, 5, 0), (5, 0, 0)]);
        assert_eq!(take_all(turns, at(1)), [2, 4, 1, 5, 3]);
    }

    #[test]
    fn whoever_sat_for_too_long_goes_before_all() {
        let aged = i64::try_from(limits::TURN_AGED.as_millis()).unwrap();
        let mut turns = seated(&[(1, -7, 0), (2, 9, 1), (3, -7, aged)]);
        assert_eq!(turns.first(at(aged - 1)), Some(BatchNo(2)));
        turns.leave(place(2, 1));
        turns.join(place(2, aged - 1), BatchNo(2), 9);
        assert_eq!(take_all(turns, at(aged)), [1, 2, 3]);
    }
}
