//! A pause of a batch: who asked for it, and why.

/// A pause. While it lasts, attempts that run go on and none is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Who asked for it.
    pub by: PausedBy,
    /// Why, for people; empty if nobody said.
    pub why: Box<str>,
}

/// Who pauses a batch. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PausedBy {
    /// Someone, by a call.
    Hand = 1,
    /// The batch's own failure policy.
    FailurePolicy = 2,
}

impl Pause {
    /// A pause that someone asked for.
    pub fn by_hand(why: &str) -> Self {
        let (by, why) = (PausedBy::Hand, why.into());
        Self { by, why }
    }

    /// A pause that the batch's failure policy asks for.
    pub fn by_policy(why: &str) -> Self {
        let (by, why) = (PausedBy::FailurePolicy, why.into());
        Self { by, why }
    }
}

impl PausedBy {
    /// Everyone, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Hand, Self::FailurePolicy];

    /// Who `number` stands for on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&by| by as u8 == number)
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::FailurePolicy => "failure_policy",
        }
    }
}
