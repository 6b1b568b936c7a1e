//! `sooner queue`: how the queues stand, and pausing one as a whole.

use std::fmt::Write as _;

use serde::Serialize;

use super::answer::{self, AnswerForm, Lines, ask_admin, json, out};
use super::connect::ServerArguments;
use super::exit::{Exit, Failure};
use super::output::preview;
use crate::wire;

/// Characters of the reason of a pause that are shown in the table.
const WHY_CHARS_MAX: usize = 60;

/// Queues: see what waits and runs, and pause one as a whole
///
/// While a queue is paused nothing of any of its batches starts; what runs goes on, and work is still
/// accepted. A restart of the server does not end a pause. Pause a single batch with `sooner pause`.
///
/// Examples:
///   sooner queue list
///   sooner queue pause thumbnails --reason 'disk is being replaced'
///   sooner queue resume thumbnails
///
/// Exit codes: 0 done; 2 bad usage; 6 no such queue; 9 the server cannot be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the queues with what computes their items, what waits and what runs
    List(ListArguments),
    /// Start nothing of a queue until it is resumed
    Pause(PauseArguments),
    /// Let a paused queue go on
    Resume(ResumeArguments),
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    #[command(flatten)]
    server: ServerArguments,

    /// How the list is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,
}

#[derive(Debug, clap::Args)]
struct PauseArguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Why, for people; shown while it is paused
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The queue
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, clap::Args)]
struct ResumeArguments {
    #[command(flatten)]
    server: ServerArguments,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The queue
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Serialize)]
struct ListJson<'a> {
    queues: Vec<QueueJson<'a>>,
}

#[derive(Serialize)]
struct QueueJson<'a> {
    name: &'a str,
    paused: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pause_reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    handler: &'a str,
    slots: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateJson>,
    open_batches: u64,
    pending_items: u64,
    running_items: u64,
}

#[derive(Serialize)]
struct RateJson {
    per_second: f64,
    burst: u32,
}

impl<'a> QueueJson<'a> {
    fn of(queue: &'a wire::Queue) -> Self {
        Self {
            name: &queue.name,
            paused: queue.paused,
            pause_reason: &queue.pause_reason,
            handler: &queue.handler,
            slots: queue.slots,
            rate: queue.rate.as_ref().map(|rate| RateJson {
                per_second: rate.per_second,
                burst: rate.burst,
            }),
            open_batches: queue.open_batches,
            pending_items: queue.pending_items,
            running_items: queue.running_items,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::List(arguments) => list(arguments),
        Command::Pause(arguments) => pause(arguments),
        Command::Resume(arguments) => resume(arguments),
    }
}

fn list(arguments: &ListArguments) -> Result<Exit, Failure> {
    let request = wire::ListQueuesRequest {};
    let answer = ask_admin(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.list_queues(request).await },
    )?;
    let queues = &answer.queues;
    match arguments.output {
        AnswerForm::Table => out(table(queues).as_bytes())?,
        AnswerForm::Json => {
            let queues = queues.iter().map(QueueJson::of).collect();
            json(&ListJson { queues }, Lines::Many)?;
        }
        AnswerForm::Jsonl => {
            for queue in queues {
                json(&QueueJson::of(queue), Lines::One)?;
            }
        }
        AnswerForm::Name => {
            for queue in queues {
                out(format!("{}\n", queue.name).as_bytes())?;
            }
        }
    }
    Ok(Exit::Success)
}

fn pause(arguments: &PauseArguments) -> Result<Exit, Failure> {
    let request = wire::PauseQueueRequest {
        queue: arguments.name.clone(),
        reason: arguments.reason.clone(),
    };
    let answer = ask_admin(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.pause_queue(request).await },
    )?;
    show(arguments.output, &answer.queue.unwrap_or_default())
}

fn resume(arguments: &ResumeArguments) -> Result<Exit, Failure> {
    let request = wire::ResumeQueueRequest {
        queue: arguments.name.clone(),
    };
    let answer = ask_admin(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.resume_queue(request).await },
    )?;
    show(arguments.output, &answer.queue.unwrap_or_default())
}

/// Shows the queue that was paused or resumed.
fn show(form: AnswerForm, queue: &wire::Queue) -> Result<Exit, Failure> {
    let wire::Queue {
        name,
        pending_items,
        running_items,
        ..
    } = queue;
    let state = state(queue);
    let told =
        format!("queue {name} is {state}: {pending_items} pending, {running_items} running\n");
    answer::show(form, &QueueJson::of(queue), &told, name)?;
    Ok(Exit::Success)
}

fn state(queue: &wire::Queue) -> &'static str {
    if queue.paused {
        "paused"
    } else if queue.handler.is_empty() {
        "unserved"
    } else {
        "open"
    }
}

fn table(queues: &[wire::Queue]) -> String {
    let head = [
        "QUEUE", "STATE", "HANDLER", "RUNNING", "PENDING", "BATCHES", "RATE", "REASON",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(queues.iter().map(row));
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut told = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let width = widths[column];
            // Numbers end below each other, words begin there.
            let padded = match head[column] {
                "RUNNING" | "PENDING" | "BATCHES" => format!("{text:>width$}  "),
                _ => format!("{text:<width$}  "),
            };
            line.push_str(&padded);
        }
        writeln!(told, "{}", line.trim_end()).expect("a string takes everything");
    }
    told
}

fn row(queue: &wire::Queue) -> [String; 8] {
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let rate = queue
        .rate
        .map(|rate| format!("{}/s, burst {}", rate.per_second, rate.burst));
    [
        queue.name.clone(),
        state(queue).to_owned(),
        or_dash(queue.handler.clone()),
        format!("{}/{}", queue.running_items, queue.slots),
        queue.pending_items.to_string(),
        queue.open_batches.to_string(),
        or_dash(rate.unwrap_or_default()),
        preview(&queue.pause_reason, WHY_CHARS_MAX),
    ]
}
