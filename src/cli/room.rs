//! Waiting for room on a server: said once and then rarely, and not for ever.

use std::time::{Duration, Instant};

use super::exit::{Exit, Failure};
use super::refusal;
use crate::base::clock;

/// How long from one word about a wait to the next: who looks at it sees that it still lasts, and a log
/// of a night is no longer than its batches'.
const SAID_AGAIN: Duration = Duration::from_secs(300);

/// A wait for room, if there is one.
#[derive(Debug)]
pub(super) struct Room {
    /// How long it may last.
    longest: Duration,
    wait: Option<Wait>,
    /// When it was last spoken of, this wait or one before: where room comes bit by bit, waits are many.
    said: Option<Instant>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    reason: String,
    why: String,
}

impl Room {
    /// No wait yet; one may last that long.
    pub(super) fn waited_for(longest: Duration) -> Self {
        Self {
            longest,
            wait: None,
            said: None,
        }
    }

    /// There is no room, says the server. Answers what is to be said about it, if anything is.
    pub(super) fn none(&mut self, reason: &str, why: &str) -> Option<String> {
        let now = clock::instant();
        let since = self.wait.as_ref().map_or(now, |wait| wait.since);
        let (reason, why) = (reason.to_owned(), why.to_owned());
        self.wait = Some(Wait { since, reason, why });
        self.told(now)
    }

    /// There is room again.
    pub(super) fn came(&mut self) {
        self.wait = None;
    }

    /// Waits until there is something to say, or the wait has lasted too long; for ever if there is
    /// none. Cancel safe.
    pub(super) async fn lasts(&mut self) -> Result<String, Failure> {
        loop {
            let Some(wait) = &self.wait else {
                return std::future::pending().await;
            };
            let end = wait.since + self.longest;
            let next = self.said.map_or(end, |said| end.min(said + SAID_AGAIN));
            tokio::time::sleep_until(next.into()).await;
            self.check(Duration::ZERO)?;
            if let Some(line) = self.told(clock::instant()) {
                return Ok(line);
            }
        }
    }

    /// Fails if a wait would have lasted too long by then.
    pub(super) fn check(&self, more: Duration) -> Result<(), Failure> {
        match &self.wait {
            Some(wait) if clock::instant() + more >= wait.since + self.longest => {
                let message = format!("{} ({})", wait.why, wait.reason);
                let failure = Failure::new(Exit::Exhausted, message);
                Err(refusal::hinted(failure, &wait.reason))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What is to be said, if it is time.
    fn told(&mut self, now: Instant) -> Option<String> {
        let wait = self.wait.as_ref()?;
        if self.said.is_some_and(|said| now < said + SAID_AGAIN) {
            return None;
        }
        self.said = Some(now);
        let left = (wait.since + self.longest).saturating_duration_since(now);
        Some(format!(
            "the server has no room now: {} ({}); trying for {}",
            wait.why,
            wait.reason,
            in_words(left)
        ))
    }
}

/// A time in its two largest units.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let unit = |count: u64, name: &str| (count > 0).then(|| format!("{count}{name}"));
    let told = match seconds {
        0 => return format!("{}ms", time.as_millis()),
        1..60 => [unit(seconds, "s"), None],
        60..3600 => [unit(seconds / 60, "m"), unit(seconds % 60, "s")],
        3600.. => [unit(seconds / 3600, "h"), unit(seconds % 3600 / 60, "m")],
    };
    told.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_once_and_its_length_is_from_its_beginning() {
        let mut room = Room::waited_for(Duration::from_secs(601));
        let told = room.none("QUEUE_FULL", "too much").unwrap();
        let says = "the server has no room now: too much (QUEUE_FULL); trying for 10m";
        assert!(told.starts_with(says), "{told}");
        let since = room.wait.as_ref().unwrap().since;
        assert_eq!(room.none("QUEUE_FULL", "too much"), None);
        assert_eq!(room.none("DISK_FULL", "the disk is full"), None);
        assert_eq!(room.wait.as_ref().unwrap().since, since);
        assert!(room.check(Duration::from_secs(500)).is_ok());
        let failure = room.check(Duration::from_secs(602)).unwrap_err();
        assert_eq!(failure.exit, Exit::Exhausted);
        assert!(
            failure
                .message
                .starts_with("the disk is full (DISK_FULL)\nhint: "),
            "{failure:?}"
        );
        room.came();
        assert!(room.check(Duration::MAX / 4).is_ok());
        assert_eq!(room.none("QUEUE_FULL", "too much"), None, "so soon again");
    }

    #[test]
    fn times_are_told_in_their_largest_units() {
        let told = [5, 60, 90, 3600, 5400].map(|s| in_words(Duration::from_secs(s)));
        assert_eq!(told, ["5s", "1m", "1m30s", "1h", "1h30m"]);
        assert_eq!(in_words(Duration::from_millis(300)), "300ms");
    }
}
