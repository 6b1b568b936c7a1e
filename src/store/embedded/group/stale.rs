//! Staging the end of items whose own time is over, and of one that may not run again.

use super::{Group, Refusal, lock};
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::ids::ItemKey;
use crate::domain::item::{Ending, ItemTime};
use crate::store::embedded::avoided::Snag;
use crate::store::embedded::rows::{self, TimeRow};

/// What a time that has come means for its item.
enum Meeting {
    /// Nothing any more.
    Nothing,
    /// The item waits, and will not run.
    Waits,
    /// It is out, and its attempt's end tells what the time means: it is looked at again then.
    IsOut(Timestamp),
    /// The item comes in with this very group: the next look finds it.
    ComesIn,
}

impl Group<'_> {
    /// Looks at a chunk of the times that have come. Items that wait end there; nobody computes them.
    /// Answers whether more is left.
    pub(super) fn end_stale(&mut self) -> rusqlite::Result<bool> {
        let (most, avoided) = (limits::CHORE_ITEMS_MAX as usize, self.keeping.avoided);
        let mut due = rows::due_times(self.db, self.now, avoided.reach(most))?;
        due.retain(|&time| !avoided.has(Snag::Time(time)));
        due.truncate(most);
        let more = due.len() == most;
        for time in due {
            self.snag = Some(Snag::Time(time));
            match self.meet(time) {
                Meeting::Nothing => rows::remove_time(self.db, time)?,
                Meeting::Waits => {
                    let ItemKey { batch, index } = time.item;
                    let id = rows::client_ids(self.reading(), batch, index, index + 1)?.remove(0);
                    let told = "its time was over while it waited";
                    self.end_unattempted(time.item, id, time.kind.ending(told))?;
                    rows::remove_time(self.db, time)?;
                }
                Meeting::IsOut(until) => rows::put_time_off(self.db, time, until)?,
                Meeting::ComesIn => {}
            }
            self.snag = None;
        }
        Ok(more)
    }

    fn meet(&self, TimeRow { item, kind }: TimeRow) -> Meeting {
        let scheduler = lock(self.scheduler);
        let Some(batch) = scheduler.batch(item.batch) else {
            let mut admitted = self.effects.admitted.iter();
            return if admitted.any(|batch| batch.head.no == item.batch) {
                Meeting::ComesIn
            } else {
                Meeting::Nothing
            };
        };
        // What is left of a batch that ends early is recorded for that.
        if batch.is_terminal(item.index) || !batch.is_active() {
            return Meeting::Nothing;
        }
        if item.index >= batch.total {
            return Meeting::ComesIn;
        }
        let began = batch.pasts.get(&item.index).is_some_and(|past| past.began);
        let look = limits::OVERDUE_LOOK;
        match (kind, batch.running_attempt(item.index)) {
            (ItemTime::StartBy, _) if began => Meeting::Nothing,
            // Only its end tells whether it has begun. The longer it runs, the fewer looks it costs.
            (ItemTime::StartBy, Some(attempt)) => {
                let ran = self.now.since(attempt.started);
                Meeting::IsOut(self.now.plus(ran.max(look)))
            }
            (ItemTime::FinishBy, Some(_)) => Meeting::IsOut(self.now.plus(look)),
            (ItemTime::StartBy | ItemTime::FinishBy, None) => Meeting::Waits,
        }
    }

    /// Ends an item that ran when the last process ended and runs at most once.
    pub(super) fn end_interrupted(&mut self, item: ItemKey) -> Result<(), Refusal> {
        let ItemKey { batch: no, index } = item;
        let is_over = lock(self.scheduler)
            .batch(no)
            .is_none_or(|batch| batch.is_terminal(index));
        if !is_over {
            let id = rows::client_ids(self.reading(), no, index, index + 1)?.remove(0);
            self.end_unattempted(item, id, unknown_outcome())?;
        }
        Ok(())
    }
}

/// How an item ends that runs at most once and was interrupted.
pub(super) fn unknown_outcome() -> Ending {
    let told = "the server ended while its only attempt ran";
    Ending::Failed(ItemError::of(Reason::UNKNOWN_OUTCOME, told))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::base::clock;
    use crate::store::conformance::{failed, new_batch, open, settlement};
    use crate::store::embedded::avoided::Avoided;
    use crate::store::embedded::group::{Admission, Connections, Keeping};
    use crate::store::embedded::operation::Request;
    use crate::store::item_ends::{in_time, until};
    use crate::store::{Charge, Content, Created, ItemSpec, LeaseEnd};

    // The lease was over and its end not durable yet: that looked like an attempt that had begun.
    #[tokio::test]
    async fn a_look_beside_a_give_back_forgets_no_time() {
        let (at, (dir, store, batch, lease)) = in_time(async |at| {
            let dir = tempfile::tempdir().unwrap();
            let store = open(&dir);
            let items = vec![ItemSpec::new("x").with_start_by(at)];
            let new = new_batch(Some("b"), None, Content::Whole(items));
            let Created::New(batch) = store.create_batch(new).await.unwrap() else {
                panic!("it is new")
            };
            let leased = store.lease(&batch.head.queue, 1, 3).await;
            let lease = leased.unwrap().leases.pop();
            (dir, store, batch, lease)
        })
        .await;
        until(at).await;
        let end = LeaseEnd::Release {
            due: at,
            error: failed(),
            charge: Charge::Release,
        };
        let given_back = Request::Settle(vec![settlement(&lease.expect("in time"), end)]);
        // One group, as the writer stages one of what comes to it at the same moment.
        let shared = &store.0.shared;
        let db = Connection::open(dir.path().join("sooner.db")).unwrap();
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        let connections = Connections {
            db: &db,
            beside: None,
        };
        let admission = Admission {
            disk_is_low: false,
            limits: &shared.limits,
        };
        let (retention, avoided) = (shared.retention, &Avoided::default());
        let keeping = Keeping { retention, avoided };
        let now = clock::now();
        let mut group = Group::new(connections, &shared.scheduler, now, admission, keeping);
        for request in [given_back, Request::EndStale] {
            assert!(group.stage(&request).is_ok());
        }
        group.close().unwrap();
        db.execute_batch("COMMIT").unwrap();
        let mut effects = group.into_effects();
        effects.apply(&mut lock(&shared.scheduler), now);

        // Nobody serves its queue: only the look at the clock ends it.
        loop {
            store.end_overdue().await.unwrap();
            let now = store.batch(&batch.head.name()).await.unwrap();
            if now.tally.expired == 1 {
                break;
            }
            let times = "SELECT count(*) FROM item_times";
            let left: u32 = db.query_row(times, [], |row| row.get(0)).unwrap();
            assert_eq!(left, 1, "it is still noted");
            tokio::task::yield_now().await;
        }
        store.close();
    }
}
