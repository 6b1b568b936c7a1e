//! The JSON that programs read: the API's own field names, payloads inlined.
//!
//! Payloads are real JSON where they are JSON, else text, else base64. Enum values are lower case,
//! times RFC 3339, durations in seconds such as `"1.5s"`. What is unset is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Serialize;
use serde_json::value::RawValue;

use super::shown::{self, Bytes, Content, Fault, Shown};
use crate::domain::payload::is_json;
use crate::wire;

/// One result.
#[derive(Debug, Serialize)]
pub(super) struct ResultJson<'a> {
    item_id: &'a str,
    index: u64,
    batch_id: &'a str,
    sequence: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    output_omitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson<'a>>,
    attempt_count: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    worker_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_duration: Option<String>,
    finish_time: &'a str,
}

/// Why an item did not succeed.
#[derive(Debug, Serialize)]
pub(super) struct ErrorJson<'a> {
    code: i32,
    reason: &'a str,
    message: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    details: BTreeMap<&'a str, &'a str>,
}

/// A batch as it stands.
#[derive(Debug, Serialize)]
pub(super) struct BatchJson<'a> {
    batch_id: &'a str,
    batch_uid: &'a str,
    state: &'static str,
    counts: CountsJson,
    create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    last_sequence: u64,
    queue: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    cancel_reason: &'a str,
    paused: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pause_reason: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    failure_reasons: BTreeMap<&'a str, u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    source_batch_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<OptionsJson<'a>>,
}

#[derive(Debug, Serialize)]
struct CountsJson {
    total: u64,
    pending: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    expired: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct OptionsJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    item_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_policy: Option<RetryJson<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    priority: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_parallelism: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enough: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_policy: Option<FailurePolicyJson>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_most_once: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct FailurePolicyJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_failed_items: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_failed_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_items: Option<u32>,
    action: &'static str,
}

#[derive(Debug, PartialEq, Serialize)]
struct RetryJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_backoff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_backoff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multiplier: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    non_retryable_reasons: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    max_crashes: Option<u32>,
}

/// An item as it stands.
#[derive(Debug, Serialize)]
pub(super) struct ItemJson<'a> {
    item_id: &'a str,
    index: u64,
    batch_id: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<AttemptJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<SpecJson<'a>>,
}

#[derive(Debug, Serialize)]
struct AttemptJson<'a> {
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    worker_id: &'a str,
}

#[derive(Debug, Serialize)]
struct WaitingJson<'a> {
    reason: &'a str,
    message: &'a str,
}

#[derive(Debug, Serialize)]
struct LeaseJson<'a> {
    worker_id: &'a str,
}

/// An item as it was submitted, in the form that `--jsonl` reads.
#[derive(Debug, Serialize)]
struct SpecJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    item_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_policy: Option<RetryJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'a str, &'a str>,
}

/// What a cancel met.
#[derive(Debug, Serialize)]
pub(super) struct CancelJson<'a> {
    batch: Option<BatchJson<'a>>,
    never_started_count: u64,
    stopping_count: u64,
    finished_count: u64,
}

/// A payload in the one of its three forms that fits.
struct Inlined<'a> {
    json: Option<Box<RawValue>>,
    text: Option<&'a str>,
    base64: Option<String>,
    content_type: Option<&'a str>,
}

impl<'a> ResultJson<'a> {
    pub(super) fn of(shown: &'a Shown<'a>) -> Self {
        let Inlined {
            json,
            text,
            base64,
            content_type,
        } = Inlined::of(shown.output);
        Self {
            item_id: &shown.item_id,
            index: shown.index,
            batch_id: shown.batch_id,
            sequence: shown.sequence,
            state: shown.state,
            output: json,
            output_text: text,
            output_base64: base64,
            content_type,
            output_omitted: shown.output_omitted,
            error: shown.error.as_ref().map(ErrorJson::of),
            attempt_count: shown.attempt_count,
            worker_id: shown.worker_id,
            queue_duration: shown.queue_duration.map(seconds),
            run_duration: shown.run_duration.map(seconds),
            finish_time: &shown.finish_time,
        }
    }
}

impl<'a> ErrorJson<'a> {
    pub(super) fn of(fault: &Fault<'a>) -> Self {
        Self {
            code: fault.code,
            reason: fault.reason,
            message: fault.message,
            retryable: fault.retryable,
            details: fault.details.iter().copied().collect(),
        }
    }
}

impl<'a> BatchJson<'a> {
    pub(super) fn of(batch: &'a wire::Batch) -> Self {
        let counts = batch.counts.unwrap_or_default();
        Self {
            batch_id: &batch.batch_id,
            batch_uid: &batch.batch_uid,
            state: shown::batch_state(batch.state),
            counts: CountsJson {
                total: counts.total,
                pending: counts.pending,
                running: counts.running,
                succeeded: counts.succeeded,
                failed: counts.failed,
                cancelled: counts.cancelled,
                expired: counts.expired,
            },
            create_time: shown::time(batch.create_time.as_ref()),
            start_time: shown::time(batch.start_time.as_ref()),
            finish_time: shown::time(batch.finish_time.as_ref()),
            expire_time: shown::time(batch.expire_time.as_ref()),
            last_sequence: batch.last_sequence,
            queue: &batch.queue,
            labels: texts(&batch.labels),
            cancel_reason: &batch.cancel_reason,
            paused: batch.paused,
            pause_reason: &batch.pause_reason,
            failure_reasons: batch
                .failure_reasons
                .iter()
                .map(|(reason, &count)| (reason.as_str(), count))
                .collect(),
            source_batch_id: &batch.source_batch_id,
            options: batch.options.as_ref().and_then(OptionsJson::of),
        }
    }
}

impl<'a> OptionsJson<'a> {
    /// `None` if nothing is set.
    fn of(options: &'a wire::BatchOptions) -> Option<Self> {
        let seconds = |duration| shown::duration(duration).map(seconds);
        let json = Self {
            item_timeout: seconds(options.item_timeout.as_ref()),
            retry_policy: options.retry_policy.as_ref().map(RetryJson::of),
            priority: options.priority,
            not_before: shown::time(options.not_before.as_ref()),
            max_parallelism: options.max_parallelism,
            deadline: shown::time(options.deadline.as_ref()),
            max_duration: seconds(options.max_duration.as_ref()),
            enough: options.enough,
            failure_policy: options.failure_policy.as_ref().map(FailurePolicyJson::of),
            at_most_once: options.at_most_once,
            retention: seconds(options.retention.as_ref()),
        };
        (json != Self::default()).then_some(json)
    }
}

impl FailurePolicyJson {
    fn of(policy: &wire::FailurePolicy) -> Self {
        Self {
            max_failed_items: policy.max_failed_items,
            max_failed_ratio: policy.max_failed_ratio,
            min_items: policy.min_items,
            action: shown::failure_action(policy.action),
        }
    }
}

impl<'a> RetryJson<'a> {
    fn of(retry: &'a wire::RetryPolicy) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            initial_backoff: shown::duration(retry.initial_backoff.as_ref()).map(seconds),
            max_backoff: shown::duration(retry.max_backoff.as_ref()).map(seconds),
            multiplier: retry.multiplier,
            jitter: retry.jitter,
            non_retryable_reasons: &retry.non_retryable_reasons,
            max_crashes: retry.max_crashes,
        }
    }
}

impl<'a> ItemJson<'a> {
    /// `result` is the item's own, if it has one.
    pub(super) fn of(item: &'a wire::Item, result: Option<&'a Shown<'a>>) -> Self {
        Self {
            item_id: &item.item_id,
            index: item.index,
            batch_id: &item.batch_id,
            state: shown::item_state(item.state),
            attempts: item.attempts.iter().map(AttemptJson::of).collect(),
            next_attempt_time: shown::time(item.next_attempt_time.as_ref()),
            waiting: item.waiting.as_ref().map(|waiting| WaitingJson {
                reason: &waiting.reason,
                message: &waiting.message,
            }),
            lease: item.lease.as_ref().map(|lease| LeaseJson {
                worker_id: &lease.worker_id,
            }),
            result: result.map(ResultJson::of),
            spec: item.spec.as_ref().map(SpecJson::of),
        }
    }
}

impl<'a> AttemptJson<'a> {
    fn of(attempt: &'a wire::Attempt) -> Self {
        Self {
            attempt: attempt.attempt,
            start_time: shown::time(attempt.start_time.as_ref()),
            finish_time: shown::time(attempt.finish_time.as_ref()),
            error: attempt
                .error
                .as_ref()
                .map(|error| ErrorJson::of(&error.into())),
            worker_id: &attempt.worker_id,
        }
    }
}

impl<'a> SpecJson<'a> {
    fn of(spec: &'a wire::ItemSpec) -> Self {
        let Inlined {
            json,
            text,
            base64,
            content_type,
        } = Inlined::of(spec.input.as_ref().map(Into::into));
        Self {
            item_id: &spec.item_id,
            input: json,
            input_text: text,
            input_base64: base64,
            content_type,
            timeout: shown::duration(spec.timeout.as_ref()).map(seconds),
            start_by: shown::time(spec.start_by.as_ref()),
            finish_by: shown::time(spec.finish_by.as_ref()),
            retry_policy: spec.retry_policy.as_ref().map(RetryJson::of),
            attributes: texts(&spec.attributes),
        }
    }
}

impl<'a> CancelJson<'a> {
    pub(super) fn of(response: &'a wire::CancelBatchResponse) -> Self {
        Self {
            batch: response.batch.as_ref().map(BatchJson::of),
            never_started_count: response.never_started_count,
            stopping_count: response.stopping_count,
            finished_count: response.finished_count,
        }
    }
}

impl<'a> Inlined<'a> {
    fn of(content: Option<Content<'a>>) -> Self {
        let Some(content) = content else {
            return Self {
                json: None,
                text: None,
                base64: None,
                content_type: None,
            };
        };
        let json = is_json(content.content_type)
            .then(|| content.as_text().and_then(one_line))
            .flatten();
        let said = json.is_some() || content.content_type.is_empty();
        let (text, base64) = match content.body {
            Bytes::Text(_) | Bytes::Data(_) if json.is_some() => (None, None),
            Bytes::Text(text) => (Some(text), None),
            Bytes::Data(data) => (None, Some(BASE64_STANDARD.encode(data))),
        };
        Self {
            json,
            text,
            base64,
            content_type: (!said).then_some(content.content_type),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "it is what serde hands over"
)]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn texts(map: &std::collections::HashMap<String, String>) -> BTreeMap<&str, &str> {
    map.iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

/// A duration as JSON has it.
fn seconds(duration: Duration) -> String {
    format!("{:?}s", duration.as_secs_f64())
}

/// JSON on one line: a raw line break may stand between its tokens, where a space means the same.
fn one_line(text: &str) -> Option<Box<RawValue>> {
    serde_json::from_str(text.replace(['\n', '\r'], " ").trim()).ok()
}
