//! The suite that every keeper must pass. It speaks to the verbs alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::base::clock::{self, Timestamp};
use crate::base::{entropy, limits};
use crate::domain::attempt::Reason;
use crate::domain::batch::BatchState;
use crate::domain::fingerprint::fingerprint;
use crate::domain::item::TerminalState;
use crate::domain::pause::Pause;
use crate::domain::payload::Payload;

/// A store in a directory of its own, which can be closed and opened again.
pub(super) struct Fixture {
    dir: TempDir,
    pub(super) store: Store,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        Self { dir, store }
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Closes in order and opens again.
    pub(super) fn reopen(self) -> Self {
        let Self { dir, store } = self;
        store.close();
        drop(store);
        let store = open(&dir);
        Self { dir, store }
    }

    pub(super) async fn upload(&self, id: &str) -> Batch {
        let content = Content::Appended(UploadTerms::default());
        let created = self.store.create_batch(new_batch(Some(id), None, content));
        let Created::New(batch) = created.await.unwrap() else {
            panic!("it is new")
        };
        batch
    }

    /// Appends items with these names and answers how many the batch has then.
    pub(super) async fn append_named(
        &self,
        batch: &Batch,
        first: u32,
        names: impl IntoIterator<Item = String>,
    ) -> Result<u32, StoreError> {
        let item = |name: String| ItemSpec {
            id: Some(name.into()),
            ..ItemSpec::default()
        };
        let items: Vec<_> = names.into_iter().map(item).collect();
        self.store
            .append_items(batch.head.no, first, items.into())
            .await
    }

    pub(super) async fn index(&self, batch: &Batch, id: &str) -> Result<u32, StoreError> {
        let found = self.store.indexes(batch.head.no, vec![id.into()]).await;
        found.map(|indexes| indexes[0])
    }

    pub(super) async fn create(&self, id: &str, items: u32) -> Batch {
        match self.store.create_batch(batch(id, items)).await.unwrap() {
            Created::New(batch) => batch,
            Created::Existing(batch) => panic!("{batch:?} was there"),
        }
    }

    pub(super) async fn lease(&self, want: usize) -> Vec<Lease> {
        self.store
            .lease(&QueueName::default(), want, 3)
            .await
            .unwrap()
            .leases
    }

    /// Leases one item and settles it.
    pub(super) async fn finish_one(&self, ending: Ending) -> (LeaseToken, Verdict) {
        let lease = self.lease(1).await.remove(0);
        (
            lease.token,
            self.settle(settlement(&lease, LeaseEnd::Finish(ending)))
                .await,
        )
    }

    pub(super) async fn settle(&self, settlement: Settlement) -> Verdict {
        self.store.settle(vec![settlement]).await.unwrap()[0]
    }

    pub(super) async fn records(&self, batch: &Batch, after: u32) -> Vec<Record> {
        self.store
            .read_log(batch.head.no, Sequence(after))
            .await
            .unwrap()
            .records
    }

    pub(super) async fn state(&self, id: &str) -> BatchState {
        self.store
            .batch(&BatchId::parse(id).unwrap().into())
            .await
            .unwrap()
            .state
    }
}

pub(crate) fn open(dir: &TempDir) -> Store {
    Store::open(&StoreOptions::new(dir.path().to_owned()))
        .unwrap()
        .0
}

pub(crate) fn items(count: u32) -> Vec<ItemSpec> {
    (0..count)
        .map(|i| ItemSpec {
            input: Payload::text(i.to_string()),
            ..ItemSpec::default()
        })
        .collect()
}

fn batch(id: &str, count: u32) -> NewBatch {
    new_batch(Some(id), None, Content::Whole(items(count)))
}

pub(crate) fn new_batch(id: Option<&str>, request_id: Option<&str>, content: Content) -> NewBatch {
    let (queue, options) = (QueueName::default(), BatchOptions::default());
    let hashed = match &content {
        Content::Whole(items) => fingerprint(None, &options, items),
        Content::Appended(_) | Content::Copied(_) => fingerprint(None, &options, &[]),
    };
    NewBatch {
        tenant: Tenant::default(),
        id: id.map(|id| BatchId::parse(id).unwrap()),
        request_id: request_id.map(|id| RequestId::parse(id).unwrap()),
        uid: BatchUid(entropy::uuid()),
        queue,
        options,
        on_disconnect: OnDisconnect::Continue,
        fingerprint: hashed,
        content,
    }
}

pub(crate) fn settlement(lease: &Lease, end: LeaseEnd) -> Settlement {
    Settlement {
        token: lease.token,
        head: Arc::clone(&lease.head),
        id: lease.spec.as_ref().unwrap().id.clone(),
        end,
        finish_by: lease.spec.as_ref().unwrap().finish_by,
        spent: lease.spent + 1,
        worker: "w".into(),
        queued: Duration::from_millis(3),
        started: clock::now(),
        ran: Duration::from_millis(5),
    }
}

/// The key that a submit was refused for.
fn refused_key(error: &StoreError) -> Option<Key> {
    if let StoreError::Conflict { key, .. } = error {
        Some(*key)
    } else {
        None
    }
}

pub(super) fn done(text: &str) -> Ending {
    Ending::Succeeded(Payload::text(text))
}

pub(super) fn failed() -> ItemError {
    ItemError::handler("EXIT_1", "no", true)
}

fn again(due: Timestamp) -> LeaseEnd {
    LeaseEnd::Release {
        due,
        error: failed(),
        charge: Charge::Attempt,
    }
}

#[tokio::test]
async fn an_item_goes_from_accept_to_record() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 2).await;
    assert_eq!((batch.state, batch.total), (BatchState::Running, 2));
    let leases = fixture.lease(5).await;
    assert_eq!(leases.len(), 2);
    assert_eq!(leases[1].spec.as_ref().unwrap().input, Payload::text("1"));
    let verdict = fixture
        .settle(settlement(&leases[1], LeaseEnd::Finish(done("one"))))
        .await;
    assert_eq!(verdict, Verdict::Recorded(Sequence(1)));
    let verdict = fixture
        .settle(settlement(&leases[0], LeaseEnd::Finish(done("zero"))))
        .await;
    assert_eq!(verdict, Verdict::Recorded(Sequence(2)));
    let records = fixture.records(&batch, 0).await;
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.sequence.0, record.index))
        .collect();
    assert_eq!(told, [(1, 1), (2, 0)]);
    assert_eq!(
        (records[0].ending.clone(), records[0].attempts),
        (done("one"), 1)
    );
    assert_eq!(fixture.state("b").await, BatchState::Completed);
}

#[tokio::test]
async fn reading_goes_on_from_every_position() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 5).await;
    for _ in 0..5 {
        fixture.finish_one(done("x")).await;
    }
    let whole = fixture.records(&batch, 0).await;
    let fixture = fixture.reopen();
    for after in 0..=5 {
        assert_eq!(
            fixture.records(&batch, after).await,
            whole[after as usize..],
            "after {after}"
        );
    }
}

#[tokio::test]
async fn an_equal_submit_attaches_and_another_is_refused() {
    let fixture = Fixture::new();
    let first = fixture.create("b", 2).await;
    for again in [batch("b", 2), batch("b", 2)] {
        let Created::Existing(found) = fixture.store.create_batch(again).await.unwrap() else {
            panic!()
        };
        assert_eq!(found.head.uid, first.head.uid);
    }
    let other = fixture.store.create_batch(batch("b", 3)).await.unwrap_err();
    assert_eq!(refused_key(&other), Some(Key::BatchId));
    assert_eq!(fixture.lease(9).await.len(), 2, "nothing was added");
}

#[tokio::test]
async fn two_equal_submits_at_once_create_one_batch() {
    let fixture = Fixture::new();
    let submits = (0..8).map(|_| fixture.store.create_batch(batch("b", 1)));
    let created = futures_util::future::join_all(submits).await;
    let new = created
        .iter()
        .filter(|one| matches!(one, Ok(Created::New(_))))
        .count();
    assert_eq!(new, 1);
    assert_eq!(fixture.lease(9).await.len(), 1);
}

#[tokio::test]
async fn every_key_must_name_the_same_batch() {
    let fixture = Fixture::new();
    let submit = |id, request| new_batch(id, request, Content::Whole(items(1)));
    let create = |batch| fixture.store.create_batch(batch);
    create(submit(Some("a"), Some("ra"))).await.unwrap();
    create(submit(Some("b"), None)).await.unwrap();
    let cases = [
        (Some("a"), Some("ra"), None),
        (Some("a"), None, None),
        (None, Some("ra"), None),
        (Some("b"), Some("ra"), Some(Key::RequestId)),
        (Some("b"), Some("new"), Some(Key::RequestId)),
        (Some("c"), Some("ra"), Some(Key::BatchId)),
    ];
    for (id, request, refused) in cases {
        match (create(submit(id, request)).await, refused) {
            (Ok(Created::Existing(_)), None) => {}
            (Err(error), Some(key)) => {
                assert_eq!(refused_key(&error), Some(key), "{id:?} {request:?}");
            }
            (other, _) => panic!("{id:?} {request:?}: {other:?}"),
        }
    }
    let appended = create(new_batch(
        Some("a"),
        None,
        Content::Appended(UploadTerms::default()),
    ))
    .await
    .unwrap_err();
    assert_eq!(
        refused_key(&appended),
        Some(Key::BatchId),
        "another way of coming is other content"
    );
}

#[tokio::test]
async fn an_item_has_at_most_one_record() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 1).await;
    let lease = fixture.lease(1).await.remove(0);
    let finish = settlement(&lease, LeaseEnd::Finish(done("first")));
    let other = settlement(&lease, LeaseEnd::Finish(Ending::Failed(failed())));
    // Both in one group: the check must see what the group has staged.
    let verdicts = fixture
        .store
        .settle(vec![finish.clone(), other])
        .await
        .unwrap();
    assert_eq!(verdicts[0], Verdict::Recorded(Sequence(1)));
    assert_eq!(
        fixture.settle(finish.clone()).await,
        Verdict::AlreadyMine(Sequence(1))
    );
    let mut stranger = finish;
    stranger.token.nonce ^= 1;
    assert_eq!(fixture.settle(stranger).await, Verdict::Superseded);
    assert_eq!(fixture.records(&batch, 0).await.len(), 1);
}

#[tokio::test]
async fn a_stale_lease_can_never_change_a_result() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 1).await;
    let stale = fixture.lease(1).await.remove(0);
    assert_eq!(
        fixture
            .settle(settlement(&stale, again(clock::now())))
            .await,
        Verdict::Released
    );
    let late = settlement(&stale, LeaseEnd::Finish(done("late")));
    assert_eq!(
        fixture.settle(late.clone()).await,
        Verdict::Superseded,
        "it is pending"
    );
    let lease = fixture.lease(1).await.remove(0);
    assert_eq!((lease.token.attempt, lease.spent), (2, 1));
    assert_eq!(
        fixture.settle(late.clone()).await,
        Verdict::Superseded,
        "another holds it"
    );
    fixture
        .settle(settlement(&lease, LeaseEnd::Finish(done("right"))))
        .await;
    assert_eq!(
        fixture.settle(late).await,
        Verdict::Superseded,
        "it is terminal"
    );
    assert_eq!(fixture.records(&batch, 0).await[0].ending, done("right"));
}

#[tokio::test]
async fn a_backoff_and_its_attempts_survive_a_restart() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 1).await;
    let lease = fixture.lease(1).await.remove(0);
    let due = clock::now().plus(Duration::from_secs(3600));
    fixture.settle(settlement(&lease, again(due))).await;
    let fixture = fixture.reopen();
    let leased = fixture
        .store
        .lease(&QueueName::default(), 1, 3)
        .await
        .unwrap();
    assert!(leased.leases.is_empty(), "it is not due yet");
    assert_eq!(leased.next_due, Some(due));
    let view = fixture.store.item(batch.head.no, 0, false).await.unwrap();
    assert_eq!((view.next_due, view.past.len()), (Some(due), 1));
    assert_eq!(view.past[0].error, Some(failed()));
}

#[tokio::test]
async fn what_was_running_when_the_store_closed_is_pending_with_a_crash_mark() {
    let fixture = Fixture::new();
    fixture.create("b", 2).await;
    let leases = fixture.lease(2).await;
    fixture
        .settle(settlement(&leases[0], LeaseEnd::Finish(done("x"))))
        .await;
    let fixture = fixture.reopen();
    let again = fixture.lease(5).await;
    let told: Vec<_> = again
        .iter()
        .map(|lease| (lease.token.item.index, lease.token.attempt))
        .collect();
    assert_eq!(told, [(1, 2)], "attempt numbers never repeat");
    assert_eq!(
        (again[0].spent, again[0].crashes),
        (0, 1),
        "nothing is charged"
    );
    let late = settlement(&leases[1], LeaseEnd::Finish(done("late")));
    assert_eq!(fixture.settle(late).await, Verdict::Superseded);
}

#[tokio::test]
async fn a_cancel_before_the_first_attempt_records_every_item() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 2500).await;
    let counts = fixture
        .store
        .cancel_batch(batch.head.no, "enough")
        .await
        .unwrap();
    assert_eq!(
        counts,
        CancelCounts {
            never_started: 2500,
            ..CancelCounts::default()
        }
    );
    assert!(
        fixture.lease(5).await.is_empty(),
        "once it answers, nothing starts"
    );
    let mut hint = fixture.store.journal_hint(batch.head.no);
    while fixture.state("b").await != BatchState::Cancelled {
        hint.changed().await.unwrap();
    }
    let mut seen = BTreeSet::new();
    while let Some(record) = fixture
        .records(&batch, u32::try_from(seen.len()).unwrap())
        .await
        .first()
    {
        assert_eq!(record.sequence.0 as usize, seen.len() + 1);
        for record in fixture
            .records(&batch, u32::try_from(seen.len()).unwrap())
            .await
        {
            assert_eq!(
                record.ending.error().unwrap().reason,
                Reason::BATCH_CANCELLED.name.into()
            );
            assert!(seen.insert(record.index));
        }
    }
    assert_eq!(seen.len(), 2500);
    let again = fixture.store.cancel_batch(batch.head.no, "").await.unwrap();
    assert_eq!(again.finished, 2500, "a cancel may be repeated");
}

#[tokio::test]
async fn a_cancel_and_a_completion_settle_item_by_item() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 4).await;
    let leases = fixture.lease(3).await;
    fixture
        .settle(settlement(&leases[0], LeaseEnd::Finish(done("before"))))
        .await;
    let counts = fixture
        .store
        .cancel_batch(batch.head.no, "stop")
        .await
        .unwrap();
    assert_eq!(
        counts,
        CancelCounts {
            never_started: 1,
            stopping: 2,
            finished: 1
        }
    );
    assert!(leases[1].stop.is_cancelled() && leases[2].stop.is_cancelled());
    let well = fixture
        .settle(settlement(&leases[1], LeaseEnd::Finish(done("after"))))
        .await;
    assert!(
        matches!(well, Verdict::Recorded(_)),
        "one that ends well still succeeds"
    );
    let badly = fixture
        .settle(settlement(&leases[2], again(clock::now())))
        .await;
    assert!(
        matches!(badly, Verdict::Overruled(_)),
        "one that does not is cancelled, not tried again"
    );
    let mut hint = fixture.store.journal_hint(batch.head.no);
    while fixture.state("b").await != BatchState::Cancelled {
        hint.changed().await.unwrap();
    }
    let mut states: Vec<_> = fixture
        .records(&batch, 0)
        .await
        .iter()
        .map(|one| (one.index, one.ending.state()))
        .collect();
    states.sort_by_key(|(index, _)| *index);
    let (well, not) = (TerminalState::Succeeded, TerminalState::Cancelled);
    assert_eq!(states, [(0, well), (1, well), (2, not), (3, not)]);
}

#[tokio::test]
async fn a_cancel_goes_on_after_a_restart() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 3).await;
    let leases = fixture.lease(1).await;
    fixture
        .store
        .cancel_batch(batch.head.no, "stop")
        .await
        .unwrap();
    drop(leases);
    let fixture = fixture.reopen();
    let mut hint = fixture.store.journal_hint(batch.head.no);
    while fixture.state("b").await != BatchState::Cancelled {
        hint.changed().await.unwrap();
    }
    assert_eq!(fixture.records(&batch, 0).await.len(), 3);
}

#[tokio::test]
async fn single_items_are_cancelled_and_the_others_go_on() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 4).await;
    let leases = fixture.lease(2).await;
    fixture
        .settle(settlement(&leases[0], LeaseEnd::Finish(done("x"))))
        .await;
    let counts = fixture
        .store
        .cancel_items(batch.head.no, vec![0, 1, 2])
        .await
        .unwrap();
    assert_eq!(
        counts,
        CancelCounts {
            never_started: 1,
            stopping: 1,
            finished: 1
        }
    );
    let verdict = fixture
        .settle(settlement(&leases[1], again(clock::now())))
        .await;
    assert!(matches!(verdict, Verdict::Overruled(_)));
    let rest: Vec<_> = fixture
        .lease(9)
        .await
        .iter()
        .map(|lease| lease.token.item.index)
        .collect();
    assert_eq!(rest, [3]);
    assert_eq!(fixture.state("b").await, BatchState::Running);
}

#[tokio::test]
async fn an_item_cancelled_while_it_ran_stays_so_over_a_restart() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 2).await;
    fixture.lease(1).await;
    fixture
        .store
        .cancel_items(batch.head.no, vec![0])
        .await
        .unwrap();
    let fixture = fixture.reopen();
    let records = fixture.records(&batch, 0).await;
    assert_eq!(
        (records[0].index, records[0].ending.state()),
        (0, TerminalState::Cancelled)
    );
    assert_eq!(fixture.lease(9).await.len(), 1);
}

#[tokio::test]
async fn a_paused_batch_starts_nothing_until_it_is_resumed() {
    let mut fixture = Fixture::new();
    let batch = fixture.create("a", 3).await;
    let no = batch.head.no;
    let running = fixture.lease(1).await.remove(0);
    let paused = fixture.store.pause_batch(no, "too hot").await.unwrap();
    assert_eq!(paused.paused, Some(Pause::by_hand("too hot")));
    assert_eq!(fixture.lease(9).await.len(), 0);
    let settled = fixture
        .store
        .settle(vec![settlement(&running, LeaseEnd::Finish(done("x")))]);
    assert_eq!(settled.await.unwrap(), [Verdict::Recorded(Sequence(1))]);
    fixture = fixture.reopen();
    assert_eq!(fixture.lease(9).await.len(), 0, "a pause is durable");
    let found = fixture.store.batch(&batch.head.name()).await.unwrap();
    assert_eq!(found.paused, paused.paused);
    let resumed = fixture.store.resume_batch(no).await.unwrap();
    assert_eq!(resumed.paused, None);
    let last = fixture.lease(2).await;
    fixture.store.pause_batch(no, "late").await.unwrap();
    for lease in &last {
        fixture
            .settle(settlement(lease, LeaseEnd::Finish(done("x"))))
            .await;
    }
    let over = fixture.store.batch(&batch.head.name()).await.unwrap();
    assert_eq!((over.state, over.paused), (BatchState::Completed, None));
    let over = fixture.store.pause_batch(no, "").await;
    assert_eq!(over.unwrap_err(), StoreError::Ended);
}

#[tokio::test]
async fn appended_items_run_at_once_and_the_seal_ends_the_batch() {
    let fixture = Fixture::new();
    let Created::New(batch) = fixture
        .store
        .create_batch(new_batch(
            Some("u"),
            None,
            Content::Appended(UploadTerms::default()),
        ))
        .await
        .unwrap()
    else {
        panic!()
    };
    let no = batch.head.no;
    assert_eq!(
        fixture.store.append_items(no, 0, items(2).into()).await,
        Ok(2)
    );
    assert_eq!(
        fixture.store.append_items(no, 5, items(1).into()).await,
        Err(StoreError::WrongCount(2))
    );
    for _ in 0..2 {
        fixture.finish_one(done("x")).await;
    }
    assert_eq!(fixture.state("u").await, BatchState::Open, "more may come");
    assert_eq!(
        fixture.store.append_items(no, 2, items(1).into()).await,
        Ok(3)
    );
    assert_eq!(
        fixture.store.seal(no, 2).await.unwrap_err(),
        StoreError::WrongCount(3)
    );
    assert_eq!(
        fixture.store.seal(no, 3).await.unwrap().state,
        BatchState::Running
    );
    assert_eq!(
        fixture.store.append_items(no, 3, items(1).into()).await,
        Err(StoreError::Sealed)
    );
    fixture.finish_one(done("x")).await;
    assert_eq!(fixture.state("u").await, BatchState::Completed);
    assert_eq!(
        fixture.store.append_items(no, 3, items(1).into()).await,
        Err(StoreError::Ended)
    );
}

#[tokio::test]
async fn stored_items_are_read_in_pieces_however_large_they_are() {
    let fixture = Fixture::new();
    let batch = fixture.upload("u").await;
    let large = ItemSpec::new(vec![0; limits::SPECS_BYTES_MAX]);
    let items = vec![large.clone(), large, ItemSpec::new("small")];
    let no = batch.head.no;
    fixture
        .store
        .append_items(no, 0, items.into())
        .await
        .unwrap();
    for (first, read) in [(0, 1), (1, 1), (2, 1)] {
        let specs = fixture.store.specs(no, first, 3 - first).await.unwrap();
        assert_eq!(specs.len(), read, "{first}");
    }
}

#[tokio::test]
async fn no_id_comes_twice_in_an_upload_however_long_it_is() {
    let mut fixture = Fixture::new();
    let batch = fixture.upload("u").await;
    let run = u32::try_from(limits::ID_RUN_ITEMS).unwrap();
    let name = |index: u32| format!("n-{index}");
    let mut total = 0;
    // Past a run's end, so that some are in a run, some in memory, and some come later.
    while total < run + 5_000 {
        let chunk = (total..total + 5_000).map(name);
        total = fixture.append_named(&batch, total, chunk).await.unwrap();
    }
    for reopened in [false, true] {
        if reopened {
            fixture = fixture.reopen();
        }
        for index in [0, run - 1, run, run + 1, total - 1] {
            let repeated = [name(total), name(index)];
            let refused = StoreError::DuplicateId {
                index: total + 1,
                first: index,
                id: name(index).into(),
            };
            assert_eq!(
                fixture.append_named(&batch, total, repeated).await,
                Err(refused)
            );
            assert_eq!(fixture.index(&batch, &name(index)).await, Ok(index));
        }
        assert_eq!(
            fixture.index(&batch, &name(total)).await,
            Err(StoreError::NoItem(name(total).into())),
            "a refused chunk changes nothing"
        );
        assert_eq!(
            fixture.index(&batch, "7").await,
            Err(StoreError::NoItem("7".into())),
            "items with names have no other"
        );
    }
    fixture.store.seal(batch.head.no, total).await.unwrap();
    for index in [0, run, total - 1] {
        assert_eq!(fixture.index(&batch, &name(index)).await, Ok(index));
    }
}

#[tokio::test]
async fn an_upload_has_names_for_all_its_items_or_for_none() {
    let mut fixture = Fixture::new();
    let (named, bare) = (fixture.upload("named").await, fixture.upload("bare").await);
    let one = || ["a".to_owned()];
    fixture.append_named(&named, 0, one()).await.unwrap();
    let append = fixture.store.append_items(bare.head.no, 0, items(1).into());
    assert_eq!(append.await, Ok(1));
    for reopened in [false, true] {
        if reopened {
            fixture = fixture.reopen();
        }
        let append = fixture
            .store
            .append_items(named.head.no, 1, items(1).into());
        assert_eq!(append.await, Err(StoreError::MixedIds(1)));
        assert_eq!(
            fixture.append_named(&bare, 1, one()).await,
            Err(StoreError::MixedIds(1))
        );
        assert_eq!(fixture.index(&bare, "0").await, Ok(0));
    }
    let twice = ["b", "c", "b"].map(str::to_owned);
    let refused = StoreError::DuplicateId {
        index: 3,
        first: 1,
        id: "b".into(),
    };
    assert_eq!(fixture.append_named(&named, 1, twice).await, Err(refused));
}

#[tokio::test]
async fn the_names_of_a_cancelled_upload_are_still_found() {
    let fixture = Fixture::new();
    let batch = fixture.upload("u").await;
    let names = ["a", "b"].map(str::to_owned);
    fixture.append_named(&batch, 0, names).await.unwrap();
    fixture.store.cancel_batch(batch.head.no, "").await.unwrap();
    assert_eq!(fixture.index(&batch, "b").await, Ok(1));
    let fixture = fixture.reopen();
    assert_eq!(fixture.index(&batch, "b").await, Ok(1));
}

#[tokio::test]
async fn a_seal_behind_the_last_finish_ends_the_batch() {
    let fixture = Fixture::new();
    let Created::New(batch) = fixture
        .store
        .create_batch(new_batch(
            Some("u"),
            None,
            Content::Appended(UploadTerms::default()),
        ))
        .await
        .unwrap()
    else {
        panic!()
    };
    fixture
        .store
        .append_items(batch.head.no, 0, items(1).into())
        .await
        .unwrap();
    fixture.finish_one(done("x")).await;
    let fixture = fixture.reopen();
    fixture.store.seal(batch.head.no, 1).await.unwrap();
    assert_eq!(fixture.state("u").await, BatchState::Completed);
}

#[tokio::test]
async fn items_are_found_by_the_names_their_caller_gave() {
    let fixture = Fixture::new();
    let named = |name: &str| ItemSpec {
        id: Some(name.into()),
        ..ItemSpec::default()
    };
    let content = Content::Whole(vec![named("z"), named("7"), named("a/ä")]);
    fixture
        .store
        .create_batch(new_batch(Some("n"), None, content))
        .await
        .unwrap();
    let named = fixture
        .store
        .batch(&BatchId::parse("n").unwrap().into())
        .await
        .unwrap()
        .head
        .no;
    let plain = fixture.create("p", 3).await.head.no;
    let find = |no, id: &str| fixture.store.indexes(no, vec![id.into()]);
    assert_eq!(find(named, "a/ä").await, Ok(vec![2]));
    assert_eq!(find(named, "7").await, Ok(vec![1]));
    assert_eq!(
        find(named, "0").await,
        Err(StoreError::NoItem("0".into())),
        "names, not positions"
    );
    assert_eq!(find(plain, "2").await, Ok(vec![2]));
    for unknown in ["3", "02", "x", ""] {
        assert_eq!(
            find(plain, unknown).await,
            Err(StoreError::NoItem(unknown.into()))
        );
    }
}

#[tokio::test]
async fn counts_always_sum_to_the_total() {
    let fixture = Fixture::new();
    fixture.create("b", 5).await;
    let name = BatchId::parse("b").unwrap().into();
    for round in 0..5 {
        let leases = fixture.lease(1).await;
        let batch = fixture.store.batch(&name).await.unwrap();
        assert_eq!((batch.running, batch.tally.terminal()), (1, round));
        fixture
            .settle(settlement(&leases[0], LeaseEnd::Finish(done("x"))))
            .await;
    }
}

#[tokio::test]
async fn a_closed_store_refuses_and_says_so() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 1).await;
    fixture.store.close();
    let refused = fixture
        .store
        .create_batch(self::batch("c", 1))
        .await
        .unwrap_err();
    assert_eq!(refused, StoreError::Closed);
    let refused = fixture
        .store
        .read_log(batch.head.no, Sequence(0))
        .await
        .unwrap_err();
    assert_eq!(refused, StoreError::Closed);
}
