//! A batch and its life.
//!
//! ```text
//!  OPEN ── sealed ──▶ RUNNING ── every item terminal ──▶ COMPLETED
//!    └───── cancel ──────┴──▶ CANCELLING ── every item terminal ──▶ CANCELLED
//! ```

use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::domain::ids::{BatchId, BatchNo, BatchUid, QueueName, Sequence};
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
    /// A cancel is durable, the records of the remaining items follow.
    Cancelling = 4,
    /// Cancelled, every item is terminal.
    Cancelled = 5,
}

/// What moves a batch along its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEvent {
    /// No item will be added any more.
    Sealed,
    /// Someone asked to cancel it.
    CancelAsked,
    /// Every item is terminal.
    ItemsEnded,
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
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Running,
        Self::Completed,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The state after `event`. Live execution and recovery both come through here.
    pub fn apply(self, event: BatchEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Open, BatchEvent::Sealed) => Ok(Self::Running),
            (Self::Running, BatchEvent::ItemsEnded) => Ok(Self::Completed),
            (Self::Open | Self::Running | Self::Cancelling, BatchEvent::CancelAsked) => {
                Ok(Self::Cancelling)
            }
            (Self::Cancelling, BatchEvent::ItemsEnded) => Ok(Self::Cancelled),
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
        matches!(self, Self::Completed | Self::Cancelled)
    }
}

/// What never changes about a batch.
#[derive(Debug, PartialEq)]
pub struct BatchHead {
    /// Its number inside the store.
    pub no: BatchNo,
    /// Its name.
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
    /// When it was accepted.
    pub created: Timestamp,
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
    /// Items whose attempt is under way.
    pub running: u32,
    /// Terminal items.
    pub tally: Tally,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Why it was cancelled.
    pub cancel_reason: Box<str>,
    /// Why nothing of it is started, if it is paused; empty if nobody said.
    pub paused: Option<Box<str>>,
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
        use BatchEvent::{CancelAsked, ItemsEnded, Sealed};
        let rows = BatchState::ALL.map(|state| {
            let after = [Sealed, CancelAsked, ItemsEnded].map(|event| match state.apply(event) {
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
            ]
        );
    }

    #[test]
    fn numbers_on_disk_come_back() {
        for state in BatchState::ALL {
            assert_eq!(BatchState::from_number(i64::from(state as u8)), Some(state));
        }
        assert_eq!(BatchState::from_number(0), None);
    }
}
