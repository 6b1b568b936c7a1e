//! What is done when a group meets damage in the file: all of it is undone, and done again one by one,
//! so that only what cannot be done is refused.
//!
//! `SQLite` commits no transaction that has met a damaged page, whatever part of it did not need that
//! page. So what can do without what it cannot read, such as the id of an item whose record is due, reads
//! beside its transaction once damage is known. What is refused here was not stored, and the server goes
//! on with the rest: else each start would end where the last one did.

use super::chores::Chunks;
use super::keeper::{Fatal, Keeper};
use super::operation::{Answer, Operation, Request};
use crate::base::clock::Timestamp;
use crate::store::StoreError;

impl Keeper {
    /// Commits each operation of a group that met damage by itself, then what chores are due.
    pub(super) fn commit_apart(
        &mut self,
        mut group: Vec<Operation>,
        now: Timestamp,
        error: &rusqlite::Error,
    ) -> Result<(), Fatal> {
        let was_known = std::mem::replace(&mut self.met_damage, true);
        self.read_beside();
        if group.is_empty() && !was_known {
            return self.commit(group, now, &mut || None);
        }
        if group.is_empty() {
            return match self.put_chore_off(error) {
                Some(end) => self.commit(vec![Operation::unanswered(end)], now, &mut || None),
                None => Ok(()),
            };
        }
        if self.apart {
            let operation = group.remove(0);
            return self.refuse_damaged(operation, error);
        }
        self.apart = true;
        let mut committed = Ok(());
        for operation in group {
            // Who is left when that fails learns that nobody knows: its answer is dropped.
            committed = committed.and_then(|()| self.commit(vec![operation], now, &mut || None));
        }
        self.apart = false;
        committed?;
        let Chunks { sweep, copy } = self.next_chunks();
        if sweep.is_some() || copy.is_some() {
            self.commit(Vec::new(), now, &mut || None)?;
        }
        Ok(())
    }

    fn refuse_damaged(
        &mut self,
        operation: Operation,
        error: &rusqlite::Error,
    ) -> Result<(), Fatal> {
        let request = &operation.request;
        if matches!(request, Request::Settle(_)) {
            // A result that cannot be recorded is lost if anything goes on.
            return self.give_up(vec![operation], error);
        }
        let is_look = matches!(request, Request::Trim { .. } | Request::EndStale);
        if is_look || matches!(request, Request::Remove(_)) {
            let more = self.avoid(error);
            if is_look && more {
                drop(operation.answer.send(Ok(Answer::Looked { more })));
                return Ok(());
            }
        } else {
            tracing::error!(%error, "an operation met damage in the file and is refused");
        }
        drop(operation.answer.send(Err(StoreError::Corrupt)));
        Ok(())
    }

    /// Leaves a chore to the next start, once it is known which one met the damage. A redrive ends with
    /// what it has instead: its batch would stay open for ever. Answers what ends it.
    fn put_chore_off(&mut self, error: &rusqlite::Error) -> Option<Request> {
        let Chunks { sweep, copy } = self.next_chunks();
        if let Some((no, _)) = sweep {
            self.chores.sweeps.pop_front();
            tracing::error!(batch = no.0, %error,
                "what is left to record of a batch met damage in the file and waits for the next start");
            return None;
        }
        let (no, _) = copy?;
        self.chores.copies.take_first();
        tracing::error!(batch = no.0, %error,
            "a redrive met damage in the file and ends with what it has");
        Some(Request::EndRedrive(no))
    }
}
