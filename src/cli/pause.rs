//! `sooner pause`: nothing of a batch starts until it is resumed.

use super::answer::{self, AnswerForm, ask};
use super::connect::ServerArguments;
use super::exit::{Exit, Failure};
use super::json::BatchJson;
use super::shown::batch_state;
use crate::wire;

/// Pause a batch
///
/// Once it answers, nothing of the batch starts until it is resumed; what runs goes on, and its results
/// come. A restart of the server does not end a pause, but a deadline still ends the batch. Repeating
/// it gives the pause the new reason.
///
/// Exit codes: 0 done; 2 bad usage; 6 no such batch; 7 the batch is over, or ends already; 9 the server
/// cannot be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Why, for people; shown while it is paused
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let request = wire::PauseBatchRequest {
        batch_id: arguments.id.clone(),
        reason: arguments.reason.clone(),
    };
    let answer = ask(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.pause_batch(request).await },
    )?;
    show(arguments.output, &answer.batch.unwrap_or_default())
}

/// Shows the batch that was paused or resumed.
pub(super) fn show(form: AnswerForm, batch: &wire::Batch) -> Result<Exit, Failure> {
    answer::show(form, &BatchJson::of(batch), &told(batch), &batch.batch_id)?;
    Ok(Exit::Success)
}

fn told(batch: &wire::Batch) -> String {
    let counts = batch.counts.unwrap_or_default();
    let state = if batch.paused {
        "paused"
    } else {
        batch_state(batch.state)
    };
    format!(
        "batch {} is {state}: {} pending, {} running\n",
        batch.batch_id, counts.pending, counts.running
    )
}
