//! One batch that is not over: which of its items are due, leased, waiting or terminal.
//!
//! Memory is per batch, not per item: a cursor over the items never granted, one bit per terminal
//! item, and entries only for items that are leased, wait for another attempt or have a past.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bitmap::Bitmap;
use super::turns::Place;
use crate::base::clock::Timestamp;
use crate::base::limits;
use crate::domain::attempt::UnderWay;
use crate::domain::batch::{Batch, BatchHead, BatchState, EndCause};
use crate::domain::failures::Failures;
use crate::domain::ids::Sequence;
use crate::domain::item::TerminalState;
use crate::domain::pause::Pause;
use crate::domain::tally::Tally;
use crate::store::embedded::id_index::IdIndex;

/// How far apart arrivals are remembered once there are many.
const ARRIVALS_APART: Duration = Duration::from_secs(1);

/// The executions of an item so far, kept only for items that had one end without a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// Executions, so that attempt numbers never repeat.
    pub(crate) attempts: u32,
    /// Attempts charged against the policy.
    pub(crate) spent: u32,
    /// Attempts that its handler gave back.
    pub(crate) releases: u32,
    /// Whether an attempt has begun.
    pub(crate) began: bool,
    /// Deaths of the server while the item ran.
    pub(crate) crashes: u32,
    /// How many of them the item's own settings allow.
    pub(crate) crashes_max: Option<u32>,
    /// Whether it has ended and only its record is missing: it never runs again.
    pub(crate) withheld: bool,
    /// Since when the item waits; its first attempt's place in line is kept by its index.
    pub(crate) since: Timestamp,
}

/// Who holds an item now.
#[derive(Clone, Debug)]
pub(crate) struct LiveLease {
    /// The attempt.
    pub(crate) attempt: UnderWay,
    /// The fence.
    pub(crate) nonce: u128,
    /// Asks the holder to stop; a child of the batch's token.
    pub(crate) stop: CancellationToken,
    /// Whether a cancel came after the grant: then only a success counts.
    pub(crate) cancelled: bool,
}

/// A batch that is not over.
#[derive(Debug)]
pub(crate) struct LiveBatch {
    /// What never changes.
    pub(crate) head: Arc<BatchHead>,
    /// Where it is in its life, as staged by the group being written.
    pub(crate) state: BatchState,
    /// Items that may be granted.
    pub(crate) total: u32,
    /// Items accepted, as staged by the group being written.
    pub(crate) staged_total: u32,
    /// Bytes of the inputs of all items accepted, as staged.
    pub(crate) input_bytes: u64,
    /// Why it was cancelled, as staged.
    pub(crate) cancel_reason: Box<str>,
    /// Why it ends early, if it does, as staged.
    pub(crate) cause: Option<EndCause>,
    /// What failed, as staged.
    pub(crate) failures: Arc<Failures>,
    /// Its pause, if it is paused, as staged.
    pub(crate) paused: Option<Pause>,
    /// When its first attempt was granted. It is written along with what changes next.
    pub(crate) started: Option<Timestamp>,
    /// Terminal items by state.
    pub(crate) tally: Tally,
    /// Asks all its attempts to stop.
    pub(crate) stop: CancellationToken,
    /// Live leases by item.
    pub(crate) leases: HashMap<u32, LiveLease>,
    /// Attempts by item whose end is staged and not durable yet: they still run for whoever asks.
    pub(crate) ending: HashMap<u32, UnderWay>,
    /// Items with a past that are not terminal.
    pub(crate) pasts: HashMap<u32, Past>,
    /// The ids of its items while it is open.
    pub(crate) ids: Option<Box<IdIndex>>,
    /// Where the records of a cancel have come to.
    pub(crate) swept: u32,
    /// Its seat in its tenant's line, if it sits there.
    pub(super) seat: Option<Place>,
    /// When it looks again whether it has a due item.
    pub(super) alarm: Option<Timestamp>,
    /// When it last had a turn, or whatever kept it from one ended: before that it did not wait.
    pub(super) free_since: Timestamp,
    /// Whether an end that is staged makes room for its next attempt.
    pub(super) was_full: bool,
    terminal: Bitmap,
    /// The first item never granted; items with a past before or behind it are not its business.
    next: u32,
    waiting: BinaryHeap<Reverse<(Timestamp, u32)>>,
    due_again: BTreeSet<u32>,
    /// When the items from an index on arrived, for those not granted yet.
    arrivals: VecDeque<(u32, Timestamp)>,
}

impl LiveBatch {
    /// A batch none of whose items has run.
    pub(crate) fn new(head: Arc<BatchHead>, state: BatchState, total: u32) -> Self {
        let arrivals = VecDeque::from([(0, head.created)]);
        let free_since = head.created;
        Self {
            head,
            state,
            total,
            staged_total: total,
            input_bytes: 0,
            cancel_reason: "".into(),
            paused: None,
            cause: None,
            failures: Arc::default(),
            started: None,
            tally: Tally::default(),
            stop: CancellationToken::new(),
            leases: HashMap::new(),
            ending: HashMap::new(),
            pasts: HashMap::new(),
            ids: (state == BatchState::Open).then(Box::default),
            swept: 0,
            seat: None,
            alarm: None,
            free_since,
            was_full: false,
            terminal: Bitmap::default(),
            next: 0,
            waiting: BinaryHeap::new(),
            due_again: BTreeSet::new(),
            arrivals,
        }
    }

    /// Lets the items be granted that were staged behind the ones so far.
    pub(crate) fn extend(&mut self, now: Timestamp) {
        let apart = self.arrivals.len() < limits::ARRIVALS_MAX
            || self
                .arrivals
                .back()
                .is_some_and(|&(_, last)| now.since(last) >= ARRIVALS_APART);
        if apart {
            self.arrivals.push_back((self.total, now));
        }
        self.total = self.staged_total;
        if let Some(ids) = &mut self.ids {
            ids.committed();
        }
    }

    /// The batch as the group being written will leave it.
    pub(crate) fn snapshot(&self) -> Batch {
        Batch {
            head: Arc::clone(&self.head),
            state: self.state,
            total: self.staged_total,
            input_bytes: self.input_bytes,
            running: u32::try_from(self.leases.len()).unwrap_or(u32::MAX),
            tally: self.tally,
            started: self.started,
            finished: None,
            expires: None,
            cancel_reason: self.cancel_reason.clone(),
            paused: self.paused.clone(),
            cause: self.cause,
            failures: Arc::clone(&self.failures),
        }
    }

    /// The attempt of `index` that runs as far as is durable.
    pub(crate) fn running_attempt(&self, index: u32) -> Option<UnderWay> {
        let lease = self.leases.get(&index).map(|lease| lease.attempt);
        lease.or_else(|| self.ending.get(&index).copied())
    }

    /// Items whose attempt runs as far as is durable.
    pub(crate) fn running(&self) -> u32 {
        u32::try_from(self.leases.len() + self.ending.len()).unwrap_or(u32::MAX)
    }

    /// Whether `index` has its result.
    pub(crate) fn is_terminal(&self, index: u32) -> bool {
        self.terminal.contains(index)
    }

    /// When its time is over, and why then.
    pub(crate) fn ends_at(&self) -> Option<(Timestamp, EndCause)> {
        self.head.ends_at()
    }

    /// Why its time is over, if it is and the batch was not ended for it yet.
    pub(crate) fn overdue(&self, now: Timestamp) -> Option<EndCause> {
        let (at, cause) = self.ends_at()?;
        (at <= now && self.is_active()).then_some(cause)
    }

    /// Why it ends early.
    pub(crate) fn cause(&self) -> EndCause {
        self.cause.unwrap_or(EndCause::Cancelled)
    }

    /// Whether items may be granted, now or later.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.state, BatchState::Open | BatchState::Running)
    }

    /// Whether items of it have no result yet, or more of them may come.
    pub(crate) fn has_more(&self) -> bool {
        self.state == BatchState::Open || self.tally.terminal() < self.staged_total
    }

    /// Whether nothing of it is granted for now although it is active: it is paused, its time has
    /// not come or is over, or as many of its items run as it wants at once.
    pub(crate) fn stands_aside(&self, now: Timestamp) -> bool {
        let options = &self.head.options;
        let early = options.not_before.is_some_and(|begins| begins > now);
        self.paused.is_some() || early || self.overdue(now).is_some() || self.is_full()
    }

    /// Whether as many of its items run as it wants at once.
    pub(super) fn is_full(&self) -> bool {
        let most = self.head.options.max_parallelism;
        most.is_some_and(|most| self.leases.len() >= usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// Whether an item may be granted, once it is its turn.
    pub(crate) fn may_run(&self, index: u32) -> bool {
        self.is_active() && !self.is_terminal(index)
    }

    /// The newest sequence, as staged.
    pub(crate) fn last_sequence(&self) -> Sequence {
        Sequence(self.tally.terminal())
    }

    /// Notes that an item got its result and answers the result's sequence.
    pub(crate) fn end(&mut self, index: u32, state: TerminalState) -> Sequence {
        self.terminal.insert(index);
        *self.tally.of(state) += 1;
        self.last_sequence()
    }

    /// Takes [`LiveBatch::end`] back; the newest first.
    pub(crate) fn unend(&mut self, index: u32, state: TerminalState) {
        self.terminal.remove(index);
        *self.tally.of(state) -= 1;
    }

    /// Keeps an item from being granted: it has ended, but that has no record yet.
    pub(crate) fn withhold(&mut self, index: u32, past: Past) {
        let withheld = true;
        self.pasts.insert(index, Past { withheld, ..past });
    }

    /// Whether an item has ended and only its record is missing.
    pub(crate) fn is_withheld(&self, index: u32) -> bool {
        self.pasts.get(&index).is_some_and(|past| past.withheld)
    }

    /// Whether an item that runs at most once may have run, and nobody knows how that ended.
    pub(crate) fn is_outcome_unknown(&self, index: u32) -> bool {
        let crashed = self.pasts.get(&index).is_some_and(|past| past.crashes > 0);
        crashed && self.head.options.at_most_once
    }

    /// Forgets where an ended item waited.
    pub(crate) fn forget(&mut self, index: u32) {
        self.pasts.remove(&index);
        self.due_again.remove(&index);
    }

    /// Lets an item wait for its next attempt.
    pub(crate) fn wait(&mut self, index: u32, due: Timestamp) {
        self.waiting.push(Reverse((due, index)));
    }

    /// When the earliest waiting item is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.waiting.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes the next item that is due.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<u32> {
        let index = self.first_due(now)?;
        if !self.due_again.remove(&index) {
            self.next = index + 1;
        }
        Some(index)
    }

    /// The next item that is due: one that was due before at its original place in line, else the
    /// next that never ran. `None` if nothing is due.
    pub(crate) fn first_due(&mut self, now: Timestamp) -> Option<u32> {
        while let Some(&Reverse((due, index))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            if !self.is_terminal(index) {
                self.due_again.insert(index);
            }
        }
        while let Some(&index) = self.due_again.first() {
            if !self.is_terminal(index) {
                return Some(index);
            }
            self.due_again.pop_first();
        }
        if self.is_clogged() {
            return None;
        }
        self.skip_what_ran();
        (self.next < self.total).then_some(self.next)
    }

    /// Items that have no result yet, as staged.
    pub(crate) fn open_items(&self) -> u64 {
        u64::from(self.staged_total.saturating_sub(self.tally.terminal()))
    }

    /// Whether so many items wait for another attempt that none gets its first.
    pub(crate) fn is_clogged(&self) -> bool {
        self.waiting.len() >= limits::WAITING_ITEMS_MAX
    }

    /// How many items go before `index`, which is due, at most: those that are due again, and for one
    /// that never ran those with a lower index.
    pub(crate) fn ahead_at_most(&self, index: u32) -> u32 {
        let again = self.waiting.len() + self.due_again.len();
        let again = u32::try_from(again).unwrap_or(u32::MAX);
        if self.pasts.contains_key(&index) {
            return again.saturating_sub(1);
        }
        again.saturating_add(index.saturating_sub(self.next_that_never_ran()))
    }

    /// The first item from `index` on that has no result.
    pub(crate) fn next_unfinished(&self, index: u32) -> Option<u32> {
        let next = self.terminal.first_absent(index);
        (next < self.total).then_some(next)
    }

    /// Since when `index` could have run.
    pub(crate) fn ready_since(&mut self, index: u32) -> Timestamp {
        if let Some(past) = self.pasts.get(&index) {
            return past.since;
        }
        while self
            .arrivals
            .get(1)
            .is_some_and(|&(first, _)| first <= index)
        {
            self.arrivals.pop_front();
        }
        self.arrivals
            .front()
            .map_or(self.head.created, |&(_, at)| at)
    }

    /// Since when the longest of the items has waited that was never granted, if one may be.
    pub(crate) fn oldest_arrival(&self) -> Option<Timestamp> {
        let next = self.next_that_never_ran();
        if next >= self.total || !self.is_active() {
            return None;
        }
        let behind = self.arrivals.partition_point(|&(first, _)| first <= next);
        let arrival = behind.checked_sub(1).map(|at| self.arrivals[at].1);
        Some(arrival.unwrap_or(self.head.created))
    }

    fn skip_what_ran(&mut self) {
        self.next = self.next_that_never_ran();
    }

    fn next_that_never_ran(&self) -> u32 {
        let mut next = self.next;
        loop {
            next = self.terminal.first_absent(next);
            if !self.pasts.contains_key(&next) {
                return next;
            }
            next += 1;
        }
    }
}
