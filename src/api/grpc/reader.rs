//! A call's stream: reads a feed until the batch ends, the caller's deadline passes or the server
//! closes, with signs of life in between.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::deadline::{self, Deadline};
use crate::base::clock;
use crate::domain::batch::Batch;
use crate::domain::item::{Record, TerminalState};
use crate::engine::{Feed, Order, Stream, Turn};
use crate::error::{Error, ErrorKind, Result};

/// How a call reads.
#[derive(Debug)]
pub(crate) struct Terms {
    /// When the call must have ended.
    pub(crate) deadline: Deadline,
    /// Fires when the server's streams end.
    pub(crate) closing: CancellationToken,
    /// After how much silence to show progress.
    pub(crate) progress: Option<Duration>,
    /// Whether to end once there is nothing to read.
    pub(crate) stop_when_caught_up: bool,
    /// Only results with one of these states; none means all.
    pub(crate) states: Vec<TerminalState>,
    /// Its place among the open streams, for as long as it reads.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// A call that reads a batch.
#[derive(Debug)]
pub(crate) struct Reader {
    feed: Feed,
    terms: Terms,
    /// Tells the engine for as long as it lives that somebody reads.
    _stream: Stream,
    batch: Batch,
    progress_at: Option<Instant>,
    finished: bool,
}

/// What a call sends next.
#[derive(Debug)]
pub(crate) enum Event {
    /// Results.
    Results(Vec<Record>, Batch),
    /// A sign of life.
    Progress(Order, Batch),
    /// The batch is over and everything was sent.
    Ended(Batch),
}

impl Reader {
    /// A call that reads `feed` on these terms.
    pub(crate) fn new(feed: Feed, batch: Batch, stream: Stream, terms: Terms) -> Self {
        let mut reader = Self {
            feed,
            terms,
            _stream: stream,
            batch,
            progress_at: None,
            finished: false,
        };
        reader.postpone_progress();
        reader
    }

    /// The next event; `None` once there is nothing more to send. After an error there is nothing more.
    pub(crate) async fn next(&mut self) -> Option<Result<Event>> {
        if self.finished {
            return None;
        }
        let event = self.read().await.map_err(|error| self.located(error));
        self.finished = matches!(event, Ok(Some(Event::Ended(_)) | None) | Err(_));
        self.postpone_progress();
        event.transpose()
    }

    async fn read(&mut self) -> Result<Option<Event>> {
        loop {
            let turn = tokio::select! {
                biased;
                () = self.terms.deadline.passed() => return Err(deadline::exceeded()),
                turn = self.feed.next() => turn?,
            };
            self.batch = match turn {
                Turn::Results(records, batch) => {
                    let records = self.wanted(records);
                    if !records.is_empty() {
                        return Ok(Some(Event::Results(records, batch)));
                    }
                    // Results that are left out are silence to the caller: progress is still due.
                    let now = Instant::from_std(clock::instant());
                    if self.progress_at.is_some_and(|at| at <= now) {
                        return Ok(Some(Event::Progress(self.feed.cursor(), batch)));
                    }
                    self.batch = batch;
                    continue;
                }
                Turn::Ended(batch) => return Ok(Some(Event::Ended(batch))),
                Turn::CaughtUp(_) if self.terms.stop_when_caught_up => return Ok(None),
                Turn::CaughtUp(batch) => batch,
            };
            let progress_at = self.progress_at;
            tokio::select! {
                biased;
                () = self.terms.deadline.passed() => return Err(deadline::exceeded()),
                // Only here: what is durable is still sent while the server closes.
                () = self.terms.closing.cancelled() => return Err(closing()),
                () = self.feed.changed() => {}
                () = until(progress_at) => {
                    return Ok(Some(Event::Progress(self.feed.cursor(), self.batch.clone())));
                }
            }
        }
    }

    fn wanted(&self, mut records: Vec<Record>) -> Vec<Record> {
        let states = &self.terms.states;
        records.retain(|record| states.is_empty() || states.contains(&record.ending.state()));
        records
    }

    fn postpone_progress(&mut self) {
        self.progress_at = self
            .terms
            .progress
            .map(|interval| Instant::from_std(clock::instant()) + interval);
    }

    /// Says where the caller goes on reading.
    fn located(&self, error: Error) -> Error {
        let error = error.with("batch_id", &self.batch.head.id);
        match self.feed.cursor() {
            Order::Completion(after) => error.with("last_sequence", after.0),
            Order::Index(index) => error.with("after_index", index),
        }
    }
}

fn closing() -> Error {
    let message = "the server is shutting down; the batch goes on, watch it from the last sequence";
    Error::new(ErrorKind::Unavailable, "SERVER_DRAINING", message)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
