//! The table of items.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::item_times::insert_times;
use super::{Sql, cached, crc, is_corrupt};
use crate::domain::ids::{BatchNo, ItemKey, ItemOrigin};
use crate::domain::item::ItemSpec;
use crate::store::Damaged;
use crate::store::embedded::codec;

/// An item as its row has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredItem {
    /// What its caller asked for.
    pub(crate) spec: ItemSpec,
    /// The item that it runs again, if it is the copy of a dead letter.
    pub(crate) origin: Option<ItemOrigin>,
}

/// Inserts items from `first` on.
pub(crate) fn insert_items(
    db: &Connection,
    batch: BatchNo,
    first: u32,
    items: &[ItemSpec],
) -> Sql<()> {
    insert(db, batch, first, items.iter().map(|spec| (spec, None)))
}

/// The same with copies of dead letters.
pub(crate) fn insert_stored_items(
    db: &Connection,
    batch: BatchNo,
    first: u32,
    items: &[StoredItem],
) -> Sql<()> {
    let items = items.iter().map(|item| (&item.spec, item.origin));
    insert(db, batch, first, items)
}

fn insert<'a>(
    db: &Connection,
    batch: BatchNo,
    first: u32,
    items: impl Iterator<Item = (&'a ItemSpec, Option<ItemOrigin>)>,
) -> Sql<()> {
    let mut insert = cached(
        db,
        "INSERT INTO items(id, client_id, spec, crc, input) VALUES (?,?,?,?,?)",
    )?;
    for (index, (item, origin)) in (first..).zip(items) {
        insert_times(db, ItemKey { batch, index }, item)?;
        let key = ItemKey { batch, index }.packed();
        let (spec, input) = (codec::encode_spec(item, origin), item.input.bytes());
        let crc = item_crc(key, item.id.as_deref(), spec.as_deref(), input);
        insert.execute(params![key, item.id, spec, crc, input])?;
    }
    Ok(())
}

/// The items of those indexes, each as far as it can be read.
pub(crate) fn items(
    db: &Connection,
    batch: BatchNo,
    indexes: &[u32],
) -> Sql<Vec<(u32, Result<ItemSpec, Damaged>)>> {
    items_within(db, batch, indexes, usize::MAX)
}

/// The same with what else their rows tell.
pub(crate) fn stored_items(
    db: &Connection,
    batch: BatchNo,
    indexes: &[u32],
) -> Sql<Vec<(u32, Result<StoredItem, Damaged>)>> {
    stored_within(db, batch, indexes, usize::MAX)
}

/// The first of those items, up to and with the one whose input reaches `bytes_max`.
pub(crate) fn items_within(
    db: &Connection,
    batch: BatchNo,
    indexes: &[u32],
    bytes_max: usize,
) -> Sql<Vec<(u32, Result<ItemSpec, Damaged>)>> {
    let stored = stored_within(db, batch, indexes, bytes_max)?;
    let spec = |(index, item): (u32, Result<StoredItem, Damaged>)| (index, item.map(|it| it.spec));
    Ok(stored.into_iter().map(spec).collect())
}

fn stored_within(
    db: &Connection,
    batch: BatchNo,
    indexes: &[u32],
    bytes_max: usize,
) -> Sql<Vec<(u32, Result<StoredItem, Damaged>)>> {
    let mut select = cached(
        db,
        "SELECT client_id, spec, crc, input FROM items WHERE id=?",
    )?;
    let mut items = Vec::with_capacity(indexes.len());
    let mut bytes = 0;
    for &index in indexes {
        let key = ItemKey { batch, index }.packed();
        let item = match select
            .query_row([key], |row| read_item(key, row))
            .optional()
        {
            Ok(item) => item.unwrap_or(Err(Damaged)),
            // An unreadable item fails by itself; its neighbours on other pages go on.
            Err(error) if is_corrupt(&error) => Err(Damaged),
            Err(error) => return Err(error),
        };
        bytes += item
            .as_ref()
            .map_or(0, |item| item.spec.input.bytes().len());
        items.push((index, item));
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(items)
}

/// The callers' ids of the items from `first` up to, but not including, `end`, one each. `None`
/// stands for none given, and for a row that is damaged or gone: its item still gets its record.
pub(crate) fn client_ids(
    db: &Connection,
    batch: BatchNo,
    first: u32,
    end: u32,
) -> Sql<Vec<Option<Box<str>>>> {
    let mut select = cached(db, "SELECT client_id FROM items WHERE id=?")?;
    let id_of = |index| {
        let key = ItemKey { batch, index }.packed();
        match select
            .query_row([key], |row| row.get::<_, Option<String>>(0))
            .optional()
        {
            Ok(id) => Ok(id.flatten().map(Into::into)),
            Err(error) if is_corrupt(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    (first..end).map(id_of).collect()
}

/// The index of the last item that is there; `None` if there is none, or the place is damaged.
pub(crate) fn last_item(db: &Connection, batch: BatchNo) -> Sql<Option<u32>> {
    let key = |index| ItemKey { batch, index }.packed();
    let last = cached(db, "SELECT max(id) FROM items WHERE id BETWEEN ? AND ?")?
        .query_row([key(0), key(u32::MAX)], |row| row.get::<_, Option<i64>>(0));
    match last {
        Ok(last) => Ok(last.and_then(|last| u32::try_from(last - key(0)).ok())),
        Err(error) if is_corrupt(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn item_crc(key: i64, id: Option<&str>, spec: Option<&[u8]>, input: &[u8]) -> i64 {
    let id = id.unwrap_or_default().as_bytes();
    crc(&[&key.to_le_bytes(), id, spec.unwrap_or_default(), input])
}

fn read_item(key: i64, row: &Row<'_>) -> Sql<Result<StoredItem, Damaged>> {
    let id: Option<String> = row.get(0)?;
    let spec = row.get_ref(1)?.as_blob_or_null()?;
    let input: Vec<u8> = row.get(3)?;
    if item_crc(key, id.as_deref(), spec, &input) != row.get::<_, i64>(2)? {
        return Ok(Err(Damaged));
    }
    let decoded = codec::decode_spec(id.map(Into::into), spec, input);
    Ok(decoded
        .map(|(spec, origin)| StoredItem { spec, origin })
        .map_err(|_| Damaged))
}
