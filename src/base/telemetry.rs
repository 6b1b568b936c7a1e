//! The door to logs: one subscriber for the process, on standard error.

use std::io::IsTerminal as _;
use std::time::Instant;

use tracing_subscriber::EnvFilter;

use super::{clock, limits};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is wrong with a filter, if anything is.
pub fn check_filter(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::builder().parse(filter);
    parsed.map(drop).map_err(|error| error.to_string())
}

/// Installs the subscriber. A second call changes nothing.
///
/// `filter` is a comma-separated list such as `info,sooner::item=warn`; `RUST_LOG` wins over it,
/// unless it cannot be read, which is said on standard error.
pub fn install(format: Format, filter: &str) {
    let own = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let own = own.filter(|own| match check_filter(own) {
        Ok(()) => !own.is_empty(),
        Err(problem) => {
            eprintln!("warning: RUST_LOG is ignored: {problem}");
            false
        }
    });
    let filter = EnvFilter::new(own.as_deref().unwrap_or(filter));
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match format {
        Format::Auto if terminal => lines.try_init(),
        Format::Text => lines.with_ansi(terminal).try_init(),
        Format::Auto | Format::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(already) = installed {
        tracing::debug!(error = %already, "a subscriber is installed already");
    }
}

/// Trouble that somebody else can cause as often as they like: it is logged seldom.
#[derive(Debug, Default)]
pub struct Seldom {
    told: Option<Instant>,
    times: u64,
}

impl Seldom {
    /// Call it once per occurrence. When a line is due it answers how often it came since the last one.
    pub fn due(&mut self) -> Option<u64> {
        self.due_at(clock::instant())
    }

    fn due_at(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let told_just_now = self
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < limits::TROUBLE_LOG_INTERVAL);
        if told_just_now {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_often_is_told_seldom_and_counted() {
        let mut trouble = Seldom::default();
        let start = clock::instant();
        assert_eq!(trouble.due_at(start), Some(1));
        assert_eq!(trouble.due_at(start), None);
        assert_eq!(trouble.due_at(start), None);
        let later = start + limits::TROUBLE_LOG_INTERVAL;
        assert_eq!(trouble.due_at(later), Some(3));
        assert_eq!(trouble.due_at(later), None);
    }
}
