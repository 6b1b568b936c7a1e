//! What is counted of batches that are removed.

use super::{Counter, Gauge, Labelled, Register, label};

/// Batches and results that were removed.
#[derive(Debug)]
pub(crate) struct RemovalMetrics {
    /// Batches that somebody deleted.
    pub(crate) deleted: Counter,
    /// Batches whose retention was over.
    pub(crate) expired: Counter,
    /// Results gone from the file.
    pub(crate) records: Counter,
    /// 1 while the clocks disagree and nothing that has expired is removed.
    pub(crate) paused: Gauge,
}

impl RemovalMetrics {
    pub(super) fn new(all: &mut Register) -> Self {
        let batches: Labelled<Counter, 1> = all.labelled(
            "batches_removed",
            "Batches that were removed, by reason: deleted or expired",
        );
        let batches = |reason| batches.get_or_create_owned(&label("reason", reason));
        Self {
            deleted: batches("deleted"),
            expired: batches("expired"),
            records: all.counter(
                "records_removed",
                "Results of removed batches that are gone from the file",
            ),
            paused: all.gauge(
                "trimming_paused",
                "1 while expired batches stay because the wall clock has jumped",
            ),
        }
    }
}
