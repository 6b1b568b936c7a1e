//! `sooner watch`: the results of a batch from a cursor on.

use std::io;

use super::connect::ServerArguments;
use super::exit::{self, Exit, Failure};
use super::following::{Cursor, Ended, Followed, Order, Sink, exit_of, follow, until_signal};
use super::output::{Printer, ResultArguments, streamed};
use super::progress::{Failures, Progress};
use super::tell;
use crate::wire;

/// Follow a batch: print its results so far, then each one as it is done
///
/// After a disconnect or a restart of the server it goes on by itself behind the last result that was
/// printed; none is printed twice and none is left out. Ctrl-C leaves the batch alone and says how to
/// go on. Results are a table on a terminal and JSON lines elsewhere, unless -o says otherwise: -o jsonl
/// and -o json print an object for each as it comes, never one document of all (list ID -o json does).
/// A batch that stands still, as it or its queue is paused or nobody serves that, is told, and how to go
/// on.
///
/// Exit codes: 0 every item succeeded, or enough did; 3 an item failed or expired, or the batch did;
/// 4 the batch was cancelled, or items of it and the others succeeded; 2 bad usage; 6 no such batch;
/// 9 the server cannot be reached; 74 the output cannot be written; 129, 130, 143 ended by SIGHUP, Ctrl-C,
/// SIGTERM.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Go on behind this sequence; in index order: behind the first so many items
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,

    /// The order of results
    #[arg(long, value_enum, default_value_t = Order::Completion)]
    order: Order,

    #[command(flatten)]
    results: ResultArguments,

    /// Say nothing but failures
    #[arg(short, long)]
    quiet: bool,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,
}

/// What is watched, and from where on.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) id: String,
    pub(super) after: u64,
    pub(super) order: Order,
    pub(super) quiet: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let printer = arguments.results.printer(streamed())?;
    let target = Target {
        id: arguments.id.clone(),
        after: arguments.after,
        order: arguments.order,
        quiet: arguments.quiet,
    };
    match watch(&arguments.server, &target, Some(printer))? {
        Watched::Over(batch) => Ok(exit_of(&batch)),
        Watched::Left(exit) => Ok(exit),
    }
}

/// How watching ended.
#[derive(Debug)]
pub(super) enum Watched {
    /// With the batch, which is as told.
    Over(Box<wire::Batch>),
    /// Earlier, by a signal.
    Left(Exit),
}

/// Follows a batch to its end; without a printer its results are only counted.
pub(super) fn watch(
    server: &ServerArguments,
    target: &Target,
    printer: Option<Printer<io::Stdout>>,
) -> Result<Watched, Failure> {
    let remote = server.remote()?;
    let failures = if printer.as_ref().is_none_or(Printer::hides_failures) {
        Failures::Told
    } else {
        Failures::Counted
    };
    let cursor = Cursor::at(target.order, target.after);
    let reached = cursor.clone();
    let progress = Progress::begin(target.quiet, failures);
    let id = target.id.clone();
    let work = async move {
        let mut sink = Sink::new(printer, progress, cursor);
        let followed = follow(&remote, (id, String::new()), &mut sink).await;
        match &followed {
            Ok(Followed::Over(_)) => sink.progress.end(),
            Ok(Followed::OutputFailed(_)) | Err(_) => sink.progress.dismiss(),
        }
        followed
    };
    let go_on = || {
        let (id, after, server) = (&target.id, reached.after(), server.flags());
        let order = match target.order {
            Order::Completion => "",
            Order::Index => " --order index",
        };
        format!("sooner watch {id} --after {after}{order}{server}")
    };
    match until_signal(work) {
        Ok(Ended::Done(Followed::Over(batch))) => Ok(Watched::Over(batch)),
        Ok(Ended::Done(Followed::OutputFailed(error))) => Err(exit::of_output(&error)),
        Ok(Ended::Signalled(exit)) => {
            let id = &target.id;
            tell(&format!(
                "batch {id} goes on without us; to go on: {}",
                go_on()
            ));
            Ok(Watched::Left(exit))
        }
        Err(failure) if failure.exit == Exit::Unavailable && reached.after() > target.after => {
            Err(failure.and(&format!("hint: to go on: {}", go_on())))
        }
        Err(failure) => Err(failure),
    }
}
