//! What met damage once and is let be until the next start, so that what stands behind it goes on.

use std::collections::BTreeSet;

use super::rows::TimeRow;
use crate::base::limits;
use crate::domain::ids::BatchNo;

/// What a group was at when it met damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Snag {
    /// Removing this batch.
    Batch(BatchNo),
    /// Ending an item for this time.
    Time(TimeRow),
}

/// What met damage.
#[derive(Debug, Default)]
pub(crate) struct Avoided(BTreeSet<Snag>);

impl Avoided {
    /// Lets something be from now on. Answers whether that is of any use: it is not for what was
    /// avoided already, or if there is too much.
    pub(crate) fn insert(&mut self, snag: Snag) -> bool {
        self.0.len() < limits::AVOIDED_MAX && self.0.insert(snag)
    }

    /// Whether it is let be.
    pub(crate) fn has(&self, snag: Snag) -> bool {
        self.0.contains(&snag)
    }

    /// How many rows to ask for to get so many that are not let be.
    pub(crate) fn reach(&self, most: usize) -> usize {
        most + self.0.len()
    }
}
