//! What the verbs around dead letters ask and answer.

use crate::domain::dead_letter::{Chosen, DeadLetter, LetterFilter, LetterPlace};
use crate::domain::failures::Failures;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::ids::{BatchId, BatchNo, BatchUid, RequestId, Sequence, Tenant};
use crate::domain::item::Record;
use crate::store::admission::Full;

/// Dead letters that are looked for.
#[derive(Clone, Debug, Default)]
pub struct LetterSearch {
    /// Only those of this tenant.
    pub tenant: Tenant,
    /// Only in this batch.
    pub within: Option<BatchNo>,
    /// Only those.
    pub filter: LetterFilter,
    /// Whether redriven ones count too.
    pub redriven: bool,
    /// Only behind this place; the newest come first.
    pub after: Option<LetterPlace>,
}

/// How far one look goes.
#[derive(Clone, Copy, Debug)]
pub struct LetterReach {
    /// Records to look at, at most.
    pub visits: usize,
    /// Letters to bring, at most; with 0 they are only counted, as far as there are visits.
    pub letters: usize,
    /// Bytes of letters after which no more are brought; the first always is.
    pub bytes: usize,
}

/// What a look found.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    /// The letters, newest first.
    pub letters: Vec<DeadLetter>,
    /// Those and the others that were looked at, by reason.
    pub reasons: Failures,
    /// Records looked at.
    pub visits: usize,
    /// Bytes of the letters, about.
    pub bytes: usize,
    /// Where to go on; `None` at the end.
    pub next: Option<LetterPlace>,
}

/// Whether an item is a dead letter.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It is one.
    Dead(Box<Record>),
    /// It has no result yet, or another one.
    NotDead,
    /// It was redriven.
    Redriven(BatchId),
    /// It was purged.
    Purged,
}

/// The first dead letter that a redrive can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstLetter {
    /// Where it is.
    pub place: FirstPlace,
    /// The limit that one before it is larger than by itself, which no redrive can take for that.
    pub oversized: Option<Full>,
}

/// Where the first dead letter is that a redrive can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPlace {
    /// Right behind this place.
    Behind(Sequence),
    /// Not up to this place; look on from there.
    NotUpTo(Sequence),
    /// There is none.
    Nowhere,
}

/// Dead letters to be run again in a new batch.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// Their batch.
    pub source: BatchNo,
    /// Its name.
    pub source_id: BatchId,
    /// The caller's key.
    pub request_id: Option<RequestId>,
    /// The server's own name for the new batch.
    pub uid: BatchUid,
    /// Fingerprint of what was asked for.
    pub fingerprint: Fingerprint,
    /// Only those behind this place.
    pub after: Sequence,
    /// Only those.
    pub chosen: Chosen,
}
