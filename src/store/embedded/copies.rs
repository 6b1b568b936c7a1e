//! Which dead letters of a batch a redrive takes next, with their items as the new batch gets them.

use rusqlite::Connection;

use super::chores::{Left, Letter};
use super::rows::{self, Gone, StoredItem, Stretch};
use super::scheduler::Room;
use crate::base::limits;
use crate::domain::batch::BatchHead;
use crate::domain::dead_letter::{Chosen, LetterPlace};
use crate::domain::ids::{ItemOrigin, Sequence, Tenant, item_id_text};
use crate::store::admission::{Full, Limits};

/// Letters to copy.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Their items.
    pub(crate) items: Vec<StoredItem>,
    /// Themselves, in the same order.
    pub(crate) letters: Vec<LetterPlace>,
    /// Bytes that the items have, about.
    pub(crate) bytes: usize,
    /// How far the journal was looked through.
    pub(crate) reached: Sequence,
    /// Bytes of the input of the next letter, if there was no room for it.
    pub(crate) waits: Option<u64>,
    /// The limit that a letter is larger than by itself, which was passed over for that.
    pub(crate) oversized: Option<Full>,
}

/// How far one look goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyReach<'a> {
    /// Letters to take, at most.
    pub(crate) letters: usize,
    /// Letters to look at, at most.
    pub(crate) visits: usize,
    /// Bytes of inputs after which no more are taken; the first always is.
    pub(crate) bytes: usize,
    /// What there is room for among what may be accepted.
    pub(crate) room: Room,
    /// Bounds that each must be within by itself.
    pub(crate) limits: &'a Limits,
}

impl<'a> CopyReach<'a> {
    /// A look at so many letters, others waiting behind it.
    pub(crate) fn chunk(letters: usize, limits: &'a Limits, room: Room) -> Self {
        Self {
            letters,
            visits: letters,
            bytes: limits::REDRIVE_BYTES_MAX,
            room,
            limits,
        }
    }
}

impl Copies {
    /// What is left of letters of `tenant` up to `until`.
    pub(crate) fn left(&self, tenant: &Tenant, until: Sequence) -> Left {
        match self.waits {
            Some(bytes) => Left::Waits(Letter {
                tenant: tenant.clone(),
                bytes,
                in_vain: self.items.is_empty(),
            }),
            None if self.reached < until => Left::More,
            None => Left::Nothing,
        }
    }

    /// Bytes of the items' inputs.
    pub(crate) fn input_bytes(&self) -> u64 {
        let items = self.items.iter();
        items.map(|item| item.spec.input.bytes().len() as u64).sum()
    }
}

/// Collects letters of `source` that were chosen, behind `after` up to `until`, as far as there is
/// room. One whose record or item is damaged is passed over, and one that no room that comes free would
/// let in: it stays a dead letter.
pub(crate) fn collect(
    db: &Connection,
    source: &BatchHead,
    chosen: &Chosen,
    (after, until): (Sequence, Sequence),
    mut reach: CopyReach<'_>,
) -> rusqlite::Result<Copies> {
    let mut copies = Copies {
        items: Vec::new(),
        letters: Vec::new(),
        bytes: 0,
        reached: after,
        waits: None,
        oversized: None,
    };
    for _ in 0..reach.visits {
        if copies.items.len() == reach.letters || copies.bytes >= reach.bytes {
            break;
        }
        let Some(place) = next(db, source, chosen, (copies.reached, until))? else {
            copies.reached = until;
            break;
        };
        let behind = std::mem::replace(&mut copies.reached, place.sequence);
        let letter = match rows::letter(db, place) {
            Ok(letter) => letter,
            Err(error) if rows::is_corrupt(&error) => {
                tracing::warn!(tenant = source.tenant.unless_default(), batch = %source.id, sequence = place.sequence.0, %error,
                    "a dead letter cannot be read and is not redriven");
                continue;
            }
            Err(error) => return Err(error),
        };
        if letter.gone != Gone::No || !chosen.has(&letter.record) {
            continue;
        }
        let index = letter.record.index;
        let stored = rows::stored_items(db, source.no, &[index])?.pop();
        let Some((_, Ok(mut item))) = stored.filter(|_| letter.is_sound) else {
            tracing::warn!(tenant = source.tenant.unless_default(), batch = %source.id, sequence = place.sequence.0,
                "a dead letter is damaged and is not redriven");
            continue;
        };
        let bytes = item.spec.input.bytes().len() as u64;
        if let Err(full) = reach.limits.check_alone(&source.tenant, bytes) {
            copies.oversized.get_or_insert(full);
            continue;
        }
        if !reach.room.take(bytes) {
            (copies.reached, copies.waits) = (behind, Some(bytes));
            break;
        }
        // Items of one batch all have ids of their own, or none: so the copies of those without get
        // the one that they were known by.
        item.spec.id = Some(item_id_text(item.spec.id.as_deref(), index).into());
        // Points in time are over.
        (item.spec.start_by, item.spec.finish_by) = (None, None);
        item.origin.get_or_insert(ItemOrigin {
            batch: source.uid,
            index,
        });
        copies.bytes += 128 + item.spec.input.bytes().len();
        copies.items.push(item);
        copies.letters.push(place);
    }
    Ok(copies)
}

/// The next letter that may be one of the chosen.
fn next(
    db: &Connection,
    source: &BatchHead,
    chosen: &Chosen,
    (after, until): (Sequence, Sequence),
) -> rusqlite::Result<Option<LetterPlace>> {
    let named = &chosen.sequences;
    if named.is_empty() {
        return rows::oldest_letter(db, Stretch::between(source.no, after, until));
    }
    let behind = named.partition_point(|&sequence| sequence <= after);
    for &sequence in named[behind..].iter().take_while(|&&it| it <= until) {
        let alone = Stretch::between(source.no, Sequence(sequence.0 - 1), sequence);
        if let Some(place) = rows::oldest_letter(db, alone)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}
