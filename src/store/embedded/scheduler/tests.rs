//! Stories about turns: who is granted next, and what is never granted.

use std::collections::HashMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::base::limits;
use crate::domain::batch::{BatchEvent, BatchState};
use crate::domain::ids::{BatchId, BatchUid, Tenant};
use crate::domain::pause::Pause;
use crate::domain::settings::{BatchOptions, OnDisconnect};
use crate::store::waiting::Hold;

/// A scheduler with a hand on its clock.
#[derive(Default)]
pub(super) struct Story {
    pub(super) scheduler: Scheduler,
    pub(super) now: Timestamp,
    nonces: u128,
}

impl Story {
    pub(super) fn admit(&mut self, no: u32, items: u32) -> &mut Self {
        self.admit_to("default", no, items)
    }

    fn admit_to(&mut self, queue: &str, no: u32, items: u32) -> &mut Self {
        self.admit_with(queue, no, items, BatchOptions::default())
    }

    pub(super) fn admit_with(
        &mut self,
        queue: &str,
        no: u32,
        items: u32,
        options: BatchOptions,
    ) -> &mut Self {
        let head = self.head(queue, no, options);
        self.admit_head(head, items)
    }

    /// A batch of a tenant, in the default queue.
    pub(super) fn admit_of(
        &mut self,
        tenant: &str,
        no: u32,
        items: u32,
        options: BatchOptions,
    ) -> &mut Self {
        let mut head = self.head("default", no, options);
        head.tenant = Tenant::parse(tenant).unwrap();
        self.admit_head(head, items)
    }

    fn head(&self, queue: &str, no: u32, options: BatchOptions) -> BatchHead {
        BatchHead {
            no: BatchNo(no),
            tenant: Tenant::default(),
            id: BatchId::parse(&format!("b{no}")).unwrap(),
            uid: BatchUid(Uuid::from_u128(no.into())),
            queue: QueueName::parse(queue).unwrap(),
            options,
            on_disconnect: OnDisconnect::Continue,
            upload: None,
            source: None,
            created: self.now,
        }
    }

    fn admit_head(&mut self, head: BatchHead, items: u32) -> &mut Self {
        self.scheduler.admit(
            LiveBatch::new(Arc::new(head), BatchState::Running, items),
            self.now,
        );
        self
    }

    /// Grants up to `want` items and answers them as (batch, index).
    pub(super) fn grant(&mut self, want: usize) -> Vec<(u32, u32)> {
        self.tokens(want)
            .iter()
            .map(|token| (token.item.batch.0, token.item.index))
            .collect()
    }

    fn tokens(&mut self, want: usize) -> Vec<LeaseToken> {
        let queue = &QueueName::default();
        let demand = Demand {
            queue,
            want,
            crashes_max: 3,
        };
        let nonces = &mut self.nonces;
        let mut nonce = || {
            *nonces += 1;
            *nonces
        };
        let grants = self.scheduler.grant(demand, self.now, &mut nonce);
        grants.into_iter().map(|grant| grant.token).collect()
    }

    fn hold(&self, no: u32, index: u32) -> Option<Hold> {
        self.scheduler.hold(key(no, index), self.now)
    }

    pub(super) fn finish(&mut self, no: u32, index: u32) -> Sequence {
        let item = key(no, index);
        let sequence = self
            .scheduler
            .end(item, TerminalState::Succeeded, &mut Vec::new());
        self.scheduler.ended(item, self.now);
        sequence
    }

    /// Gives a leased item its next turn at `due`, after `past`.
    pub(super) fn resume(&mut self, no: u32, index: u32, past: Past, due: i64) {
        self.scheduler.end_lease(key(no, index), &mut Vec::new());
        self.scheduler.ended(key(no, index), self.now);
        self.scheduler.resume(key(no, index), past, Timestamp(due));
    }
}

pub(super) fn key(no: u32, index: u32) -> ItemKey {
    ItemKey {
        batch: BatchNo(no),
        index,
    }
}

pub(super) fn tried(attempts: u32) -> Past {
    Past {
        attempts,
        spent: attempts,
        ..Past::default()
    }
}

fn crashed(crashes: u32, crashes_max: u32) -> Past {
    Past {
        crashes_max: Some(crashes_max),
        attempts: crashes,
        crashes,
        ..Past::default()
    }
}

#[test]
fn batches_take_turns_and_items_go_in_order() {
    let mut story = Story::default();
    story.admit(1, 3).admit(2, 1).admit(3, 2);
    assert_eq!(
        story.grant(10),
        [(1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (1, 2)]
    );
    assert_eq!(story.grant(10), []);
}

#[test]
fn a_small_batch_behind_a_huge_one_gets_every_second_grant() {
    let mut story = Story::default();
    story.admit(1, 1_000_000);
    assert_eq!(story.grant(2), [(1, 0), (1, 1)]);
    story.admit(2, 10);
    let granted = story.grant(20);
    assert_eq!(granted.iter().filter(|(no, _)| *no == 2).count(), 10);
}

#[test]
fn a_higher_priority_goes_first_and_whoever_waited_long_before_all() {
    let mut story = Story::default();
    let options = |priority| BatchOptions {
        priority,
        ..BatchOptions::default()
    };
    story.admit_with("default", 1, 9, options(-1));
    story.admit_with("default", 2, 9, options(3));
    story.admit_with("default", 3, 9, options(3));
    assert_eq!(story.grant(3), [(2, 0), (3, 0), (2, 1)]);
    story.now = story.now.plus(limits::TURN_AGED);
    assert_eq!(
        story.grant(4),
        [(1, 0), (3, 1), (2, 2), (3, 2)],
        "once, and then it waits again"
    );
}

#[test]
fn no_more_items_of_a_batch_run_than_it_wants() {
    let mut story = Story::default();
    let options = BatchOptions {
        max_parallelism: Some(2),
        ..BatchOptions::default()
    };
    story.admit_with("default", 1, 5, options).admit(2, 3);
    assert_eq!(
        story.grant(9),
        [(1, 0), (2, 0), (1, 1), (2, 1), (2, 2)],
        "no slot stays empty for it"
    );
    assert_eq!(story.grant(9), []);
    story.finish(1, 0);
    assert_eq!(story.grant(9), [(1, 2)]);
    story.resume(1, 1, tried(1), 0);
    assert_eq!(story.grant(9), [(1, 1)]);
}

#[test]
fn nothing_starts_before_its_batchs_time() {
    let mut story = Story::default();
    let options = BatchOptions {
        not_before: Some(Timestamp(50)),
        ..BatchOptions::default()
    };
    story.admit_with("default", 1, 2, options).admit(2, 1);
    assert_eq!(story.grant(9), [(2, 0)]);
    let next = story.scheduler.next_due(&QueueName::default());
    assert_eq!(next, Some(Timestamp(50)));
    story.now = Timestamp(50);
    assert_eq!(story.grant(9), [(1, 0), (1, 1)]);
}

#[test]
fn nothing_starts_after_its_batchs_time_and_a_clock_that_is_set_back_strands_nothing() {
    let mut story = Story::default();
    let options = BatchOptions {
        deadline: Some(Timestamp(50)),
        ..BatchOptions::default()
    };
    story.admit_with("default", 1, 3, options).admit(2, 2);
    assert_eq!(story.grant(2), [(1, 0), (2, 0)]);
    story.now = Timestamp(50);
    assert_eq!(story.grant(9), [(2, 1)]);
    assert_eq!(
        story.scheduler.hold(key(1, 1), story.now),
        Some(Hold::Ending)
    );
    story.now = Timestamp(49);
    story.finish(1, 0);
    assert_eq!(story.grant(9), [(1, 1), (1, 2)]);
}

#[test]
fn a_paused_batch_stands_aside_and_its_marked_items_too() {
    let mut story = Story::default();
    story.admit(1, 3).admit(2, 2);
    story
        .scheduler
        .resume(key(1, 1), crashed(2, 3), Timestamp(0));
    story
        .scheduler
        .resume(key(2, 1), crashed(1, 3), Timestamp(0));
    let pause = |story: &mut Story, paused: Option<&str>| {
        let batch = story.scheduler.batch_mut(BatchNo(1)).unwrap();
        batch.paused = paused.map(Pause::by_hand);
        story.scheduler.wake(BatchNo(1), story.now);
    };
    pause(&mut story, Some(""));
    assert_eq!(story.grant(9), [(2, 1), (2, 0)]);
    assert_eq!(story.grant(9), []);
    story.finish(2, 1);
    story.finish(2, 0);
    pause(&mut story, None);
    assert_eq!(story.grant(9), [(1, 1)], "its last chance, alone");
    story.finish(1, 1);
    assert_eq!(story.grant(9), [(1, 0), (1, 2)]);
}

#[test]
fn who_waits_to_run_alone_and_is_paused_holds_nobody_back() {
    let mut story = Story::default();
    story.admit(1, 1).admit(2, 3);
    story
        .scheduler
        .resume(key(1, 0), crashed(2, 3), Timestamp(0));
    assert_eq!(story.grant(1), [(1, 0)], "nothing else runs yet");
    story.resume(1, 0, crashed(2, 3), 0);
    let batch = story.scheduler.batch_mut(BatchNo(1)).unwrap();
    batch.paused = Some(Pause::by_hand(""));
    assert_eq!(story.grant(9), [(2, 0), (2, 1), (2, 2)]);
}

#[test]
fn a_batch_that_is_over_keeps_no_seat() {
    let mut story = Story::default();
    story.admit_to("unserved", 1, 1).admit_to("unserved", 2, 1);
    story.scheduler.retire(BatchNo(1));
    let queue = QueueName::parse("unserved").unwrap();
    assert_eq!(story.scheduler.queues[&queue].shares.len(), 1);
}

#[test]
fn while_one_waits_to_run_alone_nobody_looks_for_what_is_due() {
    let mut story = Story::default();
    story.admit(1, 2).admit(2, 1);
    story.grant(3);
    story.resume(1, 0, crashed(2, 3), 0);
    story.resume(2, 0, tried(1), 5);
    story.now = Timestamp(9);
    assert_eq!(story.grant(1), [], "something runs");
    let queue = QueueName::default();
    assert_eq!(story.scheduler.next_due(&queue), None);
}

#[test]
fn queues_do_not_see_each_other() {
    let mut story = Story::default();
    story.admit_to("other", 1, 5).admit(2, 1);
    assert_eq!(story.grant(10), [(2, 0)]);
}

#[test]
fn a_retry_waits_for_its_time_and_then_goes_first() {
    let mut story = Story::default();
    story.admit(1, 3);
    assert_eq!(story.grant(1), [(1, 0)]);
    story.resume(1, 0, tried(1), 50);
    assert_eq!(story.grant(1), [(1, 1)], "it is not due yet");
    assert_eq!(
        story.scheduler.next_due(&QueueName::default()),
        None,
        "the batch is in line anyhow"
    );
    story.now = Timestamp(50);
    let tokens = story.tokens(1);
    assert_eq!(
        (tokens[0].item, tokens[0].attempt),
        (key(1, 0), 2),
        "attempt numbers go on"
    );
    assert_eq!(story.grant(5), [(1, 2)]);
}

#[test]
fn a_batch_that_only_waits_says_when_it_is_due() {
    let mut story = Story::default();
    story.admit(1, 1);
    story.grant(1);
    story.resume(1, 0, tried(1), 70);
    assert_eq!(story.grant(1), []);
    assert_eq!(
        story.scheduler.next_due(&QueueName::default()),
        Some(Timestamp(70))
    );
    story.now = Timestamp(70);
    assert_eq!(story.grant(1), [(1, 0)]);
}

#[test]
fn a_terminal_item_is_never_granted() {
    let mut story = Story::default();
    story.admit(1, 3);
    story
        .scheduler
        .end(key(1, 1), TerminalState::Cancelled, &mut Vec::new());
    assert_eq!(story.grant(5), [(1, 0), (1, 2)]);
}

#[test]
fn a_cancelled_batch_gets_no_more_grants() {
    let mut story = Story::default();
    story.admit(1, 3);
    let token = story.tokens(1)[0];
    let batch = story.scheduler.batch_mut(BatchNo(1)).unwrap();
    batch.state = batch.state.apply(BatchEvent::EndAsked).unwrap();
    assert_eq!(story.grant(5), []);
    assert_eq!(story.scheduler.standing(token), Standing::Cancelled);
}

#[test]
fn a_stale_token_has_lost_its_standing() {
    let mut story = Story::default();
    story.admit(1, 1);
    let first = story.tokens(1)[0];
    assert_eq!(story.scheduler.standing(first), Standing::Held);
    story.resume(1, 0, tried(1), 0);
    assert_eq!(
        story.scheduler.standing(first),
        Standing::Lost,
        "it is pending"
    );
    let second = story.tokens(1)[0];
    assert_eq!(
        story.scheduler.standing(first),
        Standing::Lost,
        "it is another's"
    );
    assert_eq!(story.scheduler.standing(second), Standing::Held);
    story.finish(1, 0);
    assert_eq!(story.scheduler.standing(second), Standing::Terminal);
    story.scheduler.retire(BatchNo(1));
    assert_eq!(story.scheduler.standing(second), Standing::Gone);
}

#[test]
fn staged_changes_can_be_taken_back() {
    let mut story = Story::default();
    story.admit(1, 2);
    story.scheduler.stage_items(BatchNo(1), 2, 1001);
    let before = story.scheduler.loads().clone();
    let tokens = story.tokens(2);
    let mut undo = Vec::new();
    assert_eq!(
        story
            .scheduler
            .end(key(1, 1), TerminalState::Failed, &mut undo),
        Sequence(1)
    );
    assert!(
        story
            .scheduler
            .mark_cancelled(key(1, 0), &mut undo)
            .is_some()
    );
    story.scheduler.end_lease(key(1, 0), &mut undo);
    assert_ne!(*story.scheduler.loads(), before);
    assert_eq!(*story.scheduler.loads(), story.scheduler.recounted());
    story.scheduler.undo(undo);
    assert_eq!(*story.scheduler.loads(), before);
    let batch = story.scheduler.batch(BatchNo(1)).unwrap();
    assert_eq!((batch.tally.terminal(), batch.leases.len()), (0, 2));
    for token in tokens {
        assert_eq!(story.scheduler.standing(token), Standing::Held);
    }
}

#[test]
fn marked_items_run_one_at_a_time_beside_unmarked_ones() {
    let mut story = Story::default();
    story.admit(1, 4);
    story
        .scheduler
        .resume(key(1, 0), crashed(1, 9), Timestamp(0));
    story
        .scheduler
        .resume(key(1, 1), crashed(2, 9), Timestamp(0));
    assert_eq!(
        story.grant(10),
        [(1, 0), (1, 2), (1, 3)],
        "the one with fewer marks is first"
    );
    assert!(story.scheduler.take_held_back());
    story.finish(1, 0);
    assert_eq!(story.grant(10), [(1, 1)]);
}

#[test]
fn an_item_on_its_last_chance_runs_with_nothing_beside_it() {
    let mut story = Story::default();
    story.admit(1, 3);
    story.grant(1);
    story
        .scheduler
        .resume(key(1, 2), crashed(2, 3), Timestamp(0));
    assert_eq!(
        story.grant(10),
        [],
        "something runs, and nothing more may start"
    );
    story.finish(1, 0);
    assert_eq!(story.grant(10), [(1, 2)]);
    assert_eq!(story.grant(10), []);
    story.finish(1, 2);
    assert_eq!(story.grant(10), [(1, 1)]);
}

#[test]
fn a_cancelled_item_on_its_last_chance_holds_nobody_back() {
    let mut story = Story::default();
    story.admit(1, 3);
    story.grant(1);
    story
        .scheduler
        .resume(key(1, 2), crashed(2, 3), Timestamp(0));
    assert_eq!(story.grant(1), []);
    story.finish(1, 2);
    assert_eq!(story.grant(10), [(1, 1)]);
}

#[test]
fn a_marked_item_waits_for_its_backoff() {
    let mut story = Story::default();
    story.admit(1, 1);
    story.grant(1);
    story.resume(1, 0, crashed(1, 9), 50);
    assert_eq!(story.grant(1), []);
    assert_eq!(
        story.scheduler.next_due(&QueueName::default()),
        Some(Timestamp(50))
    );
    story.now = Timestamp(50);
    assert_eq!(story.grant(1), [(1, 0)]);
}

#[test]
fn an_item_with_fewer_marks_does_not_overtake_one_that_waits_to_run_alone() {
    let mut story = Story::default();
    story.admit(1, 4);
    assert_eq!(story.grant(1), [(1, 0)]);
    story
        .scheduler
        .resume(key(1, 2), crashed(2, 3), Timestamp(0));
    assert_eq!(story.grant(1), []);
    story
        .scheduler
        .resume(key(1, 3), crashed(1, 3), Timestamp(0));
    assert_eq!(story.grant(1), []);
    story.finish(1, 0);
    assert_eq!(story.grant(9), [(1, 2)], "it was promised to run alone");
    story.finish(1, 2);
    assert_eq!(story.grant(9), [(1, 3), (1, 1)]);
}

#[test]
fn an_item_at_its_limit_of_crashes_isolates_nobody() {
    let mut story = Story::default();
    story.admit(1, 3);
    story.grant(1);
    story
        .scheduler
        .resume(key(1, 2), crashed(3, 3), Timestamp(0));
    assert_eq!(story.grant(9), [(1, 2), (1, 1)]);
}

proptest! {
    /// The bound that the module page states.
    #[test]
    fn a_batch_with_a_due_item_waits_for_at_most_one_turn_of_each_other(
        sizes in prop::collection::vec(1u32..60, 1..12),
        arrivals in prop::collection::vec(0usize..12, 0..12),
        wants in prop::collection::vec(4usize..9, 200),
    ) {
        let mut story = Story::default();
        let mut to_come: Vec<_> = (1u32..).zip(sizes).collect();
        let mut left: HashMap<u32, u32> = HashMap::new();
        // Grants to others since the last one, and how many there may be.
        let mut waits: HashMap<u32, (usize, usize)> = HashMap::new();
        let mut arrivals = arrivals.into_iter();
        for want in wants {
            let arriving = arrivals.next().unwrap_or(usize::MAX).min(to_come.len());
            for (no, size) in to_come.drain(..arriving) {
                story.admit(no, size);
                left.insert(no, size);
                waits.insert(no, (0, left.len()));
            }
            for (no, _) in story.grant(want) {
                for (grants, most) in waits.values_mut() {
                    *grants += 1;
                    prop_assert!(*grants <= *most, "{waits:?}");
                }
                let open = left.len();
                waits.insert(no, (0, open));
                let items = left.get_mut(&no).expect("only open batches are granted from");
                *items -= 1;
                if *items == 0 {
                    left.remove(&no);
                    waits.remove(&no);
                }
            }
        }
        prop_assert!(left.is_empty(), "nothing was left out: {left:?}");
    }
}

#[test]
fn nothing_is_granted_of_a_paused_queue_and_others_are_not_held_up_by_it() {
    let mut story = Story::default();
    story.admit(1, 2);
    let queue = QueueName::default();
    let whole = story.tokens(1);
    assert_eq!(whole.len(), 1);
    // It would run alone once nothing else runs.
    story.resume(1, 0, crashed(1, 2), 0);
    assert_eq!(story.grant(1), [(1, 0)], "alone");
    story.resume(1, 0, crashed(1, 2), 0);
    story.admit_to("other", 2, 1);
    let other = QueueName::parse("other").unwrap();
    let demand = Demand {
        queue: &other,
        want: 1,
        crashes_max: 3,
    };
    let beside = story.scheduler.grant(demand, story.now, || 7);
    assert_eq!(beside.len(), 1);
    assert_eq!(story.grant(1), [], "it waits until it is alone");
    assert_eq!(story.hold(1, 0), Some(Hold::Marked));
    assert_eq!(story.hold(1, 1), Some(Hold::HeldBack));
    story.scheduler.pause_queue(&queue, "why");
    assert!(story.scheduler.take_held_back(), "others are told");
    assert_eq!(story.grant(9), []);
    assert_eq!(story.hold(1, 1), Some(Hold::QueuePaused("why".into())));
    assert_eq!(story.scheduler.next_due(&queue), None);
    story.admit_to("other", 3, 1);
    assert_eq!(story.scheduler.grant(demand, story.now, || 8).len(), 1);
    story.scheduler.resume_queue(&queue);
    story.finish(2, 0);
    story.finish(3, 0);
    assert_eq!(story.grant(9), [(1, 0)], "alone again");
}

#[test]
fn what_holds_an_item_back_is_known() {
    let mut story = Story::default();
    story.admit(1, 4).admit(2, 1).admit(3, 1);
    let line = |ahead, others| Some(Hold::InLine { ahead, others });
    assert_eq!(
        [story.hold(1, 0), story.hold(1, 3)],
        [line(0, 2), line(3, 2)]
    );
    assert_eq!(story.hold(1, 4), None, "there is no such item");
    assert_eq!(story.grant(1), [(1, 0)]);
    assert_eq!(story.hold(1, 0), None, "it runs");
    story.resume(1, 0, tried(1), 50);
    let until = Timestamp(50);
    assert_eq!(story.hold(1, 0), Some(Hold::Backoff { until, spent: 1 }));
    story.now = until;
    assert_eq!(story.hold(1, 0), line(0, 2), "it is due");
    story.finish(2, 0);
    story.scheduler.retire(BatchNo(2));
    assert_eq!([story.hold(2, 0), story.hold(1, 0)], [None, line(0, 1)]);
    for index in 0..u32::try_from(limits::WAITING_ITEMS_MAX).unwrap() {
        let late = Timestamp(1_000_000);
        story
            .scheduler
            .batch_mut(BatchNo(3))
            .unwrap()
            .wait(index, late);
    }
    assert_eq!(story.hold(3, 0), Some(Hold::RetriesFirst));
    let batch = story.scheduler.batch_mut(BatchNo(1)).unwrap();
    batch.state = BatchState::Cancelling;
    assert_eq!(story.hold(1, 3), Some(Hold::Ending));
}
