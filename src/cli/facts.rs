//! How a batch and an item stand, for people: a fact a line.

use std::fmt::Write as _;

use super::output::{gist, preview};
use super::shown::{Content, Shown, batch_state, duration, item_state, time};
use crate::wire;

/// Characters of a payload or message that are shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Characters of why an item waits: a sentence with the reason of a pause in it.
const WHY_CHARS_MAX: usize = 400;

/// Lines of a name and what is said about it, one below the other.
#[derive(Default)]
struct Facts(String);

impl Facts {
    fn say(&mut self, name: &str, what: impl std::fmt::Display) {
        writeln!(self.0, "{name:<10} {what}").expect("a string takes everything");
    }

    fn say_some(&mut self, name: &str, what: Option<impl std::fmt::Display>) {
        if let Some(what) = what {
            self.say(name, what);
        }
    }
}

/// How a batch stands.
pub(super) fn batch(batch: &wire::Batch) -> String {
    let mut facts = Facts::default();
    facts.say("batch", &batch.batch_id);
    facts.say("uid", &batch.batch_uid);
    facts.say("state", batch_state(batch.state));
    facts.say("queue", &batch.queue);
    facts.say("items", counts(&batch.counts.unwrap_or_default()));
    facts.say_some("created", time(batch.create_time.as_ref()));
    facts.say_some("started", time(batch.start_time.as_ref()));
    facts.say_some("finished", time(batch.finish_time.as_ref()));
    if !batch.source_batch_id.is_empty() {
        facts.say("redrives", &batch.source_batch_id);
    }
    facts.say_some("kept until", time(batch.expire_time.as_ref()));
    if !batch.cancel_reason.is_empty() {
        facts.say("cancelled", preview(&batch.cancel_reason, SHOWN_CHARS_MAX));
    }
    if let Some(options) = &batch.options {
        told_options(&mut facts, options);
    }
    if batch.paused {
        let why = preview(&batch.pause_reason, SHOWN_CHARS_MAX);
        facts.say("paused", if why.is_empty() { "yes" } else { &why });
    }
    let mut reasons: Vec<_> = batch.failure_reasons.iter().collect();
    reasons.sort_unstable_by_key(|&(reason, count)| (std::cmp::Reverse(*count), reason));
    for (reason, count) in reasons {
        facts.say("failures", format!("{count} {reason}"));
    }
    let mut labels: Vec<_> = batch.labels.iter().collect();
    labels.sort_unstable();
    for (name, value) in labels {
        facts.say(
            "label",
            format!("{name}={}", preview(value, SHOWN_CHARS_MAX)),
        );
    }
    facts.0
}

/// What explains why a batch runs, or does not.
fn told_options(facts: &mut Facts, options: &wire::BatchOptions) {
    if options.priority != 0 {
        facts.say("priority", options.priority);
    }
    facts.say_some("not before", time(options.not_before.as_ref()));
    facts.say_some("deadline", time(options.deadline.as_ref()));
    if options.at_most_once {
        facts.say("runs", "at most once");
    }
}

/// How many items there are and in which states.
pub(super) fn counts(counts: &wire::Counts) -> String {
    let by_state = [
        (counts.pending, "pending"),
        (counts.running, "running"),
        (counts.succeeded, "succeeded"),
        (counts.failed, "failed"),
        (counts.cancelled, "cancelled"),
        (counts.expired, "expired"),
    ];
    let told: Vec<_> = by_state
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    format!("{}: {}", counts.total, told.join(", "))
}

/// How an item stands; `result` is its own.
pub(super) fn item(item: &wire::Item, result: Option<&Shown<'_>>) -> String {
    let mut facts = Facts::default();
    let id = preview(&item.item_id, SHOWN_CHARS_MAX);
    facts.say("item", format!("{id} (index {})", item.index));
    facts.say("batch", &item.batch_id);
    facts.say("state", item_state(item.state));
    for attempt in &item.attempts {
        facts.say("attempt", told_attempt(attempt));
    }
    facts.say_some("next", time(item.next_attempt_time.as_ref()));
    if let Some(waiting) = &item.waiting {
        // A pause reason is quoted in it.
        let why = preview(&waiting.message, WHY_CHARS_MAX);
        facts.say("waits", format!("{}: {why}", waiting.reason));
    }
    if let Some(result) = result {
        facts.say("sequence", result.sequence);
        facts.say("finished", &result.finish_time);
        let seconds = |time: std::time::Duration| format!("{:.3} s", time.as_secs_f64());
        facts.say_some("waited", result.queue_duration.map(seconds));
        facts.say_some("ran", result.run_duration.map(seconds));
        facts.say("attempts", result.attempt_count);
        let name = if result.error.is_some() {
            "error"
        } else {
            "output"
        };
        facts.say(name, gist(result));
    }
    if let Some(spec) = &item.spec {
        told_spec(&mut facts, spec);
    }
    facts.0
}

fn told_attempt(attempt: &wire::Attempt) -> String {
    let number = attempt.attempt;
    let since = time(attempt.start_time.as_ref()).map(|time| format!(" from {time}"));
    let until = time(attempt.finish_time.as_ref()).map(|time| format!(" to {time}"));
    // The server ended under it.
    let unseen = || {
        attempt
            .error
            .as_ref()
            .map(|_| " to an unknown time".to_owned())
    };
    let until = until.or_else(unseen);
    let (since, until) = (since.unwrap_or_default(), until.unwrap_or_default());
    match &attempt.error {
        Some(error) => {
            let message = preview(error.message.trim(), SHOWN_CHARS_MAX);
            format!("{number}{since}{until}: {} {message}", error.reason)
        }
        None if until.is_empty() => format!("{number}{since}: running"),
        None => format!("{number}{since}{until}: succeeded"),
    }
}

fn told_spec(facts: &mut Facts, spec: &wire::ItemSpec) {
    let input = spec.input.clone().unwrap_or_default();
    let content = Content::from(&input);
    let shown = match content.as_text() {
        Some(text) => preview(text.trim_end(), SHOWN_CHARS_MAX),
        None => format!("{} bytes of data", content.bytes().len()),
    };
    facts.say("input", shown);
    if !input.content_type.is_empty() {
        facts.say("type", preview(&input.content_type, SHOWN_CHARS_MAX));
    }
    facts.say_some(
        "timeout",
        duration(spec.timeout.as_ref()).map(|time| format!("{time:?}")),
    );
    facts.say_some("start by", time(spec.start_by.as_ref()));
    facts.say_some("finish by", time(spec.finish_by.as_ref()));
    let mut attributes: Vec<_> = spec.attributes.iter().collect();
    attributes.sort_unstable();
    for (name, value) in attributes {
        facts.say(
            "attribute",
            format!("{name}={}", preview(value, SHOWN_CHARS_MAX)),
        );
    }
}
