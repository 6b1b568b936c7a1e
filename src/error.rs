//! The one error that rises through the house.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is ours.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong. Fix it; sending it again will not help.
    Invalid,
    /// There is no such thing. Check the name, or whether its time is over.
    NotFound,
    /// The key is taken by other content. Choose another key.
    Conflict,
    /// The thing is not in a state for this. Look at its state first.
    Precondition,
    /// The position does not exist. Read on from the one in the metadata.
    OutOfRange,
    /// A limit was reached. Retry with backoff.
    Exhausted,
    /// The server cannot serve now and stored nothing. Retry, on another server if there is one.
    Unavailable,
    /// Whether it was stored is unknown. Repeat it with the same key; the answer tells.
    Unknown,
    /// Another call has taken this one's place. Do not repeat it blindly: the two would take turns.
    Superseded,
    /// The time the caller gave is over. The batch goes on; read it again.
    Deadline,
    /// Stored data is damaged. Restore it, or do the work again.
    Corrupt,
    /// A bug. Report it.
    Internal,
}

/// One wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, such as `items[3].item_id`.
    pub field: String,
    /// What is wrong with it, with the value and the bound.
    pub message: String,
}

/// Sooner could not do what was asked. An item that fails is not an error but an outcome.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    reason: &'static str,
    message: String,
    violations: Vec<FieldViolation>,
    metadata: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// The fact that marks a lack of room which no waiting ends.
    pub(crate) const RETRY: &'static str = "retry";

    /// An error of `kind`; `reason` is its name for programs, in upper snake case.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        let (violations, metadata) = (Vec::new(), Vec::new());
        Self(Box::new(Inner {
            kind,
            reason,
            message: message.into(),
            violations,
            metadata,
            source: None,
        }))
    }

    /// A request with one wrong field, or several.
    ///
    /// # Panics
    /// If there is no violation: then nothing is wrong.
    pub fn invalid(reason: &'static str, violations: Vec<FieldViolation>) -> Self {
        let first = violations
            .first()
            .expect("an invalid request has a wrong field");
        let more = match violations.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let mut error = Self::new(
            ErrorKind::Invalid,
            reason,
            format!("{}: {}{more}", first.field, first.message),
        );
        error.0.violations = violations;
        error
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.metadata.push((key, value.to_string()));
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error's name for programs.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// What is wrong, without the source.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The wrong fields of an invalid request.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.violations
    }

    /// Facts for programs.
    pub fn metadata(&self) -> &[(&'static str, String)] {
        &self.0.metadata
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("violations", &self.0.violations)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
