//! What a start finds, and how the scheduler is rebuilt from it.
//!
//! A batch that is not over is rebuilt from three things: its row, the index of its results (which
//! items are terminal) and its rows in `attempts` (whose backoff goes on, who was cancelled while it
//! ran). The in-flight file then tells which items were running: each gets a crash mark and is
//! pending again, no attempt charged. Finished batches cost nothing here.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use super::codec::AttemptMeta;
use super::data_dir::{OpenError, damage};
use super::id_index::{Entry, IdIndex};
use super::in_flight::Interrupted;
use super::operation::Request;
use super::rows::{self, AttemptKind, AttemptRow};
use super::scheduler::{LiveBatch, Past, Scheduler};
use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{BatchName, BatchNo, ItemKey, ItemOrigin, QueueName};
use crate::domain::item::TerminalState;

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Batches that are not over.
    pub live_batches: usize,
    /// Items of theirs that are not terminal.
    pub unfinished_items: u64,
    /// The batch that all of these belong to, if there is one such.
    pub unfinished_batch: Option<BatchName>,
    /// The unfinished items by queue.
    pub waiting: BTreeMap<QueueName, u64>,
    /// Items that were running when the last process died.
    pub interrupted_items: usize,
    /// The same, as their processes know them: those may have outlived their server.
    pub orphans: Vec<Orphan>,
}

/// An item whose processes may have outlived the one that started them.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// The item that its idempotency key names.
    pub origin: ItemOrigin,
}

/// Items with a past and when their next turn is.
type Pasts = BTreeMap<u32, (Past, Timestamp)>;

/// A store brought back to where it was.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) scheduler: Scheduler,
    /// Cancelled batches whose remaining items have no record yet.
    pub(crate) sweeps: VecDeque<BatchNo>,
    /// Batches into which dead letters are still to be copied.
    pub(crate) copies: VecDeque<BatchNo>,
    /// What ended with the last process and has no record yet: items that were cancelled while they
    /// ran, and those that ran and may not run again.
    pub(crate) unrecorded: Vec<Request>,
    pub(crate) found: Recovered,
}

/// Rebuilds the scheduler and notes the crash marks, inside the caller's transaction.
pub(crate) fn recover(
    db: &Connection,
    interrupted: &[Interrupted],
    now: Timestamp,
) -> Result<Restored, Error> {
    let Restored {
        mut scheduler,
        mut sweeps,
        mut unrecorded,
        mut found,
        ..
    } = Restored::default();
    let mut copies: BTreeSet<BatchNo> = rows::redrives(db)?.into_iter().collect();
    let mut running: HashMap<BatchNo, Vec<Interrupted>> = HashMap::new();
    for slot in interrupted {
        running
            .entry(slot.token.item.batch)
            .or_default()
            .push(*slot);
    }
    for (queue, why) in rows::paused_queues(db)? {
        scheduler.pause_queue(&queue, &why);
    }
    for row in rows::live_batches(db)? {
        let (no, state) = (row.batch.head.no, row.batch.state);
        let mut batch = rebuild(db, &row)?;
        let (mut pasts, cancelled) = pasts(db, &batch)?;
        for slot in running.remove(&no).unwrap_or_default() {
            mark_crash(db, &batch, &mut pasts, &slot, now)?;
            found.interrupted_items += 1;
            let origin = origin(db, &batch, slot.token.item)?;
            found.orphans.push(Orphan { origin });
        }
        found.live_batches += 1;
        let unfinished = u64::from(batch.total - batch.tally.terminal());
        if unfinished > 0 {
            let id = (found.unfinished_items == 0).then(|| batch.head.name());
            found.unfinished_batch = id;
        }
        found.unfinished_items += unfinished;
        *found.waiting.entry(batch.head.queue.clone()).or_default() += unfinished;
        unrecorded.extend(withhold(&mut batch, &mut pasts, cancelled));
        scheduler.admit(batch, now);
        for (index, (mut past, due)) in pasts {
            let item = ItemKey { batch: no, index };
            if past.crashes > 0 {
                past.crashes_max = crashes_max(db, item)?;
            }
            scheduler.resume(item, past, due);
        }
        if state == BatchState::Cancelling {
            sweeps.push_back(no);
        }
        if state == BatchState::Open && row.batch.head.source.is_some() {
            // Whatever its row in `redrives` says, nobody else seals it.
            copies.insert(no);
        }
    }
    Ok(Restored {
        scheduler,
        sweeps,
        copies: copies.into_iter().collect(),
        unrecorded,
        found,
    })
}

/// Keeps items from their next turn that ended with the last process: those that were interrupted and
/// run at most once, and those that were cancelled while they ran. Answers how they end, each by itself:
/// damage may be in the way of one, and that one must not run either.
fn withhold(batch: &mut LiveBatch, pasts: &mut Pasts, cancelled: Vec<u32>) -> Vec<Request> {
    let no = batch.head.no;
    let mut ends = Vec::new();
    // First: whoever reads that an item was cancelled before it ran may run it again.
    if batch.head.options.at_most_once {
        let crashed = pasts.iter().filter(|(_, (past, _))| past.crashes > 0);
        for (index, (past, since)) in crashed.map(|(&index, &past)| (index, past)) {
            batch.withhold(index, Past { since, ..past });
            let item = ItemKey { batch: no, index };
            ends.push(Request::EndInterrupted(item));
        }
        pasts.retain(|&index, _| !batch.is_withheld(index));
    }
    // What else is left of a batch that ends early is recorded for that.
    let cancelled = cancelled.into_iter().filter(|_| batch.is_active());
    for index in cancelled.collect::<Vec<_>>() {
        if batch.is_withheld(index) {
            continue;
        }
        let (past, since) = pasts.remove(&index).unwrap_or_default();
        batch.withhold(index, Past { since, ..past });
        ends.push(Request::Cancel {
            batch: no,
            items: Some(vec![index]),
            reason: "".into(),
        });
    }
    ends
}

/// Why a store cannot be recovered.
#[derive(Debug)]
pub(crate) enum Error {
    /// Its contents contradict each other.
    Damaged(String),
    /// Reading or writing it failed.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Error {
    /// What the opener is told.
    pub(crate) fn at(self, path: &std::path::Path) -> OpenError {
        match self {
            Self::Damaged(what) => OpenError::Damaged(damage(path, what)),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                    OpenError::Damaged(damage(path, error))
                }
                None => OpenError::Damaged(damage(path, error)),
                Some(_) => OpenError::Sqlite(path.to_owned(), error),
            },
        }
    }
}

fn rebuild(db: &Connection, row: &rows::BatchRow) -> Result<LiveBatch, Error> {
    let told = &row.batch;
    let mut batch = LiveBatch::new(Arc::clone(&told.head), told.state, told.total);
    batch.input_bytes = told.input_bytes;
    batch.cancel_reason = told.cancel_reason.clone();
    batch.paused.clone_from(&told.paused);
    batch.cause = told.cause;
    batch.started = told.started;
    batch.failures = Arc::clone(&told.failures);
    // The row's counts are the truth about states; the index tells which items they are.
    let mut terminal = 0;
    rows::terminal_indexes(db, told.head.no, |index| {
        batch.end(index, TerminalState::Succeeded);
        terminal += 1;
    })?;
    batch.tally = told.tally;
    if let Some(last) = rows::last_item(db, told.head.no)?
        && last.checked_add(1) != Some(told.total)
    {
        return Err(Error::Damaged(format!(
            "batch {} has items up to index {last}, but its row counts {}",
            told.head.id, told.total
        )));
    }
    if let Some(ids) = &mut batch.ids {
        restore_ids(db, told, ids)?;
    }
    if terminal != told.tally.terminal() || terminal != row.last_sequence || terminal > told.total {
        return Err(Error::Damaged(format!(
            "batch {} has {terminal} results, but its row counts {} up to sequence {} of {} items",
            told.head.id,
            told.tally.terminal(),
            row.last_sequence,
            told.total
        )));
    }
    Ok(batch)
}

/// Notes which ids an open upload has used.
fn restore_ids(db: &Connection, batch: &Batch, ids: &mut IdIndex) -> Result<(), Error> {
    let (no, total) = (batch.head.no, batch.total);
    if !rows::is_named(db, no, total)? {
        if total > 0 {
            ids.append(None::<[Entry; 0]>);
        }
        return Ok(());
    }
    let mut unwritten = Vec::new();
    rows::upload_entries(
        db,
        no,
        total,
        |hash| ids.found_written(hash),
        |entry| unwritten.push(entry),
    )?;
    ids.append(Some(unwritten));
    Ok(())
}

/// The pasts of the batch's items that are not terminal, and which of them were cancelled.
fn pasts(db: &Connection, batch: &LiveBatch) -> Result<(Pasts, Vec<u32>), Error> {
    let (mut pasts, mut cancelled) = (Pasts::new(), Vec::new());
    rows::attempts_of_batch(db, batch.head.no, |row| {
        let index = row.item.index;
        if batch.is_terminal(index) {
            return;
        }
        if row.kind == AttemptKind::CancelAsked {
            cancelled.push(index);
            return;
        }
        let (past, due) = pasts.entry(index).or_default();
        past.attempts = row.number;
        *due = row.next;
        past.began |= row.kind.began();
        match row.kind {
            AttemptKind::Failed => past.spent += 1,
            AttemptKind::Released => past.releases += 1,
            AttemptKind::Crashed => past.crashes += 1,
            AttemptKind::Stopped | AttemptKind::Unbegun | AttemptKind::CancelAsked => {}
        }
    })?;
    Ok((pasts, cancelled))
}

fn mark_crash(
    db: &Connection,
    batch: &LiveBatch,
    pasts: &mut Pasts,
    slot: &Interrupted,
    now: Timestamp,
) -> Result<(), Error> {
    let item = slot.token.item;
    let before = pasts.get(&item.index).map_or(0, |(past, _)| past.attempts);
    // A slot that was not cleared yet when its lease's end was durable is stale.
    if item.index >= batch.total || batch.is_terminal(item.index) || slot.token.attempt <= before {
        return Ok(());
    }
    // A stop that could not wait is no crash: the item is not to blame. One that runs at most once is
    // over either way; its mark says so, should this process die before its record is written.
    let once = batch.head.options.at_most_once;
    let excused = slot.excused && !once;
    let (kind, told) = if excused {
        (
            AttemptKind::Stopped,
            "the server stopped while the attempt ran",
        )
    } else {
        (
            AttemptKind::Crashed,
            "the server died while the attempt ran",
        )
    };
    let reason = if once {
        Reason::UNKNOWN_OUTCOME
    } else {
        Reason::INTERRUPTED
    };
    let error = ItemError::of(reason, told);
    let meta = AttemptMeta {
        error: Some(error),
        started_ms: Some(slot.began.0),
        worker: "local".into(),
    };
    let number = slot.token.attempt;
    rows::insert_attempt(
        db,
        &AttemptRow {
            item,
            number,
            kind,
            ended: None,
            next: now,
            meta,
        },
    )?;
    let (past, due) = pasts.entry(item.index).or_default();
    past.attempts = number;
    past.began = true;
    past.crashes += u32::from(!excused);
    *due = now;
    Ok(())
}

/// The item whose idempotency key this one has: itself, unless it is the copy of a dead letter.
fn origin(db: &Connection, batch: &LiveBatch, item: ItemKey) -> Result<ItemOrigin, Error> {
    let own = ItemOrigin {
        batch: batch.head.uid,
        index: item.index,
    };
    if batch.head.source.is_none() {
        return Ok(own);
    }
    let stored = rows::stored_items(db, item.batch, &[item.index])?;
    let copied = stored.into_iter().find_map(|(_, item)| item.ok()?.origin);
    Ok(copied.unwrap_or(own))
}

/// The item's own limit of crashes, if it has one.
fn crashes_max(db: &Connection, item: ItemKey) -> Result<Option<u32>, Error> {
    let items = rows::items(db, item.batch, &[item.index])?;
    Ok(items
        .into_iter()
        .find_map(|(_, spec)| spec.ok())
        .and_then(|spec| spec.retry.max_crashes))
}
