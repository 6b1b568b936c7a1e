//! When a failed item is tried again: settings, the policy they add up to, and its decision.

use std::time::Duration;

use crate::base::limits;
use crate::domain::attempt::ItemError;
use crate::domain::bounds::{Check, OutOfBounds};

/// Retry settings as someone wrote them; what is unset comes from the next one asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetrySettings {
    /// Attempts in all.
    pub max_attempts: Option<u32>,
    /// Wait before the second attempt.
    pub initial_backoff: Option<Duration>,
    /// Longest wait.
    pub max_backoff: Option<Duration>,
    /// Factor from one wait to the next.
    pub multiplier: Option<f64>,
    /// Random share of each wait, plus or minus.
    pub jitter: Option<f64>,
    /// Reasons that end an item at once.
    pub non_retryable_reasons: Vec<Box<str>>,
    /// How often the server may die under an item.
    pub max_crashes: Option<u32>,
}

/// The settings in force for one item.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all.
    pub max_attempts: u32,
    /// Wait before the second attempt.
    pub initial_backoff: Duration,
    /// Longest wait.
    pub max_backoff: Duration,
    /// Factor from one wait to the next.
    pub multiplier: f64,
    /// Random share of each wait, plus or minus.
    pub jitter: f64,
    /// Reasons that end an item at once.
    pub non_retryable_reasons: Vec<Box<str>>,
}

/// How often the server may die under an item unless its settings say otherwise.
pub const MAX_CRASHES_DEFAULT: u32 = 3;

/// What becomes of an item whose attempt failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryDecision {
    /// It is tried again after this wait.
    Again(Duration),
    /// The failure is its result.
    Final,
}

impl RetrySettings {
    /// The settings that are out of their bounds.
    pub fn check(&self) -> Vec<OutOfBounds> {
        let mut check = Check::default();
        let numbers = [
            (
                "max_attempts",
                self.max_attempts.map(f64::from),
                [1.0, 1000.0],
            ),
            ("multiplier", self.multiplier, [1.0, 100.0]),
            ("jitter", self.jitter, [0.0, 1.0]),
            ("max_crashes", self.max_crashes.map(f64::from), [1.0, 100.0]),
        ];
        for (name, value, bounds) in numbers {
            check.between(name, value, bounds);
        }
        for (name, wait) in [
            ("initial_backoff", self.initial_backoff),
            ("max_backoff", self.max_backoff),
        ] {
            if wait.is_some_and(|wait| wait > limits::DURATION_MAX) {
                check.wrong(name, "is more than the limit of ten years");
            }
        }
        let is_reason = |reason: &str| {
            let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            (1..=limits::REASON_CHARS_MAX).contains(&reason.len()) && reason.bytes().all(plain)
        };
        let reasons = self.non_retryable_reasons.iter().enumerate();
        // The first of those that are too many speaks for all: a message may bring millions.
        for (index, reason) in reasons.take(limits::LISTED_REASONS_MAX + 1) {
            if index >= limits::LISTED_REASONS_MAX || !is_reason(reason) {
                check.wrong(
                    format!("non_retryable_reasons[{index}]"),
                    "is not one of at most 64 names of A-Z, 0-9 and underscore",
                );
            }
        }
        check.all()
    }

    /// The settings with what is unset taken from `fallback`, field by field.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        let own = !self.non_retryable_reasons.is_empty();
        Self {
            max_attempts: self.max_attempts.or(fallback.max_attempts),
            initial_backoff: self.initial_backoff.or(fallback.initial_backoff),
            max_backoff: self.max_backoff.or(fallback.max_backoff),
            multiplier: self.multiplier.or(fallback.multiplier),
            jitter: self.jitter.or(fallback.jitter),
            non_retryable_reasons: if own { self } else { fallback }
                .non_retryable_reasons
                .clone(),
            max_crashes: self.max_crashes.or(fallback.max_crashes),
        }
    }

    /// The policy they add up to; what is still unset is the server's default.
    pub fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(3),
            initial_backoff: self.initial_backoff.unwrap_or(Duration::from_millis(200)),
            max_backoff: self.max_backoff.unwrap_or(Duration::from_secs(30)),
            multiplier: self.multiplier.unwrap_or(2.0),
            jitter: self.jitter.unwrap_or(0.2),
            non_retryable_reasons: self.non_retryable_reasons.clone(),
        }
    }
}

impl RetryPolicy {
    /// Decides after `spent` charged attempts, the failed one included. `chance` is uniform in 0..1.
    pub fn decide(&self, error: &ItemError, spent: u32, chance: f64) -> RetryDecision {
        let listed = self.non_retryable_reasons.contains(&error.reason);
        if !error.retryable || listed || spent >= self.max_attempts {
            return RetryDecision::Final;
        }
        RetryDecision::Again(self.backoff(spent, chance))
    }

    /// The wait after the `spent`-th charged attempt: it grows by the multiplier up to the longest
    /// wait, then jitter takes or adds up to its share, and the longest wait clips it again.
    fn backoff(&self, spent: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(spent.saturating_sub(1)).unwrap_or(i32::MAX);
        let longest = self.max_backoff.as_secs_f64();
        // An overflow to infinity is clipped by `min`; 0 x infinity is not a number and means 0.
        let grown = self.initial_backoff.as_secs_f64() * self.multiplier.powi(exponent);
        let planned = if grown.is_nan() {
            0.0
        } else {
            grown.min(longest)
        };
        let jittered = planned * (1.0 + self.jitter * (2.0 * chance - 1.0));
        Duration::from_secs_f64(jittered.clamp(0.0, longest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn too_many_reasons_are_one_problem() {
        let settings = RetrySettings {
            non_retryable_reasons: vec!["A".into(); 10_000],
            ..RetrySettings::default()
        };
        let wrong = settings.check();
        let fields: Vec<_> = wrong.iter().map(|it| &*it.field).collect();
        assert_eq!(fields, ["non_retryable_reasons[64]"]);
    }

    fn policy(max_attempts: u32, jitter: f64) -> RetryPolicy {
        let settings = RetrySettings {
            max_attempts: Some(max_attempts),
            jitter: Some(jitter),
            non_retryable_reasons: vec!["BAD_IMAGE".into()],
            ..RetrySettings::default()
        };
        settings.policy()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let policy = policy(100, 0.0);
        let failed = ItemError::handler("EXIT_1", "", true);
        let waits: Vec<_> = [1, 2, 3, 8, 9, 50]
            .map(|spent| policy.decide(&failed, spent, 0.9))
            .into_iter()
            .map(|decision| match decision {
                RetryDecision::Again(wait) => wait.as_millis(),
                RetryDecision::Final => 0,
            })
            .collect();
        assert_eq!(waits, [200, 400, 800, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn some_failures_are_final() {
        let policy = policy(3, 0.2);
        let cases = [
            (ItemError::handler("EXIT_1", "", true), 2, false),
            (ItemError::handler("EXIT_1", "", true), 3, true),
            (ItemError::handler("EXIT_65", "", false), 1, true),
            (ItemError::handler("BAD_IMAGE", "", true), 1, true),
        ];
        for (error, spent, is_final) in cases {
            let decision = policy.decide(&error, spent, 0.5);
            assert_eq!(
                decision == RetryDecision::Final,
                is_final,
                "{error:?} after {spent}"
            );
        }
    }

    #[test]
    fn settings_are_taken_field_by_field() {
        let item = RetrySettings {
            jitter: Some(0.0),
            ..RetrySettings::default()
        };
        let batch = RetrySettings {
            jitter: Some(0.5),
            max_attempts: Some(7),
            ..RetrySettings::default()
        };
        let policy = item.or(&batch).policy();
        assert!(policy.jitter.abs() < f64::EPSILON, "zero is not unset");
        assert_eq!(
            (policy.max_attempts, policy.initial_backoff.as_millis()),
            (7, 200)
        );
    }

    proptest! {
        #[test]
        fn a_wait_is_never_above_the_longest(
            spent in 1u32..2000, chance in 0.0..1.0f64, jitter in 0.0..=1.0f64,
            initial in 0u64..100_000, longest in 0u64..100_000, multiplier in 1.0..=100.0f64,
        ) {
            let policy = RetryPolicy {
                max_attempts: 1000,
                initial_backoff: Duration::from_millis(initial),
                max_backoff: Duration::from_millis(longest),
                multiplier,
                jitter,
                non_retryable_reasons: Vec::new(),
            };
            prop_assert!(policy.backoff(spent, chance) <= policy.max_backoff);
        }
    }
}
