//! Following a batch on a server: every result once, whatever happens to the connection.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connect::{Clients, Patience, Remote};
use super::exit::{Exit, Failure};
use super::output::Printer;
use super::progress::Progress;
use super::refusal::Trouble;
use super::shown::Shown;
use super::signals::Signals;
use super::standstill::{SILENCE, Standstill, is_idle};
use crate::base::tasks::{self, Tasks};
use crate::wire;
use crate::wire::watch_batch_response::Message;

/// How long a print under way may take once the person wants to leave.
const LAST_PRINT: Duration = Duration::from_millis(500);

/// The order in which results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Order {
    /// As items end
    Completion,
    /// As items were submitted
    Index,
}

/// How far results have been taken: the last sequence or, in INDEX order, how many.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    pub(super) order: Order,
    at: Arc<AtomicU64>,
}

impl Cursor {
    pub(super) fn at(order: Order, after: u64) -> Self {
        let at = Arc::new(AtomicU64::new(after));
        Self { order, at }
    }

    /// Where to go on.
    pub(super) fn after(&self) -> u64 {
        self.at.load(Ordering::Acquire)
    }
}

/// Where results go: each is printed and counted once.
#[derive(Debug)]
pub(super) struct Sink {
    /// `None` if they are only counted.
    pub(super) printer: Option<Printer<io::Stdout>>,
    pub(super) progress: Progress,
    pub(super) cursor: Cursor,
    standstill: Standstill,
    total: u64,
}

impl Sink {
    pub(super) fn new(
        printer: Option<Printer<io::Stdout>>,
        progress: Progress,
        cursor: Cursor,
    ) -> Self {
        Self {
            printer,
            progress,
            cursor,
            standstill: Standstill::default(),
            total: 0,
        }
    }

    /// Whether results may come without their outputs.
    pub(super) fn omits_outputs(&self) -> bool {
        !self.printer.as_ref().is_some_and(Printer::wants_outputs)
    }

    /// Takes a result, unless it was taken before.
    pub(super) fn take(&mut self, result: &wire::ItemResult) -> io::Result<()> {
        let position = match self.cursor.order {
            Order::Completion => result.sequence,
            Order::Index => result.index + 1,
        };
        if position <= self.cursor.after() {
            return Ok(());
        }
        self.standstill.is_over();
        let shown = Shown::of_result(result);
        if let Some(printer) = &mut self.printer {
            printer.print(&shown)?;
        }
        // Only now: what was printed in part only is printed again.
        self.cursor.at.store(position, Ordering::Release);
        let known = result.sequence + result.remaining_count.unwrap_or(0);
        self.total = self.total.max(known);
        self.progress.count(&shown, self.total);
        Ok(())
    }

    /// Takes note of how many items there are.
    pub(super) fn learn(&mut self, counts: Option<&wire::Counts>) {
        self.total = self.total.max(counts.map_or(0, |counts| counts.total));
    }

    /// Nothing has come for a while: says why, if the batch stands still.
    pub(super) async fn hear_nothing(
        &mut self,
        progress: &wire::WatchProgress,
        clients: &Clients,
        (id, uid): (&str, &str),
    ) {
        let counts = progress.counts.as_ref();
        self.learn(counts);
        if !is_idle(counts) {
            self.standstill.is_over();
        } else if !self.progress.is_quiet()
            && let Some(line) = self.standstill.look(clients, id, uid).await
        {
            self.progress.say(&line);
        }
    }
}

/// How following ended.
#[derive(Debug)]
pub(super) enum Followed {
    /// The batch has ended, and every result was taken.
    Over(Box<wire::Batch>),
    /// A result could not be printed.
    OutputFailed(io::Error),
}

/// Takes all results of a batch behind the sink's cursor, to its end. An empty uid leaves it open
/// which batch of that id it is.
pub(super) async fn follow(
    remote: &Remote,
    (id, uid): (String, String),
    sink: &mut Sink,
) -> Result<Followed, Failure> {
    let mut patience = remote.patience();
    let mut request = wire::WatchBatchRequest {
        batch_id: id,
        batch_uid: uid,
        omit_output: sink.omits_outputs(),
        progress_interval: Some(silence()),
        order: match sink.cursor.order {
            Order::Completion => wire::ResultOrder::Completion,
            Order::Index => wire::ResultOrder::Index,
        }
        .into(),
        ..wire::WatchBatchRequest::default()
    };
    loop {
        match sink.cursor.order {
            Order::Completion => request.after_sequence = sink.cursor.after(),
            Order::Index => request.after_index = sink.cursor.after(),
        }
        match watch_once(remote, &mut request, sink, &mut patience).await {
            Ok(followed) => return Ok(followed),
            Err(trouble) => patience.bear(trouble).await?,
        }
    }
}

/// After how much silence the server is to show how far the batch is.
pub(super) fn silence() -> prost_types::Duration {
    SILENCE.try_into().expect("it is a few seconds")
}

async fn watch_once(
    remote: &Remote,
    request: &mut wire::WatchBatchRequest,
    sink: &mut Sink,
    patience: &mut Patience,
) -> Result<Followed, Trouble> {
    let clients = remote.connect().await?;
    let mut stub = clients.batches.clone();
    let mut stream = stub.watch_batch(request.clone()).await?.into_inner();
    while let Some(response) = stream.message().await? {
        patience.reward();
        match response.message {
            Some(Message::Attached(attached)) => {
                let batch = attached.batch.unwrap_or_default();
                sink.learn(batch.counts.as_ref());
                // From now on no other batch of this id will do.
                request.batch_uid = batch.batch_uid;
            }
            Some(Message::Result(result)) => {
                if let Err(error) = sink.take(&result) {
                    return Ok(Followed::OutputFailed(error));
                }
            }
            Some(Message::Progress(progress)) => {
                let batch = (&*request.batch_id, &*request.batch_uid);
                sink.hear_nothing(&progress, &clients, batch).await;
            }
            Some(Message::Ended(ended)) => {
                return Ok(Followed::Over(Box::new(ended.batch.unwrap_or_default())));
            }
            // Of a later version of the server.
            None => {}
        }
    }
    Err(Trouble::cut_short())
}

/// The exit code that says how a batch has ended.
pub(super) fn exit_of(batch: &wire::Batch) -> Exit {
    let counts = batch.counts.unwrap_or_default();
    let ended_badly = [wire::BatchState::Failed, wire::BatchState::Expired];
    if batch.state == i32::from(wire::BatchState::Cancelled) {
        Exit::Cancelled
    } else if counts.failed + counts.expired > 0
        || ended_badly.map(i32::from).contains(&batch.state)
    {
        Exit::ItemsFailed
    } else if counts.cancelled > 0 && !had_enough(batch) {
        // One by one: the rest has succeeded.
        Exit::Cancelled
    } else {
        Exit::Success
    }
}

/// Whether as many items have succeeded as were to be enough, which cancels the rest.
fn had_enough(batch: &wire::Batch) -> bool {
    let enough = batch.options.as_ref().and_then(|options| options.enough);
    let succeeded = batch.counts.unwrap_or_default().succeeded;
    enough.is_some_and(|enough| succeeded >= u64::from(enough))
}

/// Whether a batch changes no more.
pub(super) fn is_over(batch: &wire::Batch) -> bool {
    batch.finish_time.is_some()
}

/// How work ended that a signal may cut short.
#[derive(Debug)]
pub(super) enum Ended<T> {
    /// By itself.
    Done(T),
    /// By a signal.
    Signalled(Exit),
}

/// Does the work until a signal comes, on threads of its own: a reader of ours that is slow, or
/// asleep, must not keep us from hearing the signal. The work is left between two prints, or within
/// one that takes too long; a second signal leaves at once.
pub(super) fn until_signal<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<Ended<T>, Failure> {
    let listening = tasks::runtime("sooner-signals", 1)?;
    // Two threads: one may be in a print while the other keeps the connection alive.
    let working = tasks::runtime("sooner-client", 2)?;
    let group = Tasks::on(working.handle().clone());
    let ended = listening.block_on(async {
        let mut signals = Signals::listen()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut work = group.spawn(async move {
            tokio::select! {
                biased;
                done = work => Some(done),
                () = stopped.cancelled() => None,
            }
        });
        tokio::select! {
            done = &mut work => {
                done.map_err(died)?.expect("nothing stops it").map(Ended::Done)
            }
            exit = signals.next() => {
                stop.cancel();
                let last = tokio::select! {
                    last = tokio::time::timeout(LAST_PRINT, work) => last.ok(),
                    _ = signals.next() => None,
                };
                match last.transpose().map_err(died)?.flatten() {
                    Some(done) => done.map(Ended::Done),
                    None => Ok(Ended::Signalled(exit)),
                }
            }
        }
    });
    working.shutdown_background();
    ended
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what a join hands over"
)]
fn died(error: tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Internal, format!("following failed: {error}"))
}
