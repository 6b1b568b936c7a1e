//! Part of the suite that every keeper must pass: items whose own time is over, items that run at most
//! once, and what is told of the attempts of both.

use std::time::Duration;

use super::conformance::{Fixture, done, failed, items, new_batch, settlement};
use super::*;
use crate::base::{clock, limits};
use crate::domain::batch::BatchState;
use crate::domain::item::{ItemTime, TerminalState};

/// Long over, and not over for long.
const PAST: Timestamp = Timestamp(1);

fn soon() -> Timestamp {
    clock::now().plus(Duration::from_secs(3600))
}

/// Waits until that time has passed.
pub(crate) async fn until(at: Timestamp) {
    while clock::now() <= at {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Does something that must be done before a time, with a time far enough away for a slow machine: the
/// time, and what was made of it.
pub(crate) async fn in_time<T>(set_up: impl AsyncFn(Timestamp) -> T) -> (Timestamp, T) {
    let mut far = Duration::from_millis(50);
    loop {
        let at = clock::now().plus(far);
        let world = set_up(at).await;
        if clock::now() < at {
            return (at, world);
        }
        far *= 2;
    }
}

/// A batch of items with a time, so many of which are leased before it has passed.
async fn leased(
    count: u32,
    want: usize,
    with: impl Fn(ItemSpec, Timestamp) -> ItemSpec,
) -> (Fixture, Batch, Vec<Lease>, Timestamp) {
    let (at, (fixture, batch, leases)) = in_time(async |at| {
        let fixture = Fixture::new();
        let batch = plain(&fixture, changed(count, |item| with(item, at))).await;
        let leases = fixture.lease(want).await;
        (fixture, batch, leases)
    })
    .await;
    (fixture, batch, leases, at)
}

/// So many items, changed each.
fn changed(count: u32, change: impl Fn(ItemSpec) -> ItemSpec) -> Vec<ItemSpec> {
    items(count).into_iter().map(change).collect()
}

fn stale(item: ItemSpec) -> ItemSpec {
    item.with_start_by(PAST)
}

async fn create(fixture: &Fixture, options: BatchOptions, items: Vec<ItemSpec>) -> Batch {
    let mut new = new_batch(Some("b"), None, Content::Whole(items));
    new.options = options;
    match fixture.store.create_batch(new).await.unwrap() {
        Created::New(batch) => batch,
        Created::Existing(batch) => panic!("{batch:?} was there"),
    }
}

async fn plain(fixture: &Fixture, items: Vec<ItemSpec>) -> Batch {
    create(fixture, BatchOptions::default(), items).await
}

fn once() -> BatchOptions {
    BatchOptions {
        at_most_once: true,
        ..BatchOptions::default()
    }
}

/// Each item's state, why, and the attempts charged to it, in the order of their ends.
async fn fates(fixture: &Fixture, batch: &Batch) -> Vec<(TerminalState, String, u32)> {
    let records = fixture.records(batch, 0).await;
    let fate = |record: &Record| {
        let reason = record.ending.error().map(|error| error.reason.to_string());
        let reason = reason.unwrap_or_default();
        (record.ending.state(), reason, record.attempts)
    };
    records.iter().map(fate).collect()
}

fn expired(reason: &str, attempts: u32) -> (TerminalState, String, u32) {
    (TerminalState::Expired, reason.to_owned(), attempts)
}

fn again(due: Timestamp) -> LeaseEnd {
    LeaseEnd::Release {
        due,
        error: failed(),
        charge: Charge::Attempt,
    }
}

/// What is told of an item's attempts: their numbers and how they ended.
async fn attempts(fixture: &Fixture, batch: &Batch, index: u32) -> Vec<(u32, String)> {
    let view = fixture.store.item(batch.head.no, index, false).await;
    let told = |past: &PastAttempt| {
        let reason = past.error.as_ref().map(|error| error.reason.to_string());
        assert!(past.started <= past.ended || past.ended.is_none());
        (past.number, reason.unwrap_or_default())
    };
    view.unwrap().past.iter().map(told).collect()
}

fn told(number: u32, reason: &str) -> (u32, String) {
    (number, reason.to_owned())
}

#[tokio::test]
async fn what_waits_beyond_its_time_expires_paused_or_not_and_after_a_restart() {
    let count = u32::try_from(limits::SWEEP_ITEMS_MAX).unwrap() + 7;
    for (paused, reopened) in [(false, false), (true, false), (true, true)] {
        let mut fixture = Fixture::new();
        let batch = plain(&fixture, changed(count, stale)).await;
        if paused {
            fixture.store.pause_batch(batch.head.no, "").await.unwrap();
        }
        if reopened {
            fixture = fixture.reopen();
        }
        fixture.store.end_overdue().await.unwrap();
        assert_eq!(fixture.state("b").await, BatchState::Completed);
        let page = fixture.store.read_log(batch.head.no, Sequence(0)).await;
        let batch = page.unwrap().batch;
        assert_eq!(batch.tally.expired, count);
        assert_eq!(batch.failures.reasons["START_BY"], count);
        assert_eq!(attempts(&fixture, &batch, 0).await, []);
    }
}

#[tokio::test]
async fn an_upload_s_items_have_times_too() {
    let fixture = Fixture::new();
    let batch = fixture.upload("b").await;
    let chunk = changed(2, stale).into();
    fixture
        .store
        .append_items(batch.head.no, 0, chunk)
        .await
        .unwrap();
    fixture.store.end_overdue().await.unwrap();
    assert_eq!(
        fates(&fixture, &batch).await,
        [expired("START_BY", 0), expired("START_BY", 0)]
    );
    assert_eq!(fixture.state("b").await, BatchState::Open);
}

#[tokio::test]
async fn a_stale_item_takes_nobodys_place_and_leaves_no_trace() {
    let fixture = Fixture::new();
    let mut items = changed(9, stale);
    items.extend([
        ItemSpec::new("fresh").with_start_by(soon()),
        ItemSpec::new("late").with_finish_by(PAST),
        ItemSpec::new("other"),
    ]);
    let batch = plain(&fixture, items).await;
    let leases = fixture.lease(1).await;
    assert_eq!(leases[0].token.item.index, 9);
    let expired_first = vec![expired("START_BY", 0); 9];
    assert_eq!(fates(&fixture, &batch).await, expired_first);
    let leases = fixture.lease(5).await;
    let indexes: Vec<_> = leases.iter().map(|lease| lease.token.item.index).collect();
    assert_eq!(indexes, [11]);
    assert_eq!(
        fates(&fixture, &batch).await[9..],
        [expired("FINISH_BY", 0)]
    );
    // Their rows mean nothing any more, and nothing else is over.
    fixture.store.end_overdue().await.unwrap();
    assert_eq!(fates(&fixture, &batch).await.len(), 10);
}

#[tokio::test]
async fn start_by_concerns_the_first_attempt_alone() {
    for reopened in [false, true] {
        let (mut fixture, batch, leases, at) = leased(2, 1, ItemSpec::with_start_by).await;
        fixture.settle(settlement(&leases[0], again(PAST))).await;
        if reopened {
            fixture = fixture.reopen();
        }
        until(at).await;
        fixture.store.end_overdue().await.unwrap();
        assert_eq!(fates(&fixture, &batch).await, [expired("START_BY", 0)]);
        fixture.finish_one(done("x")).await;
        assert_eq!(fates(&fixture, &batch).await[1].0, TerminalState::Succeeded);
    }
}

#[tokio::test]
async fn nothing_succeeds_after_its_finish_by() {
    let (fixture, batch, leases, at) = leased(2, 2, ItemSpec::with_finish_by).await;
    let [late, cancelled] = &leases[..] else {
        panic!("two leases")
    };
    until(at).await;
    let end = |lease| settlement(lease, LeaseEnd::Finish(done("late")));
    let verdict = fixture.settle(end(late)).await;
    assert_eq!(verdict, Verdict::Overruled(Sequence(1)));
    fixture
        .store
        .cancel_items(batch.head.no, vec![1])
        .await
        .unwrap();
    fixture.settle(end(cancelled)).await;
    let cancel = (TerminalState::Cancelled, "ITEM_CANCELLED".to_owned(), 1);
    assert_eq!(
        fates(&fixture, &batch).await,
        [expired("FINISH_BY", 1), cancel]
    );
    assert_eq!(
        attempts(&fixture, &batch, 0).await,
        [told(1, "FINISH_BY")],
        "the attempt that was too late is told"
    );
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_waited_for() {
    let fixture = Fixture::new();
    let at = soon();
    let batch = plain(&fixture, changed(2, |item| item.with_finish_by(at))).await;
    let [lost, waits] = &fixture.lease(2).await[..] else {
        panic!("two leases")
    };
    let verdict = fixture.settle(settlement(lost, again(at))).await;
    assert_eq!(verdict, Verdict::Overruled(Sequence(1)));
    let in_time = again(Timestamp(at.0 - 1));
    let verdict = fixture.settle(settlement(waits, in_time)).await;
    assert_eq!(verdict, Verdict::Released);
    assert_eq!(fates(&fixture, &batch).await, [expired("FINISH_BY", 1)]);
    let reason = failed().reason;
    assert_eq!(attempts(&fixture, &batch, 0).await, [told(1, &reason)]);
    let repeated = fixture.settle(settlement(lost, again(at))).await;
    assert_eq!(repeated, Verdict::AlreadyMine(Sequence(1)));
}

#[tokio::test]
async fn the_time_of_what_runs_is_looked_at_again() {
    let (fixture, batch, _runs, at) = leased(1, 1, ItemSpec::with_finish_by).await;
    until(at).await;
    fixture.store.end_overdue().await.unwrap();
    assert_eq!(fates(&fixture, &batch).await, [], "its attempt ends it");
    // The attempt never told how it ended, and nobody would run the item again.
    let fixture = fixture.reopen();
    fixture.store.pause_batch(batch.head.no, "").await.unwrap();
    while fates(&fixture, &batch).await.is_empty() {
        fixture.store.end_overdue().await.unwrap();
    }
    assert_eq!(fates(&fixture, &batch).await, [expired("FINISH_BY", 0)]);
}

#[tokio::test]
async fn an_item_that_runs_at_most_once_does_not_run_after_a_crash_or_a_stop() {
    for excused in [false, true] {
        let fixture = Fixture::new();
        let batch = create(&fixture, once(), items(3)).await;
        assert_eq!(fixture.lease(2).await.len(), 2);
        if excused {
            fixture.store.excuse_running();
        }
        let fixture = fixture.reopen();
        let unknown = (TerminalState::Failed, "UNKNOWN_OUTCOME".to_owned(), 1);
        let lost = vec![unknown; 2];
        assert_eq!(fates(&fixture, &batch).await, lost, "before anybody asks");
        assert_eq!(
            attempts(&fixture, &batch, 1).await,
            [told(1, "UNKNOWN_OUTCOME")]
        );
        let fixture = fixture.reopen();
        fixture.finish_one(done("x")).await;
        assert_eq!(fixture.state("b").await, BatchState::Completed);
        assert_eq!(fates(&fixture, &batch).await[..2], lost);
    }
}

#[tokio::test]
async fn an_item_that_runs_at_most_once_may_be_given_back_and_no_cancel_hides_that_it_ran() {
    let fixture = Fixture::new();
    let batch = create(&fixture, once(), items(2)).await;
    let [given_back, _ran] = &fixture.lease(2).await[..] else {
        panic!("two leases")
    };
    let unread = LeaseEnd::Release {
        due: PAST,
        error: failed(),
        charge: Charge::Release,
    };
    fixture.settle(settlement(given_back, unread)).await;
    fixture
        .store
        .cancel_items(batch.head.no, vec![1])
        .await
        .unwrap();
    let fixture = fixture.reopen();
    let unknown = (TerminalState::Failed, "UNKNOWN_OUTCOME".to_owned(), 1);
    assert_eq!(fates(&fixture, &batch).await, [unknown]);
    fixture.finish_one(done("x")).await;
    assert_eq!(fates(&fixture, &batch).await[1].0, TerminalState::Succeeded);
}

fn given(charge: Charge) -> LeaseEnd {
    LeaseEnd::Release {
        due: PAST,
        error: failed(),
        charge,
    }
}

// It counted as begun for the lease alone, and waited for ever where nobody served it.
#[tokio::test]
async fn what_was_given_back_before_it_began_still_expires_by_its_start_by() {
    let charges = [
        Charge::Nothing,
        Charge::Unbegun,
        Charge::Release,
        Charge::Stop,
        Charge::Attempt,
    ];
    for (late, reopened) in [(false, false), (true, false), (true, true)] {
        let (mut fixture, batch, leases, at) = leased(5, 5, ItemSpec::with_start_by).await;
        let ends = leases.iter().zip(charges);
        let ends = ends.map(|(lease, charge)| settlement(lease, given(charge)));
        let ends = ends.collect::<Vec<_>>();
        if !late {
            fixture.store.settle(ends.clone()).await.unwrap();
        }
        until(at).await;
        fixture.store.end_overdue().await.unwrap();
        if late {
            assert_eq!(fates(&fixture, &batch).await, [], "they are under way");
            fixture.store.settle(ends).await.unwrap();
            if reopened {
                fixture = fixture.reopen();
            }
            // It was put off while they were.
            while fates(&fixture, &batch).await.len() < 3 {
                fixture.store.end_overdue().await.unwrap();
            }
        }
        let reasons = fates(&fixture, &batch).await.into_iter();
        let reasons: Vec<_> = reasons.map(|(_, reason, _)| reason).collect();
        assert_eq!(reasons, ["START_BY"; 3], "{late} {reopened}");
        assert_eq!(order(&fixture, 2).await, [3, 4], "{late} {reopened}");
    }
}

// On a full disk items were given back once a second, and ended as given back too often.
#[tokio::test]
async fn only_what_its_handler_gave_back_counts_as_a_release() {
    let mut fixture = Fixture::new();
    let batch = fixture.create("b", 1).await;
    let charges = [
        (Charge::Nothing, 1, 0),
        (Charge::Nothing, 1, 0),
        (Charge::Stop, 2, 0),
        (Charge::Unbegun, 3, 0),
        (Charge::Release, 4, 1),
        (Charge::Unbegun, 5, 1),
        (Charge::Nothing, 5, 1),
    ];
    for (charge, next, releases) in charges {
        let lease = fixture.lease(1).await.remove(0);
        fixture.settle(settlement(&lease, given(charge))).await;
        for _ in 0..2 {
            let lease = fixture.lease(1).await.remove(0);
            let told = (lease.token.attempt, lease.releases);
            assert_eq!(told, (next, releases), "{charge:?}");
            let unbegun = settlement(&lease, given(Charge::Nothing));
            fixture.settle(unbegun).await;
            fixture = fixture.reopen();
        }
    }
    let told = attempts(&fixture, &batch, 0).await;
    let numbers: Vec<_> = told.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 3, 4], "the last of those that could not begin");
}

// A power cut between the two brought back a trace that nothing outdated: the item ended unattempted.
#[tokio::test]
async fn what_never_began_is_not_interrupted_whatever_its_trace_says() {
    for options in [BatchOptions::default(), once()] {
        let mut fixture = Fixture::new();
        let batch = create(&fixture, options, items(1)).await;
        for _ in 0..2 {
            let lease = fixture.lease(1).await.remove(0);
            assert_eq!(lease.crashes, 0);
            let file = fixture.path().join("in-flight");
            let trace = std::fs::read(&file).unwrap();
            let end = settlement(&lease, given(Charge::Unbegun));
            fixture.settle(end).await;
            fixture.store.close();
            std::fs::write(&file, trace).unwrap();
            fixture = fixture.reopen();
            assert_eq!(fates(&fixture, &batch).await, []);
        }
        assert_eq!(attempts(&fixture, &batch, 0).await, [told(2, "EXIT_1")]);
        let (token, _) = fixture.finish_one(done("x")).await;
        assert_eq!(token.attempt, 3);
    }
}

#[tokio::test]
async fn all_attempts_of_an_item_are_told_the_last_one_too() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 2).await;
    let reason = failed().reason;
    for (index, ending) in [(0, Ending::Failed(failed())), (1, done("x"))] {
        let leases = fixture.lease(1).await;
        assert_eq!(attempts(&fixture, &batch, index).await, []);
        fixture.settle(settlement(&leases[0], again(PAST))).await;
        let last = ending.error().map_or("", |_| &reason);
        fixture.finish_one(ending.clone()).await;
        let all = [told(1, &reason), told(2, last)];
        assert_eq!(attempts(&fixture, &batch, index).await, all);
    }
    let fixture = fixture.reopen();
    let view = fixture.store.item(batch.head.no, 1, false).await.unwrap();
    let (record, last) = (view.record.unwrap(), view.past.last().unwrap());
    assert_eq!((&*last.worker, last.ended), ("w", Some(record.finished)));
    assert_eq!(record.finished.since(last.started.unwrap()), record.ran);
}

/// The indexes of the next items, in the order in which they are granted.
async fn order(fixture: &Fixture, want: usize) -> Vec<u32> {
    let mut indexes = Vec::new();
    for _ in 0..want {
        indexes.push(fixture.lease(1).await.remove(0).token.item.index);
    }
    indexes
}

#[tokio::test]
async fn a_retried_item_has_its_old_place_whenever_its_wait_ends() {
    for reopened in [false, true] {
        let mut fixture = Fixture::new();
        fixture.create("b", 7).await;
        let leases = fixture.lease(4).await;
        // The last one's wait ends first, and all are over when somebody asks again.
        for (lease, due) in leases.iter().zip([40, 30, 20, 10]) {
            let end = settlement(lease, again(Timestamp(due)));
            fixture.settle(end).await;
        }
        if reopened {
            fixture = fixture.reopen();
        }
        assert_eq!(order(&fixture, 7).await, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[tokio::test]
async fn a_retried_item_has_waited_since_its_wait_was_over() {
    let fixture = Fixture::new();
    let batch = fixture.create("b", 2).await;
    let lease = fixture.lease(1).await.remove(0);
    assert_eq!(lease.ready_since, batch.head.created);
    let due = batch.head.created.plus(Duration::from_millis(1));
    fixture.settle(settlement(&lease, again(due))).await;
    while clock::now() < due {
        tokio::task::yield_now().await;
    }
    let lease = fixture.lease(1).await.remove(0);
    assert_eq!((lease.token.item.index, lease.ready_since), (0, due));
}

#[test]
fn numbers_on_disk_come_back() {
    for kind in ItemTime::ALL {
        assert_eq!(ItemTime::from_number(i64::from(kind as u8)), Some(kind));
    }
    assert_eq!(ItemTime::from_number(0), None);
}
