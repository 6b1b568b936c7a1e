//! How an error looks on the wire: a code, our `ErrorInfo`, the fields at fault, and when to try again.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::base::limits;
use crate::domain::payload::clip;
use crate::error::{Error, ErrorKind};

/// The domain of every reason of ours.
pub(crate) const DOMAIN: &str = "sooner.v1";

/// The trailer that tells a client's own retries when to come, or with a negative number not to.
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// How long a caller should wait before it tries again what was refused for lack of room.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = code_of(error.kind());
        if error.kind() == ErrorKind::Internal {
            tracing::error!(?error, "a bug answered a request");
        }
        // Details travel in a header, and clients cap headers: what quotes the caller is cut.
        let short = |text: &str| clip(text, limits::ERROR_TEXT_BYTES_MAX).to_owned();
        let facts: HashMap<_, _> = error
            .metadata()
            .iter()
            .map(|(key, value)| ((*key).to_owned(), short(value)))
            .collect();
        let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, facts);
        let mut room = limits::VIOLATIONS_BYTES_MAX;
        for violation in error.violations() {
            let (field, message) = (short(&violation.field), short(&violation.message));
            let Some(left) = room.checked_sub(field.len() + message.len()) else {
                break;
            };
            room = left;
            details.add_bad_request_violation(field, message);
        }
        let mut metadata = MetadataMap::new();
        let is_final = error.metadata().iter().any(|(key, _)| *key == Error::RETRY);
        if matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::Unavailable) && !is_final {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        if error.kind() == ErrorKind::Exhausted {
            let limit = error.metadata().iter().find(|(key, _)| *key == "limit");
            let subject = limit.map_or("server", |(_, limit)| limit.as_str());
            details.add_quota_failure_violation(subject, short(error.message()));
            let millis = if is_final {
                "-1".to_owned()
            } else {
                RETRY_DELAY.as_millis().to_string()
            };
            metadata.insert(
                PUSHBACK,
                millis.parse().expect("digits are a header's value"),
            );
        }
        Self::with_error_details_and_metadata(code, short(error.message()), details, metadata)
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::AlreadyExists,
        ErrorKind::Precondition => Code::FailedPrecondition,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unknown | ErrorKind::Superseded => Code::Aborted,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FieldViolation;

    #[test]
    fn an_error_carries_its_reason_its_facts_and_its_fields() {
        let violation = FieldViolation {
            field: "items[1].item_id".into(),
            message: "is taken".into(),
        };
        let error = Error::invalid("DUPLICATE_ITEM_ID", vec![violation]).with("batch_id", "b");
        let status = Status::from(error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "items[1].item_id: is taken");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("DUPLICATE_ITEM_ID", DOMAIN)
        );
        assert_eq!(info.metadata["batch_id"], "b");
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "items[1].item_id");
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn what_may_be_tried_again_says_when() {
        let status = Status::from(Error::new(ErrorKind::Exhausted, "QUEUE_FULL", "full"));
        assert_eq!(
            status.metadata().get("grpc-retry-pushback-ms").unwrap(),
            "1000"
        );
        assert_eq!(
            status.get_error_details().retry_info().unwrap().retry_delay,
            Some(RETRY_DELAY)
        );
        let details = status.get_error_details();
        let violations = &details.quota_failure().unwrap().violations;
        assert_eq!(
            (
                violations[0].subject.as_str(),
                violations[0].description.as_str()
            ),
            ("server", "full")
        );
    }
}
