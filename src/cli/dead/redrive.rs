//! `sooner dead redrive`: dead letters of a batch run again in a new one.

use std::io;

use crate::base::entropy;
use crate::cli::answer::{Lines, ask_admin, json, out};
use crate::cli::connect::ServerArguments;
use crate::cli::exit::{Exit, Failure};
use crate::cli::following::{Order, exit_of};
use crate::cli::json::BatchJson;
use crate::cli::output::{Form, Printer, ResultArguments, streamed};
use crate::cli::tell;
use crate::cli::watch::{Target, Watched, watch};
use crate::wire;

/// Run dead letters of a batch again, in a new batch
///
/// The new batch has the settings of the old one but for points in time, and its items their ids,
/// inputs and idempotency keys. It prints the new batch's id, or with -o json the new batch; --wait then
/// waits for its end, and with -o json prints it as it ended. --follow prints the results instead (see
/// watch). Of many letters the first run while the others are still copied, or wait until the server's
/// limits have room for them. Every letter is redriven once: what fails again is a dead letter of the new
/// batch.
///
/// Exit codes: 0 done; with --wait or --follow as the new batch has ended: 0 every item succeeded, 3 an
/// item failed or expired, 4 it was cancelled; 2 bad usage; 6 no such batch or item; 7 there is nothing
/// to redrive, or an item is no dead letter; 9 the server cannot be reached; 10 it has no room.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Those of this queue
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    queue: String,

    /// Those with this reason, as the list shows it
    #[arg(
        long,
        value_name = "REASON",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,

    /// All of the batch
    #[arg(long, conflicts_with = "items")]
    all: bool,

    /// A name for this redrive: the same command with it, given again, makes no second batch
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,

    #[command(flatten)]
    then: Then,

    #[command(flatten)]
    results: ResultArguments,

    /// Say nothing but failures
    #[arg(short, long)]
    quiet: bool,

    /// The batch whose dead letters they are
    #[arg(value_name = "BATCH")]
    batch: String,

    /// These items
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
}

/// What comes after the redrive.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Then {
    /// Print each result as it is done
    #[arg(long)]
    follow: bool,

    /// Wait for the end of the new batch and sum it up
    #[arg(long, conflicts_with = "follow")]
    wait: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let is_any = !arguments.queue.is_empty() || !arguments.reason.is_empty();
    if !arguments.all && !is_any && arguments.items.is_empty() {
        let problem =
            "say which: items, --reason, --queue, or --all for every dead letter of the batch";
        return Err(Failure::new(Exit::Usage, problem));
    }
    let form = arguments.results.form().unwrap_or(Form::Table);
    if !arguments.then.follow && (form == Form::Output || arguments.results.is_for_outputs()) {
        let problem = "-o output, --tag and --out-dir are for results; they need --follow";
        return Err(Failure::new(Exit::Usage, problem));
    }
    // Before anything is redriven: what cannot be printed should not run.
    let printer = arguments
        .then
        .follow
        .then(|| arguments.results.printer(streamed()))
        .transpose()?;
    let batch = redriven(arguments)?;
    let id = batch.batch_id.clone();
    let server = arguments.server.flags();
    if !arguments.quiet {
        let items = batch.counts.unwrap_or_default().total;
        let more = if batch.state == i32::from(wire::BatchState::Open) {
            ", and more follow"
        } else {
            ""
        };
        let of = &arguments.batch;
        tell(&format!("batch {id} runs {items} of {of} again{more}"));
    }
    if arguments.then.follow {
        return Ok(match end_of(arguments, &id, printer)? {
            Watched::Over(batch) => exit_of(&batch),
            Watched::Left(exit) => exit,
        });
    }
    match form {
        // At once: whatever becomes of the wait, the batch is there.
        Form::Table | Form::Name | Form::Output => out(format!("{id}\n").as_bytes())?,
        Form::Json | Form::Jsonl if arguments.then.wait => {}
        Form::Json | Form::Jsonl => show(form, &batch)?,
    }
    if !arguments.then.wait {
        if !arguments.quiet {
            tell(&format!("to follow it: sooner watch {id}{server}"));
        }
        return Ok(Exit::Success);
    }
    match end_of(arguments, &id, None)? {
        Watched::Over(batch) => {
            show(form, &batch)?;
            Ok(exit_of(&batch))
        }
        Watched::Left(exit) => Ok(exit),
    }
}

/// Shows the batch, if it is to be more than its id.
fn show(form: Form, batch: &wire::Batch) -> Result<(), Failure> {
    match form {
        Form::Table | Form::Name | Form::Output => Ok(()),
        Form::Json => json(&BatchJson::of(batch), Lines::Many),
        Form::Jsonl => json(&BatchJson::of(batch), Lines::One),
    }
}

/// Waits for the end of the new batch, and prints its results meanwhile if that is wanted.
fn end_of(
    arguments: &Arguments,
    id: &str,
    printer: Option<Printer<io::Stdout>>,
) -> Result<Watched, Failure> {
    let target = Target {
        id: id.to_owned(),
        after: 0,
        order: Order::Completion,
        quiet: arguments.quiet,
    };
    watch(&arguments.server, &target, printer)
}

fn redriven(arguments: &Arguments) -> Result<wire::Batch, Failure> {
    // With a key of its own it may be repeated, whatever becomes of the answer.
    let request_id = arguments
        .request_id
        .clone()
        .unwrap_or_else(|| entropy::uuid().to_string());
    let request = wire::RedriveDeadLettersRequest {
        request_id,
        batch_id: arguments.batch.clone(),
        item_ids: arguments.items.clone(),
        queue: arguments.queue.clone(),
        reason: arguments.reason.clone(),
    };
    let answer = ask_admin(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.redrive_dead_letters(request).await },
    )?;
    Ok(answer.batch.unwrap_or_default())
}
