//! The columns of a batch that are more than a number: its pause, and what failed.
//!
//! Field numbers are on disk and never change their meaning.

use std::collections::HashMap;

use prost::Message as _;

use crate::domain::failures::{Failures, Since};
use crate::domain::pause::{Pause, PausedBy};

#[derive(Clone, PartialEq, prost::Message)]
struct FailuresBlob {
    #[prost(map = "string, uint32", tag = "1")]
    reasons: HashMap<String, u32>,
    #[prost(uint32, tag = "2")]
    since_failed: u32,
    #[prost(uint32, tag = "3")]
    since_terminal: u32,
}

/// Encodes what failed in a batch; `None` if nothing did.
pub(crate) fn encode_failures(failures: &Failures) -> Option<Vec<u8>> {
    let Failures { reasons, since } = failures;
    let reasons = reasons.iter();
    let blob = FailuresBlob {
        reasons: reasons
            .map(|(name, &count)| (name.to_string(), count))
            .collect(),
        since_failed: since.failed,
        since_terminal: since.terminal,
    };
    (blob != FailuresBlob::default()).then(|| blob.encode_to_vec())
}

/// A pause as its row has it: the number of who asked for it, a space, and why.
pub(crate) fn encode_pause(pause: &Pause) -> String {
    format!("{} {}", pause.by as u8, pause.why)
}

/// The reverse of [`encode_pause`].
pub(crate) fn decode_pause(text: &str) -> Option<Pause> {
    let (number, why) = text.split_once(' ')?;
    let by = PausedBy::from_number(number.parse().ok()?)?;
    let why = why.into();
    Some(Pause { by, why })
}

/// The reverse of [`encode_failures`].
pub(crate) fn decode_failures(bytes: &[u8]) -> Result<Failures, prost::DecodeError> {
    let blob = FailuresBlob::decode(bytes)?;
    let reasons = blob.reasons.into_iter();
    Ok(Failures {
        reasons: reasons.map(|(name, count)| (name.into(), count)).collect(),
        since: Since {
            failed: blob.since_failed,
            terminal: blob.since_terminal,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_as_rows_have_had_them_and_come_back() {
        let rows = [
            (Pause::by_hand(""), "1 "),
            (Pause::by_hand("2 hot"), "1 2 hot"),
            (Pause::by_policy("why"), "2 why"),
        ];
        for (pause, row) in rows {
            assert_eq!(encode_pause(&pause), row);
            assert_eq!(decode_pause(row), Some(pause));
        }
        for damaged in ["", "1", "3 who", "x why"] {
            assert_eq!(decode_pause(damaged), None, "{damaged:?}");
        }
    }
}
