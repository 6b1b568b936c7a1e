//! Items as a server takes them.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::domain::item::ItemSpec;
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::wire;

/// An item for the wire.
pub(super) fn item(item: ItemSpec) -> wire::ItemSpec {
    wire::ItemSpec {
        item_id: item.id.map(Into::into).unwrap_or_default(),
        input: Some(payload(item.input)),
        timeout: item.timeout.map(duration),
        start_by: item.start_by.map(time),
        finish_by: item.finish_by.map(time),
        retry_policy: (item.retry != RetrySettings::default()).then(|| retry(item.retry)),
        attributes: item
            .attributes
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }
}

/// Retry settings for the wire.
pub(super) fn retry(retry: RetrySettings) -> wire::RetryPolicy {
    wire::RetryPolicy {
        max_attempts: retry.max_attempts,
        initial_backoff: retry.initial_backoff.map(duration),
        max_backoff: retry.max_backoff.map(duration),
        multiplier: retry.multiplier,
        jitter: retry.jitter,
        non_retryable_reasons: retry
            .non_retryable_reasons
            .into_iter()
            .map(Into::into)
            .collect(),
        max_crashes: retry.max_crashes,
    }
}

/// A duration for the wire.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("no setting is longer than ten years")
}

/// A time for the wire.
pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.0.rem_euclid(1000) * 1_000_000);
    prost_types::Timestamp {
        seconds: time.0.div_euclid(1000),
        nanos: nanos.expect("less than a second"),
    }
}

fn payload(payload: Payload) -> wire::Payload {
    let body = match payload.body {
        Body::Data(data) => wire::payload::Body::Data(data),
        Body::Text(text) => wire::payload::Body::Text(text.into()),
    };
    wire::Payload {
        body: Some(body),
        content_type: payload.content_type.into(),
    }
}
