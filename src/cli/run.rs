//! `sooner run`: items from the input, results on standard output as each is done.
//!
//! The same store and engine as the server's, in this process: the input is appended to a journal
//! as it is read, and a feed prints it as it grows. Neither side holds more than a few pages.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use super::exit::{Exit, Failure};
use super::input::{Format, Input};
use super::output::{Form, Printer};
use super::progress::Progress;
use super::signals::Signals;
use super::state_dir::Journal;
use super::{Shared, tell};
use crate::base::{tasks, telemetry};
use crate::config::{self, Config, Layers, command_line_handler, parse_duration};
use crate::domain::batch::BatchState;
use crate::domain::ids::{QueueName, Sequence};
use crate::domain::item::ItemSpec;
use crate::domain::retry::RetrySettings;
use crate::domain::settings::BatchOptions;
use crate::engine::{Engine, Order, Turn, Upload};
use crate::error::Error;
use crate::handler::Environment;
use crate::server::{Node, Purpose, Runtimes};

/// Items appended in one transaction at most; what has been read goes out at once.
const APPEND_ITEMS_MAX: usize = 1000;

/// Bytes appended in one transaction, about.
const APPEND_BYTES_MAX: usize = 1 << 20;

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
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Arguments {
    #[command(flatten)]
    shared: Shared,

    /// Items are separated by NUL instead of line ends
    #[arg(short = '0', long, conflicts_with = "files")]
    null: bool,

    /// Each line is an item; the default
    #[arg(long, conflicts_with_all = ["files", "null"])]
    lines: bool,

    /// Each named file's content is an item, its path the item's id
    #[arg(long)]
    files: bool,

    /// Print results in the order of the input instead of as they are done
    #[arg(short, long)]
    keep_order: bool,

    /// Put the item's id and a tab before each line of output
    #[arg(long)]
    tag: bool,

    /// What is printed of each result
    #[arg(short, long, value_name = "FORM", default_value = "output")]
    output: Form,

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

    /// The input: files, or - for standard input, which is the default
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,

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

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let format = match (arguments.files, arguments.null) {
        (true, _) => Format::Files,
        (false, true) => Format::Null,
        (false, false) => Format::Lines,
    };
    if arguments.inputs.is_empty() && io::stdin().is_terminal() && format != Format::Files {
        return Err(Failure::new(
            Exit::Usage,
            "there is no input: name files or pipe items in; see --help",
        ));
    }
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
    let input = Input::open(format, arguments.inputs.clone(), config.limits.input_bytes)?;

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
    let node = Node::open(&config, handlers, Purpose::Run, &runtimes)?;
    let outcome = runtimes.block_on(async {
        let outcome = follow(arguments, &config, &node, input).await;
        if outcome.is_err() {
            // What runs must end before the store does.
            node.engine().drain(Duration::ZERO).await;
        }
        outcome
    });
    node.close();
    runtimes.end();
    finish(outcome?, journal, &config)
}

/// Reads, computes and prints until every item has its result or something ends the run early.
async fn follow(
    arguments: &Arguments,
    config: &Config,
    node: &Node,
    input: Input,
) -> Result<Outcome, Failure> {
    let mut signals = Signals::listen()?;
    let mut progress = Progress::begin(arguments.quiet);
    let engine = node.engine();
    let upload = engine
        .open_upload(QueueName::default(), options(arguments))
        .await?;
    let failed = node.store_failed();
    let mut input_failure = None;
    let end = {
        let mut printing = std::pin::pin!(print(engine, &upload, arguments, &mut progress));
        let mut reading = std::pin::pin!(take_in(&upload, input));
        let mut is_read = false;
        loop {
            tokio::select! {
                biased;
                () = failed.cancelled() => break End::StoreFailed,
                exit = signals.next() => break End::Stopped(exit),
                end = &mut printing => break end?,
                taken = &mut reading, if !is_read => {
                    let (total, read) = taken?;
                    is_read = true;
                    input_failure = read.err();
                    if total == 0 {
                        break End::Over(BatchState::Completed);
                    }
                }
            }
        }
    };
    match end {
        End::Over(_) | End::StoreFailed => {}
        End::Stopped(_) => {
            progress.say("stopping: what runs may finish; Ctrl-C again leaves at once");
            tokio::select! {
                () = engine.drain(config.server.drain_grace) => {}
                _ = signals.next() => {}
            }
        }
        End::OutputFailed(_) => engine.drain(Duration::ZERO).await,
    }
    let any_failed = progress.any_failed();
    if matches!(end, End::Over(_)) {
        progress.end();
    } else {
        progress.end_early(engine.batch(&upload.batch().head.id).await.ok().as_ref());
    }
    Ok(Outcome {
        end,
        any_failed,
        input_failure,
    })
}

/// Appends the input to the journal as it is read, and seals it at its end. Answers how many items
/// there were, and why reading stopped if not at the end.
async fn take_in(upload: &Upload, input: Input) -> Result<(u32, io::Result<()>), Error> {
    let (items, mut pieces) = mpsc::channel(APPEND_ITEMS_MAX);
    let (ended, end) = tokio::sync::oneshot::channel();
    tasks::thread("sooner-input", move || {
        // Nobody is told if the run has ended before its input.
        ended.send(input.read(&items)).ok();
    });
    let mut total = 0;
    let mut chunk: Vec<ItemSpec> = Vec::new();
    while let Some(first) = pieces.recv().await {
        let mut bytes = first.input.bytes().len();
        chunk.push(first);
        // What is there goes out at once: an item must not wait for the ones behind it.
        while chunk.len() < APPEND_ITEMS_MAX
            && bytes < APPEND_BYTES_MAX
            && let Ok(next) = pieces.try_recv()
        {
            bytes += next.input.bytes().len();
            chunk.push(next);
        }
        total = upload.append(total, std::mem::take(&mut chunk)).await?;
    }
    let read = end
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the reading thread died")));
    if total > 0 {
        upload.seal(total).await?;
    }
    Ok((total, read))
}

/// Prints results as they come, or in the order of the input.
async fn print(
    engine: &Engine,
    upload: &Upload,
    arguments: &Arguments,
    progress: &mut Progress,
) -> Result<End, Failure> {
    let cursor = if arguments.keep_order {
        Order::Index(0)
    } else {
        Order::Completion(Sequence(0))
    };
    let mut feed = engine.follow(upload.batch(), cursor)?;
    let mut printer = Printer::new(io::stdout().lock(), arguments.output, arguments.tag);
    loop {
        match feed.next().await? {
            Turn::Results(records, batch) => {
                for record in &records {
                    if let Err(error) = printer.print(record, &batch.head) {
                        return Ok(End::OutputFailed(error));
                    }
                    progress.count(record, batch.total);
                }
            }
            Turn::CaughtUp(_) => feed.changed().await,
            Turn::Ended(batch) => return Ok(End::Over(batch.state)),
        }
    }
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
        return Err(Failure::new(Exit::Io, format!("read the input: {error}")));
    }
    match end {
        End::Over(BatchState::Cancelled) => Ok(Exit::Cancelled),
        End::Over(_) if any_failed => Ok(Exit::ItemsFailed),
        End::Over(_) => Ok(Exit::Success),
        End::Stopped(exit) => Ok(exit),
        End::StoreFailed => Err(Failure::new(Exit::Io, "writing the journal failed")),
        End::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // Like any filter whose reader has gone.
            signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE)?;
            Ok(Exit::Io)
        }
        End::OutputFailed(error) => Err(Failure::new(
            Exit::Io,
            format!("write standard output: {error}"),
        )),
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
        .inputs
        .iter()
        .map(|path| path.to_string_lossy().into_owned());
    arguments
        .command
        .iter()
        .cloned()
        .chain(["--".to_owned()])
        .chain(inputs)
        .collect()
}
