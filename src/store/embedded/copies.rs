//! Which dead letters of a batch a redrive takes next, with their items as the new batch gets them.

use rusqlite::Connection;

use super::rows::{self, Gone, StoredItem, Stretch};
use crate::base::limits;
use crate::domain::batch::BatchHead;
use crate::domain::dead_letter::{Chosen, LetterPlace};
use crate::domain::ids::{ItemOrigin, Sequence, item_id_text};

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
}

/// How far one look goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyReach {
    /// Letters to take, at most.
    pub(crate) letters: usize,
    /// Letters to look at, at most.
    pub(crate) visits: usize,
    /// Bytes of inputs after which no more are taken; the first always is.
    pub(crate) bytes: usize,
}

/// What one transaction copies, others waiting behind it.
pub(crate) const CHUNK: CopyReach = CopyReach {
    letters: limits::SWEEP_ITEMS_MAX,
    visits: limits::SWEEP_ITEMS_MAX,
    bytes: limits::REDRIVE_BYTES_MAX,
};

impl Copies {
    /// Bytes of the items' inputs.
    pub(crate) fn input_bytes(&self) -> u64 {
        let items = self.items.iter();
        items.map(|item| item.spec.input.bytes().len() as u64).sum()
    }
}

/// Collects letters of `source` that were chosen, behind `after` up to `until`. One whose record or
/// item is damaged is passed over: it stays a dead letter.
pub(crate) fn collect(
    db: &Connection,
    source: &BatchHead,
    chosen: &Chosen,
    (after, until): (Sequence, Sequence),
    reach: CopyReach,
) -> rusqlite::Result<Copies> {
    let mut copies = Copies {
        items: Vec::new(),
        letters: Vec::new(),
        bytes: 0,
        reached: after,
    };
    for _ in 0..reach.visits {
        if copies.items.len() == reach.letters || copies.bytes >= reach.bytes {
            break;
        }
        let Some(place) = next(db, source, chosen, (copies.reached, until))? else {
            copies.reached = until;
            break;
        };
        copies.reached = place.sequence;
        let letter = rows::letter(db, place)?;
        if letter.gone != Gone::No || !chosen.has(&letter.record) {
            continue;
        }
        let index = letter.record.index;
        let stored = rows::stored_items(db, source.no, &[index])?.pop();
        let Some((_, Ok(mut item))) = stored.filter(|_| letter.is_sound) else {
            tracing::warn!(batch = %source.id, sequence = place.sequence.0,
                "a dead letter is damaged and is not redriven");
            continue;
        };
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
