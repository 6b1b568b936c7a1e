//! The blobs inside rows: protobuf, so that a field can be added without a new format.
//!
//! Field numbers are on disk and never change their meaning.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use crate::base::clock::Timestamp;
use crate::domain::attempt::{Code, ItemError};
use crate::domain::failures::{FailureAction, FailurePolicy};
use crate::domain::ids::{BatchUid, ItemOrigin};
use crate::domain::item::{Ending, ItemSpec as Spec, TerminalState};
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::domain::settings::{BatchOptions as Options, OnDisconnect, OnOpenTimeout, UploadTerms};

#[derive(Clone, PartialEq, prost::Message)]
struct RetryBlob {
    #[prost(uint32, optional, tag = "1")]
    max_attempts: Option<u32>,
    #[prost(uint64, optional, tag = "2")]
    initial_backoff_nanos: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    max_backoff_nanos: Option<u64>,
    #[prost(double, optional, tag = "4")]
    multiplier: Option<f64>,
    #[prost(double, optional, tag = "5")]
    jitter: Option<f64>,
    #[prost(string, repeated, tag = "6")]
    non_retryable_reasons: Vec<String>,
    #[prost(uint32, optional, tag = "7")]
    max_crashes: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OptionsBlob {
    #[prost(uint64, optional, tag = "1")]
    item_timeout_nanos: Option<u64>,
    #[prost(message, optional, tag = "2")]
    retry: Option<RetryBlob>,
    #[prost(map = "string, string", tag = "3")]
    labels: HashMap<String, String>,
    #[prost(bool, tag = "4")]
    cancel_on_disconnect: bool,
    #[prost(uint64, optional, tag = "5")]
    open_timeout_nanos: Option<u64>,
    #[prost(bool, tag = "6")]
    cancel_on_open_timeout: bool,
    #[prost(sint32, tag = "7")]
    priority: i32,
    #[prost(int64, optional, tag = "8")]
    not_before_ms: Option<i64>,
    #[prost(uint32, optional, tag = "9")]
    max_parallelism: Option<u32>,
    #[prost(int64, optional, tag = "10")]
    deadline_ms: Option<i64>,
    #[prost(uint64, optional, tag = "11")]
    max_duration_nanos: Option<u64>,
    #[prost(uint32, optional, tag = "12")]
    enough: Option<u32>,
    #[prost(message, optional, tag = "13")]
    failure_policy: Option<FailurePolicyBlob>,
    #[prost(bool, tag = "20")]
    at_most_once: bool,
    #[prost(uint64, optional, tag = "25")]
    retention_nanos: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FailurePolicyBlob {
    #[prost(uint32, optional, tag = "1")]
    max_failed_items: Option<u32>,
    #[prost(double, optional, tag = "2")]
    max_failed_ratio: Option<f64>,
    #[prost(uint32, optional, tag = "3")]
    min_items: Option<u32>,
    #[prost(bool, tag = "4")]
    cancel: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpecBlob {
    #[prost(bool, tag = "1")]
    text: bool,
    #[prost(string, tag = "2")]
    content_type: String,
    #[prost(uint64, optional, tag = "3")]
    timeout_nanos: Option<u64>,
    #[prost(message, optional, tag = "4")]
    retry: Option<RetryBlob>,
    #[prost(map = "string, string", tag = "5")]
    attributes: HashMap<String, String>,
    #[prost(int64, optional, tag = "20")]
    start_by_ms: Option<i64>,
    #[prost(int64, optional, tag = "21")]
    finish_by_ms: Option<i64>,
    /// Of a copied dead letter: the uid of the batch where its idempotency key comes from.
    #[prost(bytes = "vec", tag = "30")]
    origin_uid: Vec<u8>,
    /// And its index there.
    #[prost(uint32, tag = "31")]
    origin_index: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorBlob {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(bool, tag = "4")]
    retryable: bool,
    #[prost(map = "string, string", tag = "5")]
    details: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResultBlob {
    #[prost(bool, tag = "1")]
    text: bool,
    #[prost(string, tag = "2")]
    content_type: String,
    #[prost(message, optional, tag = "3")]
    error: Option<ErrorBlob>,
    #[prost(string, optional, tag = "4")]
    item_id: Option<String>,
    #[prost(string, tag = "5")]
    worker: String,
    #[prost(uint64, tag = "6")]
    queued_nanos: u64,
    #[prost(uint64, tag = "7")]
    ran_nanos: u64,
    #[prost(bytes = "vec", tag = "8")]
    nonce: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AttemptBlob {
    #[prost(message, optional, tag = "1")]
    error: Option<ErrorBlob>,
    #[prost(int64, optional, tag = "2")]
    started_ms: Option<i64>,
    #[prost(string, tag = "3")]
    worker: String,
}

/// What a result's row keeps beside its columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultMeta {
    pub(crate) id: Option<Box<str>>,
    pub(crate) worker: Box<str>,
    pub(crate) queued: Duration,
    pub(crate) ran: Duration,
    pub(crate) nonce: u128,
}

/// What an attempt's row keeps beside its columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptMeta {
    pub(crate) error: Option<ItemError>,
    pub(crate) started_ms: Option<i64>,
    pub(crate) worker: Box<str>,
}

/// What a batch's row keeps of its settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) options: Options,
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) upload: UploadTerms,
}

/// Encodes a batch's settings.
pub(crate) fn encode_settings(settings: &Settings) -> Vec<u8> {
    let Settings {
        options,
        on_disconnect,
        upload,
    } = settings;
    let blob = OptionsBlob {
        item_timeout_nanos: options.item_timeout.map(nanos),
        retry: encode_retry(&options.retry),
        labels: encode_map(&options.labels),
        cancel_on_disconnect: *on_disconnect == OnDisconnect::Cancel,
        open_timeout_nanos: upload.open_timeout.map(nanos),
        cancel_on_open_timeout: upload.on_open_timeout == OnOpenTimeout::Cancel,
        priority: options.priority,
        not_before_ms: options.not_before.map(|at| at.0),
        max_parallelism: options.max_parallelism,
        deadline_ms: options.deadline.map(|at| at.0),
        max_duration_nanos: options.max_duration.map(nanos),
        enough: options.enough,
        failure_policy: options
            .failure_policy
            .as_ref()
            .map(|policy| FailurePolicyBlob {
                max_failed_items: policy.max_failed_items,
                max_failed_ratio: policy.max_failed_ratio,
                min_items: policy.min_items,
                cancel: policy.action == FailureAction::Cancel,
            }),
        at_most_once: options.at_most_once,
        retention_nanos: options.retention.map(nanos),
    };
    blob.encode_to_vec()
}

/// The reverse of [`encode_settings`].
pub(crate) fn decode_settings(bytes: &[u8]) -> Result<Settings, prost::DecodeError> {
    let blob = OptionsBlob::decode(bytes)?;
    let options = Options {
        priority: blob.priority,
        not_before: blob.not_before_ms.map(Timestamp),
        max_parallelism: blob.max_parallelism,
        deadline: blob.deadline_ms.map(Timestamp),
        max_duration: blob.max_duration_nanos.map(Duration::from_nanos),
        enough: blob.enough,
        at_most_once: blob.at_most_once,
        failure_policy: blob.failure_policy.map(|policy| FailurePolicy {
            max_failed_items: policy.max_failed_items,
            max_failed_ratio: policy.max_failed_ratio,
            min_items: policy.min_items,
            action: if policy.cancel {
                FailureAction::Cancel
            } else {
                FailureAction::Pause
            },
        }),
        retention: blob.retention_nanos.map(Duration::from_nanos),
        item_timeout: blob.item_timeout_nanos.map(Duration::from_nanos),
        retry: decode_retry(blob.retry),
        labels: decode_map(blob.labels),
    };
    let on_disconnect = if blob.cancel_on_disconnect {
        OnDisconnect::Cancel
    } else {
        OnDisconnect::Continue
    };
    let on_open_timeout = if blob.cancel_on_open_timeout {
        OnOpenTimeout::Cancel
    } else {
        OnOpenTimeout::Seal
    };
    let upload = UploadTerms {
        open_timeout: blob.open_timeout_nanos.map(Duration::from_nanos),
        on_open_timeout,
    };
    Ok(Settings {
        options,
        on_disconnect,
        upload,
    })
}

/// Encodes what an item's row keeps beside its input; `None` if all of it is default.
pub(crate) fn encode_spec(spec: &Spec, origin: Option<ItemOrigin>) -> Option<Vec<u8>> {
    let origin_uid = origin.map(|origin| origin.batch.0.as_bytes().to_vec());
    let blob = SpecBlob {
        text: matches!(spec.input.body, Body::Text(_)),
        content_type: spec.input.content_type.to_string(),
        timeout_nanos: spec.timeout.map(nanos),
        start_by_ms: spec.start_by.map(|at| at.0),
        finish_by_ms: spec.finish_by.map(|at| at.0),
        retry: encode_retry(&spec.retry),
        attributes: encode_map(&spec.attributes),
        origin_uid: origin_uid.unwrap_or_default(),
        origin_index: origin.map_or(0, |origin| origin.index),
    };
    (blob != SpecBlob::default()).then(|| blob.encode_to_vec())
}

/// The reverse of [`encode_spec`], with the columns it stood beside.
pub(crate) fn decode_spec(
    id: Option<Box<str>>,
    spec: Option<&[u8]>,
    input: Vec<u8>,
) -> Result<(Spec, Option<ItemOrigin>), Box<dyn std::error::Error>> {
    let blob = spec.map(SpecBlob::decode).transpose()?.unwrap_or_default();
    let origin = match blob.origin_uid.as_slice() {
        [] => None,
        uid => Some(ItemOrigin {
            batch: BatchUid(Uuid::from_slice(uid)?),
            index: blob.origin_index,
        }),
    };
    let spec = Spec {
        id,
        input: decode_payload(blob.text, blob.content_type, input)?,
        timeout: blob.timeout_nanos.map(Duration::from_nanos),
        start_by: blob.start_by_ms.map(Timestamp),
        finish_by: blob.finish_by_ms.map(Timestamp),
        retry: decode_retry(blob.retry),
        attributes: decode_map(blob.attributes),
    };
    Ok((spec, origin))
}

/// Encodes what a result's row keeps beside its columns and its output.
pub(crate) fn encode_result(ending: &Ending, meta: &ResultMeta) -> Vec<u8> {
    let output = match ending {
        Ending::Succeeded(output) => Some(output),
        Ending::Failed(_) | Ending::Cancelled(_) | Ending::Expired(_) => None,
    };
    let blob = ResultBlob {
        text: output.is_some_and(|output| matches!(output.body, Body::Text(_))),
        content_type: output.map_or_else(String::new, |output| output.content_type.to_string()),
        error: ending.error().map(encode_error),
        item_id: meta.id.as_deref().map(str::to_owned),
        worker: meta.worker.to_string(),
        queued_nanos: nanos(meta.queued),
        ran_nanos: nanos(meta.ran),
        nonce: meta.nonce.to_le_bytes().to_vec(),
    };
    blob.encode_to_vec()
}

/// The reverse of [`encode_result`], with the columns it stood beside.
pub(crate) fn decode_result(
    state: TerminalState,
    meta: &[u8],
    output: Vec<u8>,
) -> Result<(Ending, ResultMeta), Box<dyn std::error::Error>> {
    let blob = ResultBlob::decode(meta)?;
    let error = blob.error.map(decode_error);
    let ending = match (state, error) {
        (TerminalState::Succeeded, _) => {
            Ending::Succeeded(decode_payload(blob.text, blob.content_type, output)?)
        }
        (TerminalState::Failed, Some(error)) => Ending::Failed(error),
        (TerminalState::Cancelled, Some(error)) => Ending::Cancelled(error),
        (TerminalState::Expired, Some(error)) => Ending::Expired(error),
        (state, None) => return Err(format!("a result that {} has no error", state.name()).into()),
    };
    let meta = ResultMeta {
        id: blob.item_id.map(Into::into),
        worker: blob.worker.into(),
        queued: Duration::from_nanos(blob.queued_nanos),
        ran: Duration::from_nanos(blob.ran_nanos),
        nonce: blob.nonce.try_into().map_or(0, u128::from_le_bytes),
    };
    Ok((ending, meta))
}

/// Encodes what an attempt's row keeps beside its columns.
pub(crate) fn encode_attempt(meta: &AttemptMeta) -> Vec<u8> {
    let blob = AttemptBlob {
        error: meta.error.as_ref().map(encode_error),
        started_ms: meta.started_ms,
        worker: meta.worker.to_string(),
    };
    blob.encode_to_vec()
}

/// The reverse of [`encode_attempt`].
pub(crate) fn decode_attempt(bytes: &[u8]) -> Result<AttemptMeta, prost::DecodeError> {
    let blob = AttemptBlob::decode(bytes)?;
    Ok(AttemptMeta {
        error: blob.error.map(decode_error),
        started_ms: blob.started_ms,
        worker: blob.worker.into(),
    })
}

fn nanos(duration: Duration) -> u64 {
    // 584 years; requests are bounded by ten.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn decode_payload(
    text: bool,
    content_type: String,
    bytes: Vec<u8>,
) -> Result<Payload, std::string::FromUtf8Error> {
    let body = if text {
        Body::Text(String::from_utf8(bytes)?.into())
    } else {
        Body::Data(Bytes::from(bytes))
    };
    Ok(Payload {
        body,
        content_type: content_type.into(),
    })
}

fn encode_retry(retry: &RetrySettings) -> Option<RetryBlob> {
    let blob = RetryBlob {
        max_attempts: retry.max_attempts,
        initial_backoff_nanos: retry.initial_backoff.map(nanos),
        max_backoff_nanos: retry.max_backoff.map(nanos),
        multiplier: retry.multiplier,
        jitter: retry.jitter,
        non_retryable_reasons: retry
            .non_retryable_reasons
            .iter()
            .map(ToString::to_string)
            .collect(),
        max_crashes: retry.max_crashes,
    };
    (blob != RetryBlob::default()).then_some(blob)
}

fn decode_retry(blob: Option<RetryBlob>) -> RetrySettings {
    let blob = blob.unwrap_or_default();
    RetrySettings {
        max_attempts: blob.max_attempts,
        initial_backoff: blob.initial_backoff_nanos.map(Duration::from_nanos),
        max_backoff: blob.max_backoff_nanos.map(Duration::from_nanos),
        multiplier: blob.multiplier,
        jitter: blob.jitter,
        non_retryable_reasons: blob
            .non_retryable_reasons
            .into_iter()
            .map(Into::into)
            .collect(),
        max_crashes: blob.max_crashes,
    }
}

fn encode_error(error: &ItemError) -> ErrorBlob {
    ErrorBlob {
        code: error.code.0,
        reason: error.reason.to_string(),
        message: error.message.to_string(),
        retryable: error.retryable,
        details: encode_map(&error.details),
    }
}

fn decode_error(blob: ErrorBlob) -> ItemError {
    ItemError {
        code: Code(blob.code),
        reason: blob.reason.into(),
        message: blob.message.into(),
        retryable: blob.retryable,
        details: decode_map(blob.details),
    }
}

fn encode_map(map: &BTreeMap<Box<str>, Box<str>>) -> HashMap<String, String> {
    map.iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

fn decode_map(map: HashMap<String, String>) -> BTreeMap<Box<str>, Box<str>> {
    map.into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::attempt::Reason;

    proptest! {
        #[test]
        fn specs_come_back_as_they_went(
            data in prop::collection::vec(any::<u8>(), 0..40),
            text in ".{0,20}",
            as_text in any::<bool>(),
            timeout in prop::option::of(0u64..10_000_000_000_000),
            start_by in prop::option::of(0i64..10_000_000_000_000),
            attempts in prop::option::of(any::<u32>()),
            jitter in prop::option::of(0.0..1.0f64),
            attribute in ".{0,8}",
            origin in prop::option::of(any::<u32>()),
        ) {
            let spec = Spec {
                id: Some("id".into()),
                input: if as_text { Payload::text(text.clone()) } else { Payload::data(data) },
                timeout: timeout.map(Duration::from_nanos),
                start_by: start_by.map(Timestamp),
                finish_by: start_by.map(|at| Timestamp(at + 1)),
                retry: RetrySettings { max_attempts: attempts, jitter, ..RetrySettings::default() },
                attributes: BTreeMap::from([("a".into(), attribute.into())]),
            };
            let origin = origin.map(|index| ItemOrigin { batch: BatchUid(Uuid::nil()), index });
            let blob = encode_spec(&spec, origin);
            let input = spec.input.bytes().to_vec();
            let back = decode_spec(spec.id.clone(), blob.as_deref(), input).expect("it was encoded");
            prop_assert_eq!(back, (spec, origin));
        }
    }

    #[test]
    fn results_come_back_as_they_went() {
        let error = ItemError::of(Reason::ITEM_TIMEOUT, "took 2s");
        let endings = [
            Ending::Succeeded(Payload::text("out")),
            Ending::Failed(error.clone()),
            Ending::Cancelled(error.clone()),
            Ending::Expired(error),
        ];
        for ending in endings {
            let meta = ResultMeta {
                id: Some("a".into()),
                worker: "local".into(),
                queued: Duration::from_millis(3),
                ran: Duration::from_millis(5),
                nonce: 7,
            };
            let output = match &ending {
                Ending::Succeeded(output) => output.bytes().to_vec(),
                Ending::Failed(_) | Ending::Cancelled(_) | Ending::Expired(_) => Vec::new(),
            };
            let blob = encode_result(&ending, &meta);
            let back = decode_result(ending.state(), &blob, output).expect("it was encoded");
            assert_eq!(back, (ending, meta));
        }
    }

    #[test]
    fn an_item_of_defaults_has_no_blob() {
        assert_eq!(encode_spec(&Spec::default(), None), None);
    }
}
