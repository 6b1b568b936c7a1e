//! The results of one batch, from a cursor on.
//!
//! One loop for every reader: subscribe to the hint, read a page, hand it over, and when a page is
//! empty wait for the hint. The order matters: a record that becomes durable between the read and
//! the wait has already changed the hint. A reader holds a cursor and one page, nothing else, so a
//! slow one costs nobody anything.
//!
//! Promptness is measured here: how long a record, from the return of its handler until it is handed
//! over, has waited for us.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Engine;
use super::pace::{Pace, Read};
use crate::base::{clock, limits};
use crate::domain::batch::Batch;
use crate::domain::ids::{BatchNo, Sequence};
use crate::domain::item::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Page, Store};

/// In which order a reader receives results, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they become durable; the cursor is the last sequence received.
    Completion(Sequence),
    /// By index; the cursor is how many were received.
    Index(u32),
}

impl Default for Order {
    /// As they become durable, from the first on.
    fn default() -> Self {
        Self::Completion(Sequence(0))
    }
}

/// A reader's place in a batch's journal.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    batch: BatchNo,
    cursor: Order,
    hint: watch::Receiver<()>,
    pace: Pace,
    /// When it was asked for more and had nothing yet.
    asked: Option<Instant>,
}

/// What a reader is given.
#[derive(Debug)]
pub enum Turn {
    /// The next results, at least one, and the batch as it stood.
    Results(Vec<Record>, Batch),
    /// Nothing yet. Wait with [`Feed::changed`].
    CaughtUp(Batch),
    /// Nothing any more: the batch is over and everything was given.
    Ended(Batch),
}

impl Engine {
    /// A reader of `batch` behind `cursor`.
    pub fn follow(&self, batch: &Batch, cursor: Order) -> Result<Feed> {
        check_cursor(batch, cursor)?;
        let hint = self.0.store.journal_hint(batch.head.no);
        self.metrics().watchers.inc();
        Ok(Feed {
            store: self.0.store.clone(),
            batch: batch.head.no,
            cursor,
            hint,
            pace: if cursor == Order::Completion(batch.last_sequence()) {
                Pace::CaughtUp
            } else {
                Pace::CatchingUp
            },
            asked: None,
        })
    }
}

/// A cursor ahead of the journal means that the server lost what it had shown, or that the batch is
/// another one: nobody should wait for that.
pub(super) fn check_cursor(batch: &Batch, cursor: Order) -> Result<()> {
    let ahead = match cursor {
        Order::Completion(after) => after > batch.last_sequence(),
        Order::Index(after) => after > batch.total,
    };
    if !ahead {
        return Ok(());
    }
    Err(cursor_ahead(batch.last_sequence()).with("batch_id", &batch.head.id))
}

/// The error of a cursor ahead of a journal that ends with `last`.
pub(super) fn cursor_ahead(last: Sequence) -> Error {
    let last = last.0;
    let message = format!("the cursor is ahead of the journal, whose last sequence is {last}");
    Error::new(ErrorKind::OutOfRange, "CURSOR_AHEAD", message).with("last_sequence", last)
}

impl Feed {
    /// Reads on, without waiting for anything to happen. Cancel safe.
    pub async fn next(&mut self) -> Result<Turn> {
        let began = clock::instant();
        let asked = *self.asked.get_or_insert(began);
        // Before the read: whatever comes after it changes the hint again.
        self.hint.borrow_and_update();
        let Page { records, batch } = match self.cursor {
            Order::Completion(after) => self.store.read_log(self.batch, after).await?,
            Order::Index(index) => self.store.read_by_index(self.batch, index).await?,
        };
        if let Some(last) = records.last() {
            self.cursor = match self.cursor {
                Order::Completion(_) => {
                    let done = clock::instant();
                    let read = Read { asked, began, done };
                    let longest = self.measure(&records, read);
                    let has_everything = last.sequence == batch.last_sequence();
                    self.pace = self.pace.after(longest, has_everything);
                    Order::Completion(last.sequence)
                }
                Order::Index(index) => Order::Index(index + 1),
            };
            self.asked = None;
            return Ok(Turn::Results(records, batch));
        }
        if matches!(self.cursor, Order::Completion(_)) {
            self.pace = Pace::CaughtUp;
        }
        let given = match self.cursor {
            Order::Completion(after) => after.0,
            Order::Index(index) => index,
        };
        let over = batch.state.is_terminal() && given >= batch.total;
        Ok(if over {
            Turn::Ended(batch)
        } else {
            Turn::CaughtUp(batch)
        })
    }

    /// Waits until there may be more, or for as long as a hint may be lost. Cancel safe.
    pub async fn changed(&mut self) {
        // The sender is kept by the store; if it is gone, looking again is right too.
        drop(tokio::time::timeout(limits::JOURNAL_HINT_LOST_MAX, self.hint.changed()).await);
    }

    /// Notes how long the records of a page have waited for us; answers the longest of it.
    fn measure(&self, records: &[Record], read: Read) -> Duration {
        let Some(since) = self.pace.waiting_since(read) else {
            return Duration::ZERO;
        };
        let metrics = self.store.metrics();
        let waited = records.iter().filter_map(|record| {
            let item = (self.batch.0, record.index);
            metrics.returned.waited(item, since, read.done)
        });
        let observe = |waited: &Duration| metrics.result_latency.observe(waited.as_secs_f64());
        waited.inspect(observe).max().unwrap_or_default()
    }

    /// The reader's cursor.
    pub fn cursor(&self) -> Order {
        self.cursor
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.store.metrics().watchers.dec();
    }
}
