//! Durations and sizes as people write them.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::base::limits;

/// Reads a duration such as `1m30s`, `200ms` or `0s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as \"1m30s\" or \"200ms\"");
    let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
    // A month may be of many lengths; a day has 24 hours here whatever a clock on a wall does.
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = span.to_duration(days).map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| format!("{text:?} is negative"))?;
    if duration > limits::DURATION_MAX {
        return Err(format!("{text:?} is more than the limit of ten years"));
    }
    Ok(duration)
}

/// A size as it was written: text, or a plain number of bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Size(pub(crate) String);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"16MiB\" or a number of bytes")
    }

    fn visit_str<E>(self, text: &str) -> Result<Size, E> {
        Ok(Size(text.to_owned()))
    }

    fn visit_i64<E>(self, bytes: i64) -> Result<Size, E> {
        Ok(Size(bytes.to_string()))
    }
}

/// Reads a size such as `16MiB`, `4 KiB` or `1000` (bytes).
pub fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is not a size such as \"16MiB\", \"4KiB\" or \"1000\"");
    let text_trimmed = text.trim();
    let digits_end = text_trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text_trimmed.len());
    let (digits, unit) = text_trimmed.split_at(digits_end);
    let number: usize = digits.parse().map_err(|_| wrong())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("1m30s", 90_000),
            ("200ms", 200),
            ("0s", 0),
            ("1h", 3_600_000),
            ("2 min", 120_000),
            ("7d", 7 * 24 * 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "5", "-1s", "abc", "99999999h", "1mo"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("16MiB", 16 << 20),
            ("4 KiB", 4096),
            ("1000", 1000),
            ("1kB", 1000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "1XB", "99999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
