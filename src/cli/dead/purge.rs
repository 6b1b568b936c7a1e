//! `sooner dead purge`: dead letters that nobody wants to run again.

use super::FilterArguments;
use super::letter_json::PurgeJson;
use crate::cli::answer::{Lines, ask_admin, json, out};
use crate::cli::connect::ServerArguments;
use crate::cli::exit::{Exit, Failure};
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

    /// All of the batch, or without a batch all of the tenant
    #[arg(long)]
    all: bool,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: CountForm,

    /// Those of this batch
    #[arg(value_name = "BATCH", default_value = "", hide_default_value = true)]
    batch: String,

    /// Only these items
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CountForm {
    /// In words
    Table,
    /// A JSON object over several lines
    Json,
    /// A JSON object on one line
    Jsonl,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    check(arguments)?;
    let request = wire::PurgeDeadLettersRequest {
        queue: arguments.filter.queue.clone(),
        batch_id: arguments.batch.clone(),
        reason: arguments.filter.reason.clone(),
        states: arguments.filter.states(),
        before: arguments.filter.before(),
        item_ids: arguments.items.clone(),
    };
    let answer = ask_admin(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.purge_dead_letters(request).await },
    )?;
    let purged_count = answer.purged_count;
    match arguments.output {
        CountForm::Json => json(&PurgeJson { purged_count }, Lines::Many)?,
        CountForm::Jsonl => json(&PurgeJson { purged_count }, Lines::One)?,
        CountForm::Table => {
            let s = if purged_count == 1 { "" } else { "s" };
            out(format!("purged {purged_count} dead letter{s}\n").as_bytes())?;
        }
    }
    Ok(Exit::Success)
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.all || !arguments.items.is_empty() || arguments.filter.is_set() {
        return Ok(());
    }
    let whose = if arguments.batch.is_empty() {
        "there is"
    } else {
        "of the batch"
    };
    let problem =
        format!("this would purge every dead letter {whose}; --all says that it is meant");
    Err(Failure::new(Exit::Usage, problem))
}
