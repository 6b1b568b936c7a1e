//! The caller's deadline: the `grpc-timeout` header, which the server must keep by itself.
//!
//! The transport bounds at most the time to the response's headers, so streams get the deadline
//! handed along and end by it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::base::{clock, limits};
use crate::error::{Error, ErrorKind, Result};

/// When a call must have ended, if its caller said so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline of a call that came just now.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let header = metadata
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok());
        let timeout = header.and_then(parse);
        Self(timeout.and_then(|timeout| Instant::from_std(clock::instant()).checked_add(timeout)))
    }

    /// Waits until it has passed; for ever if there is none. Cancel safe.
    pub(crate) async fn passed(self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Runs a call until it ends or the deadline has passed.
    pub(crate) async fn bound<T>(self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = call => done,
            () = self.passed() => Err(exceeded()),
        }
    }

    /// How long a waiting call may wait, so that its answer still arrives.
    pub(crate) fn clip(self, wait: Duration) -> Duration {
        let wait = wait.min(limits::WAIT_MAX);
        let left = self
            .0
            .map(|at| at.saturating_duration_since(Instant::from_std(clock::instant())));
        left.map_or(wait, |left| {
            wait.min(left.saturating_sub(limits::WAIT_MARGIN))
        })
    }
}

/// The error of a call whose deadline has passed.
pub(crate) fn exceeded() -> Error {
    Error::new(
        ErrorKind::Deadline,
        "RPC_DEADLINE",
        "the call's deadline has passed; an accepted batch goes on",
    )
}

/// Reads a header as the gRPC specification has it: up to eight digits and a unit.
fn parse(header: &str) -> Option<Duration> {
    let unit_at = header.len().checked_sub(1)?;
    let (digits, unit) = header.split_at_checked(unit_at)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_specified() {
        let cases = [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("6000000n", Some(6)),
            ("", None),
            ("5", None),
            ("S", None),
            ("-1S", None),
            ("1 S", None),
            ("123456789m", None),
            ("1é", None),
        ];
        for (header, millis) in cases {
            assert_eq!(
                parse(header),
                millis.map(Duration::from_millis),
                "{header:?}"
            );
        }
    }
}
