//! Settings of batches, and those that batches and items share.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{duration, time};
use crate::api::grpc::violations::{INVALID_FIELD, Violations};
use crate::base::{clock, limits};
use crate::domain::bounds::check_timeout;
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
    let options = BatchOptions {
        priority: wire.priority,
        not_before: time(wrong, &within("not_before"), wire.not_before),
        max_parallelism: wire.max_parallelism,
        deadline: time(wrong, &within("deadline"), wire.deadline),
        max_duration: duration(wrong, &within("max_duration"), wire.max_duration),
        enough: wire.enough,
        at_most_once: wire.at_most_once,
        failure_policy: wire
            .failure_policy
            .map(|policy| failure_policy(wrong, &within("failure_policy"), policy)),
        retention: duration(wrong, &within("retention"), wire.retention),
        item_timeout: duration(wrong, &within("item_timeout"), wire.item_timeout),
        retry: retry(
            wrong,
            &within("retry_policy"),
            wire.retry_policy.unwrap_or_default(),
        ),
        labels,
    };
    wrong.add_all(field, options.check(clock::now()));
    options
}

fn failure_policy(wrong: &mut Violations, field: &str, wire: wire::FailurePolicy) -> FailurePolicy {
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
        max_failed_items: wire.max_failed_items,
        max_failed_ratio: wire.max_failed_ratio,
        min_items: wire.min_items,
        action,
    }
}

pub(super) fn timeout(
    wrong: &mut Violations,
    field: &str,
    wire: Option<prost_types::Duration>,
) -> Option<Duration> {
    let timeout = duration(wrong, field, wire)?;
    if let Err(problem) = check_timeout(timeout) {
        wrong.add(INVALID_FIELD, field, problem);
        return None;
    }
    Some(timeout)
}

pub(super) fn retry(wrong: &mut Violations, field: &str, wire: wire::RetryPolicy) -> RetrySettings {
    let settings = RetrySettings {
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
    };
    wrong.add_all(field, settings.check());
    settings
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
