//! What failed in a batch, and when that is too much.

use std::collections::BTreeMap;

use crate::base::limits;
use crate::domain::bounds::{Check, OutOfBounds};
use crate::domain::tally::Tally;

/// When a batch's failures are too many, and what happens then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailurePolicy {
    /// Acts at that many failed or expired items.
    pub max_failed_items: Option<u32>,
    /// Acts once that share of the terminal items failed or expired, from `min_items` on.
    pub max_failed_ratio: Option<f64>,
    /// Terminal items from which on the share counts; by default
    /// [`FAILURE_ITEMS_MIN`](limits::FAILURE_ITEMS_MIN).
    pub min_items: Option<u32>,
    /// What happens.
    pub action: FailureAction,
}

/// What a failure policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureAction {
    /// The batch is paused; a resume goes on and counts anew.
    #[default]
    Pause,
    /// The batch ends FAILED, its remaining items CANCELLED.
    Cancel,
}

/// The failed and expired items of a batch by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Items by reason. Reasons beyond [`FAILURE_REASONS_MAX`](limits::FAILURE_REASONS_MAX) are
    /// counted as `OTHER`.
    pub reasons: BTreeMap<Box<str>, u32>,
    /// From where the failure policy counts: the last resume.
    pub since: Since,
}

/// How a batch stood at its last resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Items that had failed or expired.
    pub failed: u32,
    /// Items that were terminal.
    pub terminal: u32,
}

/// The reason under which those are counted that have no count of their own.
const OTHER: &str = "OTHER";

impl Failures {
    /// Counts an item that failed or expired.
    pub fn count(&mut self, reason: &str) {
        self.add(reason, 1);
    }

    /// Counts some that did.
    pub fn add(&mut self, reason: &str, items: u32) {
        let known = self.reasons.contains_key(reason);
        let full = self.reasons.len() >= limits::FAILURE_REASONS_MAX;
        let name = if known || !full { reason } else { OTHER };
        *self.reasons.entry(name.into()).or_default() += items;
    }

    /// Lets the failure policy count anew.
    pub fn resume(&mut self, tally: &Tally) {
        self.since = Since {
            failed: tally.failed + tally.expired,
            terminal: tally.terminal(),
        };
    }
}

impl FailurePolicy {
    /// What of it is out of its bounds; a field without a name is the policy itself.
    pub fn check(&self) -> Vec<OutOfBounds> {
        let mut check = Check::default();
        if self.max_failed_items.is_none() && self.max_failed_ratio.is_none() {
            check.wrong("", "needs max_failed_items or max_failed_ratio");
        }
        check.count("max_failed_items", self.max_failed_items);
        check.between("max_failed_ratio", self.max_failed_ratio, [0.0, 1.0]);
        check.all()
    }

    /// Why the policy acts now, if it does.
    pub fn verdict(&self, tally: &Tally, since: Since) -> Option<String> {
        let failed = (tally.failed + tally.expired).saturating_sub(since.failed);
        let terminal = tally.terminal().saturating_sub(since.terminal);
        if failed == 0 {
            return None;
        }
        if self.max_failed_items.is_some_and(|most| failed >= most) {
            return Some(format!("failure policy: {failed} items failed"));
        }
        let min_items = self.min_items.unwrap_or(limits::FAILURE_ITEMS_MIN);
        let share = f64::from(failed) / f64::from(terminal.max(1));
        let too_many =
            self.max_failed_ratio.is_some_and(|most| share >= most) && terminal >= min_items;
        too_many.then(|| format!("failure policy: {failed} of {terminal} items failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(succeeded: u32, failed: u32, expired: u32) -> Tally {
        Tally {
            succeeded,
            failed,
            expired,
            ..Tally::default()
        }
    }

    #[test]
    fn it_acts_at_the_nth_failure_since_the_last_resume() {
        let policy = FailurePolicy {
            max_failed_items: Some(2),
            ..FailurePolicy::default()
        };
        let mut failures = Failures::default();
        assert_eq!(policy.verdict(&tally(9, 1, 0), failures.since), None);
        let told = policy.verdict(&tally(9, 1, 1), failures.since);
        assert_eq!(told.as_deref(), Some("failure policy: 2 items failed"));
        failures.resume(&tally(9, 1, 1));
        assert_eq!(policy.verdict(&tally(9, 2, 1), failures.since), None);
        assert!(policy.verdict(&tally(9, 3, 1), failures.since).is_some());
    }

    #[test]
    fn a_share_counts_once_there_are_enough_items() {
        let policy = FailurePolicy {
            max_failed_ratio: Some(0.5),
            min_items: Some(4),
            ..FailurePolicy::default()
        };
        let none = Since::default();
        assert_eq!(policy.verdict(&tally(0, 3, 0), none), None);
        assert_eq!(policy.verdict(&tally(3, 2, 0), none), None);
        let told = policy.verdict(&tally(2, 2, 0), none);
        assert_eq!(told.as_deref(), Some("failure policy: 2 of 4 items failed"));
        let never = FailurePolicy {
            max_failed_ratio: Some(0.0),
            ..policy
        };
        assert_eq!(never.verdict(&tally(9, 0, 0), none), None, "nothing failed");
    }

    #[test]
    fn many_reasons_share_one_count() {
        let mut failures = Failures::default();
        for number in 0..limits::FAILURE_REASONS_MAX + 5 {
            failures.count(&format!("R{number}"));
        }
        failures.count("R0");
        assert_eq!(failures.reasons.len(), limits::FAILURE_REASONS_MAX + 1);
        assert_eq!((failures.reasons["R0"], failures.reasons[OTHER]), (2, 5));
    }
}
