//! The queues that are paused.

use rusqlite::{Connection, params};

use super::{Sql, cached, damaged};
use crate::domain::ids::QueueName;

/// Notes that a queue is paused, for this reason.
pub(crate) fn pause_queue(db: &Connection, queue: &QueueName, why: &str) -> Sql<()> {
    let sql = "INSERT OR REPLACE INTO queues(name, paused) VALUES(?1, ?2)";
    cached(db, sql)?.execute(params![queue.as_str(), why])?;
    Ok(())
}

/// Notes that a queue goes on.
pub(crate) fn resume_queue(db: &Connection, queue: &QueueName) -> Sql<()> {
    cached(db, "DELETE FROM queues WHERE name = ?1")?.execute(params![queue.as_str()])?;
    Ok(())
}

/// The queues that are paused, and why.
pub(crate) fn paused_queues(db: &Connection) -> Sql<Vec<(QueueName, Box<str>)>> {
    cached(db, "SELECT name, paused FROM queues")?
        .query_map([], |row| {
            let name: String = row.get(0)?;
            let name = QueueName::parse(&name).map_err(|_| damaged(0, "name of a queue"))?;
            Ok((name, row.get::<_, String>(1)?.into()))
        })?
        .collect()
}
