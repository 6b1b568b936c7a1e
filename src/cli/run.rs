//! `sooner run`: items from the input, results on standard output as each is done.
//!
//! The same store and engine as the server's, in this process: the input is appended to a journal
//! as it is read, and a feed prints it as it grows. Neither side holds more than a few MiB.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exit::{self, Exit, Failure};
use super::input::{Input, InputArguments};
use super::output::{Form, Printer, ResultArguments};
use super::progress::{Failures, Progress};
use super::shown::Shown;
use super::signals::Signals;
use super::state_dir::Journal;
use super::{Shared, tell};
use crate::base::tasks::{self, Tasks};
use crate::base::telemetry;
use crate::config::{self, Config, Layers, command_line_handler, parse_duration};
use crate::domain::batch::BatchState;
use crate::domain::ids::{QueueName, Sequence};
use crate::domain::retry::RetrySettings;
use crate::domain::settings::BatchOptions;
use crate::engine::{Feed, Order, Turn, Upload, UploadStart};
use crate::error::Error;
use crate::handler::Environment;
use crate::server::{Node, Purpose, Runtimes};

/// How long the last results of a run that was stopped may take to be printed.
const LAST_PRINTS: Duration = Duration::from_secs(2);

/// Run a command for each item of the input and print each result as it is done
///
/// Each line of the input is an item: the command's standard input, or the argument {}. With --files
/// it is the content of each file. An item and its output may have 3 MiB each. Results come in the
/// order in which items end. Ids of items that have none of their own are their positions, from 0.
///
/// An output is printed as it is, but for a line end behind text that lacks one. Failed items print
/// nothing there; they are told on standard error, and tried again first (see --max-attempts).
///
/// Examples:
///   seq 100 | sooner run -j 8 -- factor {}
///   sooner run --tag --files src/*.rs -- wc -l
///
/// Exit codes: 0 every item succeeded; 3 an item failed; 2 bad usage or configuration, or a command
/// that does not exist; 66 an input that cannot be read; 69 a data directory in use; 73 one that
/// cannot be written; 74 reading or writing failed; 129, 130, 143 ended by SIGHUP, Ctrl-C, SIGTERM.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
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

    /// Say nothing but failures
    #[arg(short, long)]
    quiet: bool,

    /// The command, run once per attempt
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// How a run ended.
#[derive(Debug)]
enum End {
    /// Every item has its result; or there was none.
    Over(BatchState),
    /// A signal came.
    Stopped(Exit),
    /// Standard output cannot be written; nobody reads it any more, perhaps.
    OutputFailed(io::Error),
    /// The store failed.
    StoreFailed,
}

/// What a run comes to.
struct Outcome {
    end: End,
    any_failed: bool,
    /// Why the input was not read to its end.
    input_failure: Option<io::Error>,
}

/// How printing ended.
enum Printed {
    /// With the last result.
    All(BatchState),
    /// With all there will be in this run.
    UpToDrain,
    /// In a failure to write.
    OutputFailed(io::Error),
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
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
    // All of this before a journal is made: a mistake leaves nothing behind.
    let handlers = Node::handlers(&config)?;
    let input = arguments.input.open(config.limits.input_bytes)?;
    let printer = arguments.results.printer(Form::Output)?;

    let journal = if let Some(data_dir) = &arguments.data_dir {
        config.store.data_dir.clone_from(data_dir);
        None
    } else {
        let journal = Journal::create(&identity(arguments))?;
        if journal.earlier > 0 && !arguments.quiet {
            let earlier = journal.earlier;
            tell(&format!(
                "{earlier} earlier runs of this command did not succeed; their journals are kept"
            ));
        }
        config.store.data_dir.clone_from(&journal.path);
        Some(journal)
    };
    let runtimes = Runtimes::start(config.server.io_threads)?;
    let node = Node::open(&config, handlers, Purpose::Run, Arc::default(), &runtimes)?;
    let output_runtime = tasks::runtime("sooner-output", 1)?;
    let output = Tasks::on(output_runtime.handle().clone());
    let outcome = runtimes.block_on(async {
        let outcome = follow(arguments, &config, &node, (input, printer), &output).await;
        if outcome.is_err() {
            // What runs must end before the store does.
            node.engine().drain(Duration::ZERO).await;
        }
        outcome
    });
    node.close();
    runtimes.end();
    output_runtime.shutdown_background();
    finish(outcome?, journal, &config)
}

/// Reads, computes and prints until every item has its result or something ends the run early.
async fn follow(
    arguments: &Arguments,
    config: &Config,
    node: &Node,
    (input, printer): (Input, Printer<io::Stdout>),
    output: &Tasks,
) -> Result<Outcome, Failure> {
    let mut signals = Signals::listen()?;
    let engine = node.engine();
    let upload = engine
        .open_upload(UploadStart {
            queue: Some(QueueName::default()),
            options: options(arguments),
            ..UploadStart::default()
        })
        .await?;
    let cursor = if arguments.keep_order {
        Order::Index(0)
    } else {
        Order::Completion(Sequence(0))
    };
    let feed = engine.follow(upload.batch(), cursor)?;
    let drained = CancellationToken::new();
    let progress = Progress::begin(arguments.quiet, Failures::Told);
    // On a thread of its own: a reader of ours that is slow, or asleep, must not keep us from
    // hearing a signal.
    let mut printing = output.spawn(print(feed, printer, progress, drained.clone()));
    let (end, input_failure, mut progress) =
        until_over(node, &mut signals, &upload, input, &mut printing).await?;
    match end {
        End::Over(_) | End::StoreFailed => {}
        End::Stopped(_) => {
            tell("stopping: what runs may finish; again leaves at once");
            tokio::select! {
                () = engine.drain(config.server.drain_grace) => {}
                _ = signals.next() => {}
            }
        }
        End::OutputFailed(_) => engine.drain(Duration::ZERO).await,
    }
    drained.cancel();
    if progress.is_none()
        && let Ok(done) = tokio::time::timeout(LAST_PRINTS, printing).await
    {
        progress = Some(done.map_err(panicked)??.1);
    }
    let any_failed = progress.as_ref().is_some_and(Progress::any_failed);
    match progress {
        Some(progress) if matches!(end, End::Over(_)) => progress.end(),
        Some(progress) => {
            let batch = engine.batch(&upload.batch().head.id).await.ok();
            progress.end_early(batch.as_ref());
        }
        None => tell("standard output is stuck; what was not printed stays in the journal"),
    }
    Ok(Outcome {
        end,
        any_failed,
        input_failure,
    })
}

/// The task that prints.
type Printing = tokio::task::JoinHandle<Result<(Printed, Progress), Error>>;

/// Takes the input in while it is printed. Answers how that ended, why the input was not read to its
/// end, and the progress if printing is over.
async fn until_over(
    node: &Node,
    signals: &mut Signals,
    upload: &Upload,
    input: Input,
    printing: &mut Printing,
) -> Result<(End, Option<io::Error>, Option<Progress>), Failure> {
    let failed = node.store_failed();
    let mut input_failure = None;
    let mut reading = std::pin::pin!(take_in(upload, input));
    let mut is_read = false;
    loop {
        tokio::select! {
            biased;
            () = failed.cancelled() => return Ok((End::StoreFailed, input_failure, None)),
            exit = signals.next() => return Ok((End::Stopped(exit), input_failure, None)),
            done = &mut *printing => {
                let (printed, progress) = done.map_err(panicked)??;
                let end = match printed {
                    Printed::All(state) => End::Over(state),
                    Printed::OutputFailed(error) => End::OutputFailed(error),
                    Printed::UpToDrain => unreachable!("nothing is drained yet"),
                };
                return Ok((end, input_failure, Some(progress)));
            }
            taken = &mut reading, if !is_read => {
                let (total, read) = taken?;
                is_read = true;
                input_failure = read.err();
                if total == 0 {
                    return Ok((End::Over(BatchState::Completed), input_failure, None));
                }
            }
        }
    }
}

/// Appends the input to the journal as it is read, and seals it at its end. Answers how many items
/// there were, and why reading stopped if not at the end.
async fn take_in(upload: &Upload, input: Input) -> Result<(u32, io::Result<()>), Error> {
    // One chunk on its way and one being filled: the input waits for the journal.
    let (chunks, mut read) = mpsc::channel(1);
    let (ended, end) = tokio::sync::oneshot::channel();
    tasks::thread("sooner-input", move || {
        // Nobody is told if the run has ended before its input.
        ended.send(input.read(chunks)).ok();
    });
    let mut total = 0;
    while let Some(chunk) = read.recv().await {
        total = upload.append(total, chunk).await?;
    }
    let read = end
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the reading thread died")));
    if total > 0 {
        upload.seal(total).await?;
    }
    Ok((total, read))
}

/// Prints results as they come, or in the order of the input, until the last or, once `drained`
/// fires, as far as they go.
async fn print(
    mut feed: Feed,
    mut printer: Printer<io::Stdout>,
    mut progress: Progress,
    drained: CancellationToken,
) -> Result<(Printed, Progress), Error> {
    loop {
        // Asked before the read: what is recorded by then is printed.
        let is_drained = drained.is_cancelled();
        match feed.next().await? {
            Turn::Results(records, batch) => {
                for record in &records {
                    let shown = Shown::of_record(record, &batch.head);
                    if let Err(error) = printer.print(&shown) {
                        return Ok((Printed::OutputFailed(error), progress));
                    }
                    progress.count(&shown, batch.total.into());
                }
            }
            Turn::CaughtUp(_) if is_drained => return Ok((Printed::UpToDrain, progress)),
            Turn::CaughtUp(_) => tokio::select! {
                () = feed.changed() => {}
                () = drained.cancelled() => {}
            },
            Turn::Ended(batch) => return Ok((Printed::All(batch.state), progress)),
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what a join hands over"
)]
fn panicked(error: tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Internal, format!("printing failed: {error}"))
}

/// Decides what becomes of the journal, and the exit code.
fn finish(outcome: Outcome, journal: Option<Journal>, config: &Config) -> Result<Exit, Failure> {
    let Outcome {
        end,
        any_failed,
        input_failure,
    } = outcome;
    let whole =
        matches!(end, End::Over(BatchState::Completed)) && !any_failed && input_failure.is_none();
    match journal {
        Some(journal) if whole => journal.remove(),
        Some(_) => {
            let go_on = "; sooner serve --data-dir DIR -- CMD would go on with it";
            let more = if matches!(end, End::Over(_)) {
                ""
            } else {
                go_on
            };
            let dir = config.store.data_dir.display();
            tell(&format!("journal kept for 7 days in {dir}{more}"));
        }
        None => {}
    }
    if let Some(error) = input_failure {
        return Err(Failure::of_input(&error));
    }
    match end {
        End::Over(BatchState::Cancelled) => Ok(Exit::Cancelled),
        End::Over(_) if any_failed => Ok(Exit::ItemsFailed),
        End::Over(_) => Ok(Exit::Success),
        End::Stopped(exit) => Ok(exit),
        End::StoreFailed => Err(Failure::new(Exit::Io, "writing the journal failed")),
        End::OutputFailed(error) => Err(exit::of_output(&error)),
    }
}

fn options(arguments: &Arguments) -> BatchOptions {
    let retry = RetrySettings {
        max_attempts: arguments.max_attempts,
        ..RetrySettings::default()
    };
    BatchOptions {
        item_timeout: arguments.item_timeout,
        retry,
        ..BatchOptions::default()
    }
}

/// What makes two runs runs of the same thing, apart from the working directory.
fn identity(arguments: &Arguments) -> Vec<String> {
    let inputs = arguments
        .input
        .names()
        .map(|path| path.to_string_lossy().into_owned());
    arguments
        .command
        .iter()
        .cloned()
        .chain(["--".to_owned()])
        .chain(inputs)
        .collect()
}
