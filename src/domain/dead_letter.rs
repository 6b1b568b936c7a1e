//! Dead letters: items that ended failed or expired, until they are redriven or purged.

use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::domain::batch::BatchHead;
use crate::domain::ids::{BatchId, BatchNo, QueueName, Sequence};
use crate::domain::item::{Record, TerminalState};

/// An item that ended failed or expired.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its batch.
    pub head: Arc<BatchHead>,
    /// How it ended.
    pub record: Record,
    /// The batch that runs it again, if it was redriven.
    pub redriven_to: Option<BatchId>,
}

/// Which dead letters are meant. What is set must all be so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LetterFilter {
    /// Those of this queue.
    pub queue: Option<QueueName>,
    /// Those with this reason.
    pub reason: Option<Box<str>>,
    /// Those in one of these states; none means failed and expired ones.
    pub states: Vec<TerminalState>,
    /// Those that ended before this time.
    pub before: Option<Timestamp>,
}

/// A dead letter's place among all: by batch, then by sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterPlace {
    /// Its batch.
    pub batch: BatchNo,
    /// Its place in the batch's journal.
    pub sequence: Sequence,
}

/// Which dead letters of one batch a redrive takes. What is set must all be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Those with this reason.
    pub reason: Option<Box<str>>,
    /// Those with these sequences, which ascend; none means all.
    pub sequences: Vec<Sequence>,
}

impl LetterFilter {
    /// Whether it means the letter with this record, its queue apart.
    pub fn matches(&self, record: &Record) -> bool {
        let state = record.ending.state();
        has_reason(self.reason.as_deref(), record)
            && (self.states.is_empty() || self.states.contains(&state))
            && self.before.is_none_or(|before| record.finished < before)
    }
}

impl Chosen {
    /// Whether the letter with this record is one of them.
    pub fn has(&self, record: &Record) -> bool {
        let named = &self.sequences;
        has_reason(self.reason.as_deref(), record)
            && (named.is_empty() || named.binary_search(&record.sequence).is_ok())
    }
}

fn has_reason(reason: Option<&str>, record: &Record) -> bool {
    reason.is_none_or(|reason| {
        let error = record.ending.error();
        error.is_some_and(|error| *error.reason == *reason)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::attempt::ItemError;
    use crate::domain::item::Ending;
    use crate::domain::payload::Payload;

    fn record(sequence: u32, ending: Ending) -> Record {
        Record {
            sequence: Sequence(sequence),
            index: 0,
            id: None,
            ending,
            attempts: 1,
            worker: "local".into(),
            queued: Duration::ZERO,
            ran: Duration::ZERO,
            finished: Timestamp(1000),
        }
    }

    #[test]
    fn what_is_set_must_all_be_so() {
        let error = || ItemError::handler("EXIT_1", "no", true);
        let failed = record(1, Ending::Failed(error()));
        let expired = record(2, Ending::Expired(error()));
        let any = LetterFilter::default();
        let of = |reason: &str| LetterFilter {
            reason: Some(reason.into()),
            ..LetterFilter::default()
        };
        let late = LetterFilter {
            states: vec![TerminalState::Expired],
            before: Some(Timestamp(1001)),
            ..of("EXIT_1")
        };
        let early = LetterFilter {
            before: Some(Timestamp(1000)),
            ..LetterFilter::default()
        };
        let rows = [
            (&any, [true, true]),
            (&of("EXIT_1"), [true, true]),
            (&of("EXIT_2"), [false, false]),
            (&late, [false, true]),
            (&early, [false, false]),
        ];
        for (filter, expected) in rows {
            let found = [&failed, &expired].map(|record| filter.matches(record));
            assert_eq!(found, expected, "{filter:?}");
        }
        let well = record(3, Ending::Succeeded(Payload::text("x")));
        assert!(!of("EXIT_1").matches(&well));
    }

    #[test]
    fn a_redrive_takes_what_it_names_or_all() {
        let letter = |sequence| record(sequence, Ending::Failed(ItemError::handler("A", "", true)));
        let chosen = |reason: Option<&str>, sequences: &[u32]| Chosen {
            reason: reason.map(Into::into),
            sequences: sequences
                .iter()
                .map(|&sequence| Sequence(sequence))
                .collect(),
        };
        assert!(chosen(None, &[]).has(&letter(5)));
        assert!(chosen(Some("A"), &[3, 5]).has(&letter(5)));
        assert!(!chosen(Some("B"), &[3, 5]).has(&letter(5)));
        assert!(!chosen(Some("A"), &[3, 6]).has(&letter(5)));
    }
}
