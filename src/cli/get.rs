//! `sooner get`: how a batch or an item stands.

use std::time::Duration;

use super::answer::{Lines, json, out};
use super::connect::{ServerArguments, Session};
use super::exit::{Exit, Failure};
use super::following::{exit_of, is_over};
use super::json::{BatchJson, ItemJson};
use super::output::Form;
use super::shown::{Content, Shown};
use super::standstill::{SILENCE, Standstill};
use super::{facts, tell};
use crate::base::{clock, tasks};
use crate::config::parse_duration;
use crate::wire;

/// Show how a batch or one of its items stands
///
/// With --wait it answers once the batch or the item is over, however long that takes, or with
/// --wait=30s after that time at the latest. While it waits it tells a batch that stands still as it or
/// its queue is paused or nobody serves that.
///
/// Exit codes: 0 it was found; with --wait 0, 3 or 4 as it has ended (see watch), 5 it is not over yet;
/// 2 bad usage; 6 no such batch or item; 9 the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Wait until it is over, or for this long
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          value_parser = parse_duration)]
    #[expect(clippy::option_option, reason = "absent, without a time, with one")]
    wait: Option<Option<Duration>>,

    /// Also show what was submitted; of an item
    #[arg(long, requires = "item")]
    spec: bool,

    /// How it is shown; output, of an item, is its output as it is
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: Form,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,

    /// The item
    #[arg(value_name = "ITEM")]
    item: Option<String>,
}

/// How long may still be waited.
#[derive(Clone, Copy)]
enum Wait {
    No,
    UpTo(std::time::Instant),
    Ever,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.item.is_none() && arguments.output == Form::Output {
        return Err(Failure::new(
            Exit::Usage,
            "-o output needs an item; watch prints the outputs of a batch",
        ));
    }
    let mut session = arguments.server.remote()?.session();
    let wait = match arguments.wait {
        None => Wait::No,
        Some(None) => Wait::Ever,
        Some(Some(time)) => Wait::UpTo(clock::instant() + time),
    };
    let runtime = tasks::runtime("sooner-client", 1)?;
    runtime.block_on(async {
        match &arguments.item {
            Some(item) => get_item(arguments, &mut session, wait, item).await,
            None => get_batch(arguments, &mut session, wait).await,
        }
    })
}

async fn get_batch(
    arguments: &Arguments,
    session: &mut Session,
    wait: Wait,
) -> Result<Exit, Failure> {
    let ask = async |session: &mut Session, time| {
        let request = wire::GetBatchRequest {
            batch_id: arguments.id.clone(),
            wait: time,
        };
        let asked = |mut stub: super::connect::Stub| {
            let request = request.clone();
            async move { stub.get_batch(request).await }
        };
        Ok(session.call(asked).await?.batch.unwrap_or_default())
    };
    let mut standstill = Standstill::default();
    let look = async |session: &Session, batch: &wire::Batch| {
        standstill.look_at(&session.clients()?, batch).await
    };
    let batch = when(wait, session, ask, look, is_over).await?;
    match arguments.output {
        Form::Table => out(facts::batch(&batch).as_bytes())?,
        Form::Json => json(&BatchJson::of(&batch), Lines::Many)?,
        Form::Jsonl => json(&BatchJson::of(&batch), Lines::One)?,
        Form::Name | Form::Output => out(format!("{}\n", batch.batch_id).as_bytes())?,
    }
    Ok(ended(wait, is_over(&batch), exit_of(&batch)))
}

async fn get_item(
    arguments: &Arguments,
    session: &mut Session,
    wait: Wait,
    item_id: &str,
) -> Result<Exit, Failure> {
    let ask = async |session: &mut Session, time| {
        let request = wire::GetItemRequest {
            batch_id: arguments.id.clone(),
            item_id: item_id.to_owned(),
            wait: time,
            include_spec: arguments.spec,
        };
        let asked = |mut stub: super::connect::Stub| {
            let request = request.clone();
            async move { stub.get_item(request).await }
        };
        Ok(session.call(asked).await?.item.unwrap_or_default())
    };
    let mut standstill = Standstill::default();
    let look = async |_: &Session, item: &wire::Item| standstill.news(held_back(item));
    let is_over = |item: &wire::Item| item.result.is_some();
    let item = when(wait, session, ask, look, is_over).await?;
    let result = item.result.as_ref().map(Shown::of_result);
    match arguments.output {
        Form::Table => out(facts::item(&item, result.as_ref()).as_bytes())?,
        Form::Json => json(&ItemJson::of(&item, result.as_ref()), Lines::Many)?,
        Form::Jsonl => json(&ItemJson::of(&item, result.as_ref()), Lines::One)?,
        Form::Name => out(format!("{}\n", item.item_id).as_bytes())?,
        Form::Output => {
            let output = item
                .result
                .as_ref()
                .and_then(|result| result.output.as_ref());
            let Some(output) = output else {
                return Ok(without_output(result.as_ref(), &item));
            };
            out(Content::from(output).bytes())?;
        }
    }
    Ok(ended(wait, result.is_some(), item_exit(result.as_ref())))
}

/// Asks until the answer is final or the time is over; each call waits for a while of that. In between
/// it tells why nothing goes on, if that is so.
async fn when<T>(
    wait: Wait,
    session: &mut Session,
    mut ask: impl AsyncFnMut(&mut Session, Option<prost_types::Duration>) -> Result<T, Failure>,
    mut look: impl AsyncFnMut(&Session, &T) -> Option<String>,
    is_final: impl Fn(&T) -> bool,
) -> Result<T, Failure> {
    // At once: from then on the server is known to be there, however long it is away later.
    let mut answer = ask(session, None).await?;
    loop {
        let left = match wait {
            Wait::No => return Ok(answer),
            Wait::Ever => SILENCE,
            Wait::UpTo(end) => end.saturating_duration_since(clock::instant()).min(SILENCE),
        };
        if is_final(&answer) || left.is_zero() {
            return Ok(answer);
        }
        if let Some(line) = look(session, &answer).await {
            tell(&line);
        }
        let time = prost_types::Duration::try_from(left).expect("a few seconds at most");
        answer = ask(session, Some(time)).await?;
    }
}

/// Why an item does not run, if that is for somebody to change.
fn held_back(item: &wire::Item) -> Option<String> {
    let waiting = item.waiting.as_ref()?;
    let is_told = ["BATCH_PAUSED", "QUEUE_PAUSED", "NO_HANDLER"].contains(&&*waiting.reason);
    is_told.then(|| format!("item {} waits: {}", item.item_id, waiting.message))
}

fn ended(wait: Wait, is_over: bool, exit: Exit) -> Exit {
    match wait {
        Wait::No => Exit::Success,
        Wait::UpTo(_) | Wait::Ever if is_over => exit,
        Wait::UpTo(_) | Wait::Ever => {
            tell("it is not over yet");
            Exit::NotYet
        }
    }
}

fn item_exit(result: Option<&Shown<'_>>) -> Exit {
    match result.map_or("", |result| result.state) {
        "failed" | "expired" => Exit::ItemsFailed,
        "cancelled" => Exit::Cancelled,
        _ => Exit::Success,
    }
}

/// There is no output to print: says why.
fn without_output(result: Option<&Shown<'_>>, item: &wire::Item) -> Exit {
    if let Some(result) = result {
        let gist = super::output::gist(result);
        tell(&format!(
            "the item has no output, it is {}: {gist}",
            result.state
        ));
        item_exit(Some(result))
    } else {
        let state = super::shown::item_state(item.state);
        tell(&format!("the item has no output yet, it is {state}"));
        Exit::NotYet
    }
}
