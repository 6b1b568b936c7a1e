//! Dead letters in a program: finding out what failed, and running it again.

use super::{Results, Sooner};
use crate::base::limits;
use crate::domain::dead_letter::LetterPlace;
use crate::engine::{LetterPage, LetterQuery, Order, RedriveRequest};
use crate::error::Result;

impl Sooner {
    /// Items that failed or expired and were neither redriven nor purged, newest first: up to `rows` of
    /// them, 1,000 at most, behind `after` (the `next` of an earlier page). A page may have fewer rows,
    /// or none, and not be the last: a call looks at a bounded number of items. Fails with kind
    /// `NotFound` if the query names a batch that is not there.
    pub async fn dead_letters(
        &self,
        query: &LetterQuery,
        after: Option<LetterPlace>,
        rows: usize,
    ) -> Result<LetterPage> {
        let rows = rows.clamp(1, limits::PAGE_ROWS_MAX);
        let listing = self.engine().dead_letters(query, after, rows);
        self.0.io.lend_clock(listing).await
    }

    /// Runs dead letters of a batch again, in a new batch with the old one's settings and its items'
    /// idempotency keys, and gives that one's results from the first on. Once it answers, the new batch
    /// and its first items are durable; of many letters the rest follow by themselves, also after a
    /// restart. Fails with kind `NotFound` if there is no such batch or item, `Precondition` if nothing
    /// that was asked for is a dead letter.
    pub async fn redrive(&self, request: RedriveRequest) -> Result<Results> {
        let redriving = async {
            let batch = self.engine().redrive(request).await?;
            let stream = self.engine().attach(&batch);
            let feed = self.engine().follow(&batch, Order::default())?;
            Ok(Results::new(feed, batch, true, self.place(stream)))
        };
        self.0.io.lend_clock(redriving).await
    }

    /// Takes the dead letters that match off the list and answers how many. Their results stay. It
    /// works in chunks: if it is dropped or fails, a part is done; repeat it.
    pub async fn purge_dead_letters(&self, query: &LetterQuery) -> Result<u64> {
        let purging = self.engine().purge(query, Vec::new());
        self.0.io.lend_clock(purging).await
    }
}
