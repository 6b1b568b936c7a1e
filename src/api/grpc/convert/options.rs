//! Settings of batches, and those that batches and items share.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{duration, time};
use crate::api::grpc::violations::{INVALID_FIELD, Violations};
use crate::base::limits;
use crate::domain::failures::{FailureAction, FailurePolicy};
use crate::domain::ids;
use crate::domain::retry::RetrySettings;
use crate::domain::settings::BatchOptions;
use crate::wire;

pub(super) fn options(
    wrong: &mut Violations,
    field: &str,
    wire: wire::BatchOptions,
) -> BatchOptions {
    let within = |name: &str| format!("{field}.{name}");
    let labels = map(
        wrong,
        &within("labels"),
        wire.labels,
        limits::LABELS_MAX,
        limits::LABEL_BYTES_MAX,
    );
    for (name, count) in [
        ("max_parallelism", wire.max_parallelism),
        ("enough", wire.enough),
    ] {
        if count == Some(0) {
            wrong.add(INVALID_FIELD, within(name), "0 is below the minimum 1");
        }
    }
    BatchOptions {
        priority: wire.priority,
        not_before: time(wrong, &within("not_before"), wire.not_before),
        max_parallelism: wire.max_parallelism,
        deadline: time(wrong, &within("deadline"), wire.deadline),
        max_duration: timeout(wrong, &within("max_duration"), wire.max_duration),
        enough: wire.enough,
        failure_policy: wire
            .failure_policy
            .map(|policy| failure_policy(wrong, &within("failure_policy"), policy)),
        item_timeout: timeout(wrong, &within("item_timeout"), wire.item_timeout),
        retry: retry(
            wrong,
            &within("retry_policy"),
            wire.retry_policy.unwrap_or_default(),
        ),
        labels,
    }
}

fn failure_policy(wrong: &mut Violations, field: &str, wire: wire::FailurePolicy) -> FailurePolicy {
    if wire.max_failed_items.is_none() && wire.max_failed_ratio.is_none() {
        let message = "needs max_failed_items or max_failed_ratio";
        wrong.add(INVALID_FIELD, field, message);
    }
    if wire.max_failed_items == Some(0) {
        let name = format!("{field}.max_failed_items");
        wrong.add(INVALID_FIELD, name, "0 is below the minimum 1");
    }
    if let Some(ratio) = wire.max_failed_ratio
        && !(0.0..=1.0).contains(&ratio)
    {
        let name = format!("{field}.max_failed_ratio");
        wrong.add(
            INVALID_FIELD,
            name,
            format!("{ratio} is not between 0 and 1"),
        );
    }
    let action = match wire::FailureAction::try_from(wire.action) {
        Ok(wire::FailureAction::Unspecified | wire::FailureAction::Pause) => FailureAction::Pause,
        Ok(wire::FailureAction::Cancel) => FailureAction::Cancel,
        Err(_) => {
            let message = format!("{} is not a known value", wire.action);
            wrong.add(INVALID_FIELD, format!("{field}.action"), message);
            FailureAction::Pause
        }
    };
    FailurePolicy {
        items_max: wire.max_failed_items,
        ratio_max: wire.max_failed_ratio,
        items_min: wire.min_items,
        action,
    }
}

pub(super) fn timeout(
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

pub(super) fn retry(wrong: &mut Violations, field: &str, wire: wire::RetryPolicy) -> RetrySettings {
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

pub(super) fn map(
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
