//! Settings of a batch: what its caller asked for beside its items.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::bounds::{Check, OutOfBounds};
use crate::domain::failures::FailurePolicy;
use crate::domain::retry::RetrySettings;

/// Settings of a batch. What is unset comes from its queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchOptions {
    /// Higher goes first.
    pub priority: i32,
    /// When its items may begin to run.
    pub not_before: Option<Timestamp>,
    /// How many of its items may run at once.
    pub max_parallelism: Option<u32>,
    /// When it ends, whatever is done by then.
    pub deadline: Option<Timestamp>,
    /// How long after its accept it ends, whatever is done by then.
    pub max_duration: Option<Duration>,
    /// Succeeded items that are enough: then the others are cancelled.
    pub enough: Option<u32>,
    /// When its failures are too many.
    pub failure_policy: Option<FailurePolicy>,
    /// Whether an item that was interrupted is left alone: it ends FAILED, reason `UNKNOWN_OUTCOME`,
    /// and nothing of the batch is ever tried again.
    pub at_most_once: bool,
    /// Limit of each attempt.
    pub item_timeout: Option<Duration>,
    /// How long it stays once it is over, with all its results; then it is removed.
    pub retention: Option<Duration>,
    /// Retry settings of its items.
    pub retry: RetrySettings,
    /// The caller's marks.
    pub labels: BTreeMap<Box<str>, Box<str>>,
}

impl BatchOptions {
    /// The settings with which the dead letters of a batch that had these are run again: the same but
    /// for points in time, which are over.
    #[must_use]
    pub fn for_redrive(&self) -> Self {
        Self {
            not_before: None,
            deadline: None,
            ..self.clone()
        }
    }

    /// What of it is out of its bounds, `now` being the time; without its retry settings and labels.
    pub fn check(&self, now: Timestamp) -> Vec<OutOfBounds> {
        let mut check = Check::default();
        check.timeout("item_timeout", self.item_timeout);
        check.timeout("max_duration", self.max_duration);
        check.count("max_parallelism", self.max_parallelism);
        check.count("enough", self.enough);
        check.time("not_before", self.not_before, now);
        check.time("deadline", self.deadline, now);
        if self
            .retention
            .is_some_and(|time| time < limits::RETENTION_MIN)
        {
            let least = limits::RETENTION_MIN;
            check.wrong("retention", format!("is below the minimum {least:?}"));
        } else {
            check.timeout("retention", self.retention);
        }
        let mut wrong = check.all();
        let policy = self.failure_policy.as_ref();
        wrong.extend(
            policy
                .map_or_else(Vec::new, FailurePolicy::check)
                .into_iter()
                .map(|OutOfBounds { field, problem }| {
                    let dot = if field.is_empty() { "" } else { "." };
                    let field = format!("failure_policy{dot}{field}");
                    OutOfBounds { field, problem }
                }),
        );
        wrong
    }
}

/// What happens to a batch whose last stream has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It goes on.
    #[default]
    Continue,
    /// It is cancelled after a grace.
    Cancel,
}

/// What becomes of an upload that nobody goes on with. Not part of a batch's idempotent content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadTerms {
    /// How long it stays open; by default [`OPEN_TIMEOUT_DEFAULT`](crate::base::limits::OPEN_TIMEOUT_DEFAULT).
    pub open_timeout: Option<Duration>,
    /// What happens then.
    pub on_open_timeout: OnOpenTimeout,
}

/// What happens to an upload whose time to be open is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOpenTimeout {
    /// It is sealed with the items it has; without any it is cancelled.
    #[default]
    Seal,
    /// It is cancelled.
    Cancel,
}
