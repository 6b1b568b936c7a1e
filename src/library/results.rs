//! The results of a batch as an asynchronous stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use futures_util::Stream;
use tokio_util::sync::CancellationToken;

use crate::base::tasks::{TaskTrackerToken, Tasks};
use crate::domain::batch::Batch;
use crate::domain::item::Record;
use crate::engine::{self, Feed, Order, Turn};
use crate::error::{Error, ErrorKind, Result};

/// The results of a batch, each as soon as it is durable. It ends behind the last one.
///
/// It is a [`Stream`]; [`Results::next`] is there for those who import none of its traits. It holds a
/// page of at most 64 KiB, or one result, and may be read as slowly as one likes. Once it has given
/// an error it has ended; [`Results::cursor`] says where to go on with
/// [`Sooner::watch`](super::Sooner::watch).
pub struct Results {
    batch: Batch,
    is_new: bool,
    cursor: Order,
    ready: vec::IntoIter<Record>,
    reading: Option<Reading>,
    place: Place,
}

type Reading = Pin<Box<dyn Future<Output = (Feed, Result<Turn>)> + Send>>;

/// A reader and what tells others that there is one.
pub(super) struct Place {
    pub(super) io: Tasks,
    pub(super) closing: CancellationToken,
    /// Counts among those whom a close waits for; given up at the end.
    pub(super) reader: Option<TaskTrackerToken>,
    /// Counts among the batch's readers.
    pub(super) _stream: engine::Stream,
}

impl Results {
    pub(super) fn new(feed: Feed, batch: Batch, is_new: bool, place: Place) -> Self {
        let mut results = Self {
            batch,
            is_new,
            cursor: feed.cursor(),
            ready: Vec::new().into_iter(),
            reading: None,
            place,
        };
        results.read_on(feed);
        results
    }

    /// The next result; `None` behind the last. Cancel safe: nothing is taken before it is returned.
    pub async fn next(&mut self) -> Option<Result<Record>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The batch as it stood when results were last read. Behind the last one, as it ended.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Whether the submit that this answers has created the batch; otherwise an equal one had.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The position behind the last result that was given, from which another reader goes on.
    pub fn cursor(&self) -> Order {
        self.cursor
    }

    fn read_on(&mut self, feed: Feed) {
        let reading = read(feed, self.place.closing.clone());
        self.reading = Some(Box::pin(self.place.io.lend_clock(reading)));
    }

    /// Takes in what was read. Answers the error that ends the stream, if that is what it was.
    fn take_in(&mut self, feed: Feed, turn: Result<Turn>) -> Option<Error> {
        match turn {
            Ok(Turn::Results(records, batch)) => {
                self.batch = batch;
                self.ready = records.into_iter();
                self.read_on(feed);
                None
            }
            Ok(Turn::Ended(batch) | Turn::CaughtUp(batch)) => {
                self.batch = batch;
                self.place.reader = None;
                None
            }
            Err(error) => {
                self.place.reader = None;
                let error = error.with("batch_id", &self.batch.head.id);
                Some(match self.cursor {
                    Order::Completion(after) => error.with("last_sequence", after.0),
                    Order::Index(index) => error.with("after_index", index),
                })
            }
        }
    }
}

/// Reads until there is something to give, the batch is over, or everything closes.
async fn read(mut feed: Feed, closing: CancellationToken) -> (Feed, Result<Turn>) {
    loop {
        // Asked before the read: what is durable by then is still given.
        let is_closing = closing.is_cancelled();
        match feed.next().await {
            Ok(Turn::CaughtUp(_)) if is_closing => return (feed, Err(closed())),
            Ok(Turn::CaughtUp(_)) => tokio::select! {
                () = feed.changed() => {}
                () = closing.cancelled() => {}
            },
            turn => return (feed, turn),
        }
    }
}

fn closed() -> Error {
    let message = "it was closed; the batch goes on once it is opened again, from the cursor";
    Error::new(ErrorKind::Unavailable, "SERVER_DRAINING", message)
}

impl Stream for Results {
    type Item = Result<Record>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(record) = self.ready.next() {
                self.cursor = match self.cursor {
                    Order::Completion(_) => Order::Completion(record.sequence),
                    Order::Index(index) => Order::Index(index + 1),
                };
                return Poll::Ready(Some(Ok(record)));
            }
            let Some(reading) = &mut self.reading else {
                return Poll::Ready(None);
            };
            let (feed, turn) = ready!(reading.as_mut().poll(context));
            self.reading = None;
            if let Some(error) = self.take_in(feed, turn) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("batch_id", &self.batch.head.id)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}
