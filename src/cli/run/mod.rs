//! `sooner run`: items from the input, results on standard output as each is done.
//!
//! The same store and engine as the server's, in this process. `journal` chooses the journal, a new
//! one or an interrupted run's; `flow` takes the input in and prints the results; `notes` keeps how
//! far they were printed.

mod flow;
mod journal;
mod notes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::flow::End;
use self::journal::Journal;
pub(super) use self::notes::Identity;
use super::exit::{self, Exit, Failure};
use super::input::InputArguments;
use super::output::{Form, ResultArguments};
use super::{Shared, tell};
use crate::base::tasks::{self, Tasks};
use crate::base::telemetry;
use crate::config::{
    self, Config, HandlerConfig, Layers, QueueConfig, command_line_handler, parse_duration,
};
use crate::domain::batch::BatchState;
use crate::domain::ids::{QueueName, Sequence};
use crate::engine::Order;
use crate::handler::Environment;
use crate::server::{Node, Runtimes};

/// Run a command for each item of the input and print each result as it is done
///
/// Each line of the input is an item: the command's standard input, or the argument {}. With --files
/// it is the content of each file. An item and its output may have 3 MiB each. Results come in the
/// order in which items end. Ids of items that have none of their own are their positions, from 0.
///
/// An output is printed as it is, but for a line end behind text that lacks one. Failed items print
/// nothing there; they are told on standard error, and tried again first (see --max-attempts).
///
/// A run that was interrupted, by whatever it was, goes on with --resume: the same command and
/// inputs in the same directory. Items that had their result do not run again. Printed is what was
/// not printed yet; after a kill or a crash the last few results may be there twice, and the very
/// last one cut. An input that had been read to its end is not read again; any other must be given
/// again from its beginning, and begin as it did. -j, --tag and -o may change, --item-timeout and
/// --max-attempts may not.
///
/// Examples:
///   seq 100 | sooner run -j 8 -- factor {}
///   sooner run --tag --files src/*.rs -- wc -l
///   sooner run list.txt -- ./slow.sh > out; sooner run --resume list.txt -- ./slow.sh >> out
///
/// Exit codes: 0 every item succeeded; 3 an item failed; 2 bad usage or configuration, a command
/// that does not exist, or nothing to resume; 66 an input that cannot be read; 69 a data directory
/// in use; 73 one that cannot be written; 74 reading or writing failed; 129, 130, 143 ended by
/// SIGHUP, Ctrl-C, SIGTERM.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Arguments {
    #[command(flatten)]
    shared: Shared,

    #[command(flatten)]
    input: InputArguments,

    #[command(flatten)]
    results: ResultArguments,

    /// Print results in the order of the input instead of as they are done
    #[arg(short, long)]
    keep_order: bool,

    /// Limit of each attempt, such as 30s [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    item_timeout: Option<Duration>,

    /// Attempts per item [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_attempts: Option<u32>,

    /// Keep the journal there instead of in the user's state directory; it is not removed
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Go on with the newest interrupted run of this command
    #[arg(long)]
    resume: bool,

    /// With --resume: print every result, also those that were printed before
    #[arg(long, requires = "resume")]
    all: bool,

    /// Say nothing but failures
    #[arg(short, long)]
    quiet: bool,

    /// The command, run once per attempt
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut config = configuration(arguments)?;
    // All of this before a journal is made: a mistake leaves nothing behind.
    let handlers = Node::handlers(&config)?;
    let journal = Journal::choose(arguments, identity(arguments, &config))?;
    let printed = cursor(arguments, &journal)?;
    let is_read = journal.resumed().is_some_and(|mark| mark.is_read);
    let input = if is_read {
        None
    } else {
        Some(arguments.input.open(config.limits.input_bytes)?)
    };
    let results = arguments.results.printer(Form::Output)?;
    config.store.data_dir.clone_from(&journal.path);
    let runtimes = Runtimes::start(config.server.io_threads)?;
    let node = match Node::open(
        &config,
        handlers,
        &journal.purpose(),
        Arc::default(),
        &runtimes,
    ) {
        Ok(node) => node,
        Err(error) => {
            journal.forget();
            return Err(error.into());
        }
    };
    let output_runtime = tasks::runtime("sooner-output", 1)?;
    let output = Tasks::on(output_runtime.handle().clone());
    let outcome = runtimes.block_on(async {
        let notes = journal.note(&node, printed).await;
        let outcome = match notes {
            Ok(notes) => {
                let run = flow::Run {
                    arguments,
                    journal: &journal,
                    notes: &notes,
                    node: &node,
                };
                let grace = config.server.drain_grace;
                flow::follow(run, (input, results), printed, &output, grace).await
            }
            Err(failure) => Err(failure),
        };
        if outcome.is_err() {
            // What runs must end before the store does.
            node.engine().drain(Duration::ZERO).await;
        }
        outcome
    });
    node.close();
    runtimes.end();
    output_runtime.shutdown_background();
    finish(outcome?, journal)
}

/// The configuration of the one queue that a run serves.
fn configuration(arguments: &Arguments) -> Result<Config, Failure> {
    let mut layers = Layers {
        file: arguments.shared.config.clone(),
        environment: super::environment(),
        slots: arguments.shared.slots,
        ..Layers::default()
    };
    if !arguments.command.is_empty() {
        layers.command = Some(command_line_handler(
            arguments.command.clone(),
            Environment::Inherit,
        ));
    }
    let mut config = config::load(&layers)?;
    let queue = &config.queues[&QueueName::default()];
    if queue.handler.is_none() {
        return Err(Failure::new(
            Exit::Usage,
            "there is no command: put one behind --; see --help",
        ));
    }
    telemetry::install(telemetry::Format::Text, "warn");
    config.log.items = crate::engine::ItemLog::None;
    // Only the default queue is served: the others' handlers belong to a server.
    config
        .queues
        .retain(|name, _| *name == QueueName::default());
    Ok(config)
}

/// Behind which result printing begins.
fn cursor(arguments: &Arguments, journal: &Journal) -> Result<Order, Failure> {
    let start = if arguments.keep_order {
        Order::Index(0)
    } else {
        Order::Completion(Sequence(0))
    };
    let Some(mark) = journal.resumed().filter(|_| !arguments.all) else {
        return Ok(start);
    };
    match (mark.printed, arguments.keep_order) {
        (Order::Index(_), true) | (Order::Completion(_), false) => Ok(mark.printed),
        // Nothing was printed, in whatever order.
        (Order::Index(0) | Order::Completion(Sequence(0)), _) => Ok(start),
        (Order::Index(_), false) => Err(Failure::new(
            Exit::Usage,
            "the run printed in the order of the input: give --keep-order again, or --all",
        )),
        (Order::Completion(_), true) => Err(Failure::new(
            Exit::Usage,
            "the run printed results as they were done: leave --keep-order out, or give --all",
        )),
    }
}

/// Decides what becomes of the journal, and the exit code.
fn finish(end: End, journal: Journal) -> Result<Exit, Failure> {
    match &end {
        End::Over {
            state: BatchState::Completed,
            any_failed: false,
        } => journal.remove(),
        End::Over { .. } if journal.is_own() => tell(&journal.whereabouts()),
        End::Over { .. } => {}
        End::InputFailed(_)
        | End::Refused(_)
        | End::Stopped(_)
        | End::OutputFailed(_)
        | End::StoreFailed => tell(&format!(
            "the same command with --resume goes on with this run; {}",
            journal.whereabouts()
        )),
    }
    match end {
        End::Over {
            state: BatchState::Cancelled,
            ..
        } => Ok(Exit::Cancelled),
        End::Over {
            any_failed: true, ..
        } => Ok(Exit::ItemsFailed),
        End::Over { .. } => Ok(Exit::Success),
        End::InputFailed(error) => Err(Failure::of_input(&error)),
        End::Stopped(exit) => Ok(exit),
        End::Refused(failure) => Err(failure),
        End::StoreFailed => Err(Failure::new(Exit::Io, "writing the journal failed")),
        End::OutputFailed(error) => Err(exit::of_output(&error)),
    }
}

/// What makes two runs runs of the same thing.
fn identity(arguments: &Arguments, config: &Config) -> Identity {
    let inputs = arguments.input.names();
    let directory = std::env::current_dir().unwrap_or_default();
    Identity {
        directory: directory.to_string_lossy().into_owned(),
        command: command(&config.queues[&QueueName::default()]),
        inputs: inputs
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
    }
}

/// What computes the items, be it from the command line or from the configuration file.
fn command(queue: &QueueConfig) -> Vec<String> {
    match &queue.handler {
        Some(HandlerConfig::Exec(settings)) => settings.command.clone(),
        Some(HandlerConfig::Echo { .. }) => vec!["echo handler".to_owned()],
        None => Vec::new(),
    }
}
