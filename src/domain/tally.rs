//! How many items of a batch ended in which way.

use crate::domain::item::TerminalState;

/// Terminal items by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended SUCCEEDED.
    pub succeeded: u32,
    /// Ended FAILED.
    pub failed: u32,
    /// Ended CANCELLED.
    pub cancelled: u32,
    /// Ended EXPIRED.
    pub expired: u32,
}

impl Tally {
    /// All terminal items; equal to the batch's last sequence at all times.
    pub fn terminal(&self) -> u32 {
        self.succeeded + self.failed + self.cancelled + self.expired
    }

    /// Each state with its count.
    pub fn by_state(&self) -> [(TerminalState, u32); 4] {
        [
            (TerminalState::Succeeded, self.succeeded),
            (TerminalState::Failed, self.failed),
            (TerminalState::Cancelled, self.cancelled),
            (TerminalState::Expired, self.expired),
        ]
    }

    /// The count of `state`.
    pub fn of(&mut self, state: TerminalState) -> &mut u32 {
        match state {
            TerminalState::Succeeded => &mut self.succeeded,
            TerminalState::Failed => &mut self.failed,
            TerminalState::Cancelled => &mut self.cancelled,
            TerminalState::Expired => &mut self.expired,
        }
    }
}
