//! The door to time.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `wait` later; the far end of time instead of an overflow.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long from `earlier` until this; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Where this process's time line is pinned to the wall clock.
struct Anchor {
    instant: Instant,
    wall: Timestamp,
}

static ANCHOR: LazyLock<Anchor> = LazyLock::new(|| Anchor {
    instant: instant(),
    wall: wall(),
});

/// The time now, on a line that never jumps.
///
/// It was read from the wall clock once and runs with the monotonic clock since, so that a step of
/// the wall clock neither ends a backoff early nor makes a duration negative. Times that outlive
/// the process (a backoff's end, a record's time) are off by such a step at most.
pub fn now() -> Timestamp {
    ANCHOR
        .wall
        .plus(instant().saturating_duration_since(ANCHOR.instant))
}

/// A reading of the monotonic clock, for measuring spans.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn instant() -> Instant {
    Instant::now()
}

/// What the wall clock says, which people and other programs may set: only to be compared with [`now`].
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn wall() -> Timestamp {
    Timestamp(0).plus(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_never_negative_and_sums_never_overflow() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(9).since(Timestamp(5)), Duration::from_millis(4));
        assert_eq!(Timestamp(1).plus(Duration::MAX), Timestamp(i64::MAX));
    }
}
