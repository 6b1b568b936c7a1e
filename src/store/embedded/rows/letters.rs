//! Dead letters in the table of results, found by its partial indexes.
//!
//! A walk goes from one index entry to the next and reads each row by itself: so a damaged one is
//! shown in its place, and whoever walks decides after each whether to go on.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::results::{RESULT_COLUMNS, index_at, lost, read_result};
use super::{Sql, at, cached, is_corrupt};
use crate::domain::dead_letter::LetterPlace;
use crate::domain::ids::{BatchId, BatchNo, ItemKey, Sequence};
use crate::domain::item::{Record, TerminalState};
use crate::store::Standing;

/// Those that are neither redriven nor purged.
const DEAD: &str = "results INDEXED BY results_dead WHERE state IN (4, 6) AND redriven_to IS NULL";

/// Those that are one or the other.
const GONE: &str = "results INDEXED BY results_redriven WHERE redriven_to IS NOT NULL";

/// What `redriven_to` says of a purged letter.
const PURGED: &str = "";

/// A dead letter as its row tells it.
#[derive(Debug)]
pub(crate) struct LetterRow {
    pub(crate) record: Record,
    /// Whether the record is as it was written.
    pub(crate) is_sound: bool,
    pub(crate) gone: Gone,
}

/// Whether a letter is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    No,
    Redriven(BatchId),
    Purged,
}

/// Where letters are looked for: between two packed places, both excluded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) above: i64,
    pub(crate) below: i64,
}

impl Stretch {
    /// The letters of a batch, or all.
    pub(crate) fn of(within: Option<BatchNo>) -> Self {
        within.map_or(
            Self {
                above: 0,
                below: i64::MAX,
            },
            |batch| Self {
                above: at(batch, 0),
                below: at(batch, u32::MAX),
            },
        )
    }

    /// The letters of a batch behind `after` up to `until`.
    pub(crate) fn between(batch: BatchNo, after: Sequence, until: Sequence) -> Self {
        Self {
            above: at(batch, after.0),
            below: at(batch, until.0.saturating_add(1)),
        }
    }
}

/// The newest letter of a stretch; redriven and purged ones too if they count.
pub(crate) fn newest_letter(
    db: &Connection,
    stretch: Stretch,
    with_gone: bool,
) -> Sql<Option<LetterPlace>> {
    let dead = end_of(db, DEAD, "DESC", stretch)?;
    let gone = if with_gone {
        end_of(db, GONE, "DESC", stretch)?
    } else {
        None
    };
    Ok(dead.max(gone).and_then(place))
}

/// The oldest letter of a stretch that is neither redriven nor purged.
pub(crate) fn oldest_letter(db: &Connection, stretch: Stretch) -> Sql<Option<LetterPlace>> {
    Ok(end_of(db, DEAD, "ASC", stretch)?.and_then(place))
}

fn end_of(db: &Connection, letters: &str, order: &str, stretch: Stretch) -> Sql<Option<i64>> {
    let sql = format!("SELECT id FROM {letters} AND id>? AND id<? ORDER BY id {order} LIMIT 1");
    cached(db, &sql)?
        .query_row([stretch.above, stretch.below], |row| row.get(0))
        .optional()
}

/// The key of a letter's row.
pub(crate) fn packed(place: LetterPlace) -> i64 {
    at(place.batch, place.sequence.0)
}

fn place(id: i64) -> Option<LetterPlace> {
    let ItemKey { batch, index } = ItemKey::unpack(id)?;
    let sequence = Sequence(index);
    Some(LetterPlace { batch, sequence })
}

/// The letter at a place that an index told. One that cannot be read is an error in its place.
pub(crate) fn letter(db: &Connection, place: LetterPlace) -> Sql<LetterRow> {
    let LetterPlace { batch, sequence } = place;
    let sql = format!("SELECT {RESULT_COLUMNS}, redriven_to FROM results WHERE id=?");
    let read = cached(db, &sql)?
        .query_row([packed(place)], read_letter)
        .optional();
    match read {
        Ok(Some(letter)) => Ok(letter),
        Err(error) if !is_corrupt(&error) => Err(error),
        Ok(None) | Err(_) => Ok(LetterRow {
            record: lost(sequence, index_at(db, batch, sequence.0)?),
            is_sound: false,
            gone: Gone::No,
        }),
    }
}

fn read_letter(row: &Row<'_>) -> Sql<LetterRow> {
    let (record, read) = read_result(row)?;
    Ok(LetterRow {
        record,
        is_sound: read.is_some(),
        gone: gone(row.get_ref(8)?.as_str_or_null()?),
    })
}

fn gone(redriven_to: Option<&str>) -> Gone {
    match redriven_to {
        None => Gone::No,
        Some(PURGED) => Gone::Purged,
        Some(id) => BatchId::parse(id).map_or(Gone::Purged, Gone::Redriven),
    }
}

/// Whether the item is a dead letter. Outputs are not read.
pub(crate) fn standing(db: &Connection, item: ItemKey) -> Sql<Standing> {
    let sql = "SELECT id, state, redriven_to FROM results WHERE item=?";
    let read = |row: &Row<'_>| {
        let state: i64 = row.get(1)?;
        Ok((row.get(0)?, state, gone(row.get_ref(2)?.as_str_or_null()?)))
    };
    let found = cached(db, sql)?.query_row([item.packed()], read).optional();
    let (id, state, gone) = match found {
        Ok(Some(found)) => found,
        // What cannot be read cannot be run again either.
        Ok(None) => return Ok(Standing::NotDead),
        Err(error) if is_corrupt(&error) => return Ok(Standing::NotDead),
        Err(error) => return Err(error),
    };
    let is_dead = TerminalState::from_number(state).is_some_and(TerminalState::is_dead);
    Ok(match (gone, place(id)) {
        (Gone::Redriven(batch), _) => Standing::Redriven(batch),
        (Gone::Purged, _) => Standing::Purged,
        (Gone::No, Some(place)) if is_dead => Standing::Dead(Box::new(letter(db, place)?.record)),
        (Gone::No, _) => Standing::NotDead,
    })
}

/// Notes that a letter is run again by that batch. Answers whether it was one.
pub(crate) fn mark_redriven(db: &Connection, place: LetterPlace, batch: &BatchId) -> Sql<bool> {
    mark(db, place, batch.as_str())
}

/// Takes a letter off the list. Answers whether it was one.
pub(crate) fn mark_purged(db: &Connection, place: LetterPlace) -> Sql<bool> {
    mark(db, place, PURGED)
}

fn mark(db: &Connection, place: LetterPlace, redriven_to: &str) -> Sql<bool> {
    let sql = "UPDATE results SET redriven_to=? \
               WHERE id=? AND state IN (4, 6) AND redriven_to IS NULL";
    let changed = cached(db, sql)?.execute(params![redriven_to, packed(place)])?;
    Ok(changed > 0)
}
