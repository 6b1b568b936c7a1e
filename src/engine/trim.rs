//! Removes batches whose retention is over, and the rows of deleted ones, chunk by chunk.
//!
//! What has expired is told by the clocks, and a clock may be wrong: a batch that is removed an hour
//! late is no harm, one that is removed a year early is. So only what has expired by the wall clock
//! and by this process's own time is removed, and nothing while the two have just jumped apart.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::store::{Store, StoreError};

/// The wall clock against the time of this process, which never jumps.
#[derive(Debug, Default)]
struct Clocks {
    /// By how many milliseconds the wall clock was ahead at the last look.
    ahead: Option<i64>,
    /// Until when they must agree before either is trusted, after a jump.
    doubtful_until: Option<Timestamp>,
}

impl Clocks {
    /// By what time batches may count as expired; `None` while the clocks are in doubt.
    fn look(&mut self, now: Timestamp, wall: Timestamp) -> Option<Timestamp> {
        let ahead = wall.0.saturating_sub(now.0);
        let before = self.ahead.replace(ahead).unwrap_or(0);
        let jumped = Duration::from_millis(ahead.abs_diff(before));
        if jumped > limits::CLOCK_JUMP_MAX {
            let (by, again_in) = (jumped.as_secs(), limits::CLOCK_AGREED_MIN);
            tracing::warn!(
                seconds = by,
                ?again_in,
                "the wall clock has jumped: batches that have expired stay until it has run true for a while"
            );
            self.doubtful_until = Some(now.plus(again_in));
        }
        self.doubtful_until.take_if(|until| *until <= now);
        let by = now.min(wall);
        self.doubtful_until.is_none().then_some(by)
    }
}

/// Looks once a second for what is to be removed, until `draining`.
pub(crate) async fn watch_over(store: Store, draining: CancellationToken) {
    let mut clocks = Clocks::default();
    let mut wait = limits::TRIM_LOOK;
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let expired_by = clocks.look(clock::now(), clock::wall());
        let paused = &store.metrics().removal.paused;
        paused.set(i64::from(expired_by.is_none()));
        let trimmed = tokio::select! {
            biased;
            // What is left goes on at the next start.
            () = draining.cancelled() => return,
            trimmed = store.trim(expired_by) => trimmed,
        };
        wait = match trimmed {
            Ok(true) => limits::TRIM_PAUSE,
            Ok(false) => limits::TRIM_LOOK,
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "removing old batches goes on later");
                limits::TRIM_RETRY
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn look(clocks: &mut Clocks, now: i64, wall: i64) -> Option<i64> {
        clocks.look(Timestamp(now), Timestamp(wall)).map(|by| by.0)
    }

    #[test]
    fn a_jump_of_the_wall_clock_stops_trimming_until_it_has_run_true_for_an_hour() {
        for jump in [9000 * HOUR, 2 * HOUR, -2 * HOUR, -9000 * HOUR] {
            let mut clocks = Clocks::default();
            let start = 100_000 * HOUR;
            assert_eq!(look(&mut clocks, start, start), Some(start));
            let then = start + 1000;
            assert_eq!(look(&mut clocks, then, then + jump), None, "{jump}");
            let almost = then + HOUR - 1;
            assert_eq!(look(&mut clocks, almost, almost + jump), None, "{jump}");
            let agreed = then + HOUR;
            let by = agreed + jump.min(0);
            assert_eq!(look(&mut clocks, agreed, agreed + jump), Some(by), "{jump}");
            // The correction is a jump too.
            assert_eq!(look(&mut clocks, agreed + 1000, agreed + 1000), None);
        }
    }

    #[test]
    fn a_clock_that_is_set_a_little_or_drifts_stops_nothing() {
        let mut clocks = Clocks::default();
        let mut ahead = 0;
        for second in 0..5000 {
            let now = 100_000 * HOUR + 1000 * second;
            let by = look(&mut clocks, now, now + ahead);
            assert_eq!(by, Some(now.min(now + ahead)));
            ahead -= 1000;
        }
        assert_eq!(
            look(&mut clocks, 1000 * HOUR, 1000 * HOUR),
            None,
            "that was hours"
        );
    }

    #[test]
    fn a_clock_that_is_wrong_from_the_start_is_seen_at_the_first_look() {
        let mut clocks = Clocks::default();
        assert_eq!(look(&mut clocks, 5000 * HOUR, 9 * HOUR), None);
    }
}
