//! Requests into domain values. Everything a caller can get wrong is found out here.

mod items;
mod letters;
mod options;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use self::items::items;
pub(super) use self::letters::{LetterFields, letters, purge, redrive};
use self::options::options;
pub(super) use self::upload::{chunk, start};
use super::input_limits::InputLimits;
use super::violations::{INVALID_FIELD, Violations};
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::ids::{BatchId, QueueName, RequestId, Tenant};
use crate::domain::item::TerminalState;
use crate::domain::settings::OnDisconnect;
use crate::engine::Submission;
use crate::error::Result;
use crate::wire;

/// The fields that both ways of submitting a whole batch share.
#[derive(Debug, Default)]
pub(crate) struct SubmitFields {
    pub(crate) tenant: Tenant,
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
        tenant: fields.tenant,
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

/// How many rows a page has.
pub(crate) fn page_rows(wrong: &mut Violations, page_size: i32) -> usize {
    match usize::try_from(page_size) {
        Ok(0) => limits::PAGE_ROWS_DEFAULT,
        Ok(rows) => rows.min(limits::PAGE_ROWS_MAX),
        Err(_) => {
            let message = format!("{page_size} is negative; 0 leaves it to the server");
            wrong.add(INVALID_FIELD, "page_size", message);
            limits::PAGE_ROWS_DEFAULT
        }
    }
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

/// A queue that must be named.
pub(crate) fn queue(wrong: &mut Violations, text: &str) -> Option<QueueName> {
    let name = QueueName::parse(text);
    name.map_err(|message| wrong.add(INVALID_FIELD, "queue", message))
        .ok()
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

/// A time since 1970, if there is one.
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
    if millis.is_none() {
        let message = format!("{seconds} s and {nanos} ns are not a time since 1970");
        wrong.add(INVALID_FIELD, field, message);
    }
    millis.map(Timestamp)
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

/// Labels to filter by.
pub(crate) fn labels(
    wrong: &mut Violations,
    field: &str,
    wire: HashMap<String, String>,
) -> BTreeMap<Box<str>, Box<str>> {
    options::map(
        wrong,
        field,
        wire,
        limits::LABELS_MAX,
        limits::LABEL_BYTES_MAX,
    )
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
