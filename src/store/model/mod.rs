//! Random histories of the verbs, restarts included, against the invariants of the architecture page.

mod letters;
mod removals;
mod uploads;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use tempfile::TempDir;

use self::letters::{Copies, Gone, LetterStep};
use self::uploads::UploadStep;
use super::conformance::{done, failed, items as items_of, new_batch, settlement};
use super::*;
use crate::base::clock;
use crate::domain::batch::BatchState;
use crate::domain::dead_letter::LetterPlace;
use crate::domain::ids::{BatchNo, ItemKey};
use crate::domain::item::TerminalState;

/// One step of a history. Numbers pick among what is there, modulo how much there is.
#[derive(Clone, Debug)]
enum Step {
    Create {
        id: u8,
        items: u8,
    },
    Upload(UploadStep),
    Letters(LetterStep),
    Delete {
        batch: u8,
    },
    /// Removes a chunk of the rows of what was deleted.
    Trim,
    /// Looks for every item by its id.
    Find {
        batch: u8,
    },
    Lease {
        want: u8,
    },
    Succeed {
        lease: u8,
    },
    Fail {
        lease: u8,
    },
    FailAll,
    Release {
        lease: u8,
    },
    /// Settles with a lease that was settled before, or lost to a restart.
    SettleStale {
        lease: u8,
    },
    CancelBatch {
        batch: u8,
    },
    CancelItems {
        batch: u8,
        first: u8,
        count: u8,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let any = || any::<u8>();
    prop_oneof![
        3 => (0u8..6, 1u8..7).prop_map(|(id, items)| Step::Create { id, items }),
        10 => uploads::step().prop_map(Step::Upload),
        1 => any().prop_map(|batch| Step::Find { batch }),
        5 => (1u8..9).prop_map(|want| Step::Lease { want }),
        5 => any().prop_map(|lease| Step::Succeed { lease }),
        1 => any().prop_map(|lease| Step::Fail { lease }),
        4 => Just(Step::FailAll),
        5 => letters::step().prop_map(Step::Letters),
        1 => any().prop_map(|batch| Step::Delete { batch }),
        1 => Just(Step::Trim),
        2 => any().prop_map(|lease| Step::Release { lease }),
        2 => any().prop_map(|lease| Step::SettleStale { lease }),
        1 => any().prop_map(|batch| Step::CancelBatch { batch }),
        1 => (any(), any(), 1u8..4).prop_map(|(batch, first, count)| Step::CancelItems { batch, first, count }),
        1 => Just(Step::Reopen),
    ]
}

/// A beginning that leaves dead letters.
fn broken() -> Vec<Step> {
    let create = |id| Step::Create { id, items: 6 };
    let fail = || [Step::Lease { want: 6 }, Step::FailAll];
    let [first, second] = [fail(), fail()];
    [create(0)]
        .into_iter()
        .chain(first)
        .chain([create(1)])
        .chain(second)
        .collect()
}

/// What the history has been told so far.
struct Told {
    dir: TempDir,
    store: Store,
    /// Items without a result that may be there at once, if that is bounded.
    most: Option<u64>,
    batches: BTreeMap<BatchNo, Seen>,
    /// Dead letters that are none any more.
    gone: BTreeMap<LetterPlace, Gone>,
    live: Vec<Lease>,
    stale: Vec<Settlement>,
    attempts: HashMap<ItemKey, u32>,
}

/// What has been seen of one batch.
#[derive(Default)]
struct Seen {
    id: String,
    /// Whether its items have ids of their own.
    named: bool,
    /// Whether it takes more items.
    open: bool,
    total: u32,
    journal: Vec<Record>,
    /// Of dead letters of another batch.
    copies: Option<Copies>,
}

impl Seen {
    /// The id of the item at `index`, if it has one: the position of its neighbour, unless it is a copy.
    fn item_id(&self, index: u32) -> Option<Box<str>> {
        if let Some(copies) = &self.copies {
            return copies.names.get(index as usize).cloned();
        }
        self.named.then(|| (index ^ 1).to_string().into())
    }

    /// The next items.
    fn more(&self, count: u32) -> Vec<ItemSpec> {
        let mut items = items_of(count);
        for (item, index) in items.iter_mut().zip(self.total..) {
            item.id = self.item_id(index);
        }
        items
    }
}

/// Opens a store of which so many items may be without a result.
fn open(dir: &TempDir, most: Option<u64>) -> Store {
    let mut options = StoreOptions::new(dir.path().to_owned());
    options.limits.all.queued_items = most.unwrap_or(u64::MAX);
    Store::open(&options).unwrap().0
}

impl Told {
    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Create { id, items } => self.create(format!("b{id}"), items.into()).await,
            Step::Upload(ref step) => self.upload(step).await,
            Step::Find { batch } => {
                let Some(no) = self.pick(batch) else { return };
                self.find(no).await;
            }
            Step::Lease { want } => self.lease(want.into()).await,
            Step::Succeed { lease } => self.settle(lease, LeaseEnd::Finish(done("x"))).await,
            Step::Fail { lease } => {
                self.settle(lease, LeaseEnd::Finish(Ending::Failed(failed())))
                    .await;
            }
            Step::FailAll => {
                while !self.live.is_empty() {
                    self.settle(0, LeaseEnd::Finish(Ending::Failed(failed())))
                        .await;
                }
            }
            Step::Release { lease } => {
                let (due, error) = (clock::now(), failed());
                self.settle(
                    lease,
                    LeaseEnd::Release {
                        due,
                        error,
                        charge: Charge::Attempt,
                    },
                )
                .await;
            }
            Step::SettleStale { lease } => self.settle_stale(lease).await,
            Step::CancelBatch { batch } => {
                let Some(no) = self.pick(batch) else { return };
                self.cancel(no).await;
            }
            Step::CancelItems {
                batch,
                first,
                count,
            } => {
                let Some(no) = self.pick(batch) else { return };
                let total = self.batches[&no].total;
                let items: Vec<u32> = (0..total).skip(first.into()).take(count.into()).collect();
                let counts = self.store.cancel_items(no, items.clone()).await.unwrap();
                let sum = counts.never_started + counts.stopping + counts.finished;
                assert_eq!(sum as usize, items.len(), "I7: each item has one answer");
            }
            Step::Letters(ref step) => self.letters(step).await,
            Step::Delete { batch } => self.delete(batch).await,
            Step::Trim => drop(self.store.trim(None).await.unwrap()),
            Step::Reopen => {
                self.reopen();
                for no in self.batches.keys().copied().collect::<Vec<_>>() {
                    self.find(no).await;
                }
            }
        }
        assert!(self.store.counts_are_sound());
    }

    async fn cancel(&mut self, no: BatchNo) {
        let cancelled = self.store.cancel_batch(no, "enough").await;
        self.batches.get_mut(&no).unwrap().open &= cancelled.is_err();
    }

    /// Every item is found by its id, and nothing else is.
    async fn find(&self, no: BatchNo) {
        let seen = &self.batches[&no];
        let all: Vec<_> = (0..seen.known()).collect();
        let id = |&index: &u32| {
            seen.item_id(index)
                .unwrap_or_else(|| index.to_string().into())
        };
        let ids = all.iter().map(id).collect();
        assert_eq!(self.store.indexes(no, ids).await, Ok(all));
        let unknown: Box<str> = match &seen.copies {
            Some(_) => "nobody".into(),
            None => (seen.total + 2).to_string().into(),
        };
        let found = self.store.indexes(no, vec![unknown.clone()]).await;
        assert_eq!(found, Err(StoreError::NoItem(unknown)));
    }

    async fn create(&mut self, id: String, items: u32) {
        let new = new_batch(Some(&id), None, Content::Whole(items_of(items)));
        match self.store.create_batch(new).await {
            Ok(Created::New(batch)) => {
                assert!(
                    self.batches.values().all(|seen| seen.id != id),
                    "{id} was there"
                );
                self.batches.insert(
                    batch.head.no,
                    Seen {
                        id,
                        total: items,
                        ..Seen::default()
                    },
                );
            }
            Ok(Created::Existing(batch)) => {
                let seen = &self.batches[&batch.head.no];
                assert_eq!((&seen.id, seen.total), (&id, items), "I10");
            }
            Err(StoreError::Conflict {
                key: Key::BatchId, ..
            }) => {
                let seen = self
                    .batches
                    .values()
                    .find(|seen| seen.id == id)
                    .expect("taken");
                assert_ne!(seen.total, items, "I10");
            }
            Err(other) => self.assert_full(&other, items),
        }
    }

    /// The only other reason why something of so many items is not let in: there is no room for it, as
    /// far as is known, or a redrive may have taken it.
    fn assert_full(&self, refused: &StoreError, items: u32) {
        assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
        let open = |seen: &Seen| u64::from(seen.total) - seen.journal.len() as u64;
        let open: u64 = self.batches.values().map(open).sum();
        let is_copied = self.batches.values().any(Seen::may_grow_by_itself);
        let most = self.most.expect("nothing else is bounded");
        assert!(open + u64::from(items) > most || is_copied, "{refused:?}");
    }

    fn pick(&self, number: u8) -> Option<BatchNo> {
        let at = usize::from(number) % self.batches.len().max(1);
        self.batches.keys().nth(at).copied()
    }

    fn reopen(&mut self) {
        self.store.close();
        for lease in self.live.drain(..) {
            self.stale
                .push(settlement(&lease, LeaseEnd::Finish(done("stale"))));
        }
        // The old one must let go of its lock first.
        let placeholder = tempfile::tempdir().unwrap();
        drop(std::mem::replace(
            &mut self.store,
            open(&placeholder, self.most),
        ));
        self.store = open(&self.dir, self.most);
    }

    async fn lease(&mut self, want: usize) {
        let leased = self
            .store
            .lease(&QueueName::default(), want, 3)
            .await
            .unwrap();
        assert!(leased.leases.len() <= want);
        for lease in leased.leases {
            let item = lease.token.item;
            assert!(
                self.live.iter().all(|live| live.token.item != item),
                "I3: one holder"
            );
            let journal = &self.batches[&item.batch].journal;
            assert!(
                journal.iter().all(|record| record.index != item.index),
                "I1: it has its result"
            );
            let last = self.attempts.insert(item, lease.token.attempt).unwrap_or(0);
            assert!(lease.token.attempt > last, "attempt numbers never repeat");
            self.live.push(lease);
        }
    }

    async fn settle(&mut self, number: u8, end: LeaseEnd) {
        if self.live.is_empty() {
            return;
        }
        let lease = self.live.swap_remove(usize::from(number) % self.live.len());
        let settled = settlement(&lease, end.clone());
        let verdict = self.store.settle(vec![settled.clone()]).await.unwrap()[0];
        self.look().await;
        let record = |sequence: Sequence| {
            let journal = &self.batches[&lease.token.item.batch].journal;
            let record = &journal[sequence.0 as usize - 1];
            assert_eq!(record.index, lease.token.item.index);
            record.ending.state()
        };
        match (verdict, end) {
            (Verdict::Recorded(at), LeaseEnd::Finish(ending)) => {
                assert_eq!(record(at), ending.state());
            }
            (Verdict::Overruled(at), _) => assert_eq!(record(at), TerminalState::Cancelled),
            (Verdict::Released, LeaseEnd::Release { .. }) => {}
            (verdict, end) => panic!("a live lease was settled with {end:?} as {verdict:?}"),
        }
        self.stale.push(settled);
    }

    async fn settle_stale(&mut self, number: u8) {
        if self.stale.is_empty() {
            return;
        }
        let settled = self.stale[usize::from(number) % self.stale.len()].clone();
        let verdict = self.store.settle(vec![settled]).await.unwrap()[0];
        let harmless = matches!(
            verdict,
            Verdict::Superseded | Verdict::AlreadyMine(_) | Verdict::Gone
        );
        assert!(harmless, "I9: {verdict:?}");
    }

    /// Reads every journal on from where it was read to, and again from its start.
    async fn look(&mut self) {
        for (&no, seen) in &mut self.batches {
            let Page { records, batch } = self.store.read_log(no, Sequence(0)).await.unwrap();
            assert!(
                records.len() >= seen.journal.len(),
                "I2: nothing seen is ever gone"
            );
            assert_eq!(
                records[..seen.journal.len()],
                seen.journal,
                "I1, I4: nothing seen changes"
            );
            seen.grow(&batch);
            assert_eq!(batch.total, seen.total, "I3");
            assert!(batch.tally.terminal() + batch.running <= batch.total, "I6");
            let mut indexes: Vec<_> = records.iter().map(|record| record.index).collect();
            indexes.sort_unstable();
            indexes.dedup();
            assert_eq!(indexes.len(), records.len(), "I1: one record per item");
            for (record, sequence) in records.iter().zip(1..) {
                assert_eq!(record.sequence, Sequence(sequence), "I4: dense");
                assert!(seen.copies.is_some() || record.id == seen.item_id(record.index));
            }
            let over = batch.state.is_terminal();
            assert!(
                !over || records.len() == batch.total as usize,
                "I5: over means all recorded"
            );
            seen.journal = records;
        }
        self.look_at_letters().await;
    }

    /// Seals what is open and computes what is left: everything must end. Then nothing is left.
    async fn end(&mut self) {
        for (&no, seen) in &self.batches {
            // A redrive ends by itself.
            if seen.copies.is_none() {
                self.store.seal(no, seen.total).await.ok();
            }
        }
        while !self.live.is_empty() {
            self.settle(0, LeaseEnd::Finish(done("end"))).await;
        }
        loop {
            self.lease(3).await;
            if self.live.is_empty() && self.all_over().await {
                break;
            }
            while !self.live.is_empty() {
                self.settle(0, LeaseEnd::Finish(done("end"))).await;
            }
        }
        self.look().await;
        self.remove_all().await;
    }

    /// Whether every batch is over, but those that were opened and never had an item.
    async fn all_over(&mut self) -> bool {
        for (&no, seen) in &self.batches {
            let mut hint = self.store.journal_hint(no);
            let batch = self.store.read_log(no, Sequence(0)).await.unwrap().batch;
            let is_copied = batch.state == BatchState::Open && seen.copies.is_some();
            let all_ended = batch.tally.terminal() == batch.total;
            if batch.state == BatchState::Cancelling || (is_copied && all_ended) {
                // Its records, or more of its items, come by themselves.
                hint.changed().await.unwrap();
                return false;
            }
            if !batch.state.is_terminal() && (seen.total > 0 || is_copied) {
                return false;
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_an_invariant(
        most in prop::option::weighted(0.7, 7u64..13),
        begin in prop_oneof![Just(Vec::new()), Just(broken())],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, most);
        let (live, stale) = (Vec::new(), Vec::new());
        let (batches, gone, attempts) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        let mut told = Told { dir, store, most, batches, gone, live, stale, attempts };
        runtime.block_on(async {
            for step in begin.iter().chain(&steps) {
                told.take(step).await;
                told.look().await;
            }
            told.end().await;
        });
        told.store.close();
    }
}
