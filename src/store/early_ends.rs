//! Part of the suite that every keeper must pass: batches that end before their items do.

use std::time::Duration;

use super::conformance::{Fixture, done, failed, items, new_batch, settlement};
use super::*;
use crate::base::clock;
use crate::domain::batch::{BatchState, EndCause};
use crate::domain::failures::{FailureAction, FailurePolicy};
use crate::domain::ids::BatchName;
use crate::domain::item::TerminalState;
use crate::domain::pause::Pause;

impl Fixture {
    async fn create_with(&self, options: BatchOptions, count: u32) -> Batch {
        let mut new = new_batch(Some("b"), None, Content::Whole(items(count)));
        new.options = options;
        match self.store.create_batch(new).await.unwrap() {
            Created::New(batch) => batch,
            Created::Existing(batch) => panic!("{batch:?} was there"),
        }
    }

    async fn over(&self) -> Batch {
        let id = BatchName::from(BatchId::parse("b").unwrap());
        loop {
            let batch = self.store.batch(&id).await.unwrap();
            if batch.state.is_terminal() {
                return batch;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The states and reasons of all records.
    async fn fates(&self, batch: &Batch) -> Vec<(TerminalState, String)> {
        let records = self.records(batch, 0).await;
        let fate = |record: &Record| {
            let reason = record.ending.error().map(|error| error.reason.to_string());
            (record.ending.state(), reason.unwrap_or_default())
        };
        records.iter().map(fate).collect()
    }
}

fn fate(state: TerminalState, reason: &str) -> (TerminalState, String) {
    (state, reason.to_owned())
}

/// Ends a batch of three early, one item done and one running, and answers the fates of its items:
/// the one that ran ends well, too late or not.
async fn ended_early(
    options: BatchOptions,
    reopened: bool,
) -> (Batch, Vec<(TerminalState, String)>) {
    let mut fixture = Fixture::new();
    fixture.create_with(options, 3).await;
    let running = fixture.lease(1).await.remove(0);
    fixture.finish_one(done("x")).await;
    assert!(running.stop.is_cancelled(), "what runs is asked to stop");
    if reopened {
        fixture = fixture.reopen();
    } else {
        fixture
            .settle(settlement(&running, LeaseEnd::Finish(done("late"))))
            .await;
    }
    let over = fixture.over().await;
    assert_eq!(over.tally.terminal(), 3);
    let fates = fixture.fates(&over).await;
    (over, fates)
}

/// Ends a batch of three at its time, with two items running: by a look at the clock, or by the
/// outcome of one that came before that.
async fn ended_in_time(
    options: impl Fn(Duration) -> BatchOptions,
    looked: bool,
    reopened: bool,
) -> Fixture {
    let mut time = Duration::from_millis(25);
    let (fixture, batch, running) = loop {
        let fixture = Fixture::new();
        let batch = fixture.create_with(options(time), 3).await;
        let running = fixture.lease(2).await;
        if running.len() == 2 {
            break (fixture, batch, running);
        }
        // Nothing starts once its time is over, and this machine is slow.
        time *= 2;
    };
    let (ends_at, _) = batch.head.ends_at().unwrap();
    while clock::now() <= ends_at {
        tokio::task::yield_now().await;
    }
    let end = |lease| settlement(lease, LeaseEnd::Finish(done("late")));
    if looked {
        fixture.store.end_overdue().await.unwrap();
    } else {
        let verdict = fixture.settle(end(&running[0])).await;
        assert!(matches!(verdict, Verdict::Overruled(_)), "{verdict:?}");
    }
    assert!(running[1].stop.is_cancelled(), "what runs is asked to stop");
    if reopened {
        return fixture.reopen();
    }
    for lease in &running {
        fixture.settle(end(lease)).await;
    }
    fixture
}

#[tokio::test]
async fn a_batch_ends_at_its_time_and_nothing_succeeds_after_it() {
    let brief = |time| BatchOptions {
        max_duration: Some(time),
        ..BatchOptions::default()
    };
    let dated = |time: Duration| BatchOptions {
        deadline: Some(clock::now().plus(time)),
        ..brief(time * 9)
    };
    let kinds: [(&dyn Fn(Duration) -> BatchOptions, _); 2] =
        [(&brief, "BATCH_MAX_DURATION"), (&dated, "BATCH_DEADLINE")];
    for (looked, reopened) in [(false, false), (false, true), (true, false), (true, true)] {
        for (options, reason) in kinds {
            let fixture = ended_in_time(options, looked, reopened).await;
            let batch = fixture.over().await;
            assert_eq!(batch.state, BatchState::Expired);
            let expired = fate(TerminalState::Expired, reason);
            let fates = fixture.fates(&batch).await;
            assert_eq!(fates, vec![expired; 3], "{looked} {reopened}");
            assert_eq!(batch.failures.reasons[reason], 3);
        }
    }
}

#[tokio::test]
async fn a_batch_ends_once_enough_of_it_succeeded() {
    for reopened in [false, true] {
        let enough = BatchOptions {
            enough: Some(1),
            ..BatchOptions::default()
        };
        let (batch, fates) = ended_early(enough, reopened).await;
        assert_eq!(batch.state, BatchState::Completed);
        assert_eq!(batch.cause, Some(EndCause::Enough));
        let succeeded = fate(TerminalState::Succeeded, "");
        let cancelled = fate(TerminalState::Cancelled, "ENOUGH_REACHED");
        if reopened {
            assert_eq!(fates, [succeeded, cancelled.clone(), cancelled]);
        } else {
            // An attempt that was under way and ended well counts all the same.
            assert_eq!(fates.iter().filter(|fate| **fate == succeeded).count(), 2);
            assert!(fates.contains(&cancelled));
        }
    }
}

fn policy(action: FailureAction) -> BatchOptions {
    BatchOptions {
        failure_policy: Some(FailurePolicy {
            max_failed_items: Some(2),
            action,
            ..FailurePolicy::default()
        }),
        ..BatchOptions::default()
    }
}

#[tokio::test]
async fn too_many_failures_pause_a_batch_until_it_is_resumed_and_count_anew() {
    let mut fixture = Fixture::new();
    let batch = fixture.create_with(policy(FailureAction::Pause), 6).await;
    let name = batch.head.name();
    for _ in 0..2 {
        fixture.finish_one(Ending::Failed(failed())).await;
    }
    for _ in 0..2 {
        let paused = fixture.store.batch(&name).await.unwrap();
        let told = "failure policy: 2 items failed";
        assert_eq!(paused.paused, Some(Pause::by_policy(told)));
        assert_eq!(fixture.lease(9).await.len(), 0);
        fixture = fixture.reopen();
    }
    fixture.store.resume_batch(batch.head.no).await.unwrap();
    fixture = fixture.reopen();
    fixture.finish_one(Ending::Failed(failed())).await;
    assert_eq!(fixture.store.batch(&name).await.unwrap().paused, None);
    fixture.finish_one(Ending::Failed(failed())).await;
    assert!(fixture.store.batch(&name).await.unwrap().paused.is_some());
    fixture.store.resume_batch(batch.head.no).await.unwrap();
    for _ in 0..2 {
        fixture.finish_one(Ending::Failed(failed())).await;
    }
    let over = fixture.over().await;
    assert_eq!((over.state, over.paused), (BatchState::Completed, None));
    let reasons: Vec<_> = over.failures.reasons.values().collect();
    assert_eq!(reasons, [&6]);
}

// Its items had all failed at that moment, but more were to come: it was never paused.
#[tokio::test]
async fn too_many_failures_pause_an_upload_whatever_has_come_of_it() {
    let fixture = Fixture::new();
    let mut new = new_batch(Some("b"), None, Content::Appended(UploadTerms::default()));
    new.options = policy(FailureAction::Pause);
    let Created::New(batch) = fixture.store.create_batch(new).await.unwrap() else {
        panic!("it is new")
    };
    let no = batch.head.no;
    for first in 0..2 {
        let appended = fixture.store.append_items(no, first, items(1).into()).await;
        assert_eq!(appended, Ok(first + 1));
        fixture.finish_one(Ending::Failed(failed())).await;
    }
    let paused = fixture.store.batch(&batch.head.name()).await.unwrap();
    let told = "failure policy: 2 items failed";
    assert_eq!(paused.paused, Some(Pause::by_policy(told)));
    fixture.store.seal(no, 2).await.unwrap();
    let over = fixture.over().await;
    assert_eq!((over.state, over.paused), (BatchState::Completed, None));
}

#[tokio::test]
async fn too_many_failures_end_a_batch_that_asked_for_it() {
    let fixture = Fixture::new();
    let batch = fixture.create_with(policy(FailureAction::Cancel), 4).await;
    for _ in 0..2 {
        fixture.finish_one(Ending::Failed(failed())).await;
    }
    let over = fixture.over().await;
    assert_eq!(over.state, BatchState::Failed);
    let cancelled = fate(TerminalState::Cancelled, "FAILURE_POLICY");
    assert_eq!(
        fixture.fates(&batch).await[2..],
        [cancelled.clone(), cancelled]
    );
    let refused = fixture.store.cancel_batch(batch.head.no, "").await;
    assert_eq!(refused.unwrap_err(), StoreError::Ended);
}
