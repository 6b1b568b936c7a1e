//! How many attempts of a queue may start per second: the setting, and the bucket that keeps to it.

use std::time::{Duration, Instant};

use crate::base::limits;
use crate::domain::bounds::{Check, OutOfBounds};

/// A limit of the attempts that start, retries included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Attempts per second in the long run, 0.0001 to 1,000,000; fractions are allowed.
    pub per_second: f64,
    /// Attempts at once after a rest, 1 to 1,000,000. Default: `per_second`, rounded up.
    pub burst: Option<u32>,
}

impl Rate {
    /// So many attempts per second, and as many at once.
    pub fn per_second(per_second: f64) -> Self {
        let burst = None;
        Self { per_second, burst }
    }

    /// The same with so many attempts at once after a rest.
    #[must_use]
    pub fn with_burst(self, burst: u32) -> Self {
        let burst = Some(burst);
        Self { burst, ..self }
    }

    /// The settings that are out of their bounds.
    pub fn check(&self) -> Vec<OutOfBounds> {
        let mut check = Check::default();
        let rates = [limits::RATE_MIN, f64::from(limits::RATE_MAX)];
        check.between("per_second", Some(self.per_second), rates);
        let bursts = [1.0, f64::from(limits::RATE_MAX)];
        check.between("burst", self.burst.map(f64::from), bursts);
        check.all()
    }

    /// The attempts that may start at once after a rest.
    pub fn burst(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of a float stays within the integer's range, and a checked rate is small"
        )]
        let whole = self.per_second.ceil() as u32;
        self.burst.unwrap_or(whole).max(1)
    }
}

/// A bucket of tokens, one per attempt. It begins full, is filled at the rate and holds no more than
/// the burst: in any span of time no more tokens leave it than the burst and what the span brings.
///
/// Kept as the moment at which it would be full, so that nothing needs to be done while time passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Time that one token takes, rounded up.
    apart: Duration,
    burst: u32,
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let nanos = (1e9 / rate.per_second).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at the lowest rate 10^13, and never negative"
        )]
        let apart = Duration::from_nanos(nanos as u64);
        Self {
            apart,
            burst: rate.burst(),
            full_at: now,
        }
    }

    /// Takes up to `want` tokens and answers how many.
    pub(crate) fn take(&mut self, want: u32, now: Instant) -> u32 {
        let taken = self.tokens(now).min(want);
        self.full_at = self.full_at.max(now) + self.apart * taken;
        taken
    }

    /// Puts tokens back of those that were just taken.
    pub(crate) fn put_back(&mut self, tokens: u32) {
        let earlier = self.full_at.checked_sub(self.apart * tokens);
        self.full_at = earlier.unwrap_or(self.full_at);
    }

    /// How long until there is a token; zero if there is one.
    pub(crate) fn next_in(&self, now: Instant) -> Duration {
        self.lack(now).saturating_sub(self.apart * (self.burst - 1))
    }

    /// How many tokens there are.
    fn tokens(&self, now: Instant) -> u32 {
        let lacking = self.lack(now).as_nanos().div_ceil(self.apart.as_nanos());
        self.burst
            .saturating_sub(u32::try_from(lacking).unwrap_or(u32::MAX))
    }

    /// How long until it is full.
    fn lack(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;

    fn bucket(per_second: f64, burst: u32) -> (TokenBucket, Instant) {
        let begin = clock::instant();
        let rate = Rate::per_second(per_second).with_burst(burst);
        (TokenBucket::new(rate, begin), begin)
    }

    #[test]
    fn a_burst_is_what_is_said_or_a_second_of_it_and_at_least_one() {
        let burst = |rate: f64| Rate::per_second(rate).burst();
        assert_eq!([burst(20.0), burst(0.1), burst(2.5)], [20, 1, 3]);
        assert_eq!(Rate::per_second(20.0).with_burst(7).burst(), 7);
    }

    #[test]
    fn what_no_queue_can_keep_to_is_told() {
        let fields = |rate: Rate| {
            let wrong = rate.check().into_iter();
            wrong.map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert!(fields(Rate::per_second(0.5)).is_empty());
        for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
            let wrong = fields(Rate::per_second(per_second));
            assert_eq!(
                wrong,
                [format!(
                    "per_second: {per_second} is not between 0.0001 and 1000000"
                )]
            );
        }
        let wrong = fields(Rate::per_second(1.0).with_burst(0));
        assert_eq!(wrong, ["burst: 0 is not between 1 and 1000000"]);
    }

    #[test]
    fn a_bucket_that_rested_for_long_holds_a_burst_and_no_more() {
        let (mut bucket, begin) = bucket(10.0, 3);
        let later = begin + Duration::from_secs(3600);
        assert_eq!([bucket.take(9, later), bucket.take(9, later)], [3, 0]);
        assert_eq!(bucket.next_in(later), Duration::from_millis(100));
        assert_eq!(bucket.take(9, later + Duration::from_millis(250)), 2);
    }

    #[test]
    fn the_slowest_rate_and_the_largest_burst_do_not_overflow() {
        let (mut bucket, begin) = bucket(limits::RATE_MIN, limits::RATE_MAX);
        assert_eq!(bucket.take(u32::MAX, begin), limits::RATE_MAX);
        assert_eq!(bucket.next_in(begin), Duration::from_secs(10_000));
    }

    proptest! {
        #[test]
        fn in_no_span_leaves_more_than_the_burst_and_the_rate_and_a_token_comes_when_it_is_said(
            per_second in prop_oneof![0.01..2.0f64, 2.0..5000.0],
            burst in 1..50u32,
            steps in prop::collection::vec((0..3_000_000_000u64, 0..60u32, 0..60u32), 1..60),
        ) {
            let (mut bucket, begin) = bucket(per_second, burst);
            let mut now = begin;
            let mut starts: Vec<(Instant, u32)> = Vec::new();
            for (wait, want, back) in steps {
                now += Duration::from_nanos(wait);
                let taken = bucket.take(want, now);
                let back = back.min(taken);
                bucket.put_back(back);
                starts.push((now, taken - back));
                // Whoever waits as long as is said gets one, and nobody got one before that.
                let wait = bucket.next_in(now);
                let mut asked = bucket;
                prop_assert_eq!(asked.take(1, now + wait), 1);
                if let Some(less) = wait.checked_sub(Duration::from_nanos(1)) {
                    let mut asked = bucket;
                    prop_assert_eq!(asked.take(1, now + less), 0);
                }
            }
            for (from, &(first, _)) in starts.iter().enumerate() {
                let mut sum = 0;
                for &(last, tokens) in &starts[from..] {
                    sum += tokens;
                    let brought = per_second * last.duration_since(first).as_secs_f64();
                    prop_assert!(f64::from(sum) <= f64::from(burst) + brought + 1e-6);
                }
            }
        }
    }
}
