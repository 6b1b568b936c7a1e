//! Random histories of the verbs, restarts included, against the invariants of the architecture page.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use tempfile::TempDir;

use super::conformance::{done, failed, items as items_of, new_batch, open, settlement};
use super::*;
use crate::base::clock;
use crate::domain::batch::BatchState;
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

/// A step of an upload.
#[derive(Clone, Debug)]
enum UploadStep {
    Open {
        id: u8,
    },
    Append {
        batch: u8,
        items: u8,
    },
    /// Appends items of which the last one has the id of an earlier one, in the chunk or before.
    AppendAgain {
        batch: u8,
        items: u8,
        earlier: u8,
    },
    /// Appends an item that has an id where the others have none, or the other way round.
    AppendMixed {
        batch: u8,
    },
    Seal {
        batch: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let any = || any::<u8>();
    prop_oneof![
        3 => (0u8..6, 1u8..7).prop_map(|(id, items)| Step::Create { id, items }),
        2 => (6u8..12).prop_map(|id| Step::Upload(UploadStep::Open { id })),
        4 => (any(), 1u8..4).prop_map(|(batch, items)| Step::Upload(UploadStep::Append { batch, items })),
        2 => (any(), 0u8..3, any()).prop_map(|(batch, items, earlier)| Step::Upload(UploadStep::AppendAgain { batch, items, earlier })),
        1 => any().prop_map(|batch| Step::Upload(UploadStep::AppendMixed { batch })),
        1 => any().prop_map(|batch| Step::Find { batch }),
        1 => any().prop_map(|batch| Step::Upload(UploadStep::Seal { batch })),
        5 => (1u8..5).prop_map(|want| Step::Lease { want }),
        5 => any().prop_map(|lease| Step::Succeed { lease }),
        1 => any().prop_map(|lease| Step::Fail { lease }),
        2 => any().prop_map(|lease| Step::Release { lease }),
        2 => any().prop_map(|lease| Step::SettleStale { lease }),
        1 => any().prop_map(|batch| Step::CancelBatch { batch }),
        1 => (any(), any(), 1u8..4).prop_map(|(batch, first, count)| Step::CancelItems { batch, first, count }),
        1 => Just(Step::Reopen),
    ]
}

/// What the history has been told so far.
struct Told {
    dir: TempDir,
    store: Store,
    batches: BTreeMap<BatchNo, Seen>,
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
}

impl Seen {
    /// The id of the item at `index`, if it has one: the position of its neighbour.
    fn item_id(&self, index: u32) -> Option<Box<str>> {
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
            Step::Release { lease } => {
                let (due, error) = (clock::now(), failed());
                self.settle(
                    lease,
                    LeaseEnd::Release {
                        due,
                        error,
                        charged: true,
                    },
                )
                .await;
            }
            Step::SettleStale { lease } => self.settle_stale(lease).await,
            Step::CancelBatch { batch } => {
                let Some(no) = self.pick(batch) else { return };
                let cancelled = self.store.cancel_batch(no, "enough").await;
                self.batches.get_mut(&no).unwrap().open &= cancelled.is_err();
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
            Step::Reopen => {
                self.reopen();
                for no in self.batches.keys().copied().collect::<Vec<_>>() {
                    self.find(no).await;
                }
            }
        }
        assert!(self.store.counts_are_sound());
    }

    async fn upload(&mut self, step: &UploadStep) {
        match *step {
            UploadStep::Open { id } => {
                let id = format!("b{id}");
                let new = new_batch(Some(&id), None, Content::Appended(UploadTerms::default()));
                if let Created::New(batch) = self.store.create_batch(new).await.unwrap() {
                    self.batches.insert(
                        batch.head.no,
                        Seen {
                            named: id.bytes().last().is_some_and(|last| last % 2 == 0),
                            id,
                            open: true,
                            ..Seen::default()
                        },
                    );
                }
            }
            UploadStep::Append { batch, items } => {
                let Some(no) = self.pick(batch) else { return };
                let more = self.batches[&no].more(items.into());
                if let Some(total) = self.append(no, more).await {
                    self.batches.get_mut(&no).unwrap().total = total.unwrap();
                }
            }
            UploadStep::AppendAgain {
                batch,
                items,
                earlier,
            } => self.append_again(batch, items.into(), earlier).await,
            UploadStep::AppendMixed { batch } => {
                let Some(no) = self.pick(batch) else { return };
                let seen = &self.batches[&no];
                if seen.total == 0 {
                    return;
                }
                let (mut mixed, index) = (seen.more(1), seen.total);
                mixed[0].id = (!seen.named).then(|| "x".into());
                if let Some(refused) = self.append(no, mixed).await {
                    assert_eq!(refused, Err(StoreError::MixedIds(index)));
                }
            }
            UploadStep::Seal { batch } => {
                let Some(no) = self.pick(batch) else { return };
                // Sealed, over and empty batches refuse it; that changes nothing.
                let sealed = self.store.seal(no, self.batches[&no].total).await;
                self.batches.get_mut(&no).unwrap().open &= sealed.is_err();
            }
        }
    }

    /// Appends behind the last item. `None` if the batch takes no more, which it has said then.
    async fn append(&self, no: BatchNo, items: Vec<ItemSpec>) -> Option<Result<u32, StoreError>> {
        let seen = &self.batches[&no];
        let end = seen.total + u32::try_from(items.len()).unwrap();
        let appended = self.store.append_items(no, seen.total, items.into()).await;
        if !seen.open {
            let closed = [Err(StoreError::Sealed), Err(StoreError::Ended)];
            assert!(closed.contains(&appended), "{appended:?}");
            return None;
        }
        assert!(appended.is_err() || appended == Ok(end), "{appended:?}");
        Some(appended)
    }

    async fn append_again(&mut self, batch: u8, fresh: u32, earlier: u8) {
        let Some(no) = self.pick(batch) else { return };
        let seen = &self.batches[&no];
        let index = seen.total + fresh;
        if !seen.named || index == 0 {
            return;
        }
        let first = u32::from(earlier) % index;
        let mut items = seen.more(fresh + 1);
        let id = seen.item_id(first);
        items.last_mut().unwrap().id.clone_from(&id);
        let id = id.expect("it is named");
        if let Some(refused) = self.append(no, items).await {
            assert_eq!(refused, Err(StoreError::DuplicateId { index, first, id }));
        }
    }

    /// Every item is found by its id, and nothing else is.
    async fn find(&self, no: BatchNo) {
        let seen = &self.batches[&no];
        let all: Vec<_> = (0..seen.total).collect();
        let id = |&index: &u32| {
            seen.item_id(index)
                .unwrap_or_else(|| index.to_string().into())
        };
        let ids = all.iter().map(id).collect();
        assert_eq!(self.store.indexes(no, ids).await, Ok(all));
        let unknown: Box<str> = (seen.total + 2).to_string().into();
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
            Err(other) => panic!("{other:?}"),
        }
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
        drop(std::mem::replace(&mut self.store, open(&placeholder)));
        self.store = open(&self.dir);
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
            assert_eq!(batch.total, seen.total, "I3");
            assert!(batch.tally.terminal() + batch.running <= batch.total, "I6");
            let mut indexes: Vec<_> = records.iter().map(|record| record.index).collect();
            indexes.sort_unstable();
            indexes.dedup();
            assert_eq!(indexes.len(), records.len(), "I1: one record per item");
            for (record, sequence) in records.iter().zip(1..) {
                assert_eq!(record.sequence, Sequence(sequence), "I4: dense");
                assert_eq!(record.id, seen.item_id(record.index));
            }
            let over = batch.state.is_terminal();
            assert!(
                !over || records.len() == batch.total as usize,
                "I5: over means all recorded"
            );
            seen.journal = records;
        }
    }

    /// Seals what is open and computes what is left: everything must end.
    async fn end(&mut self) {
        for (&no, seen) in &self.batches {
            self.store.seal(no, seen.total).await.ok();
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
    }

    /// Whether every batch is over, but those that were opened and never had an item.
    async fn all_over(&mut self) -> bool {
        for (&no, seen) in &self.batches {
            let mut hint = self.store.journal_hint(no);
            let batch = self.store.read_log(no, Sequence(0)).await.unwrap().batch;
            if batch.state == BatchState::Cancelling {
                // Its records come by themselves.
                hint.changed().await.unwrap();
                return false;
            }
            if !batch.state.is_terminal() && seen.total > 0 {
                return false;
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_an_invariant(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let (live, stale) = (Vec::new(), Vec::new());
        let mut told = Told { dir, store, batches: BTreeMap::new(), live, stale, attempts: HashMap::new() };
        runtime.block_on(async {
            for step in &steps {
                told.take(step).await;
                told.look().await;
            }
            told.end().await;
        });
        told.store.close();
    }
}
