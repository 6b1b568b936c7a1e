//! The table of the ids that callers gave their items: sorted runs of hashes.

use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::{Sql, at, cached, is_corrupt, items};
use crate::domain::ids::BatchNo;
use crate::domain::item::ItemSpec;
use crate::store::embedded::id_index::{Entry, Suspects};

/// The entries of items from `first` on; `None` if they have no ids.
pub(crate) fn entries<'a>(
    first: u32,
    items: impl IntoIterator<Item = &'a ItemSpec>,
) -> Option<Vec<Entry>> {
    let entry = |(index, item): (u32, &ItemSpec)| Some((id_hash(item.id.as_deref()?), index));
    (first..).zip(items).map(entry).collect()
}

/// Writes a sorted run. It is named after the first of its items.
pub(crate) fn insert_run(db: &Connection, batch: BatchNo, run: &[Entry]) -> Sql<()> {
    let Some(name) = run.iter().map(|&(_, index)| index).min() else {
        return Ok(());
    };
    let mut insert = cached(
        db,
        "INSERT INTO item_ids(batch, run, h, idx) VALUES (?,?,?,?)",
    )?;
    for (hash, index) in run {
        insert.execute(params![batch.0, name, hash, index])?;
    }
    Ok(())
}

/// The index of the item that its caller named `id`, or whose decimal position it is.
///
/// `unwritten` are the items in no run that may be the one. Items from `total` on are not there yet.
pub(crate) fn index_of(
    db: &Connection,
    batch: BatchNo,
    total: u32,
    id: &str,
    unwritten: &[u32],
) -> Sql<Option<u32>> {
    let suspects = Suspects {
        indexes: unwritten.to_vec(),
        in_runs: true,
    };
    if let Some(index) = named(db, batch, id, &suspects)? {
        return Ok((index < total).then_some(index));
    }
    let decimal = id
        .parse()
        .ok()
        .filter(|index: &u32| *index < total && index.to_string() == id);
    Ok(match decimal {
        Some(_) if is_named(db, batch, total)? => None,
        decimal => decimal,
    })
}

/// Which of the suspects has that very id. One whose record is damaged may only seem to: it counts
/// if there is no other.
pub(crate) fn named(
    db: &Connection,
    batch: BatchNo,
    id: &str,
    suspects: &Suspects,
) -> Sql<Option<u32>> {
    let mut doubtful = None;
    for &index in &suspects.indexes {
        if matches!(client_id(db, batch, index)?, ClientId::Given(given) if given == id) {
            if is_sound(db, batch, index)? {
                return Ok(Some(index));
            }
            doubtful = Some(index);
        }
    }
    let mut run = suspects.in_runs.then_some(-1);
    while let Some(after) = run {
        run = cached(db, "SELECT min(run) FROM item_ids WHERE batch=? AND run>?")?
            .query_row(params![batch.0, after], |row| row.get::<_, Option<i64>>(0))?;
        let Some(run) = run else { break };
        let mut select = cached(
            db,
            "SELECT idx, client_id FROM item_ids JOIN items ON items.id = (? << 32 | idx) \
             WHERE batch=? AND run=? AND h=?",
        )?;
        let mut rows = select.query(params![batch.0, batch.0, run, id_hash(id)])?;
        while let Some(row) = rows.next()? {
            // A damaged row of another item may have the same hash: it is not the one then.
            if matches!(row.get_ref(1)?.as_str_or_null(), Ok(Some(given)) if given == id) {
                let index = row.get(0)?;
                if is_sound(db, batch, index)? {
                    return Ok(Some(index));
                }
                doubtful = Some(index);
            }
        }
    }
    Ok(doubtful)
}

/// Tells the hashes of an upload's ids that runs hold, then the entries of its items that are in none.
pub(crate) fn upload_entries(
    db: &Connection,
    batch: BatchNo,
    total: u32,
    mut written: impl FnMut(i64),
    mut unwritten: impl FnMut(Entry),
) -> Sql<()> {
    let mut end = 0;
    let mut select = cached(db, "SELECT h, idx FROM item_ids WHERE batch=?")?;
    let mut rows = select.query([batch.0])?;
    while let Some(row) = rows.next()? {
        written(row.get(0)?);
        end = end.max(row.get::<_, u32>(1)? + 1);
    }
    // Runs hold a prefix of the items.
    for index in end..total {
        if let ClientId::Given(id) = client_id(db, batch, index)? {
            unwritten((id_hash(&id), index));
        }
    }
    Ok(())
}

/// Whether the items of a batch have ids of their own: every one has, or none.
pub(crate) fn is_named(db: &Connection, batch: BatchNo, total: u32) -> Sql<bool> {
    for index in 0..total {
        match client_id(db, batch, index)? {
            ClientId::Given(_) => return Ok(true),
            ClientId::None => return Ok(false),
            ClientId::Unreadable => {}
        }
    }
    Ok(false)
}

/// Whether an item's record is as it was written.
fn is_sound(db: &Connection, batch: BatchNo, index: u32) -> Sql<bool> {
    let found = items(db, batch, &[index])?;
    Ok(found.iter().all(|(_, item)| item.is_ok()))
}

/// What an item's row tells of its id.
enum ClientId {
    Given(String),
    None,
    /// The row is damaged, or not there.
    Unreadable,
}

fn client_id(db: &Connection, batch: BatchNo, index: u32) -> Sql<ClientId> {
    let id = cached(db, "SELECT client_id FROM items WHERE id=?")?
        .query_row([at(batch, index)], |row| row.get(0))
        .optional();
    match id {
        Ok(Some(Some(id))) => Ok(ClientId::Given(id)),
        Ok(Some(None)) => Ok(ClientId::None),
        Ok(None) => Ok(ClientId::Unreadable),
        Err(error) if is_corrupt(&error) => Ok(ClientId::Unreadable),
        Err(error) => Err(error),
    }
}

/// The 64-bit hash under which an item id is indexed. Stable for ever.
pub(crate) fn id_hash(id: &str) -> i64 {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
    i64::from_le_bytes(*head)
}
