//! A run under way: the input is appended to a journal as it is read, and a feed prints it as it
//! grows. Neither side holds more than a few MiB.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Arguments;
use super::journal::Journal;
use super::notes::Notes;
use crate::base::tasks::{self, Tasks};
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::Input;
use crate::cli::output::Printer;
use crate::cli::progress::{Failures, Progress};
use crate::cli::shown::Shown;
use crate::cli::signals::Signals;
use crate::cli::tell;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{BatchName, QueueName, item_id_text};
use crate::domain::item::{ItemSpec, Record};
use crate::domain::retry::RetrySettings;
use crate::domain::settings::BatchOptions;
use crate::engine::{AppendError, Engine, Feed, Order, Turn, Upload, UploadStart};
use crate::error::{Error, ErrorKind};
use crate::server::Node;

/// How long the last results of a run that was stopped may take to be printed.
const LAST_PRINTS: Duration = Duration::from_secs(2);

/// A run, and where it leaves its traces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) arguments: &'a Arguments,
    pub(super) journal: &'a Journal,
    pub(super) notes: &'a Notes,
    pub(super) node: &'a Node,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// Every item has its result; or there was none.
    Over {
        /// How the batch ended.
        state: BatchState,
        /// Whether an item did not succeed, in this run or before it was resumed.
        any_failed: bool,
    },
    /// Every item that was read has its result, but the input could not be read to its end.
    InputFailed(io::Error),
    /// The input is not that of the run that is resumed, or its items cannot be taken.
    Refused(Failure),
    /// A signal came.
    Stopped(Exit),
    /// Standard output cannot be written; nobody reads it any more, perhaps.
    OutputFailed(io::Error),
    /// The store failed.
    StoreFailed,
}

/// How printing ended.
enum Printed {
    /// With the last result.
    All(Batch),
    /// With the last result of what was read of the input.
    AllRead,
    /// With all there will be in this run.
    UpToDrain,
    /// In a failure to write.
    OutputFailed(io::Error),
}

/// What ends printing before the batch is over.
#[derive(Clone, Debug, Default)]
struct Stops {
    /// Nothing runs any more.
    drained: CancellationToken,
    /// No item comes any more, though the batch stays open.
    cut: CancellationToken,
}

/// What became of the input.
enum Taken {
    /// All of it is in the journal, so many items.
    All(u32),
    /// It could be read so far.
    Part(io::Error),
}

/// The task that prints.
type Printing = tokio::task::JoinHandle<Result<(Printed, Progress), Error>>;

/// Reads, computes and prints until every item has its result or something ends the run early.
/// `input` is none if it was read before.
pub(super) async fn follow(
    run: Run<'_>,
    (input, results): (Option<Input>, Printer<io::Stdout>),
    printed: Order,
    output: &Tasks,
    grace: Duration,
) -> Result<End, Failure> {
    let mut signals = Signals::listen()?;
    let engine = run.node.engine();
    let upload = open_upload(engine, run.journal, run.arguments).await?;
    if run.journal.resumed().is_some() && !run.arguments.quiet {
        tell(&resuming(upload.batch(), printed));
    }
    let feed = engine.follow(upload.batch(), printed)?;
    let stops = Stops::default();
    let progress = Progress::begin(run.arguments.quiet, Failures::Told);
    let print = Print {
        feed,
        printer: results,
        notes: run.notes.clone(),
        stops: stops.clone(),
    };
    // On a thread of its own: a reader of ours that is slow, or asleep, must not keep us from
    // hearing a signal.
    let mut printing = output.spawn(print.all(progress));
    let reading = take_in(&upload, input, run.notes);
    let ways = (&mut signals, &mut printing, &stops.cut);
    let (end, mut progress) = until_over(run.node, reading, ways).await?;
    match end {
        End::Over { .. } | End::InputFailed(_) | End::StoreFailed => {}
        End::Stopped(_) => {
            tell("stopping: what runs may finish; again leaves at once");
            tokio::select! {
                () = engine.drain(grace) => {}
                _ = signals.next() => {}
            }
        }
        End::OutputFailed(_) | End::Refused(_) => engine.drain(Duration::ZERO).await,
    }
    stops.drained.cancel();
    if progress.is_none()
        && let Ok(done) = tokio::time::timeout(LAST_PRINTS, printing).await
    {
        progress = Some(done.map_err(panicked)??.1);
    }
    let batch = engine.batch(&upload.batch().head.name()).await.ok();
    match progress {
        Some(progress) if matches!(end, End::Over { .. }) => progress.end(),
        Some(progress) => progress.end_early(batch.as_ref()),
        None => tell("standard output is stuck; what was not printed stays in the journal"),
    }
    if matches!(end, End::Over { .. }) {
        run.notes.over();
    } else {
        run.notes.sync();
    }
    Ok(end)
}

/// Opens the upload of a new batch, or attaches to that of the run that is resumed.
async fn open_upload(
    engine: &Engine,
    journal: &Journal,
    arguments: &Arguments,
) -> Result<Upload, Failure> {
    let mut start = UploadStart {
        batch_id: Some(journal.batch_id.clone()),
        queue: Some(QueueName::default()),
        ..UploadStart::default()
    };
    let asked = options(arguments);
    if journal.resumed().is_some() {
        match engine.batch(&BatchName::from(&journal.batch_id)).await {
            Ok(batch) => {
                check_options(&asked, &batch.head.options)?;
                start.resume = true;
                return Ok(engine.open_upload(start).await?);
            }
            // It was interrupted before the batch was durable.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    start.options = asked;
    Ok(engine.open_upload(start).await?)
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

/// What is left out stays as it was; what is given must be as it was.
fn check_options(asked: &BatchOptions, given: &BatchOptions) -> Result<(), Failure> {
    let attempts = asked.retry.max_attempts;
    let changed = if asked.item_timeout.is_some() && asked.item_timeout != given.item_timeout {
        "--item-timeout"
    } else if attempts.is_some() && attempts != given.retry.max_attempts {
        "--max-attempts"
    } else {
        return Ok(());
    };
    let message = format!("{changed} cannot change while a run goes on: leave it out");
    Err(Failure::new(Exit::Usage, message))
}

fn resuming(batch: &Batch, printed: Order) -> String {
    let printed = match printed {
        Order::Completion(sequence) => sequence.0,
        Order::Index(index) => index,
    };
    let (total, done) = (batch.total, batch.tally.terminal());
    let read = match batch.state {
        BatchState::Open => "read so far",
        BatchState::Running
        | BatchState::Completed
        | BatchState::Cancelling
        | BatchState::Cancelled
        | BatchState::Failed
        | BatchState::Expired => "in all; the input is not read again",
    };
    format!("resuming: {done} items have their result, {printed} are printed, of {total} {read}")
}

/// Takes the input in while it is printed. Answers how that ended, and the progress if printing is
/// over.
async fn until_over(
    node: &Node,
    reading: impl Future<Output = Result<Taken, Failure>>,
    (signals, printing, cut): (&mut Signals, &mut Printing, &CancellationToken),
) -> Result<(End, Option<Progress>), Failure> {
    let failed = node.store_failed();
    let mut input_failure = None;
    let mut reading = std::pin::pin!(reading);
    let mut is_read = false;
    loop {
        tokio::select! {
            biased;
            () = failed.cancelled() => return Ok((End::StoreFailed, None)),
            exit = signals.next() => return Ok((End::Stopped(exit), None)),
            done = &mut *printing => {
                let (printed, progress) = done.map_err(panicked)??;
                let end = match printed {
                    Printed::All(batch) => End::Over {
                        state: batch.state,
                        any_failed: batch.tally.terminal() > batch.tally.succeeded,
                    },
                    Printed::AllRead => {
                        End::InputFailed(input_failure.expect("it is what cuts printing"))
                    }
                    Printed::OutputFailed(error) => End::OutputFailed(error),
                    Printed::UpToDrain => unreachable!("nothing is drained yet"),
                };
                return Ok((end, Some(progress)));
            }
            taken = &mut reading, if !is_read => {
                is_read = true;
                match taken {
                    Ok(Taken::All(0)) => {
                        let (state, any_failed) = (BatchState::Completed, false);
                        let end = End::Over { state, any_failed };
                        return Ok((end, None));
                    }
                    Ok(Taken::All(_)) => {}
                    Ok(Taken::Part(error)) => {
                        input_failure = Some(error);
                        cut.cancel();
                    }
                    Err(failure) => return Ok((End::Refused(failure), None)),
                }
            }
        }
    }
}

/// Appends the input to the journal as it is read, and seals it at its end. What is there already
/// must be equal. An input that cannot be read to its end leaves the batch open: it can be resumed.
async fn take_in(upload: &Upload, input: Option<Input>, notes: &Notes) -> Result<Taken, Failure> {
    let before = upload.batch().total;
    let Some(input) = input.filter(|_| upload.batch().state == BatchState::Open) else {
        return seal(upload, before, notes).await;
    };
    // One chunk on its way and one being filled: the input waits for the journal.
    let (chunks, mut read) = mpsc::channel(1);
    let (ended, end) = tokio::sync::oneshot::channel();
    tasks::thread("sooner-input", move || {
        // Nobody is told if the run has ended before its input.
        ended.send(input.read(chunks)).ok();
    });
    let mut total: u32 = 0;
    while let Some(chunk) = read.recv().await {
        let first = total;
        let ids = ids_of_known(&chunk, first, before);
        total += u32::try_from(chunk.len()).expect("a chunk is small");
        let appended = upload.append(first, chunk).await;
        appended.map_err(|error| changed(error, first, &ids))?;
    }
    let read = end
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the reading thread died")));
    if let Err(error) = read {
        return Ok(Taken::Part(error));
    }
    if total < before {
        let message = format!(
            "item {total} of the input is missing: it had {before} items or more when the run was interrupted, and has {total}"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    seal(upload, total, notes).await
}

/// Says that these were all items. Of a batch that is sealed it changes nothing.
async fn seal(upload: &Upload, total: u32, notes: &Notes) -> Result<Taken, Failure> {
    if total > 0 {
        upload.seal(total).await?;
        notes.input_is_read();
    }
    Ok(Taken::All(total))
}

/// The ids of the items of a chunk, as far as they were there before.
fn ids_of_known(chunk: &[ItemSpec], first: u32, before: u32) -> Vec<String> {
    let known = chunk.iter().zip(first..before);
    known
        .map(|(item, index)| item_id_text(item.id.as_deref(), index))
        .collect()
}

/// Says which item is not what it was.
fn changed(error: AppendError, first: u32, ids: &[String]) -> Failure {
    match &error {
        AppendError::Item {
            index,
            reason: "ITEM_MISMATCH",
            ..
        } => {
            let at = index
                .checked_sub(first)
                .and_then(|at| usize::try_from(at).ok());
            let id = at.and_then(|at| ids.get(at)).cloned();
            let id = id.unwrap_or_else(|| index.to_string());
            let message = format!(
                "item {id} of the input is not what it was when the run was interrupted; give the same input again, or begin afresh without --resume"
            );
            Failure::new(Exit::Usage, message)
        }
        AppendError::Gap { .. } | AppendError::Item { .. } | AppendError::Other(_) => {
            Error::from(error).into()
        }
    }
}

/// What prints results.
struct Print {
    feed: Feed,
    printer: Printer<io::Stdout>,
    notes: Notes,
    stops: Stops,
}

impl Print {
    /// Prints results as they come, or in the order of the input, until the last or as far as they
    /// go once something has stopped them.
    async fn all(mut self, mut progress: Progress) -> Result<(Printed, Progress), Error> {
        loop {
            // Asked before the read: what is recorded by then is printed.
            let is_drained = self.stops.drained.is_cancelled();
            let is_cut = self.stops.cut.is_cancelled();
            let before = self.feed.cursor();
            match self.feed.next().await? {
                Turn::Results(records, batch) => {
                    if let Err(error) = self.page(&records, &batch, before, &mut progress) {
                        return Ok((Printed::OutputFailed(error), progress));
                    }
                }
                Turn::CaughtUp(batch) if is_cut && batch.tally.terminal() == batch.total => {
                    return Ok((Printed::AllRead, progress));
                }
                Turn::CaughtUp(_) if is_drained => return Ok((Printed::UpToDrain, progress)),
                Turn::CaughtUp(_) => tokio::select! {
                    () = self.feed.changed() => {}
                    () = self.stops.drained.cancelled() => {}
                    () = self.stops.cut.cancelled(), if !is_cut => {}
                },
                Turn::Ended(batch) => return Ok((Printed::All(batch), progress)),
            }
        }
    }

    /// Prints a page and notes it; of one that cannot be printed whole, what was printed.
    fn page(
        &mut self,
        records: &[Record],
        batch: &Batch,
        mut printed: Order,
        progress: &mut Progress,
    ) -> io::Result<()> {
        for record in records {
            let shown = Shown::of_record(record, &batch.head);
            if let Err(error) = self.printer.print(&shown) {
                self.notes.printed(printed);
                return Err(error);
            }
            printed = match printed {
                Order::Completion(_) => Order::Completion(record.sequence),
                Order::Index(_) => Order::Index(record.index + 1),
            };
            progress.count(&shown, batch.total.into());
        }
        self.notes.printed(printed);
        Ok(())
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what a join hands over"
)]
fn panicked(error: tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Internal, format!("printing failed: {error}"))
}
