//! `sooner dead purge`: dead letters that nobody wants to run again.

use super::FilterArguments;
use super::letter_json::PurgeJson;
use crate::base::tasks;
use crate::cli::connect::{AdminStub, ServerArguments};
use crate::cli::exit::{Exit, Failure};
use crate::cli::get::{Lines, json, out};
use crate::cli::output::Form;
use crate::wire;

/// Take dead letters off the list without running them again
///
/// Their results stay in their batches. All of those named are purged that match; without an item or
/// a filter, --all says that this is meant.
///
/// Exit codes: 0 done, also if there were none; 2 bad usage; 6 no such batch or item; 9 the server cannot
/// be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    #[command(flatten)]
    filter: FilterArguments,

    /// All of the batch, or without a batch all of the server
    #[arg(long)]
    all: bool,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: Form,

    /// Those of this batch
    #[arg(value_name = "BATCH", default_value = "", hide_default_value = true)]
    batch: String,

    /// Only these items
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    check(arguments)?;
    let mut session = arguments.server.remote()?.session();
    let request = wire::PurgeDeadLettersRequest {
        queue: arguments.filter.queue.clone(),
        batch_id: arguments.batch.clone(),
        reason: arguments.filter.reason.clone(),
        states: arguments.filter.states(),
        before: arguments.filter.before(),
        item_ids: arguments.items.clone(),
    };
    let runtime = tasks::runtime("sooner-client", 1)?;
    let answer = runtime.block_on(session.call_admin(|mut stub: AdminStub| {
        let request = request.clone();
        async move { stub.purge_dead_letters(request).await }
    }))?;
    let purged_count = answer.purged_count;
    match arguments.output {
        Form::Json => json(&PurgeJson { purged_count }, Lines::Many)?,
        Form::Jsonl => json(&PurgeJson { purged_count }, Lines::One)?,
        Form::Table | Form::Name | Form::Output => {
            let s = if purged_count == 1 { "" } else { "s" };
            out(format!("purged {purged_count} dead letter{s}\n").as_bytes())?;
        }
    }
    Ok(Exit::Success)
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    let problem = match arguments.output {
        Form::Name | Form::Output => "a purge has neither a name nor an output; see --help",
        Form::Table | Form::Json | Form::Jsonl
            if !arguments.all && arguments.items.is_empty() && !arguments.filter.is_set() =>
        {
            if arguments.batch.is_empty() {
                "this would purge every dead letter of the server; --all says that it is meant"
            } else {
                "this would purge every dead letter of the batch; --all says that it is meant"
            }
        }
        Form::Table | Form::Json | Form::Jsonl => return Ok(()),
    };
    Err(Failure::new(Exit::Usage, problem))
}
