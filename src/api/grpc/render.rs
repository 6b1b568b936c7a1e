//! Domain values into answers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::attempt::{ItemError, PastAttempt};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::failures::{FailureAction, FailurePolicy, Failures};
use crate::domain::ids::item_id_text;
use crate::domain::item::{Ending, ItemSpec, ItemState, Record, TerminalState};
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::engine::{ItemDetails, ItemView, LOCAL_WORKER, Order, QueueDetails};
use crate::error::Error;
use crate::wire;

/// A batch as it stands.
pub(crate) fn batch(batch: &Batch) -> wire::Batch {
    let head = &batch.head;
    let options = &head.options;
    wire::Batch {
        batch_id: head.id.to_string(),
        batch_uid: head.uid.to_string(),
        state: batch_state(batch.state).into(),
        counts: Some(counts(batch)),
        create_time: Some(time(head.created)),
        start_time: batch.started.map(time),
        finish_time: batch.finished.map(time),
        expire_time: batch.expires.map(time),
        last_sequence: batch.last_sequence().0.into(),
        labels: map(&options.labels),
        cancel_reason: batch.cancel_reason.to_string(),
        queue: head.queue.to_string(),
        options: Some(wire::BatchOptions {
            item_timeout: options.item_timeout.map(duration),
            retry_policy: retry(&options.retry),
            labels: map(&options.labels),
            priority: options.priority,
            not_before: options.not_before.map(time),
            max_parallelism: options.max_parallelism,
            deadline: options.deadline.map(time),
            max_duration: options.max_duration.map(duration),
            enough: options.enough,
            failure_policy: options.failure_policy.as_ref().map(failure_policy),
            at_most_once: options.at_most_once,
            retention: options.retention.map(duration),
        }),
        failure_reasons: failure_reasons(&batch.failures),
        paused: batch.paused.is_some(),
        pause_reason: batch
            .paused
            .as_ref()
            .map_or_else(String::new, |pause| pause.why.to_string()),
        source_batch_id: head
            .source
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
    }
}

fn failure_policy(policy: &FailurePolicy) -> wire::FailurePolicy {
    let action = match policy.action {
        FailureAction::Pause => wire::FailureAction::Pause,
        FailureAction::Cancel => wire::FailureAction::Cancel,
    };
    wire::FailurePolicy {
        max_failed_items: policy.max_failed_items,
        max_failed_ratio: policy.max_failed_ratio,
        min_items: policy.min_items,
        action: action.into(),
    }
}

pub(crate) fn failure_reasons(failures: &Failures) -> HashMap<String, u64> {
    let reasons = failures.reasons.iter();
    reasons
        .map(|(reason, &count)| (reason.to_string(), count.into()))
        .collect()
}

/// How many items are in each state.
pub(crate) fn counts(batch: &Batch) -> wire::Counts {
    let tally = batch.tally;
    wire::Counts {
        total: batch.total.into(),
        pending: (batch.total - tally.terminal() - batch.running).into(),
        running: batch.running.into(),
        succeeded: tally.succeeded.into(),
        failed: tally.failed.into(),
        cancelled: tally.cancelled.into(),
        expired: tally.expired.into(),
    }
}

/// One item's result, as its batch stands.
pub(crate) fn result(record: Record, batch: &Batch, omit_output: bool) -> wire::ItemResult {
    let (state, durations) = (record.ending.state(), record.durations());
    let (output, error) = match record.ending {
        Ending::Succeeded(output) => (Some(output), None),
        Ending::Failed(error) | Ending::Cancelled(error) | Ending::Expired(error) => {
            (None, Some(error))
        }
    };
    let remaining =
        (batch.state != BatchState::Open).then(|| batch.total.saturating_sub(record.sequence.0));
    wire::ItemResult {
        item_id: item_id_text(record.id.as_deref(), record.index),
        index: record.index.into(),
        batch_id: batch.head.id.to_string(),
        sequence: record.sequence.0.into(),
        state: terminal_state(state).into(),
        output_omitted: omit_output && output.is_some(),
        output: output.filter(|_| !omit_output).map(payload),
        error: error.as_ref().map(item_error),
        attempt_count: record.attempts,
        worker_id: record.worker.into(),
        queue_duration: durations.map(|(queued, _)| duration(queued)),
        run_duration: durations.map(|(_, ran)| duration(ran)),
        finish_time: Some(time(record.finished)),
        remaining_count: remaining.map(Into::into),
    }
}

/// A dead letter.
pub(crate) fn dead_letter(letter: DeadLetter) -> wire::DeadLetter {
    let DeadLetter {
        head,
        record,
        redriven_to,
    } = letter;
    wire::DeadLetter {
        batch_id: head.id.to_string(),
        item_id: record.item_id(),
        index: record.index.into(),
        state: terminal_state(record.ending.state()).into(),
        error: record.ending.error().map(item_error),
        attempt_count: record.attempts,
        queue: head.queue.to_string(),
        finish_time: Some(time(record.finished)),
        redriven_to: redriven_to.map_or_else(String::new, |id| id.to_string()),
    }
}

/// A queue as it stands.
pub(crate) fn queue(queue: QueueDetails) -> wire::Queue {
    wire::Queue {
        name: queue.name.to_string(),
        paused: queue.paused.is_some(),
        pause_reason: queue.paused.unwrap_or_default().into(),
        handler: queue.handler.unwrap_or_default().into(),
        slots: u32::try_from(queue.slots).unwrap_or(u32::MAX),
        rate: queue.rate.map(|rate| wire::Rate {
            per_second: rate.per_second,
            burst: rate.burst(),
        }),
        open_batches: queue.batches,
        pending_items: queue.pending,
        running_items: queue.running,
    }
}

/// Why an upload waits for room.
pub(crate) fn no_room(why: &Error) -> wire::Waiting {
    wire::Waiting {
        reason: why.reason().to_owned(),
        message: why.message().to_owned(),
    }
}

/// An item as it stands.
pub(crate) fn item(details: ItemDetails) -> wire::Item {
    let ItemDetails {
        item,
        batch,
        waiting,
    } = details;
    let mut told = item_in(item, &batch, usize::MAX);
    told.waiting = waiting.map(|waiting| wire::Waiting {
        reason: waiting.reason.name().into(),
        message: waiting.message,
    });
    told
}

/// An item as it stands in a list: a large output is left out, and so is why it waits.
pub(crate) fn listed_item(item: ItemView, batch: &Batch) -> wire::Item {
    item_in(item, batch, limits::LISTED_OUTPUT_BYTES_MAX)
}

fn item_in(item: ItemView, batch: &Batch, output_bytes_max: usize) -> wire::Item {
    let state = match item.state() {
        ItemState::Pending => wire::ItemState::Pending,
        ItemState::Running => wire::ItemState::Running,
        ItemState::Ended(state) => terminal_state(state),
    };
    let under_way = item.running.map(|attempt| wire::Attempt {
        attempt: attempt.number,
        start_time: Some(time(attempt.started)),
        worker_id: LOCAL_WORKER.into(),
        ..wire::Attempt::default()
    });
    wire::Item {
        item_id: item_id_text(item.id.as_deref(), item.index),
        index: item.index.into(),
        batch_id: batch.head.id.to_string(),
        state: state.into(),
        attempts: item
            .past
            .into_iter()
            .map(attempt)
            .chain(under_way)
            .collect(),
        next_attempt_time: item.next_due.map(time),
        result: item.record.map(|record| {
            let output = record.ending.output();
            let too_large = output.is_some_and(|output| output.bytes().len() > output_bytes_max);
            result(record, batch, too_large)
        }),
        spec: item.spec.and_then(Result::ok).map(spec),
        waiting: None,
        lease: item.running.map(|_| wire::ItemLease {
            worker_id: LOCAL_WORKER.into(),
        }),
    }
}

fn attempt(past: PastAttempt) -> wire::Attempt {
    wire::Attempt {
        attempt: past.number,
        start_time: past.started.map(time),
        finish_time: past.ended.map(time),
        error: past.error.as_ref().map(item_error),
        worker_id: past.worker.into(),
    }
}

fn spec(spec: ItemSpec) -> wire::ItemSpec {
    wire::ItemSpec {
        item_id: spec.id.map(Into::into).unwrap_or_default(),
        input: Some(payload(spec.input)),
        timeout: spec.timeout.map(duration),
        retry_policy: retry(&spec.retry),
        attributes: map(&spec.attributes),
        start_by: spec.start_by.map(time),
        finish_by: spec.finish_by.map(time),
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

fn item_error(error: &ItemError) -> wire::ItemError {
    wire::ItemError {
        code: error.code.0,
        reason: error.reason.to_string(),
        message: error.message.to_string(),
        retryable: Some(error.retryable),
        details: map(&error.details),
    }
}

fn retry(retry: &RetrySettings) -> Option<wire::RetryPolicy> {
    (*retry != RetrySettings::default()).then(|| wire::RetryPolicy {
        max_attempts: retry.max_attempts,
        initial_backoff: retry.initial_backoff.map(duration),
        max_backoff: retry.max_backoff.map(duration),
        multiplier: retry.multiplier,
        jitter: retry.jitter,
        non_retryable_reasons: retry
            .non_retryable_reasons
            .iter()
            .map(ToString::to_string)
            .collect(),
        max_crashes: retry.max_crashes,
    })
}

fn map(map: &BTreeMap<Box<str>, Box<str>>) -> HashMap<String, String> {
    map.iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

fn batch_state(state: BatchState) -> wire::BatchState {
    match state {
        BatchState::Open => wire::BatchState::Open,
        BatchState::Running => wire::BatchState::Running,
        BatchState::Completed => wire::BatchState::Completed,
        BatchState::Cancelling => wire::BatchState::Cancelling,
        BatchState::Cancelled => wire::BatchState::Cancelled,
        BatchState::Failed => wire::BatchState::Failed,
        BatchState::Expired => wire::BatchState::Expired,
    }
}

fn terminal_state(state: TerminalState) -> wire::ItemState {
    match state {
        TerminalState::Succeeded => wire::ItemState::Succeeded,
        TerminalState::Failed => wire::ItemState::Failed,
        TerminalState::Cancelled => wire::ItemState::Cancelled,
        TerminalState::Expired => wire::ItemState::Expired,
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("less than a second"),
    }
}

fn time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.0.div_euclid(1000),
        nanos: i32::try_from(time.0.rem_euclid(1000) * 1_000_000).expect("less than a second"),
    }
}

/// How far a reader has come.
pub(super) fn progress(cursor: Order, batch: &Batch) -> wire::WatchProgress {
    let last_sequence = match cursor {
        Order::Completion(after) => after.0,
        // A reader by index has no place in the journal.
        Order::Index(_) => 0,
    };
    wire::WatchProgress {
        last_sequence: last_sequence.into(),
        counts: Some(counts(batch)),
    }
}
