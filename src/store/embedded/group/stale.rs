//! Staging the end of items whose own time is over, and of one that may not run again.

use super::{Group, Refusal, lock};
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
    /// Its attempt runs into the time by itself; it is looked at again in case that ends otherwise.
    Runs,
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
                Meeting::Runs => {
                    let later = self.now.plus(limits::OVERDUE_LOOK);
                    rows::put_time_off(self.db, time, later)?;
                }
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
        let runs = batch.running_attempt(item.index).is_some();
        let past = batch.pasts.get(&item.index);
        // One that is given back without having begun has its `start_by` noted again.
        let began = runs || past.is_some_and(|past| past.began);
        match kind {
            ItemTime::StartBy if began => Meeting::Nothing,
            ItemTime::FinishBy if runs => Meeting::Runs,
            ItemTime::StartBy | ItemTime::FinishBy => Meeting::Waits,
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
