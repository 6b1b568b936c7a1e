//! The table of redrives whose dead letters are not all copied yet.

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Sql, cached, damaged};
use crate::domain::dead_letter::Chosen;
use crate::domain::ids::{BatchNo, Sequence};

/// A redrive under way.
#[derive(Clone, Debug)]
pub(crate) struct RedriveRow {
    /// The new batch.
    pub(crate) batch: BatchNo,
    /// The one whose letters are copied.
    pub(crate) source: BatchNo,
    /// How far they are.
    pub(crate) after: Sequence,
    /// How far it goes.
    pub(crate) until: Sequence,
    /// Which.
    pub(crate) chosen: Chosen,
}

/// The column `filter`. Field numbers are on disk and never change their meaning.
#[derive(Clone, PartialEq, prost::Message)]
struct ChosenBlob {
    #[prost(string, optional, tag = "1")]
    reason: Option<String>,
    #[prost(uint32, repeated, tag = "2")]
    sequences: Vec<u32>,
}

/// Notes a redrive.
pub(crate) fn insert_redrive(db: &Connection, row: &RedriveRow) -> Sql<()> {
    let filter = ChosenBlob {
        reason: row.chosen.reason.as_deref().map(str::to_owned),
        sequences: row.chosen.sequences.iter().map(|it| it.0).collect(),
    };
    let sql =
        "INSERT INTO redrives(batch, source, after_seq, until_seq, filter) VALUES (?,?,?,?,?)";
    cached(db, sql)?.execute(params![
        row.batch.0,
        row.source.0,
        row.after.0,
        row.until.0,
        filter.encode_to_vec()
    ])?;
    Ok(())
}

/// The redrive into that batch, if it is under way.
pub(crate) fn redrive(db: &Connection, batch: BatchNo) -> Sql<Option<RedriveRow>> {
    let sql = "SELECT source, after_seq, until_seq, filter FROM redrives WHERE batch=?";
    let read = |row: &rusqlite::Row<'_>| {
        let filter = ChosenBlob::decode(row.get_ref(3)?.as_blob()?)
            .map_err(|_| damaged(3, "filter of a redrive"))?;
        Ok(RedriveRow {
            batch,
            source: BatchNo(row.get(0)?),
            after: Sequence(row.get(1)?),
            until: Sequence(row.get(2)?),
            chosen: Chosen {
                reason: filter.reason.map(Into::into),
                sequences: filter.sequences.into_iter().map(Sequence).collect(),
            },
        })
    };
    cached(db, sql)?.query_row([batch.0], read).optional()
}

/// Notes how far a redrive has come.
pub(crate) fn move_redrive(db: &Connection, batch: BatchNo, after: Sequence) -> Sql<()> {
    cached(db, "UPDATE redrives SET after_seq=? WHERE batch=?")?
        .execute(params![after.0, batch.0])?;
    Ok(())
}

/// Forgets a redrive: all is copied, or nothing more will be.
pub(crate) fn end_redrive(db: &Connection, batch: BatchNo) -> Sql<()> {
    cached(db, "DELETE FROM redrives WHERE batch=?")?.execute([batch.0])?;
    Ok(())
}

/// The batches into which redrives are under way.
pub(crate) fn redrives(db: &Connection) -> Sql<Vec<BatchNo>> {
    let mut select = db.prepare("SELECT batch FROM redrives ORDER BY batch")?;
    let batches = select.query_map([], |row| row.get(0).map(BatchNo))?;
    batches.collect()
}
