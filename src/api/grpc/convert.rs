//! Requests into domain values. Everything a caller can get wrong is found out here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::batch_service::InputLimits;
use super::stream_batch::Start;
use super::violations::{INVALID_FIELD, Violations};
use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::domain::ids::{self, BatchId, QueueName, RequestId, Sequence};
use crate::domain::item::{ItemSpec, TerminalState};
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::domain::settings::{BatchOptions, OnDisconnect, OnOpenTimeout, UploadTerms};
use crate::engine::{Submission, UploadStart};
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
        options: options(&mut wrong, "options", fields.options.unwrap_or_default()),
        on_disconnect: on_disconnect(&mut wrong, fields.on_disconnect),
        items: items(&mut wrong, "items", fields.items, input),
    };
    let progress = match duration(&mut wrong, "progress_interval", fields.progress_interval) {
        Some(Duration::ZERO) | None => None,
        Some(interval) => progress(&mut wrong, "progress_interval", interval),
    };
    wrong.or((submission, progress))
}

/// A checked start of an upload.
pub(super) fn start(wire: wire::StreamStart) -> Result<Start> {
    let mut wrong = Violations::default();
    let open_timeout = duration(&mut wrong, "start.open_timeout", wire.open_timeout);
    if let Some(short) = open_timeout.filter(|&timeout| timeout < limits::OPEN_TIMEOUT_MIN) {
        let message = format!("{short:?} is below the minimum 1s");
        wrong.add(INVALID_FIELD, "start.open_timeout", message);
    }
    let on_open_timeout = match wire::OnOpenTimeout::try_from(wire.on_open_timeout) {
        Ok(wire::OnOpenTimeout::Unspecified | wire::OnOpenTimeout::Seal) => OnOpenTimeout::Seal,
        Ok(wire::OnOpenTimeout::Cancel) => OnOpenTimeout::Cancel,
        Err(_) => {
            let message = format!("{} is not a known value", wire.on_open_timeout);
            wrong.add(INVALID_FIELD, "start.on_open_timeout", message);
            OnOpenTimeout::Seal
        }
    };
    if wire.resume && wire.batch_id.is_empty() && wire.request_id.is_empty() {
        let message = "is needed to resume, or request_id is";
        wrong.add(INVALID_FIELD, "start.batch_id", message);
    }
    let progress = duration(
        &mut wrong,
        "start.progress_interval",
        wire.progress_interval,
    )
    .and_then(|interval| progress(&mut wrong, "start.progress_interval", interval));
    let upload = UploadStart {
        batch_id: optional(&mut wrong, "start.batch_id", &wire.batch_id, BatchId::parse),
        request_id: optional(
            &mut wrong,
            "start.request_id",
            &wire.request_id,
            RequestId::parse,
        ),
        queue: optional(&mut wrong, "start.queue", &wire.queue, QueueName::parse),
        options: options(
            &mut wrong,
            "start.options",
            wire.options.unwrap_or_default(),
        ),
        terms: UploadTerms {
            open_timeout,
            on_open_timeout,
        },
        resume: wire.resume,
    };
    wrong.or(Start {
        upload,
        after: Sequence(u32::try_from(wire.after_sequence).unwrap_or(u32::MAX)),
        omit_output: wire.omit_output,
        progress: progress.unwrap_or(limits::PROGRESS_INTERVAL_DEFAULT),
    })
}

/// The checked items of one message of an upload, and the index of the first.
pub(super) fn chunk(wire: wire::StreamItems, input: InputLimits) -> Result<(u32, Vec<ItemSpec>)> {
    let mut wrong = Violations::default();
    let first = u32::try_from(wire.first_index).ok();
    let first = first.filter(|&first| first <= limits::BATCH_ITEMS_MAX);
    if first.is_none() {
        let (has, max) = (wire.first_index, limits::BATCH_ITEMS_MAX);
        let message = format!("{has} is more than the {max} items that a batch may have");
        wrong.add("TOO_MANY_ITEMS", "items.first_index", message);
    }
    let items = items(&mut wrong, "items.items", wire.items, input);
    wrong.or((first.unwrap_or_default(), items))
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

/// A time from 1970 until ten years from now, if there is one.
fn time(
    wrong: &mut Violations,
    field: &str,
    wire: Option<prost_types::Timestamp>,
) -> Option<Timestamp> {
    let prost_types::Timestamp { seconds, nanos } = wire?;
    let millis = (seconds >= 0 && (0..1_000_000_000).contains(&nanos)).then(|| {
        seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(nanos) / 1_000_000)
    });
    let latest = clock::now().plus(limits::DURATION_MAX);
    match millis.map(Timestamp) {
        Some(time) if time <= latest => Some(time),
        Some(_) | None => {
            let message = format!(
                "{seconds} s and {nanos} ns are not a time from 1970 until ten years from now"
            );
            wrong.add(INVALID_FIELD, field, message);
            None
        }
    }
}

/// An interval of progress messages.
pub(crate) fn progress(
    wrong: &mut Violations,
    field: &str,
    interval: Duration,
) -> Option<Duration> {
    if interval < limits::PROGRESS_INTERVAL_MIN {
        wrong.add(
            INVALID_FIELD,
            field,
            format!("{interval:?} is below the minimum 1s"),
        );
        return None;
    }
    Some(interval)
}

/// Checks the reason that the caller of a cancel or a pause gives.
pub(crate) fn check_reason(wrong: &mut Violations, reason: &str) {
    let (has, max) = (reason.len(), limits::GIVEN_REASON_BYTES_MAX);
    if has > max {
        let message = format!("{has} bytes are more than the limit {max}");
        wrong.add(INVALID_FIELD, "reason", message);
    }
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

fn options(wrong: &mut Violations, field: &str, wire: wire::BatchOptions) -> BatchOptions {
    let within = |name: &str| format!("{field}.{name}");
    let labels = map(
        wrong,
        &within("labels"),
        wire.labels,
        limits::LABELS_MAX,
        limits::LABEL_BYTES_MAX,
    );
    if wire.max_parallelism == Some(0) {
        wrong.add(
            INVALID_FIELD,
            within("max_parallelism"),
            "0 is below the minimum 1",
        );
    }
    BatchOptions {
        priority: wire.priority,
        not_before: time(wrong, &within("not_before"), wire.not_before),
        max_parallelism: wire.max_parallelism,
        item_timeout: timeout(wrong, &within("item_timeout"), wire.item_timeout),
        retry: retry(
            wrong,
            &within("retry_policy"),
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

fn items(
    wrong: &mut Violations,
    field: &str,
    wire: Vec<wire::ItemSpec>,
    input: InputLimits,
) -> Vec<ItemSpec> {
    if wire.is_empty() {
        wrong.add(INVALID_FIELD, field, "needs at least one item");
    }
    if wire.len() > input.items_max {
        let (has, max) = (wire.len(), input.items_max);
        wrong.add(
            "TOO_MANY_ITEMS",
            field,
            format!("{has} items are more than the limit {max} of one message"),
        );
        return Vec::new();
    }
    let with_ids = wire.iter().filter(|item| !item.item_id.is_empty()).count();
    if with_ids != 0
        && with_ids != wire.len()
        && let Some(without) = wire.iter().position(|item| item.item_id.is_empty())
    {
        let field = format!("{field}[{without}].item_id");
        wrong.add(
            INVALID_FIELD,
            field,
            "is empty although other items have one; all have one or none has",
        );
    }
    duplicates(wrong, field, &wire);
    wire.into_iter()
        .enumerate()
        .map(|(i, wire)| item(wrong, (field, i), wire, input))
        .collect()
}

fn duplicates(wrong: &mut Violations, field: &str, wire: &[wire::ItemSpec]) {
    let mut seen = HashSet::with_capacity(wire.len());
    for (i, item) in wire.iter().enumerate() {
        if !item.item_id.is_empty() && !seen.insert(&item.item_id) {
            let message = format!("{:?} names an earlier item of the batch too", item.item_id);
            wrong.add(
                "DUPLICATE_ITEM_ID",
                format!("{field}[{i}].item_id"),
                message,
            );
        }
    }
}

fn item(
    wrong: &mut Violations,
    (list, i): (&str, usize),
    wire: wire::ItemSpec,
    input: InputLimits,
) -> ItemSpec {
    // Only for what is there: most items have nothing but an input, and there are many.
    let field = |name: &str| format!("{list}[{i}].{name}");
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
        timeout: wire
            .timeout
            .and_then(|limit| timeout(wrong, &field("timeout"), Some(limit))),
        retry: wire
            .retry_policy
            .map_or_else(RetrySettings::default, |policy| {
                retry(wrong, &field("retry_policy"), policy)
            }),
        attributes: if wire.attributes.is_empty() {
            BTreeMap::new()
        } else {
            map(wrong, &field("attributes"), wire.attributes, count, bytes)
        },
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
