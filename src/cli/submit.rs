//! `sooner submit`: an input of any length becomes a batch on a server.

use std::sync::Arc;
use std::time::Duration;

use super::answer::out;
use super::batch_options::OptionArguments;
use super::connect::{Remote, ServerArguments};
use super::exit::{self, Exit, Failure};
use super::following::{
    Cursor, Ended, Followed, Order, Sink, exit_of, follow, silence, until_signal,
};
use super::input::InputArguments;
use super::output::{ResultArguments, streamed};
use super::progress::{Failures, Progress};
use super::refusal::Trouble;
use super::tell;
use super::upload::{Stage, Until, Upload, Uploaded};
use crate::base::{entropy, limits, tasks};
use crate::wire;

/// Submit a batch to a server and print its id
///
/// The input is sent as it is read, and may be of any length; its items run as they arrive. After a
/// broken connection or a restart of the server it goes on by itself. If this program is ended, the
/// same command with the same --batch-id on the same input goes on within the hour: what the server has
/// is compared and not run again. It prints the id once every item is durable; --follow prints the
/// results instead (see watch), --wait waits for the end; both tell a batch that is paused.
///
/// Examples:
///   seq 100 | sooner submit --follow -o output
///   sooner submit --batch-id nightly-7 --jsonl prompts.jsonl
///
/// Exit codes: 0 submitted; with --wait or --follow as the batch has ended: 0 every item succeeded, or
/// --enough did, 3 an item failed or expired, or the batch did, 4 it was cancelled, or items of it;
/// 2 bad usage, or a bad line in the input; 7 the id is taken by something else; 9 the server cannot be
/// reached; 10 it has no room; 66 an input that cannot be read; 74 reading or writing failed; 129, 130,
/// 143 ended by SIGHUP, Ctrl-C, SIGTERM.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// The queue whose handler computes the items [default: default]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    queue: String,

    /// The batch's name, by which the same command goes on [default: a new one]
    #[arg(long, value_name = "ID")]
    batch_id: Option<String>,

    /// Print each result as it is done
    #[arg(long)]
    follow: bool,

    /// Wait for the end of the batch and sum it up
    #[arg(long, conflicts_with = "follow")]
    wait: bool,

    #[command(flatten)]
    options: OptionArguments,

    #[command(flatten)]
    input: InputArguments,

    #[command(flatten)]
    results: ResultArguments,

    /// Say nothing but failures
    #[arg(short, long)]
    quiet: bool,
}

/// How long the cancel of a batch may take that nothing came of: its failure is to be told.
const DISCARD_MAX: Duration = Duration::from_secs(2);

/// What somebody who is cut short must know to go on.
struct Position {
    id: String,
    stage: Arc<Stage>,
    cursor: Cursor,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.results.is_set() && !arguments.follow {
        let problem = "-o, --tag and --out-dir are for results; they need --follow";
        return Err(Failure::new(Exit::Usage, problem));
    }
    let remote = arguments.server.remote()?;
    // What an input may have at most is the server's to say.
    let input = arguments.input.open(limits::INPUT_BYTES_CEILING)?;
    let printer = arguments
        .follow
        .then(|| arguments.results.printer(streamed()))
        .transpose()?;
    let failures = match &printer {
        Some(printer) if !printer.hides_failures() => Failures::Counted,
        None if !arguments.wait => Failures::Counted,
        Some(_) | None => Failures::Told,
    };
    let position = Position {
        id: arguments
            .batch_id
            .clone()
            .unwrap_or_else(|| entropy::uuid().to_string()),
        stage: Arc::default(),
        cursor: Cursor::at(Order::Completion, 0),
    };
    let until = if arguments.follow || arguments.wait {
        Until::Over
    } else {
        Until::Sealed
    };
    // How far the items are is of no interest to whoever just hands them over.
    let progress = Progress::begin(arguments.quiet || until == Until::Sealed, failures);
    let sink = Sink::new(printer, progress, position.cursor.clone());
    let start = start(arguments, &position.id);
    let stage = Arc::clone(&position.stage);
    let quiet = arguments.quiet;
    let work = async move {
        let mut upload = Upload::new(start, until, input.start(), &stage);
        if !upload.begin().await? {
            let problem = "there is no item in the input; nothing was submitted";
            return Err(Failure::new(Exit::Usage, problem));
        }
        upload.announces = !quiet;
        bring(&remote, upload, sink).await
    };
    match until_signal(work) {
        Ok(Ended::Done(Uploaded::Followed(Followed::OutputFailed(error)))) => {
            Err(exit::of_output(&error))
        }
        Ok(Ended::Done(uploaded)) => finish(arguments, &position, &uploaded),
        Ok(Ended::Signalled(exit)) => {
            tell(&position.go_on(arguments));
            Ok(exit)
        }
        Err(failure) => Err(position.explain(arguments, failure)),
    }
}

/// Uploads, and follows if that is asked for, also after the connection of the upload has broken.
async fn bring(
    remote: &Remote,
    mut upload: Upload<'_>,
    mut sink: Sink,
) -> Result<Uploaded, Failure> {
    let until = upload.until;
    let mut ended = upload.run(remote, &mut sink).await;
    let left = match &ended {
        Ok(Uploaded::Sealed(uid)) if until == Until::Over => Some(uid.clone()),
        Ok(Uploaded::EndedEarly(uid)) => Some(uid.clone()),
        Ok(Uploaded::Sealed(_) | Uploaded::Followed(_)) | Err(_) => None,
    };
    if let Some(uid) = left {
        let batch = (upload.start.batch_id.clone(), uid);
        ended = follow(remote, batch, &mut sink)
            .await
            .map(Uploaded::Followed);
    }
    match &ended {
        Ok(Uploaded::Followed(Followed::Over(_))) if until == Until::Over => sink.progress.end(),
        Ok(_) | Err(_) => sink.progress.dismiss(),
    }
    ended
}

fn finish(
    arguments: &Arguments,
    position: &Position,
    uploaded: &Uploaded,
) -> Result<Exit, Failure> {
    if !arguments.follow && position.stage.is_sealed() {
        out(format!("{}\n", position.id).as_bytes())?;
    }
    let Uploaded::Followed(Followed::Over(batch)) = uploaded else {
        return Ok(Exit::Success);
    };
    if !position.stage.is_sealed() {
        let (id, items) = (&position.id, position.stage.durable());
        tell(&format!(
            "batch {id} has ended with the first {items} items, before the end of the input"
        ));
        return Ok(exit_of(batch));
    }
    if arguments.follow || arguments.wait {
        Ok(exit_of(batch))
    } else {
        Ok(Exit::Success)
    }
}

impl Position {
    /// The failure, with what is left on the server and how to go on with that. What nobody has named
    /// and holds nothing is not left.
    fn explain(&self, arguments: &Arguments, failure: Failure) -> Failure {
        let (stage, exit) = (&self.stage, failure.exit);
        let is_empty = stage.durable() == 0;
        let has_no_name = arguments.batch_id.is_none() && exit != Exit::Unavailable;
        // Nothing is there to go on with, or what is there is not ours.
        if !stage.is_accepted()
            || (is_empty && has_no_name && self.discard(&arguments.server))
            || (is_empty && exit != Exit::Exhausted)
            || (exit == Exit::Conflict && !stage.was_sealed())
        {
            return failure;
        }
        let failure = failure.and(&format!("hint: {}", self.go_on(arguments)));
        if exit != Exit::Exhausted || stage.is_sealed() {
            return failure;
        }
        let (id, server) = (&self.id, arguments.server.flags());
        failure.and(&format!(
            "hint: so long it counts as an open batch; to free its room: sooner cancel {id}{server}"
        ))
    }

    /// Cancels the batch, so that it takes no room. Answers whether that worked at once.
    fn discard(&self, server: &ServerArguments) -> bool {
        let request = wire::CancelBatchRequest {
            batch_id: self.id.clone(),
            reason: "nothing of it could be submitted".to_owned(),
            ..wire::CancelBatchRequest::default()
        };
        let (Ok(remote), Ok(runtime)) = (server.remote(), tasks::runtime("sooner-client", 1))
        else {
            return false;
        };
        let cancelled = async {
            let mut stub = remote.connect().await?.batches;
            stub.cancel_batch(request).await.map_err(Trouble::from)
        };
        // Only within a runtime is there a clock for it.
        let cancelled =
            runtime.block_on(async { tokio::time::timeout(DISCARD_MAX, cancelled).await });
        cancelled.is_ok_and(|answer| answer.is_ok())
    }

    /// How to go on, in one line.
    fn go_on(&self, arguments: &Arguments) -> String {
        let (id, server) = (&self.id, arguments.server.flags());
        let times = arguments.options.fixed_times();
        if !self.stage.is_accepted() {
            return format!(
                "the server has not said that it has the batch; the same command on the same input with --batch-id {id}{times} goes on if it has"
            );
        }
        if self.stage.is_sealed() {
            let after = self.cursor.after();
            return format!(
                "batch {id} goes on without us; to go on: sooner watch {id} --after {after}{server}"
            );
        }
        if self.stage.was_sealed() {
            return format!(
                "batch {id} had all its items before; choose another --batch-id, or read it: sooner watch {id}{server}"
            );
        }
        let items = self.stage.durable();
        format!(
            "batch {id} has the first {items} items and takes more for an hour; to go on, give the same command on the same input with --batch-id {id}{times}"
        )
    }
}

fn start(arguments: &Arguments, id: &str) -> wire::StreamStart {
    wire::StreamStart {
        batch_id: id.to_owned(),
        queue: arguments.queue.clone(),
        options: Some(arguments.options.options()),
        // Only counted, results need no outputs.
        omit_output: !arguments.follow,
        progress_interval: Some(silence()),
        ..wire::StreamStart::default()
    }
}
