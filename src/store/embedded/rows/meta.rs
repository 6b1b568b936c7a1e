//! The table of what concerns the whole data directory.

use rusqlite::{Connection, OptionalExtension as _};

use super::{Sql, damaged};
use crate::base::entropy;
use crate::domain::page_token::PageKey;

/// What the places of lists are signed with. Made once for a data directory.
pub(crate) fn page_key(db: &Connection) -> Sql<PageKey> {
    let key = db
        .query_row("SELECT v FROM meta WHERE k='page_key'", [], |row| {
            row.get::<_, [u8; 16]>(0)
        })
        .optional();
    if let Some(key) = key.map_err(|_| damaged(0, "key of lists"))? {
        return Ok(PageKey(key));
    }
    let key = entropy::nonce().to_le_bytes();
    db.execute("INSERT INTO meta(k, v) VALUES ('page_key', ?)", [key])?;
    Ok(PageKey(key))
}
