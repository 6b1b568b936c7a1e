//! `sooner cancel`: a batch, or some of its items, will not run.

use super::connect::{ServerArguments, Stub};
use super::exit::{Exit, Failure};
use super::get::{Lines, json, out};
use super::json::CancelJson;
use super::output::Form;
use super::shown::batch_state;
use crate::base::tasks;
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
    output: Form,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,

    /// Only these items
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.output == Form::Output {
        return Err(Failure::new(
            Exit::Usage,
            "a cancel has no output; see --help",
        ));
    }
    let mut session = arguments.server.remote()?.session();
    let request = wire::CancelBatchRequest {
        batch_id: arguments.id.clone(),
        item_ids: arguments.items.clone(),
        reason: arguments.reason.clone(),
    };
    let runtime = tasks::runtime("sooner-client", 1)?;
    let answer = runtime.block_on(session.call(|mut stub: Stub| {
        let request = request.clone();
        async move { stub.cancel_batch(request).await }
    }))?;
    match arguments.output {
        Form::Table => out(told(&arguments.id, &answer).as_bytes())?,
        Form::Json => json(&CancelJson::of(&answer), Lines::Many)?,
        Form::Jsonl => json(&CancelJson::of(&answer), Lines::One)?,
        Form::Name | Form::Output => out(format!("{}\n", arguments.id).as_bytes())?,
    }
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
