//! An item: what the caller asked for, and how it ended.
//!
//! ```text
//!             accept            lease               outcome
//!  (none) ───────────▶ PENDING ────────▶ RUNNING ───────────▶ SUCCEEDED
//!                       ▲  │ │              │ │ │ └─ last failure ─▶ FAILED
//!   backoff, released,  │  │ │              │ │ └─ time over ──────▶ EXPIRED
//!   interrupted ────────┼──┼─┼──────────────┘ └─ cancel ───────────▶ CANCELLED
//!                       └──┼─┴─ time over ─────────────────────────▶ EXPIRED
//!                          └─ cancel ──────────────────────────────▶ CANCELLED
//! ```
//! A terminal state has exactly one record in the batch's journal, and it never changes. The whole
//! table, event by event, is in `docs/states.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::domain::attempt::{ItemError, Reason};
use crate::domain::bounds::{Check, OutOfBounds};
use crate::domain::ids::{Sequence, item_id_text};
use crate::domain::payload::Payload;
use crate::domain::retry::RetrySettings;

/// One unit of work as the caller describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemSpec {
    /// The caller's name for it; `None` stands for its decimal position.
    pub id: Option<Box<str>>,
    /// What the handler receives.
    pub input: Payload,
    /// Limit of each attempt, if the caller set one.
    pub timeout: Option<Duration>,
    /// When its first attempt must have begun, or it ends EXPIRED.
    pub start_by: Option<Timestamp>,
    /// When it must have its result, or it ends EXPIRED.
    pub finish_by: Option<Timestamp>,
    /// The item's own retry settings.
    pub retry: RetrySettings,
    /// Small extras for the handler.
    pub attributes: BTreeMap<Box<str>, Box<str>>,
}

impl ItemSpec {
    /// An item with this input; the rest is as its batch and its queue say.
    pub fn new(input: impl Into<Payload>) -> Self {
        let input = input.into();
        Self {
            input,
            ..Self::default()
        }
    }

    /// Names it: printable text of at most 256 bytes, its own in the batch. All items of a batch
    /// have a name, or none has.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Gives it an attribute: a name of at most 64 of A-Z, a-z, 0-9, dot, dash and underscore, a
    /// value of at most 1,024 bytes. An item may have 16.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Lets it end EXPIRED, reason `START_BY`, if its first attempt has not begun by then: a stale
    /// item is not computed. From 1970 until ten years from now; a time that has passed is none too
    /// early, the item expires at once.
    #[must_use]
    pub fn with_start_by(mut self, at: Timestamp) -> Self {
        self.start_by = Some(at);
        self
    }

    /// Lets it end EXPIRED, reason `FINISH_BY`, if it has no result by then, whether it waits, runs or
    /// is to be tried again. Bounds as for [`ItemSpec::with_start_by`].
    #[must_use]
    pub fn with_finish_by(mut self, at: Timestamp) -> Self {
        self.finish_by = Some(at);
        self
    }

    /// Its times that are out of their bounds, `now` being the time.
    pub fn check_times(&self, now: Timestamp) -> Vec<OutOfBounds> {
        let mut check = Check::default();
        for kind in ItemTime::ALL {
            check.time(kind.field(), kind.of(self), now);
        }
        check.all()
    }

    /// Why it is not worth an attempt any more at `now`, if that is so; `began` is whether an attempt
    /// of it ever has begun.
    pub fn overdue(&self, began: bool, now: Timestamp) -> Option<ItemTime> {
        let over = |kind: &ItemTime| kind.of(self).is_some_and(|at| at <= now);
        let mut kinds = ItemTime::ALL.into_iter();
        kinds.find(|kind| over(kind) && !(began && *kind == ItemTime::StartBy))
    }
}

/// A limit of time that an item has of its own. The numbers are on disk and never change their
/// meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ItemTime {
    /// When its first attempt must have begun.
    StartBy = 1,
    /// When it must have its result.
    FinishBy = 2,
}

impl ItemTime {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::StartBy, Self::FinishBy];

    /// The limit that `number` stands for on disk.
    pub fn from_number(number: i64) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|&kind| number == i64::from(kind as u8))
    }

    /// The item's time of this kind, if it has one.
    pub fn of(self, spec: &ItemSpec) -> Option<Timestamp> {
        match self {
            Self::StartBy => spec.start_by,
            Self::FinishBy => spec.finish_by,
        }
    }

    /// Its name among an item's fields.
    fn field(self) -> &'static str {
        match self {
            Self::StartBy => "start_by",
            Self::FinishBy => "finish_by",
        }
    }

    /// How an item ends that did not make it; `message` says what came of it meanwhile.
    pub fn ending(self, message: &str) -> Ending {
        let reason = match self {
            Self::StartBy => Reason::START_BY,
            Self::FinishBy => Reason::FINISH_BY,
        };
        Ending::Expired(ItemError::of(reason, message))
    }
}

impl<P: Into<Payload>> From<P> for ItemSpec {
    fn from(input: P) -> Self {
        Self::new(input)
    }
}

/// Where an item is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemState {
    /// It waits: for a slot, or for its next attempt.
    Pending,
    /// An attempt is under way.
    Running,
    /// It has its result.
    Ended(TerminalState),
}

impl ItemState {
    /// Whether it has its result.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// How an item ended. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TerminalState {
    /// The handler returned an output.
    Succeeded = 3,
    /// Its last attempt failed.
    Failed = 4,
    /// It was cancelled first.
    Cancelled = 5,
    /// A time limit passed first.
    Expired = 6,
}

impl TerminalState {
    /// The state that `number` stands for on disk.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            3 => Some(Self::Succeeded),
            4 => Some(Self::Failed),
            5 => Some(Self::Cancelled),
            6 => Some(Self::Expired),
            _ => None,
        }
    }

    /// Whether an item that ended so is a dead letter.
    pub fn is_dead(self) -> bool {
        match self {
            Self::Failed | Self::Expired => true,
            Self::Succeeded | Self::Cancelled => false,
        }
    }

    /// The state's name in logs and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// How an item ended, with what came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// With an output.
    Succeeded(Payload),
    /// With a failure.
    Failed(ItemError),
    /// By a cancel.
    Cancelled(ItemError),
    /// By a time limit.
    Expired(ItemError),
}

impl Ending {
    /// The terminal state it leads to.
    pub fn state(&self) -> TerminalState {
        match self {
            Self::Succeeded(_) => TerminalState::Succeeded,
            Self::Failed(_) => TerminalState::Failed,
            Self::Cancelled(_) => TerminalState::Cancelled,
            Self::Expired(_) => TerminalState::Expired,
        }
    }

    /// What came of it, if it succeeded.
    pub fn output(&self) -> Option<&Payload> {
        match self {
            Self::Succeeded(output) => Some(output),
            Self::Failed(_) | Self::Cancelled(_) | Self::Expired(_) => None,
        }
    }

    /// Why the item did not succeed.
    pub fn error(&self) -> Option<&ItemError> {
        match self {
            Self::Succeeded(_) => None,
            Self::Failed(error) | Self::Cancelled(error) | Self::Expired(error) => Some(error),
        }
    }
}

/// An entry of a batch's journal: the one result of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its place in the journal.
    pub sequence: Sequence,
    /// The item's position in the submitted order.
    pub index: u32,
    /// The caller's name for the item.
    pub id: Option<Box<str>>,
    /// The terminal state and what came of it.
    pub ending: Ending,
    /// Attempts charged.
    pub attempts: u32,
    /// Who produced it; empty if no attempt did.
    pub worker: Box<str>,
    /// How long the item waited before its last attempt.
    pub queued: Duration,
    /// How long its last attempt ran.
    pub ran: Duration,
    /// When it was recorded.
    pub finished: Timestamp,
}

impl Record {
    /// The item's id as text: its caller's, or its decimal position.
    pub fn item_id(&self) -> String {
        item_id_text(self.id.as_deref(), self.index)
    }

    /// How long it waited before its last attempt, and how long that ran; `None` if there was none, or
    /// if the server ended under it, as nobody saw when.
    pub fn durations(&self) -> Option<(Duration, Duration)> {
        let is_known = !self.worker.is_empty() || !self.ran.is_zero();
        is_known.then_some((self.queued, self.ran))
    }
}
