//! Dead letters as JSON, in the API's own names.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::json::ErrorJson;
use crate::cli::shown::{Fault, item_state, time};
use crate::wire;

/// A dead letter.
#[derive(Debug, Serialize)]
pub(super) struct LetterJson<'a> {
    batch_id: &'a str,
    item_id: &'a str,
    index: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson<'a>>,
    attempt_count: u32,
    queue: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    redriven_to: &'a str,
}

/// A list of them.
#[derive(Debug, Serialize)]
pub(super) struct LettersJson<'a> {
    dead_letters: Vec<LetterJson<'a>>,
    reasons: BTreeMap<&'a str, u64>,
    reasons_partial: bool,
}

/// What was purged.
#[derive(Debug, Serialize)]
pub(super) struct PurgeJson {
    pub(super) purged_count: u64,
}

impl<'a> LetterJson<'a> {
    pub(super) fn of(letter: &'a wire::DeadLetter) -> Self {
        let fault = letter.error.as_ref().map(Fault::from);
        Self {
            batch_id: &letter.batch_id,
            item_id: &letter.item_id,
            index: letter.index,
            state: item_state(letter.state),
            error: fault.as_ref().map(ErrorJson::of),
            attempt_count: letter.attempt_count,
            queue: &letter.queue,
            finish_time: time(letter.finish_time.as_ref()),
            redriven_to: &letter.redriven_to,
        }
    }
}

impl<'a> LettersJson<'a> {
    pub(super) fn of(list: &'a wire::ListDeadLettersResponse) -> Self {
        let reasons = list.reasons.iter();
        Self {
            dead_letters: list.dead_letters.iter().map(LetterJson::of).collect(),
            reasons: reasons
                .map(|(reason, &count)| (reason.as_str(), count))
                .collect(),
            reasons_partial: list.reasons_partial,
        }
    }
}
