//! What settings may be: the checks that a client's, a program's and a file's all come through.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::limits;

/// A setting that is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct OutOfBounds {
    /// The setting, by its name in the settings that were checked.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The settings found so far that are out of their bounds.
#[derive(Debug, Default)]
pub(crate) struct Check(Vec<OutOfBounds>);

impl Check {
    pub(crate) fn wrong(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        let (field, problem) = (field.into(), problem.into());
        self.0.push(OutOfBounds { field, problem });
    }

    /// A number between two others, themselves included.
    pub(crate) fn between(&mut self, field: &str, value: Option<f64>, [low, high]: [f64; 2]) {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            self.wrong(field, format!("{value} is not between {low} and {high}"));
        }
    }

    /// A count, of which there must be one.
    pub(crate) fn count(&mut self, field: &str, count: Option<u32>) {
        if count == Some(0) {
            self.wrong(field, "0 is below the minimum 1");
        }
    }

    /// A limit of time.
    pub(crate) fn timeout(&mut self, field: &str, timeout: Option<Duration>) {
        if let Some(problem) = timeout.and_then(|it| check_timeout(it).err()) {
            self.wrong(field, problem);
        }
    }

    /// A point in time. One that has passed is in bounds: whatever waits for it has come.
    pub(crate) fn time(&mut self, field: &str, time: Option<Timestamp>, now: Timestamp) {
        let times = Timestamp(0)..=now.plus(limits::DURATION_MAX);
        if time.is_some_and(|time| !times.contains(&time)) {
            self.wrong(field, "is not a time from 1970 until ten years from now");
        }
    }

    pub(crate) fn all(self) -> Vec<OutOfBounds> {
        self.0
    }
}

/// Checks a limit of time: below a millisecond it is a mistake, and above ten years too.
pub fn check_timeout(timeout: Duration) -> Result<(), String> {
    if timeout < Duration::from_millis(1) {
        return Err(format!("{timeout:?} is below the minimum 1ms"));
    }
    if timeout > limits::DURATION_MAX {
        let seconds = timeout.as_secs();
        return Err(format!("{seconds} s is more than the limit of ten years"));
    }
    Ok(())
}
