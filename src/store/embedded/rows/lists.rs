//! Pages of lists. Each looks at so many rows and reads so many bytes, whatever it finds among them.

use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::batches::{BATCH_COLUMNS, read_batch};
use super::{Sql, at, attempts_of_item, batch, cached, client_ids, is_corrupt, result_of};
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::attempt::{ItemError, UnderWay};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{BatchNo, ItemKey};
use crate::domain::item::{Ending, ItemState, TerminalState};
use crate::store::{BatchPage, BatchWalk, ItemPage, ItemView, ItemWalk};

/// Bytes of a batch or an item in an answer, apart from what its caller has a say in.
const FRAME_BYTES: usize = 512;

/// What memory knows of a batch's items, asked before anything is read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The attempts under way, by item.
    pub(crate) running: HashMap<u32, UnderWay>,
    /// When items are due that wait for another attempt.
    pub(crate) due: HashMap<u32, Timestamp>,
    /// If only such are asked for: items without a result, and the first index that was not looked at.
    pub(crate) unfinished: Option<(Vec<u32>, Option<u32>)>,
}

/// The batches behind a place, newest first. `part` of the page is read, 1 for all of it.
pub(crate) fn batch_page(db: &Connection, walk: &BatchWalk, part: usize) -> Sql<BatchPage> {
    let is_live = |state: &BatchState| !state.is_terminal();
    // The few that are not over are found without a walk through all those that are.
    let from = if !walk.states.is_empty() && walk.states.iter().all(is_live) {
        "batches INDEXED BY batches_live WHERE state IN (1, 2, 4) AND"
    } else {
        "batches INDEXED BY batches_tenant WHERE"
    };
    let sql = format!("SELECT {BATCH_COLUMNS} FROM {from} tenant=? AND id<? ORDER BY id DESC");
    let mut select = cached(db, &sql)?;
    let before = walk.before.map_or(i64::MAX, |no| no.0.into());
    let mut rows = select.query(params![walk.tenant.as_str(), before])?;
    let (mut batches, mut last, mut visited, mut bytes) = (Vec::new(), None, 0, 0);
    while let Some(row) = rows.next()? {
        let is_full = batches.len() == walk.most || bytes >= limits::LIST_BYTES_MAX / part;
        if is_full || visited >= limits::LIST_VISITED_MAX / part {
            return Ok(BatchPage {
                batches,
                next: last,
            });
        }
        last = Some(BatchNo(row.get(0)?));
        visited += 1;
        if let Some(batch) = listed_batch(row, walk)? {
            // Labels are told twice, beside the options and in them.
            bytes += FRAME_BYTES + 2 * bytes_at(row, 13)? + bytes_at(row, 20)?;
            bytes += bytes_at(row, 11)? + bytes_at(row, 18)?;
            batches.push(batch);
        }
    }
    let next = None;
    Ok(BatchPage { batches, next })
}

/// The batch of a row, if it is one that is asked for. One whose row is damaged would spoil the list of
/// all others: it is left out, and whoever asks for it is told.
fn listed_batch(row: &Row<'_>, walk: &BatchWalk) -> Sql<Option<Batch>> {
    let Some(state) = BatchState::from_number(row.get(3)?) else {
        return Ok(None);
    };
    if !walk.states.is_empty() && !walk.states.contains(&state) {
        return Ok(None);
    }
    let batch = match read_batch(row) {
        Ok(row) => row.batch,
        Err(error) if is_corrupt(&error) => {
            tracing::error!(%error, "a batch is left out of a list: its row is damaged");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let labels = &batch.head.options.labels;
    let mut asked = walk.labels.iter();
    let has_all = asked.all(|(name, value)| labels.get(name) == Some(value));
    Ok(has_all.then_some(batch))
}

fn bytes_at(row: &Row<'_>, column: usize) -> Sql<usize> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    })
}

/// The items from a place on, in the order of their indexes; `None` if there is no such batch. `part`
/// of the page is read, 1 for all of it.
pub(crate) fn item_page(
    db: &Connection,
    no: BatchNo,
    walk: &ItemWalk,
    known: &Known,
    part: usize,
) -> Sql<Option<ItemPage>> {
    let Some(row) = batch(db, no)? else {
        return Ok(None);
    };
    let batch = row.batch;
    let (candidates, mut next) = candidates(db, &batch, walk, known, part)?;
    let (mut items, mut bytes, mut read) = (Vec::new(), 0, 0);
    for index in candidates {
        let is_full = items.len() == walk.most || bytes >= limits::LIST_BYTES_MAX / part;
        if is_full || read >= limits::LIST_READ_BYTES_MAX / part {
            next = Some(index);
            break;
        }
        let view = view(db, ItemKey { batch: no, index }, known)?;
        if !walk.states.is_empty() && !walk.states.contains(&view.state()) {
            continue;
        }
        let (told, output) = view_bytes(&view);
        bytes += told;
        read += output;
        items.push(view);
    }
    Ok(Some(ItemPage { items, batch, next }))
}

/// The indexes that may be asked for, in order, and the first one behind them that was not looked at.
fn candidates(
    db: &Connection,
    batch: &Batch,
    walk: &ItemWalk,
    known: &Known,
    part: usize,
) -> Sql<(Vec<u32>, Option<u32>)> {
    if let Some((unfinished, next)) = &known.unfinished {
        return Ok((unfinished.clone(), *next));
    }
    let (from, total) = (walk.from, batch.total);
    let dead = [TerminalState::Failed, TerminalState::Expired].map(ItemState::Ended);
    let most = limits::LIST_VISITED_MAX / part;
    let wants_dead = !walk.states.is_empty() && walk.states.iter().all(|it| dead.contains(it));
    let dead = usize::try_from(batch.tally.failed + batch.tally.expired).unwrap_or(usize::MAX);
    if wants_dead && dead <= most {
        return Ok((dead_indexes(db, batch.head.no, from)?, None));
    }
    let looked_at = if walk.states.is_empty() {
        walk.most
    } else {
        most
    };
    let looked_at = u32::try_from(looked_at).unwrap_or(u32::MAX);
    let to = from.saturating_add(looked_at).min(total);
    let next = (to < total).then_some(to);
    if walk.states.is_empty() {
        return Ok(((from..to).collect(), next));
    }
    let ended = match states(db, batch.head.no, from, to) {
        Ok(ended) => ended,
        // Then each is looked at by itself, which knows what to do with damage.
        Err(error) if is_corrupt(&error) => return Ok(((from..to).collect(), next)),
        Err(error) => return Err(error),
    };
    let is_asked_for = |index: &u32| match ended.get(index) {
        Some(state) => walk.states.contains(&ItemState::Ended(*state)),
        None => walk.states.iter().any(|state| !state.is_terminal()),
    };
    Ok(((from..to).filter(is_asked_for).collect(), next))
}

/// The items that failed or expired, from `from` on, in order.
fn dead_indexes(db: &Connection, no: BatchNo, from: u32) -> Sql<Vec<u32>> {
    let sql = "SELECT item FROM results INDEXED BY results_dead \
               WHERE state IN (4, 6) AND redriven_to IS NULL AND id BETWEEN ?1 AND ?2 UNION ALL \
               SELECT item FROM results INDEXED BY results_redriven \
               WHERE redriven_to IS NOT NULL AND id BETWEEN ?1 AND ?2";
    let mut select = cached(db, sql)?;
    let mut rows = select.query([at(no, 0), at(no, u32::MAX)])?;
    let mut indexes = Vec::new();
    while let Some(row) = rows.next()? {
        let item = ItemKey::unpack(row.get(0)?).filter(|item| item.index >= from);
        indexes.extend(item.map(|item| item.index));
    }
    indexes.sort_unstable();
    Ok(indexes)
}

/// How the items of a stretch have ended, as far as they have.
fn states(db: &Connection, no: BatchNo, from: u32, to: u32) -> Sql<HashMap<u32, TerminalState>> {
    let sql = "SELECT item, state FROM results WHERE item>=? AND item<?";
    let mut select = cached(db, sql)?;
    let mut rows = select.query([at(no, from), at(no, to)])?;
    let mut states = HashMap::new();
    while let Some(row) = rows.next()? {
        let item = ItemKey::unpack(row.get(0)?);
        let state = TerminalState::from_number(row.get(1)?);
        states.extend(item.map(|item| item.index).zip(state));
    }
    Ok(states)
}

fn view(db: &Connection, item: ItemKey, known: &Known) -> Sql<ItemView> {
    let index = item.index;
    let record = result_of(db, item)?.map(|(record, _)| record);
    let id = match &record {
        Some(record) => record.id.clone(),
        None => client_ids(db, item.batch, index, index + 1)?.remove(0),
    };
    let running = known.running.get(&index).copied();
    let next_due = known.due.get(&index).copied();
    Ok(ItemView {
        index,
        id,
        running: running.filter(|_| record.is_none()),
        next_due: next_due.filter(|_| record.is_none() && running.is_none()),
        past: attempts_of_item(db, item, 1)?,
        record,
        spec: None,
    })
}

/// Bytes of an item in an answer, about, and of the output that was read for it.
fn view_bytes(view: &ItemView) -> (usize, usize) {
    let errors = view.past.iter().filter_map(|past| past.error.as_ref());
    let of_past: usize = errors.map(ItemError::bytes).sum();
    let mut told = FRAME_BYTES + of_past + view.id.as_ref().map_or(0, |id| 2 * id.len());
    let mut output = 0;
    if let Some(record) = &view.record {
        told += record.ending.error().map_or(0, ItemError::bytes);
        if let Ending::Succeeded(payload) = &record.ending {
            output = payload.bytes().len();
            if output <= limits::LISTED_OUTPUT_BYTES_MAX {
                told += output;
            }
        }
    }
    (told, output)
}
