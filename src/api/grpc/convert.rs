//! Requests into domain values. Everything a caller can get wrong is found out here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::batch_service::InputLimits;
use super::violations::{INVALID_FIELD, Violations};
use crate::base::limits;
use crate::domain::ids::{self, BatchId, QueueName, RequestId};
use crate::domain::item::{ItemSpec, TerminalState};
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::domain::settings::{BatchOptions, OnDisconnect};
use crate::engine::Submission;
use crate::error::Result;
use crate::wire;

/// The fields that both ways of submitting a whole batch share.
#[derive(Debug, Default)]
pub(crate) struct SubmitFields {
    pub(crate) batch_id: String,
    pub(crate) request_id: String,
    pub(crate) queue: String,
    pub(crate) items: Vec<wire::ItemSpec>,
    pub(crate) options: Option<wire::BatchOptions>,
    pub(crate) on_disconnect: i32,
    pub(crate) progress_interval: Option<prost_types::Duration>,
}

/// A checked submission and how often its stream shows progress.
pub(crate) fn submission(
    fields: SubmitFields,
    input: InputLimits,
) -> Result<(Submission, Option<Duration>)> {
    let mut wrong = Violations::default();
    let submission = Submission {
        batch_id: optional(&mut wrong, "batch_id", &fields.batch_id, BatchId::parse),
        request_id: optional(
            &mut wrong,
            "request_id",
            &fields.request_id,
            RequestId::parse,
        ),
        queue: optional(&mut wrong, "queue", &fields.queue, QueueName::parse),
        options: options(&mut wrong, fields.options.unwrap_or_default()),
        on_disconnect: on_disconnect(&mut wrong, fields.on_disconnect),
        items: items(&mut wrong, fields.items, input),
    };
    let progress = match duration(&mut wrong, "progress_interval", fields.progress_interval) {
        Some(Duration::ZERO) | None => None,
        Some(interval) => progress(&mut wrong, interval),
    };
    wrong.or((submission, progress))
}

/// A batch id that must be there.
pub(crate) fn batch_id(wrong: &mut Violations, text: &str) -> Option<BatchId> {
    match BatchId::parse(text) {
        Ok(id) => Some(id),
        Err(message) => {
            wrong.add(INVALID_FIELD, "batch_id", message);
            None
        }
    }
}

/// A duration between zero and ten years, if there is one.
pub(crate) fn duration(
    wrong: &mut Violations,
    field: &str,
    wire: Option<prost_types::Duration>,
) -> Option<Duration> {
    let prost_types::Duration { seconds, nanos } = wire?;
    let whole = u64::try_from(seconds).ok().zip(
        u32::try_from(nanos)
            .ok()
            .filter(|&nanos| nanos < 1_000_000_000),
    );
    match whole.map(|(seconds, nanos)| Duration::new(seconds, nanos)) {
        Some(duration) if duration <= limits::DURATION_MAX => Some(duration),
        Some(_) => {
            wrong.add(
                INVALID_FIELD,
                field,
                format!("{seconds} s is more than the limit of ten years"),
            );
            None
        }
        None => {
            wrong.add(
                INVALID_FIELD,
                field,
                format!("{seconds} s and {nanos} ns are not a positive duration"),
            );
            None
        }
    }
}

/// An interval of progress messages.
pub(crate) fn progress(wrong: &mut Violations, interval: Duration) -> Option<Duration> {
    if interval < limits::PROGRESS_INTERVAL_MIN {
        wrong.add(
            INVALID_FIELD,
            "progress_interval",
            format!("{interval:?} is below the minimum 1s"),
        );
        return None;
    }
    Some(interval)
}

/// Terminal states to filter by.
pub(crate) fn states(wrong: &mut Violations, wire: &[i32]) -> Vec<TerminalState> {
    let mut states = Vec::new();
    for (i, &number) in wire.iter().enumerate() {
        match TerminalState::from_number(i64::from(number)) {
            Some(state) => states.push(state),
            None => wrong.add(
                INVALID_FIELD,
                format!("states[{i}]"),
                format!("{number} is not a terminal state"),
            ),
        }
    }
    states
}

fn optional<T>(
    wrong: &mut Violations,
    field: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    match parse(text) {
        Ok(value) => Some(value),
        Err(message) => {
            wrong.add(INVALID_FIELD, field, message);
            None
        }
    }
}

fn on_disconnect(wrong: &mut Violations, number: i32) -> OnDisconnect {
    match wire::OnDisconnect::try_from(number) {
        Ok(wire::OnDisconnect::Unspecified | wire::OnDisconnect::Continue) => {
            OnDisconnect::Continue
        }
        Ok(wire::OnDisconnect::Cancel) => OnDisconnect::Cancel,
        Err(_) => {
            wrong.add(
                INVALID_FIELD,
                "on_disconnect",
                format!("{number} is not a known value"),
            );
            OnDisconnect::Continue
        }
    }
}

fn options(wrong: &mut Violations, wire: wire::BatchOptions) -> BatchOptions {
    let labels = map(
        wrong,
        "options.labels",
        wire.labels,
        limits::LABELS_MAX,
        limits::LABEL_BYTES_MAX,
    );
    BatchOptions {
        item_timeout: timeout(wrong, "options.item_timeout", wire.item_timeout),
        retry: retry(
            wrong,
            "options.retry_policy",
            wire.retry_policy.unwrap_or_default(),
        ),
        labels,
    }
}

fn timeout(
    wrong: &mut Violations,
    field: &str,
    wire: Option<prost_types::Duration>,
) -> Option<Duration> {
    let timeout = duration(wrong, field, wire)?;
    if timeout < Duration::from_millis(1) {
        wrong.add(
            INVALID_FIELD,
            field,
            format!("{timeout:?} is below the minimum 1ms"),
        );
        return None;
    }
    Some(timeout)
}

fn items(wrong: &mut Violations, wire: Vec<wire::ItemSpec>, input: InputLimits) -> Vec<ItemSpec> {
    if wire.is_empty() {
        wrong.add(INVALID_FIELD, "items", "a batch needs at least one item");
    }
    if wire.len() > input.items_max {
        let (has, max) = (wire.len(), input.items_max);
        wrong.add(
            "TOO_MANY_ITEMS",
            "items",
            format!("{has} items are more than the limit {max} of one submit"),
        );
        return Vec::new();
    }
    let with_ids = wire.iter().filter(|item| !item.item_id.is_empty()).count();
    if with_ids != 0
        && with_ids != wire.len()
        && let Some(without) = wire.iter().position(|item| item.item_id.is_empty())
    {
        let field = format!("items[{without}].item_id");
        wrong.add(
            INVALID_FIELD,
            field,
            "is empty although other items have one; all have one or none has",
        );
    }
    duplicates(wrong, &wire);
    wire.into_iter()
        .enumerate()
        .map(|(i, wire)| item(wrong, i, wire, input))
        .collect()
}

fn duplicates(wrong: &mut Violations, wire: &[wire::ItemSpec]) {
    let mut seen = HashSet::with_capacity(wire.len());
    for (i, item) in wire.iter().enumerate() {
        if !item.item_id.is_empty() && !seen.insert(&item.item_id) {
            let message = format!("{:?} names an earlier item of the batch too", item.item_id);
            wrong.add("DUPLICATE_ITEM_ID", format!("items[{i}].item_id"), message);
        }
    }
}

fn item(wrong: &mut Violations, i: usize, wire: wire::ItemSpec, input: InputLimits) -> ItemSpec {
    let field = |name: &str| format!("items[{i}].{name}");
    if let Err(message) = ids::check_item_id(&wire.item_id) {
        wrong.add(INVALID_FIELD, field("item_id"), message);
    }
    let payload = payload(wire.input.unwrap_or_default());
    let (has, max) = (payload.bytes().len(), input.input_bytes_max);
    if has > max {
        wrong.add(
            "INPUT_TOO_LARGE",
            field("input"),
            format!("{has} bytes are more than the limit {max}"),
        );
    } else if let Err(message) = payload.check() {
        wrong.add(INVALID_FIELD, field("input"), message);
    }
    let (count, bytes) = (limits::ATTRIBUTES_MAX, limits::ATTRIBUTE_BYTES_MAX);
    ItemSpec {
        id: (!wire.item_id.is_empty()).then(|| wire.item_id.into()),
        input: payload,
        timeout: timeout(wrong, &field("timeout"), wire.timeout),
        retry: retry(
            wrong,
            &field("retry_policy"),
            wire.retry_policy.unwrap_or_default(),
        ),
        attributes: map(wrong, &field("attributes"), wire.attributes, count, bytes),
    }
}

fn payload(wire: wire::Payload) -> Payload {
    let body = match wire.body {
        Some(wire::payload::Body::Data(data)) => Body::Data(data),
        Some(wire::payload::Body::Text(text)) => Body::Text(text.into()),
        None => Body::Data(bytes::Bytes::new()),
    };
    Payload {
        body,
        content_type: wire.content_type.into(),
    }
}

fn retry(wrong: &mut Violations, field: &str, wire: wire::RetryPolicy) -> RetrySettings {
    let mut within = |name: &str, value: Option<f64>, low: f64, high: f64| {
        let bad = value.is_some_and(|value| !(low..=high).contains(&value));
        if bad {
            let value = value.unwrap_or_default();
            wrong.add(
                INVALID_FIELD,
                format!("{field}.{name}"),
                format!("{value} is not between {low} and {high}"),
            );
        }
    };
    within(
        "max_attempts",
        wire.max_attempts.map(f64::from),
        1.0,
        1000.0,
    );
    within("multiplier", wire.multiplier, 1.0, 100.0);
    within("jitter", wire.jitter, 0.0, 1.0);
    within("max_crashes", wire.max_crashes.map(f64::from), 1.0, 100.0);
    for (i, reason) in wire.non_retryable_reasons.iter().enumerate() {
        let fits = !reason.is_empty() && reason.len() <= limits::REASON_CHARS_MAX && i < 64;
        if !fits
            || !reason
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        {
            let field = format!("{field}.non_retryable_reasons[{i}]");
            wrong.add(
                INVALID_FIELD,
                field,
                "is not one of at most 64 names of A-Z, 0-9 and underscore",
            );
        }
    }
    RetrySettings {
        max_attempts: wire.max_attempts,
        initial_backoff: duration(
            wrong,
            &format!("{field}.initial_backoff"),
            wire.initial_backoff,
        ),
        max_backoff: duration(wrong, &format!("{field}.max_backoff"), wire.max_backoff),
        multiplier: wire.multiplier,
        jitter: wire.jitter,
        non_retryable_reasons: wire
            .non_retryable_reasons
            .into_iter()
            .map(Into::into)
            .collect(),
        max_crashes: wire.max_crashes,
    }
}

fn map(
    wrong: &mut Violations,
    field: &str,
    wire: HashMap<String, String>,
    count_max: usize,
    bytes_max: usize,
) -> BTreeMap<Box<str>, Box<str>> {
    if wire.len() > count_max {
        wrong.add(
            INVALID_FIELD,
            field,
            format!("{} entries are more than the limit {count_max}", wire.len()),
        );
        return BTreeMap::new();
    }
    for (key, value) in &wire {
        if let Err(message) = ids::name(key, limits::NAME_CHARS_MAX) {
            wrong.add(
                INVALID_FIELD,
                format!("{field}[{key:?}]"),
                format!("the name {message}"),
            );
        }
        if value.len() > bytes_max {
            let has = value.len();
            let message = format!("the value has {has} bytes, more than the limit {bytes_max}");
            wrong.add(INVALID_FIELD, format!("{field}[{key:?}]"), message);
        }
    }
    wire.into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}
