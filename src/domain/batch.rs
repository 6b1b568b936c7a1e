//! A batch and its life.
//!
//! ```text
//!  OPEN ── sealed ──▶ RUNNING ── every item terminal ──▶ COMPLETED
//!    └─── ended early ───┴──▶ CANCELLING ── every item terminal ──▶ CANCELLED, COMPLETED (enough),
//!                                                                   FAILED (policy), EXPIRED (time)
//! ```

use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::failures::Failures;
use crate::domain::ids::{BatchId, BatchName, BatchNo, BatchUid, QueueName, Sequence, Tenant};
use crate::domain::item::Ending;
use crate::domain::pause::Pause;
use crate::domain::settings::{BatchOptions, OnDisconnect, UploadTerms};
use crate::domain::tally::Tally;

/// Where a batch is. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BatchState {
    /// Items may still be added.
    Open = 1,
    /// All items are known, some are not terminal.
    Running = 2,
    /// Every item is terminal.
    Completed = 3,
    /// Its early end is durable, the records of the remaining items follow.
    Cancelling = 4,
    /// Cancelled, every item is terminal.
    Cancelled = 5,
    /// Ended by its failure policy, every item is terminal.
    Failed = 6,
    /// Ended by its time limit, every item is terminal.
    Expired = 7,
}

/// Why a batch ends before its items do. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndCause {
    /// Someone cancelled it.
    Cancelled = 1,
    /// Enough of its items succeeded.
    Enough = 2,
    /// Too many of its items failed.
    FailurePolicy = 3,
    /// Its deadline passed.
    Deadline = 4,
    /// It lasted too long.
    MaxDuration = 5,
}

impl EndCause {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Cancelled,
        Self::Enough,
        Self::FailurePolicy,
        Self::Deadline,
        Self::MaxDuration,
    ];

    /// The cause that `number` stands for on disk.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|&cause| number == i64::from(cause as u8))
    }

    /// The state in which the batch ends.
    pub fn state(self) -> BatchState {
        match self {
            Self::Cancelled => BatchState::Cancelled,
            Self::Enough => BatchState::Completed,
            Self::FailurePolicy => BatchState::Failed,
            Self::Deadline | Self::MaxDuration => BatchState::Expired,
        }
    }

    /// Why its remaining items end.
    pub fn reason(self) -> Reason {
        match self {
            Self::Cancelled => Reason::BATCH_CANCELLED,
            Self::Enough => Reason::ENOUGH_REACHED,
            Self::FailurePolicy => Reason::FAILURE_POLICY,
            Self::Deadline => Reason::BATCH_DEADLINE,
            Self::MaxDuration => Reason::BATCH_MAX_DURATION,
        }
    }

    /// How an item ends that its batch's end came before.
    pub fn ending(self, message: &str) -> Ending {
        let error = ItemError::of(self.reason(), message);
        if self.lets_succeed() {
            Ending::Cancelled(error)
        } else {
            Ending::Expired(error)
        }
    }

    /// Whether an attempt that ends well all the same still counts.
    pub fn lets_succeed(self) -> bool {
        match self {
            Self::Cancelled | Self::Enough | Self::FailurePolicy => true,
            Self::Deadline | Self::MaxDuration => false,
        }
    }
}

/// What moves a batch along its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEvent {
    /// No item will be added any more.
    Sealed,
    /// It ends early.
    EndAsked,
    /// Every item is terminal; the cause if it ended early.
    ItemsEnded(Option<EndCause>),
}

/// An event that a batch in its state cannot meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a batch that is {state:?} cannot meet {event:?}")]
pub struct IllegalTransition {
    /// Where the batch is.
    pub state: BatchState,
    /// What came.
    pub event: BatchEvent,
}

impl BatchState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::Running,
        Self::Completed,
        Self::Cancelling,
        Self::Cancelled,
        Self::Failed,
        Self::Expired,
    ];

    /// The state after `event`. Live execution and recovery both come through here.
    pub fn apply(self, event: BatchEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Open, BatchEvent::Sealed) => Ok(Self::Running),
            (Self::Running, BatchEvent::ItemsEnded(_)) => Ok(Self::Completed),
            (Self::Open | Self::Running | Self::Cancelling, BatchEvent::EndAsked) => {
                Ok(Self::Cancelling)
            }
            (Self::Cancelling, BatchEvent::ItemsEnded(cause)) => {
                Ok(cause.unwrap_or(EndCause::Cancelled).state())
            }
            (state, event) => Err(IllegalTransition { state, event }),
        }
    }

    /// The state that `number` stands for on disk.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|&state| number == i64::from(state as u8))
    }

    /// Whether nothing can change any more.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Open | Self::Running | Self::Cancelling => false,
            Self::Completed | Self::Cancelled | Self::Failed | Self::Expired => true,
        }
    }
}

/// What never changes about a batch.
#[derive(Debug, PartialEq)]
pub struct BatchHead {
    /// Its number inside the store.
    pub no: BatchNo,
    /// Whose it is.
    pub tenant: Tenant,
    /// How its tenant calls it.
    pub id: BatchId,
    /// The server's own name of it.
    pub uid: BatchUid,
    /// Where its items wait.
    pub queue: QueueName,
    /// What its caller asked for.
    pub options: BatchOptions,
    /// What happens when its last stream has gone.
    pub on_disconnect: OnDisconnect,
    /// On which terms its items are uploaded, unless it was submitted whole.
    pub upload: Option<UploadTerms>,
    /// The batch whose dead letters it runs again, if it is a redrive.
    pub source: Option<BatchId>,
    /// When it was accepted.
    pub created: Timestamp,
}

impl BatchHead {
    /// What it is looked up by.
    pub fn name(&self) -> BatchName {
        BatchName {
            tenant: self.tenant.clone(),
            id: self.id.clone(),
        }
    }

    /// When its time is over, if it has a limit, and why then.
    pub fn ends_at(&self) -> Option<(Timestamp, EndCause)> {
        let options = &self.options;
        let deadline = options.deadline.map(|at| (at, EndCause::Deadline));
        let lasted = options
            .max_duration
            .map(|most| (self.created.plus(most), EndCause::MaxDuration));
        let both = deadline.into_iter().chain(lasted);
        both.min_by_key(|&(at, _)| at)
    }
}

/// A batch as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What never changes.
    pub head: Arc<BatchHead>,
    /// Where it is in its life.
    pub state: BatchState,
    /// Items accepted so far.
    pub total: u32,
    /// Bytes of their inputs.
    pub input_bytes: u64,
    /// Items whose attempt is under way.
    pub running: u32,
    /// Terminal items.
    pub tally: Tally,
    /// When its first attempt began, as far as is known: a crash right after it may have lost that.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// When it may be removed with all its results; set once it is over.
    pub expires: Option<Timestamp>,
    /// Why it was cancelled.
    pub cancel_reason: Box<str>,
    /// Why it ends, or ended, before its items did.
    pub cause: Option<EndCause>,
    /// What failed so far.
    pub failures: Arc<Failures>,
    /// Its pause, if it is paused: nothing of it is started.
    pub paused: Option<Pause>,
}

impl Batch {
    /// The newest sequence of its journal.
    pub fn last_sequence(&self) -> Sequence {
        Sequence(self.tally.terminal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_meets_every_event_as_drawn() {
        use BatchEvent::{EndAsked, ItemsEnded, Sealed};
        let rows = BatchState::ALL.map(|state| {
            let events = [Sealed, EndAsked, ItemsEnded(None)];
            let after = events.map(|event| match state.apply(event) {
                Ok(next) => format!("{next:?}"),
                Err(_) => "-".to_owned(),
            });
            format!("{state:?}: {}", after.join(" "))
        });
        assert_eq!(
            rows,
            [
                "Open: Running Cancelling -",
                "Running: - Cancelling Completed",
                "Completed: - - -",
                "Cancelling: - Cancelling Cancelled",
                "Cancelled: - - -",
                "Failed: - - -",
                "Expired: - - -",
            ]
        );
        let rows = EndCause::ALL.map(|cause| {
            let ended = BatchState::Cancelling.apply(ItemsEnded(Some(cause)));
            format!("{cause:?}: {:?}", ended.unwrap())
        });
        assert_eq!(
            rows,
            [
                "Cancelled: Cancelled",
                "Enough: Completed",
                "FailurePolicy: Failed",
                "Deadline: Expired",
                "MaxDuration: Expired",
            ]
        );
    }

    #[test]
    fn numbers_on_disk_come_back() {
        for state in BatchState::ALL {
            assert_eq!(BatchState::from_number(i64::from(state as u8)), Some(state));
        }
        assert_eq!(BatchState::from_number(0), None);
        for cause in EndCause::ALL {
            assert_eq!(EndCause::from_number(i64::from(cause as u8)), Some(cause));
        }
    }
}
