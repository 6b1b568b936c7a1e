//! What a server's refusal means to a person: a line, the fields at fault, a hint, an exit code.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::exit::{Exit, Failure};
use super::field_names;

/// The domain of the reasons that sooner itself gives.
const DOMAIN: &str = "sooner.v1";

/// Why a call had no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There was no connection.
    NoConnection(tonic::transport::Error),
    /// The call was refused, or broke off.
    Refused(Box<Status>),
}

impl From<tonic::transport::Error> for Trouble {
    fn from(error: tonic::transport::Error) -> Self {
        Self::NoConnection(error)
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Trouble {
    /// A stream that ended well before it had said everything.
    pub(super) fn cut_short() -> Self {
        Status::unavailable("the stream ended too early").into()
    }

    /// Whether the same call may work later. Only for calls that may be repeated without harm.
    pub(super) fn may_pass(&self) -> bool {
        let Self::Refused(status) = self else {
            return true;
        };
        let ours = reason(status).is_some();
        match status.code() {
            Code::Unavailable => true,
            // The accept broke off in a way that only a repetition can tell.
            Code::Aborted => reason(status).as_deref() == Some("ACCEPT_UNKNOWN"),
            Code::ResourceExhausted => retry_delay(status).is_some(),
            // Made up by our own side, or something between, when a connection dies.
            Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded => !ours,
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => false,
        }
    }

    /// Why there is no room for it now, as a reason and in words, if that is all that is wrong.
    pub(super) fn lack_of_room(&self) -> Option<(String, &str)> {
        let Self::Refused(status) = self else {
            return None;
        };
        let may_come = status.code() == Code::ResourceExhausted && self.may_pass();
        Some((reason(status).filter(|_| may_come)?, status.message()))
    }

    /// Whether what came was more at once than may ever be accepted and not over; a smaller piece of it
    /// may have room.
    pub(super) fn is_too_much_at_once(&self) -> bool {
        let Self::Refused(status) = self else {
            return false;
        };
        let details = status.get_error_details();
        let Some(info) = details.error_info() else {
            return false;
        };
        let limit = info.metadata.get("limit").map_or("", String::as_str);
        let is_of_items = limit.ends_with(".queued_items") || limit.ends_with(".queued_bytes");
        is_of_items && !self.may_pass()
    }

    /// How long the server asks to wait at least.
    pub(super) fn retry_delay(&self) -> Duration {
        match self {
            Self::NoConnection(_) => Duration::ZERO,
            Self::Refused(status) => retry_delay(status).unwrap_or_default(),
        }
    }

    /// The place of the item at fault in the message that was refused.
    pub(super) fn place_in_message(&self) -> Option<u64> {
        let Self::Refused(status) = self else {
            return None;
        };
        let details = status.get_error_details();
        let field = &details.bad_request()?.field_violations.first()?.field;
        let (place, _) = field.strip_prefix("items.items[")?.split_once(']')?;
        place.parse().ok()
    }

    /// Whether the batch takes no more items, as it is sealed, ends or is over.
    pub(super) fn is_of_sealed_batch(&self) -> bool {
        let Self::Refused(status) = self else {
            return false;
        };
        matches!(
            reason(status).as_deref(),
            Some("BATCH_SEALED" | "BATCH_FINISHED")
        )
    }

    /// How many items of the upload were durable when it was refused; that count may not have come
    /// as an answer before.
    pub(super) fn durable_items(&self) -> Option<u64> {
        let Self::Refused(status) = self else {
            return None;
        };
        let details = status.get_error_details();
        let facts = &details.error_info()?.metadata;
        facts.get("accepted_items")?.parse().ok()
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection(error) => f.write_str(&root_cause(error)),
            Self::Refused(status) => match (reason(status), status.source()) {
                (None, Some(source)) => f.write_str(&root_cause(source)),
                (Some(_), _) | (None, None) => f.write_str(status.message()),
            },
        }
    }
}

/// What is told when a call to the server at `url` failed for good.
pub(super) fn failure(trouble: &Trouble, url: &str) -> Failure {
    let status = match trouble {
        Trouble::NoConnection(_) => {
            return Failure::new(
                Exit::Unavailable,
                format!("no server can be reached at {url}: {trouble}"),
            );
        }
        Trouble::Refused(status) => status,
    };
    let Some(reason) = reason(status) else {
        return without_reason(trouble, status, url);
    };
    let details = status.get_error_details();
    let mut fields = fields(&details);
    // The message begins with the first of them, by its name in the API.
    let told = fields.next().unwrap_or_else(|| status.message().to_owned());
    let mut message = format!("{told} ({reason})");
    for violation in fields {
        message.push_str("\n  ");
        message.push_str(&violation);
    }
    hinted(Failure::new(exit(status.code(), &reason), message), &reason)
}

/// The same, with what a person can do about it.
pub(super) fn hinted(failure: Failure, reason: &str) -> Failure {
    match hint(reason) {
        Some(hint) => failure.and(&format!("hint: {hint}")),
        None => failure,
    }
}

/// A status that sooner did not make.
fn without_reason(trouble: &Trouble, status: &Status, url: &str) -> Failure {
    let exit = exit(status.code(), "");
    if exit == Exit::Unavailable || trouble.may_pass() {
        let message = format!("the server at {url} cannot be reached: {trouble}");
        return Failure::new(Exit::Unavailable, message);
    }
    let message = format!(
        "the server at {url} answers as sooner does not: {trouble} ({:?})",
        status.code()
    );
    Failure::new(exit, message)
}

fn exit(code: Code, reason: &str) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::FailedPrecondition if reason == "NO_HANDLER" => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Exit::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::Unavailable => Exit::Unavailable,
        Code::ResourceExhausted => Exit::Exhausted,
        Code::DeadlineExceeded => Exit::NotYet,
        Code::DataLoss => Exit::Damaged,
        Code::Internal => Exit::Internal,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Unimplemented => Exit::Failed,
    }
}

/// What a person can do about it, where that is not plain from the message.
fn hint(reason: &str) -> Option<&'static str> {
    match reason {
        "BATCH_RUNNING" => {
            Some("a batch that is not over is cancelled first; a redrive from it ends by itself")
        }
        "BATCH_NOT_FOUND" => Some("check the id and the --server; ids are case-sensitive"),
        "QUEUE_NOT_FOUND" => Some("sooner queue list shows the queues there are"),
        "ITEM_NOT_FOUND" => Some("items without an id of their own are named 0, 1, 2 and so on"),
        "BATCH_ID_CONFLICT" => {
            Some("choose another --batch-id, or submit what it was first used for")
        }
        "ITEM_MISMATCH" => Some("go on with the very input that the upload began with"),
        "UPLOAD_SUPERSEDED" => Some("another submit goes on with this batch; watch it instead"),
        "BATCH_SEALED" => {
            Some("the batch has all its items; watch it, or choose another --batch-id")
        }
        "CURSOR_AHEAD" => {
            Some("--after is behind the newest result; leave it out to begin at the first")
        }
        "NO_HANDLER" => Some("choose one of the server's queues with --queue"),
        "NOTHING_TO_REDRIVE" | "NOT_A_DEAD_LETTER" => {
            Some("sooner dead list --redriven tells what is one, and what was run again where")
        }
        "QUEUE_FULL" | "QUOTA" | "DISK_FULL" | "TOO_MANY_STREAMS" => {
            Some("nothing accepted is lost; try again later")
        }
        _ => None,
    }
}

/// Each field at fault, as a person calls it.
fn fields(details: &ErrorDetails) -> impl Iterator<Item = String> {
    let violations = details.bad_request().map(|bad| &bad.field_violations);
    let told = violations.into_iter().flatten();
    told.map(|violation| {
        let field = field_names::told(&violation.field);
        format!("{field}: {}", violation.description)
    })
}

fn reason(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
    Some(info.reason.clone())
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info()?.retry_delay
}

/// The innermost error: outer ones say no more than that something failed.
fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind, FieldViolation};

    fn refused(error: Error) -> Trouble {
        Status::from(error).into()
    }

    #[test]
    fn a_refusal_is_told_with_reason_fields_and_hint() {
        let violation = |field: &str| FieldViolation {
            field: field.into(),
            message: "is wrong".into(),
        };
        let violations = vec![
            violation("start.options.retention"),
            violation("items[7].input"),
        ];
        let told = failure(
            &refused(Error::invalid("INVALID_FIELD", violations)),
            "http://a",
        );
        assert_eq!(
            (told.exit, told.message.as_str()),
            (
                Exit::Usage,
                "--retention: is wrong (INVALID_FIELD)\n  items[7].input: is wrong"
            )
        );
        let missing = Error::new(
            ErrorKind::NotFound,
            "BATCH_NOT_FOUND",
            "there is no batch b",
        );
        let told = failure(&refused(missing), "http://a");
        assert_eq!(told.exit, Exit::NotFound);
        assert!(told.message.contains("\nhint: check the id"), "{told:?}");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let ours = |kind, reason| refused(Error::new(kind, reason, "")).may_pass();
        assert!(ours(ErrorKind::Unavailable, "SERVER_DRAINING"));
        assert!(ours(ErrorKind::Exhausted, "QUEUE_FULL"));
        assert!(ours(ErrorKind::Unknown, "ACCEPT_UNKNOWN"));
        assert!(!ours(ErrorKind::Internal, "INTERNAL"));
        assert!(!ours(ErrorKind::NotFound, "BATCH_NOT_FOUND"));
        assert!(!ours(ErrorKind::Precondition, "BATCH_FINISHED"));
        // What a broken connection looks like.
        assert!(Trouble::from(Status::unknown("h2 protocol error")).may_pass());
        assert!(!Trouble::from(Status::unimplemented("")).may_pass());
    }
}
