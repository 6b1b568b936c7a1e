//! One execution of an item and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::payload::{Payload, clip};

/// How an attempt ended, as its handler tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With an output.
    Succeeded(Payload),
    /// With a failure, which the retry policy judges.
    Failed(ItemError),
    /// Without having begun, or stopped by the server for reasons of its own. Nothing is charged;
    /// the item is pending again after the wait.
    Released {
        /// Why.
        error: ItemError,
        /// How long to wait before the next attempt.
        wait: Duration,
    },
}

/// Why an item, or one attempt of it, did not succeed.
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
/// | `PANIC` | `INTERNAL` | yes | the handler's code panicked |
/// | `SPAWN_FAILED` | `INTERNAL` | yes | the handler's program could not be started |
/// | `OUTPUT_TOO_LARGE` | `RESOURCE_EXHAUSTED` | no | the output is over its cap |
/// | `INPUT_TOO_LARGE` | `RESOURCE_EXHAUSTED` | no | the input does not fit where the handler wants it |
/// | `INPUT_NOT_TEXT` | `INVALID_ARGUMENT` | no | an argument must be text, and the input is not |
/// | `CRASHED_TOO_OFTEN` | `INTERNAL` | no | the server died under the item `max_crashes` times |
/// | `RELEASED_TOO_OFTEN` | `INTERNAL` | no | attempts were given back 100 times |
/// | `INTERRUPTED` | `UNKNOWN` | yes | the server stopped while the attempt ran; not charged |
/// | `CORRUPT_RECORD` | `DATA_LOSS` | no | a checksum does not match |
///
/// Reasons of handlers (`EXIT_1`, `SIGNAL_KILL` and so on) have the code `ABORTED`.
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
    /// The handler's code panicked.
    PANIC: INTERNAL, true;
    /// The handler's program could not be started.
    SPAWN_FAILED: INTERNAL, true;
    /// The output is over its cap.
    OUTPUT_TOO_LARGE: RESOURCE_EXHAUSTED, false;
    /// The input does not fit where the handler wants it.
    INPUT_TOO_LARGE: RESOURCE_EXHAUSTED, false;
    /// An argument must be text, and the input is not.
    INPUT_NOT_TEXT: INVALID_ARGUMENT, false;
    /// The server died under the item too often.
    CRASHED_TOO_OFTEN: INTERNAL, false;
    /// Attempts were given back too often.
    RELEASED_TOO_OFTEN: INTERNAL, false;
    /// The server stopped while the attempt ran.
    INTERRUPTED: UNKNOWN, true;
    /// A checksum does not match.
    CORRUPT_RECORD: DATA_LOSS, false;
}

impl ItemError {
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
}

/// What is known of an attempt that did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub struct PastAttempt {
    /// Its number, from 1.
    pub number: u32,
    /// When it began, if that is known.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Timestamp,
    /// When the next one is due.
    pub next: Option<Timestamp>,
    /// Why it ended.
    pub error: ItemError,
    /// Who ran it.
    pub worker: Box<str>,
}
