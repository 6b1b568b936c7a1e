//! Dead letters in a random history: each is redriven into one batch, or purged, or still one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::{Seen, Told};
use crate::base::entropy;
use crate::domain::batch::BatchState;
use crate::domain::dead_letter::{Chosen, LetterPlace};
use crate::domain::ids::{BatchNo, item_id_text};

/// A step that concerns dead letters.
#[derive(Clone, Debug)]
pub(super) enum LetterStep {
    /// Runs all of a batch again.
    RedriveAll {
        batch: u8,
    },
    /// Runs some of a batch again, as long as they are letters.
    RedriveSome {
        batch: u8,
        first: u8,
        count: u8,
    },
    Purge {
        batch: u8,
        first: u8,
        count: u8,
    },
}

/// Why a letter is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Redriven(BatchId),
    Purged,
}

/// What is known of copies of dead letters.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    source: BatchNo,
    /// The last letter that was copied, as far as is known.
    last: Sequence,
    /// By which names, as far as is known: once the source is deleted nobody tells.
    pub(super) names: Vec<Box<str>>,
    open: bool,
}

pub(super) fn step() -> impl Strategy<Value = LetterStep> {
    let any = || any::<u8>();
    let some = || (any(), any(), 1u8..4);
    prop_oneof![
        3 => any().prop_map(|batch| LetterStep::RedriveAll { batch }),
        1 => some().prop_map(|(batch, first, count)| LetterStep::RedriveSome { batch, first, count }),
        1 => some().prop_map(|(batch, first, count)| LetterStep::Purge { batch, first, count }),
    ]
}

impl Seen {
    /// Items whose names are known.
    pub(super) fn known(&self) -> u32 {
        let names = self.copies.as_ref().map(|copies| copies.names.len());
        names.map_or(self.total, |names| {
            self.total.min(u32::try_from(names).unwrap())
        })
    }

    /// Of a redrive: items come by themselves while it is open.
    pub(super) fn grow(&mut self, batch: &Batch) {
        if let Some(copies) = &mut self.copies {
            assert!(
                batch.total == self.total || (batch.total > self.total && copies.open),
                "I6"
            );
            self.total = batch.total;
            copies.open = batch.state == BatchState::Open;
        }
    }

    /// Whether it is a redrive that is not whole yet.
    pub(super) fn may_grow_by_itself(&self) -> bool {
        self.copies.as_ref().is_some_and(|copies| copies.open)
    }

    /// Whether more letters of that batch may be copied into it.
    fn may_copy_from(&self, source: BatchNo) -> bool {
        let copies = self.copies.as_ref();
        copies.is_some_and(|copies| copies.source == source && copies.open)
    }
}

impl Told {
    pub(super) async fn letters(&mut self, step: &LetterStep) {
        let (LetterStep::RedriveAll { batch }
        | LetterStep::RedriveSome { batch, .. }
        | LetterStep::Purge { batch, .. }) = *step;
        let with_letters = self.batches.keys().filter(|&&no| !self.dead(no).is_empty());
        let with_letters: Vec<_> = with_letters.copied().collect();
        if with_letters.is_empty() {
            return;
        }
        let no = with_letters[usize::from(batch) % with_letters.len()];
        let dead = self.dead(no);
        let some = |first: u8, count: u8| -> Vec<_> {
            let first = usize::from(first) % dead.len();
            dead.iter()
                .copied()
                .skip(first)
                .take(count.into())
                .collect()
        };
        match *step {
            LetterStep::RedriveAll { .. } => self.redrive(no, Vec::new()).await,
            LetterStep::RedriveSome { first, count, .. } => {
                self.redrive(no, some(first, count)).await;
            }
            LetterStep::Purge { first, count, .. } => self.purge(no, &some(first, count)).await,
        }
    }

    /// What is a dead letter of a batch, as far as is known: a redrive may take it meanwhile.
    fn dead(&self, no: BatchNo) -> Vec<Sequence> {
        let journal = self.batches[&no].journal.iter();
        let sequences = journal
            .filter(|record| is_dead(record))
            .map(|record| record.sequence);
        let is_gone = |&sequence: &Sequence| self.gone.contains_key(&place(no, sequence));
        sequences.filter(|sequence| !is_gone(sequence)).collect()
    }

    /// Whether a redrive may just be taking letters of a batch.
    fn is_copied_from(&self, no: BatchNo) -> bool {
        self.batches.values().any(|seen| seen.may_copy_from(no))
    }

    /// Whether letters of a batch were redriven.
    pub(super) fn was_redriven(&self, no: BatchNo) -> bool {
        let copies = self
            .batches
            .values()
            .filter_map(|seen| seen.copies.as_ref());
        copies.into_iter().any(|copies| copies.source == no)
    }

    async fn redrive(&mut self, no: BatchNo, sequences: Vec<Sequence>) {
        let source_id = BatchId::parse(&self.batches[&no].id).unwrap();
        let redrive = Redrive {
            source: no,
            source_id,
            request_id: None,
            uid: BatchUid(entropy::uuid()),
            fingerprint: Fingerprint([7; 32]),
            after: Sequence(0),
            chosen: Chosen {
                reason: None,
                sequences,
            },
        };
        match self.store.redrive(redrive).await {
            Ok(Created::New(batch)) => {
                assert!(batch.total > 0, "it has its first letter");
                let copies = Copies {
                    source: no,
                    last: Sequence(0),
                    names: Vec::new(),
                    open: batch.state == BatchState::Open,
                };
                let seen = Seen {
                    id: batch.head.id.to_string(),
                    total: batch.total,
                    copies: Some(copies),
                    ..Seen::default()
                };
                self.batches.insert(batch.head.no, seen);
            }
            Err(StoreError::NoLetters) => assert!(self.is_copied_from(no)),
            Err(refused) => self.assert_full(&refused, 1),
            Ok(Created::Existing(batch)) => panic!("{batch:?} was there"),
        }
    }

    async fn purge(&mut self, no: BatchNo, sequences: &[Sequence]) {
        let places = || sequences.iter().map(|&sequence| place(no, sequence));
        let purged = self.store.purge(places().collect()).await.unwrap();
        let listed: BTreeSet<_> = self.listed().await.into_keys().collect();
        let unlisted: Vec<_> = places().filter(|place| !listed.contains(place)).collect();
        assert_eq!(
            purged as usize,
            unlisted.len(),
            "each but those that were redriven"
        );
        assert!(unlisted.len() == sequences.len() || self.is_copied_from(no));
        self.gone
            .extend(unlisted.into_iter().map(|place| (place, Gone::Purged)));
    }

    /// All letters that were not purged, and where they were redriven to.
    async fn listed(&self) -> BTreeMap<LetterPlace, Option<BatchId>> {
        let search = LetterSearch {
            redriven: true,
            ..LetterSearch::default()
        };
        let reach = LetterReach {
            visits: 1 << 20,
            letters: 1 << 20,
            bytes: usize::MAX,
        };
        let found = self.store.letters(search, reach).await.unwrap();
        let count = found.letters.len();
        let listed = found.letters.into_iter();
        let listed: BTreeMap<_, _> = listed
            .map(|letter| {
                (
                    place(letter.head.no, letter.record.sequence),
                    letter.redriven_to,
                )
            })
            .collect();
        assert_eq!(listed.len(), count, "each is listed once");
        listed
    }

    /// Each letter of a journal is listed, unless it was purged, and never redriven twice; the copies
    /// are those letters under their own names.
    pub(super) async fn look_at_letters(&mut self) {
        let mut listed = self.listed().await;
        let mut taken = Vec::new();
        for (&no, seen) in &self.batches {
            for record in seen.journal.iter().filter(|record| is_dead(record)) {
                let place = place(no, record.sequence);
                match (self.gone.get(&place), listed.remove(&place)) {
                    (Some(Gone::Purged), None) | (None, Some(None)) => {}
                    (Some(Gone::Redriven(to)), Some(now)) => {
                        assert_eq!(now.as_ref(), Some(to), "it was redriven once");
                    }
                    (None, Some(Some(to))) => {
                        let name = item_id_text(record.id.as_deref(), record.index);
                        taken.push((place, to, name.into()));
                    }
                    (gone, listed) => panic!("{place:?} is {gone:?} and listed as {listed:?}"),
                }
            }
        }
        assert!(listed.is_empty(), "what is no letter is listed: {listed:?}");
        for (place, to, name) in taken {
            let mut batches = self.batches.values_mut();
            let copy = batches.find(|seen| seen.id == to.as_str());
            let copy = copy.expect("nobody can have deleted it yet");
            let copies = copy.copies.as_mut().expect("it was made by a redrive");
            assert_eq!(copies.source, place.batch);
            assert!(
                copies.last < place.sequence,
                "in the order in which they failed"
            );
            copies.last = place.sequence;
            copies.names.push(name);
            self.gone.insert(place, Gone::Redriven(to));
        }
        for seen in self.batches.values() {
            self.check_copies(seen);
        }
    }

    fn check_copies(&self, seen: &Seen) {
        let Some(Copies {
            source,
            names,
            open,
            ..
        }) = &seen.copies
        else {
            return;
        };
        // A deleted one cannot tell which letters were copied last.
        if self.batches.contains_key(source) {
            let total = seen.total as usize;
            assert!(
                names.len() == total || (names.len() > total && *open),
                "no letter is lost"
            );
        }
        for record in &seen.journal {
            let name = seen.item_id(record.index);
            assert!(
                name.is_none() || record.id == name,
                "{record:?} is {name:?}"
            );
        }
    }
}

fn is_dead(record: &Record) -> bool {
    matches!(record.ending, Ending::Failed(_) | Ending::Expired(_))
}

fn place(batch: BatchNo, sequence: Sequence) -> LetterPlace {
    LetterPlace { batch, sequence }
}
