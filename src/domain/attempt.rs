//! One execution of an item and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::payload::{Payload, clip};

/// How an attempt ended, as its handler tells it.
///
/// Most handlers compute a `Result` and say `.into()`: whatever becomes a [`Payload`] is an output,
/// whatever becomes an [`ItemError`] a failure.
///
/// ```
/// use std::time::Duration;
/// use sooner::{ItemError, Outcome, Payload};
///
/// let done = Outcome::from(Ok::<_, ItemError>("the output"));
/// assert_eq!(done, Outcome::Succeeded(Payload::text("the output")));
///
/// // The upstream said when to come again: in place of the policy's backoff.
/// let busy = ItemError::retryable("UPSTREAM_BUSY", "429 Too Many Requests");
/// let later = Outcome::FailedFor { error: busy, wait: Duration::from_secs(30) };
/// # drop(later);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With an output.
    Succeeded(Payload),
    /// With a failure, which the retry policy judges.
    Failed(ItemError),
    /// With a failure after which the handler knows how long to wait. Whether there is another
    /// attempt is for the retry policy to say; the wait stands in place of its backoff, unchanged by
    /// `max_backoff` and jitter.
    FailedFor {
        /// Why.
        error: ItemError,
        /// How long to wait before the next attempt; at most ten years, more is taken for that.
        wait: Duration,
    },
    /// Without having begun, or stopped by the server for reasons of its own. Nothing is charged;
    /// the item is pending again after the wait.
    Released {
        /// Why.
        error: ItemError,
        /// How long to wait before the next attempt.
        wait: Duration,
    },
    /// Without having begun, because the system has no thread or process for it. Nothing is charged,
    /// however often that is so, and the item is pending again. Only the server's own handlers know
    /// that: yours may pass it on.
    Short(Shortage),
}

/// What the system had too little of for an attempt to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    pub(crate) error: ItemError,
    pub(crate) wait: Duration,
}

impl Shortage {
    /// What it was, as the item's attempts tell it.
    pub fn error(&self) -> &ItemError {
        &self.error
    }
}

/// Why an item, or one attempt of it, did not succeed.
///
/// Any error becomes one with `?` or `.into()`: reason `HANDLER_ERROR`, worth another attempt. Name a
/// reason of your own where programs should tell failures apart, and say so where another attempt
/// cannot help:
///
/// ```
/// use sooner::ItemError;
///
/// fn parse(input: &str) -> Result<f64, ItemError> {
///     let celsius: f64 = input.trim().parse().map_err(|_| {
///         ItemError::permanent("NOT_A_NUMBER", format!("{input:?} is not a number"))
///     })?;
///     std::fs::metadata("/")?; // an io::Error: worth another attempt
///     Ok(celsius)
/// }
/// assert_eq!(&*parse("x").unwrap_err().reason, "NOT_A_NUMBER");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemError {
    /// The number of a `google.rpc.Code`.
    pub code: Code,
    /// What happened, for programs, in upper snake case.
    pub reason: Box<str>,
    /// What happened, for people.
    pub message: Box<str>,
    /// Whether the same attempt may succeed later.
    pub retryable: bool,
    /// More facts, by name.
    pub details: BTreeMap<Box<str>, Box<str>>,
}

/// The number of a `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

impl Code {
    /// The item was cancelled.
    pub const CANCELLED: Self = Self(1);
    /// Nobody knows how it ended.
    pub const UNKNOWN: Self = Self(2);
    /// The input is at fault.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// A time limit passed.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// Something has run out.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// The handler gave up.
    pub const ABORTED: Self = Self(10);
    /// The server or the handler is at fault.
    pub const INTERNAL: Self = Self(13);
    /// Stored data is damaged.
    pub const DATA_LOSS: Self = Self(15);
}

/// The reasons that the server itself gives, each with its code and whether another attempt may help.
///
/// | reason | code | retryable | when |
/// |---|---|---|---|
/// | `ITEM_TIMEOUT` | `DEADLINE_EXCEEDED` | yes | an attempt ran into its limit |
/// | `BATCH_CANCELLED`, `ITEM_CANCELLED` | `CANCELLED` | no | a cancel came first |
/// | `ENOUGH_REACHED` | `CANCELLED` | no | enough other items of the batch had succeeded |
/// | `FAILURE_POLICY` | `CANCELLED` | no | too many other items of the batch had failed |
/// | `BATCH_DEADLINE`, `BATCH_MAX_DURATION` | `DEADLINE_EXCEEDED` | no | the batch's time was over first |
/// | `START_BY` | `DEADLINE_EXCEEDED` | no | the item's first attempt had not begun in time |
/// | `FINISH_BY` | `DEADLINE_EXCEEDED` | no | the item had no result in time |
/// | `UNKNOWN_OUTCOME` | `UNKNOWN` | no | an item of an `at_most_once` batch was interrupted |
/// | `PANIC` | `INTERNAL` | yes | the handler's code panicked |
/// | `SPAWN_FAILED` | `INTERNAL` | yes | the handler's program could not be started; not charged if the system has no room for it |
/// | `OUTPUT_TOO_LARGE` | `RESOURCE_EXHAUSTED` | no | the output is over its cap |
/// | `OUTPUT_INVALID` | `INTERNAL` | no | the output's media type is none |
/// | `INPUT_TOO_LARGE` | `RESOURCE_EXHAUSTED` | no | the input does not fit where the handler wants it |
/// | `INPUT_NOT_TEXT` | `INVALID_ARGUMENT` | no | an argument must be text, and the input is not |
/// | `CRASHED_TOO_OFTEN` | `INTERNAL` | no | the server died under the item `max_crashes` times |
/// | `RELEASED_TOO_OFTEN` | `INTERNAL` | no | its handler gave it back 100 times |
/// | `NO_THREAD` | `RESOURCE_EXHAUSTED` | yes | the system has no thread for a blocking handler; not charged |
/// | `INTERRUPTED` | `UNKNOWN` | yes | the server stopped while the attempt ran; not charged |
/// | `CORRUPT_RECORD` | `DATA_LOSS` | no | a checksum does not match |
///
/// Reasons of handlers (`EXIT_1`, `SIGNAL_KILL`, `HANDLER_ERROR` and so on) have the code `ABORTED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Its name.
    pub name: &'static str,
    /// Its code.
    pub code: Code,
    /// Whether another attempt may help.
    pub retryable: bool,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident: $code:ident, $retryable:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Self =
                Self { name: stringify!($name), code: Code::$code, retryable: $retryable };)*
        }
    };
}

reasons! {
    /// An attempt ran into its limit.
    ITEM_TIMEOUT: DEADLINE_EXCEEDED, true;
    /// The batch was cancelled first.
    BATCH_CANCELLED: CANCELLED, false;
    /// The item was cancelled first.
    ITEM_CANCELLED: CANCELLED, false;
    /// Enough other items of the batch had succeeded.
    ENOUGH_REACHED: CANCELLED, false;
    /// Too many other items of the batch had failed.
    FAILURE_POLICY: CANCELLED, false;
    /// The batch's deadline passed first.
    BATCH_DEADLINE: DEADLINE_EXCEEDED, false;
    /// The batch had lasted too long.
    BATCH_MAX_DURATION: DEADLINE_EXCEEDED, false;
    /// The item's first attempt had not begun in time.
    START_BY: DEADLINE_EXCEEDED, false;
    /// The item had no result in time.
    FINISH_BY: DEADLINE_EXCEEDED, false;
    /// An item that runs at most once was interrupted.
    UNKNOWN_OUTCOME: UNKNOWN, false;
    /// The handler's code panicked.
    PANIC: INTERNAL, true;
    /// The handler's program could not be started.
    SPAWN_FAILED: INTERNAL, true;
    /// The output is over its cap.
    OUTPUT_TOO_LARGE: RESOURCE_EXHAUSTED, false;
    /// The output's media type is none.
    OUTPUT_INVALID: INTERNAL, false;
    /// The input does not fit where the handler wants it.
    INPUT_TOO_LARGE: RESOURCE_EXHAUSTED, false;
    /// An argument must be text, and the input is not.
    INPUT_NOT_TEXT: INVALID_ARGUMENT, false;
    /// The server died under the item too often.
    CRASHED_TOO_OFTEN: INTERNAL, false;
    /// Its handler gave it back too often.
    RELEASED_TOO_OFTEN: INTERNAL, false;
    /// The system has no thread for a blocking handler.
    NO_THREAD: RESOURCE_EXHAUSTED, true;
    /// The server stopped while the attempt ran.
    INTERRUPTED: UNKNOWN, true;
    /// A checksum does not match.
    CORRUPT_RECORD: DATA_LOSS, false;
}

impl ItemError {
    /// Bytes of all that it says.
    pub(crate) fn bytes(&self) -> usize {
        let details = self.details.iter();
        let of_details: usize = details.map(|(name, text)| name.len() + text.len()).sum();
        self.reason.len() + self.message.len() + of_details
    }

    /// A failure for one of the server's own reasons.
    pub fn of(reason: Reason, message: &str) -> Self {
        Self {
            code: reason.code,
            reason: reason.name.into(),
            message: clip(message, limits::ERROR_MESSAGE_BYTES_MAX).into(),
            retryable: reason.retryable,
            details: BTreeMap::new(),
        }
    }

    /// A failure for a reason of the handler's.
    pub fn handler(reason: &str, message: &str, retryable: bool) -> Self {
        Self {
            code: Code::ABORTED,
            reason: reason.into(),
            message: clip(message, limits::ERROR_MESSAGE_BYTES_MAX).into(),
            retryable,
            details: BTreeMap::new(),
        }
    }

    /// A failure after which another attempt may succeed. `reason` names it for programs: A-Z, 0-9
    /// and underscore, at most 63; `message` is for people, and its first 4 KiB are kept.
    pub fn retryable(reason: &str, message: impl AsRef<str>) -> Self {
        Self::handler(reason, message.as_ref(), true).within_bounds()
    }

    /// A failure that no other attempt would mend: the item fails at once. `reason` and `message` as
    /// for [`ItemError::retryable`].
    pub fn permanent(reason: &str, message: impl AsRef<str>) -> Self {
        Self::handler(reason, message.as_ref(), false).within_bounds()
    }

    /// The same within what is kept: a reason that is no name becomes one, texts are cut, facts too
    /// many are left out.
    #[must_use]
    pub(crate) fn within_bounds(mut self) -> Self {
        if !is_reason(&self.reason) {
            self.reason = reason_like(&self.reason);
        }
        if self.message.len() > limits::ERROR_MESSAGE_BYTES_MAX {
            self.message = clip(&self.message, limits::ERROR_MESSAGE_BYTES_MAX).into();
        }
        let fits = |(name, value): &(Box<str>, Box<str>)| {
            name.len() <= limits::NAME_CHARS_MAX && value.len() <= limits::ATTRIBUTE_BYTES_MAX
        };
        if !self.details.is_empty() {
            let details = self.details.into_iter().filter(fits);
            self.details = details.take(limits::ATTRIBUTES_MAX).collect();
        }
        self
    }
}

/// Whether a text can be a reason: one to 63 of A-Z, 0-9 and underscore.
pub(crate) fn is_reason(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    (1..=limits::REASON_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// The reason that is most like a text.
fn reason_like(text: &str) -> Box<str> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name = text.chars().take(limits::REASON_CHARS_MAX).map(plain);
    let name = name.map(|c| c.to_ascii_uppercase()).collect::<String>();
    if name.is_empty() {
        HANDLER_ERROR
    } else {
        &name
    }
    .into()
}

/// The reason of a failure that has none of its own.
const HANDLER_ERROR: &str = "HANDLER_ERROR";

impl<E: std::error::Error> From<E> for ItemError {
    /// The error and those beneath it are the message.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut beneath = error.source();
        while let Some(source) = beneath {
            message = format!("{message}: {source}");
            beneath = source.source();
        }
        Self::retryable(HANDLER_ERROR, message)
    }
}

impl<P: Into<Payload>, E: Into<ItemError>> From<Result<P, E>> for Outcome {
    fn from(computed: Result<P, E>) -> Self {
        match computed {
            Ok(output) => Self::Succeeded(output.into()),
            Err(error) => Self::Failed(error.into()),
        }
    }
}

/// An attempt that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Its number, from 1.
    pub number: u32,
    /// When it began.
    pub started: Timestamp,
}

/// What is known of an attempt that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct PastAttempt {
    /// Its number, from 1.
    pub number: u32,
    /// Whether it has begun: not if its handler gave it back, or the system had no room for it.
    pub began: bool,
    /// When it began, if that is known.
    pub started: Option<Timestamp>,
    /// When it ended; `None` if the server ended under it, as nobody saw when.
    pub ended: Option<Timestamp>,
    /// When the next one is due.
    pub next: Option<Timestamp>,
    /// Why it ended, if it did not succeed.
    pub error: Option<ItemError>,
    /// Who ran it.
    pub worker: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_brought_within_bounds() {
        let mut error = ItemError::permanent("upstream: 429 \u{e4}", "x".repeat(10_000));
        assert_eq!(&*error.reason, "UPSTREAM__429__");
        assert_eq!(error.message.len(), limits::ERROR_MESSAGE_BYTES_MAX);
        assert_eq!(&*ItemError::retryable("", "").reason, HANDLER_ERROR);
        assert_eq!(ItemError::retryable(&"A".repeat(99), "").reason.len(), 63);

        error.details = (0..99)
            .map(|i| (format!("{i:03}").into(), "v".into()))
            .collect();
        error.details.insert("0".into(), "v".repeat(2_000).into());
        let kept = error.within_bounds().details;
        assert_eq!(kept.len(), limits::ATTRIBUTES_MAX);
        assert!(!kept.contains_key("0"), "a value too long is left out");
    }

    #[test]
    fn the_errors_beneath_are_told_too() {
        let beneath = std::io::Error::other(std::fmt::Error);
        let error = ItemError::from(beneath);
        assert!(error.retryable);
        assert!(error.message.contains("error"), "{}", error.message);
    }
}
