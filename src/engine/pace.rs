//! How promptly a reader is served, apart from how quickly it reads.
//!
//! ```text
//!   CatchingUp ── has everything ──▶ CaughtUp ── more news than a page holds ──▶ Busy
//!                                       ▲                                         │
//!                                       └───────────── has everything ────────────┘
//! ```
//!
//! What was there before the reader came is no measure of anything. A result that comes while it has
//! all others has waited for us since its handler returned, or since the reader's connection had room
//! for more. The later pages of a burst have waited for the connection too, between the pages; only
//! what we took for them counts.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    CatchingUp,
    CaughtUp,
    /// The longest that a result of the burst has waited for us so far.
    Busy(Duration),
}

/// When a page was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    /// When the reader had room for more.
    pub(crate) asked: Instant,
    /// When the page's read began.
    pub(crate) began: Instant,
    /// When it was there.
    pub(crate) done: Instant,
}

impl Pace {
    /// From when on the page's results can have waited for us; `None` if nobody waited for them.
    pub(crate) fn waiting_since(self, read: Read) -> Option<Instant> {
        match self {
            Self::CatchingUp => None,
            Self::CaughtUp => Some(read.asked),
            Self::Busy(before) => {
                let ours = before + read.done.saturating_duration_since(read.began);
                Some(read.done.checked_sub(ours).unwrap_or(read.began))
            }
        }
    }

    /// The pace after a page whose results waited for `longest` at most, and whether it was the last.
    pub(crate) fn after(self, longest: Duration, has_everything: bool) -> Self {
        match self {
            _ if has_everything => Self::CaughtUp,
            Self::CatchingUp => Self::CatchingUp,
            Self::CaughtUp | Self::Busy(_) => Self::Busy(longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    #[test]
    fn a_reader_is_waited_for_only_by_itself() {
        let start = clock::instant();
        let at = |millis| start + Duration::from_millis(millis);
        let read = |asked, began, done| Read {
            asked: at(asked),
            began: at(began),
            done: at(done),
        };
        let old = Pace::CatchingUp;
        assert_eq!(old.waiting_since(read(0, 0, 1)), None);
        assert_eq!(old.after(Duration::ZERO, false), Pace::CatchingUp);
        let followed = old.after(Duration::ZERO, true);
        // It was idle for a second, then a burst of two pages came.
        assert_eq!(followed.waiting_since(read(0, 1000, 1001)), Some(at(0)));
        let burst = followed.after(Duration::from_millis(3), false);
        // Its connection took 50 ms for the first; the second took us 2 ms more.
        assert_eq!(burst.waiting_since(read(1051, 1051, 1053)), Some(at(1048)));
        assert_eq!(burst.after(Duration::from_millis(5), true), Pace::CaughtUp);
    }
}
