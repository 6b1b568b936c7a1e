//! `sooner cancel`: a batch, or some of its items, will not run.

use super::answer::{AnswerForm, ask, show};
use super::connect::ServerArguments;
use super::exit::{Exit, Failure};
use super::json::CancelJson;
use super::shown::batch_state;
use crate::wire;

/// Cancel a batch, or some of its items
///
/// Once it answers, none of them starts any more; running ones are asked to stop. Results that are
/// there stay. Repeating it does no harm.
///
/// Exit codes: 0 done; 2 bad usage; 6 no such batch or item; 7 the batch has completed already;
/// 9 the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Why, for people; it is kept with a cancelled batch
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,

    /// Only these items
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let request = wire::CancelBatchRequest {
        batch_id: arguments.id.clone(),
        item_ids: arguments.items.clone(),
        reason: arguments.reason.clone(),
    };
    let answer = ask(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.cancel_batch(request).await },
    )?;
    let (id, told) = (&arguments.id, told(&arguments.id, &answer));
    show(arguments.output, &CancelJson::of(&answer), &told, id)?;
    Ok(Exit::Success)
}

fn told(id: &str, answer: &wire::CancelBatchResponse) -> String {
    let state = answer
        .batch
        .as_ref()
        .map_or("unknown", |batch| batch_state(batch.state));
    format!(
        "batch {id} is {state}: {} never started, {} are being stopped, {} had finished\n",
        answer.never_started_count, answer.stopping_count, answer.finished_count
    )
}
