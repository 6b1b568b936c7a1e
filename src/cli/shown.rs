//! One result as everything that prints it sees it, whether it comes from a journal or a server.

use std::borrow::Cow;
use std::time::Duration;

use crate::domain::batch::BatchHead;
use crate::domain::item::{Ending, Record};
use crate::domain::payload::{Body, Payload};
use crate::wire;

/// A result.
#[derive(Clone, Debug)]
pub(super) struct Shown<'a> {
    pub(super) item_id: Cow<'a, str>,
    pub(super) index: u64,
    pub(super) batch_id: &'a str,
    pub(super) sequence: u64,
    /// In lower case, as everywhere in JSON.
    pub(super) state: &'static str,
    pub(super) output: Option<Content<'a>>,
    pub(super) output_omitted: bool,
    pub(super) error: Option<Fault<'a>>,
    pub(super) attempt_count: u32,
    pub(super) worker_id: &'a str,
    /// As far as its last attempt is known; so is how long that ran.
    pub(super) queue_duration: Option<Duration>,
    pub(super) run_duration: Option<Duration>,
    /// RFC 3339; empty if it is not known.
    pub(super) finish_time: String,
}

/// A payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub(super) body: Bytes<'a>,
    pub(super) content_type: &'a str,
}

/// What a payload holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bytes<'a> {
    Text(&'a str),
    Data(&'a [u8]),
}

/// Why an item did not succeed.
#[derive(Clone, Debug)]
pub(super) struct Fault<'a> {
    pub(super) code: i32,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
    pub(super) retryable: bool,
    /// By name.
    pub(super) details: Vec<(&'a str, &'a str)>,
}

impl<'a> Shown<'a> {
    /// A record of a journal.
    pub(super) fn of_record(record: &'a Record, head: &'a BatchHead) -> Self {
        let output = match &record.ending {
            Ending::Succeeded(output) => Some(output.into()),
            Ending::Failed(_) | Ending::Cancelled(_) | Ending::Expired(_) => None,
        };
        let durations = record.durations();
        let finish_time = jiff::Timestamp::from_millisecond(record.finished.0);
        Self {
            item_id: record
                .id
                .as_deref()
                .map_or_else(|| record.index.to_string().into(), Cow::Borrowed),
            index: record.index.into(),
            batch_id: head.id.as_str(),
            sequence: record.sequence.0.into(),
            state: record.ending.state().name(),
            output,
            output_omitted: false,
            error: record.ending.error().map(|error| Fault {
                code: error.code.0,
                reason: &error.reason,
                message: &error.message,
                retryable: error.retryable,
                details: pairs(&error.details),
            }),
            attempt_count: record.attempts,
            worker_id: &record.worker,
            queue_duration: durations.map(|(queued, _)| queued),
            run_duration: durations.map(|(_, ran)| ran),
            finish_time: finish_time.map_or_else(|_| String::new(), |time| time.to_string()),
        }
    }

    /// A result that a server sent.
    pub(super) fn of_result(result: &'a wire::ItemResult) -> Self {
        Self {
            item_id: Cow::Borrowed(&result.item_id),
            index: result.index,
            batch_id: &result.batch_id,
            sequence: result.sequence,
            state: item_state(result.state),
            output: result.output.as_ref().map(Into::into),
            output_omitted: result.output_omitted,
            error: result.error.as_ref().map(Into::into),
            attempt_count: result.attempt_count,
            worker_id: &result.worker_id,
            queue_duration: duration(result.queue_duration.as_ref()),
            run_duration: duration(result.run_duration.as_ref()),
            finish_time: time(result.finish_time.as_ref()).unwrap_or_default(),
        }
    }
}

impl<'a> Content<'a> {
    pub(super) fn bytes(&self) -> &'a [u8] {
        match self.body {
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Data(data) => data,
        }
    }

    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        match self.body {
            Bytes::Text(text) => Some(text),
            Bytes::Data(data) => std::str::from_utf8(data).ok(),
        }
    }
}

impl<'a> From<&'a Payload> for Content<'a> {
    fn from(payload: &'a Payload) -> Self {
        let body = match &payload.body {
            Body::Text(text) => Bytes::Text(text),
            Body::Data(data) => Bytes::Data(data),
        };
        Self {
            body,
            content_type: &payload.content_type,
        }
    }
}

impl<'a> From<&'a wire::Payload> for Content<'a> {
    fn from(payload: &'a wire::Payload) -> Self {
        let body = match &payload.body {
            Some(wire::payload::Body::Text(text)) => Bytes::Text(text),
            Some(wire::payload::Body::Data(data)) => Bytes::Data(data),
            None => Bytes::Data(&[]),
        };
        Self {
            body,
            content_type: &payload.content_type,
        }
    }
}

impl<'a> From<&'a wire::ItemError> for Fault<'a> {
    fn from(error: &'a wire::ItemError) -> Self {
        let mut details = pairs(&error.details);
        details.sort_unstable();
        Self {
            code: error.code,
            reason: &error.reason,
            message: &error.message,
            retryable: error.retryable.unwrap_or(true),
            details,
        }
    }
}

fn pairs<'a, T, K, V>(map: T) -> Vec<(&'a str, &'a str)>
where
    T: IntoIterator<Item = (&'a K, &'a V)>,
    K: AsRef<str> + 'a,
    V: AsRef<str> + 'a,
{
    map.into_iter()
        .map(|(key, value)| (key.as_ref(), value.as_ref()))
        .collect()
}

/// An item's state in lower case.
pub(super) fn item_state(number: i32) -> &'static str {
    use wire::ItemState as State;
    match State::try_from(number) {
        Ok(State::Pending) => "pending",
        Ok(State::Running) => "running",
        Ok(State::Succeeded) => "succeeded",
        Ok(State::Failed) => "failed",
        Ok(State::Cancelled) => "cancelled",
        Ok(State::Expired) => "expired",
        // Of a later version of the server, perhaps.
        Ok(State::Unspecified) | Err(_) => "unknown",
    }
}

/// A batch's state in lower case.
pub(super) fn batch_state(number: i32) -> &'static str {
    use wire::BatchState as State;
    match State::try_from(number) {
        Ok(State::Open) => "open",
        Ok(State::Running) => "running",
        Ok(State::Completed) => "completed",
        Ok(State::Cancelling) => "cancelling",
        Ok(State::Cancelled) => "cancelled",
        Ok(State::Failed) => "failed",
        Ok(State::Expired) => "expired",
        Ok(State::Unspecified) | Err(_) => "unknown",
    }
}

/// What a failure policy does, in lower case.
pub(super) fn failure_action(number: i32) -> &'static str {
    use wire::FailureAction as Action;
    match Action::try_from(number) {
        Ok(Action::Unspecified | Action::Pause) => "pause",
        Ok(Action::Cancel) => "cancel",
        Err(_) => "unknown",
    }
}

/// A duration, if it is one.
pub(super) fn duration(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(*wire?).ok()
}

/// A time in RFC 3339.
pub(super) fn time(wire: Option<&prost_types::Timestamp>) -> Option<String> {
    let wire = wire?;
    let time = jiff::Timestamp::new(wire.seconds, wire.nanos).ok()?;
    Some(time.to_string())
}
