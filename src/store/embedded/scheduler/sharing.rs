//! Stories about how a queue is shared: among batches of all sizes, and among tenants.

use std::collections::{BTreeSet, HashMap};

use super::tests::Story;
use super::*;
use crate::base::limits;
use crate::domain::ids::Tenant;
use crate::domain::pause::Pause;
use crate::domain::settings::BatchOptions;

pub(super) fn weights(of: &[(&str, u32)]) -> Weights {
    let mut weights = Weights::default();
    for &(tenant, weight) in of {
        weights.set(Tenant::parse(tenant).unwrap(), weight);
    }
    weights
}

/// Whose turns `want` grants are: by tenant name.
fn turns(story: &mut Story, want: usize, of: &[(u32, &'static str)]) -> Vec<&'static str> {
    let names: HashMap<_, _> = of.iter().copied().collect();
    let granted = story.grant(want);
    granted.into_iter().map(|(no, _)| names[&no]).collect()
}

#[test]
fn a_small_batch_behind_a_million_items_is_granted_whole_within_twice_its_size() {
    let mut story = Story::default();
    story.admit(1, 1_000_000);
    story.grant(100);
    story.admit(2, 10);
    let granted = story.grant(20);
    let small = granted.iter().filter(|(no, _)| *no == 2);
    assert_eq!(small.count(), 10);
}

#[test]
fn among_a_hundred_batches_of_any_size_each_gets_one_grant_in_a_hundred() {
    let mut story = Story::default();
    for no in 1..=100 {
        story.admit(no, no * no * 10);
    }
    for round in 0..10 {
        let batches: BTreeSet<_> = story.grant(100).into_iter().map(|(no, _)| no).collect();
        assert_eq!(batches.len(), 100, "round {round}");
    }
}

#[test]
fn a_tenant_with_one_batch_is_not_held_up_by_one_with_a_thousand() {
    let mut story = Story::default();
    for no in 1..=1000 {
        story.admit_of("many", no, 50, BatchOptions::default());
    }
    story.grant(300);
    story.admit_of("one", 5000, 10, BatchOptions::default());
    let granted = story.grant(20);
    assert_eq!(granted.iter().filter(|(no, _)| *no == 5000).count(), 10);
}

#[test]
fn turns_are_shared_by_weight_and_evenly_spread() {
    let mut story = Story::default();
    story.scheduler.weigh(weights(&[("c", 2), ("d", 3)]));
    let all = [(1, "b"), (2, "c"), (3, "d")];
    for (no, tenant) in all {
        story.admit_of(tenant, no, 1000, BatchOptions::default());
    }
    for _ in 0..20 {
        let granted = turns(&mut story, 6, &all);
        let of = |tenant| granted.iter().filter(|it| **it == tenant).count();
        assert_eq!((of("b"), of("c"), of("d")), (1, 2, 3), "{granted:?}");
    }
    story.scheduler.retire(BatchNo(3));
    let granted = turns(&mut story, 300, &all);
    let of_b = granted.iter().filter(|it| **it == "b").count();
    assert!(
        (99..=101).contains(&of_b),
        "its share falls to the others: {of_b}"
    );
}

#[test]
fn who_comes_back_has_earned_nothing_and_owes_nothing() {
    let mut story = Story::default();
    let all = [(1, "a"), (2, "b"), (3, "b"), (4, "a")];
    story.admit_of("a", 1, 10_000, BatchOptions::default());
    story.admit_of("b", 2, 1, BatchOptions::default());
    story.grant(500);
    story.admit_of("b", 3, 100, BatchOptions::default());
    let granted = turns(&mut story, 20, &all);
    assert_eq!(
        granted.iter().filter(|it| **it == "b").count(),
        10,
        "{granted:?}"
    );
    // Now b alone, and a comes back to it.
    story.scheduler.retire(BatchNo(1));
    story.grant(50);
    story.admit_of("a", 4, 100, BatchOptions::default());
    let granted = turns(&mut story, 20, &all);
    assert_eq!(
        granted.iter().filter(|it| **it == "a").count(),
        10,
        "{granted:?}"
    );
}

#[test]
fn a_tenant_whose_batches_all_stand_aside_takes_no_turn() {
    let mut story = Story::default();
    for no in [1, 2] {
        story.admit_of("a", no, 100, BatchOptions::default());
        let batch = story.scheduler.batch_mut(BatchNo(no)).unwrap();
        batch.paused = Some(Pause::by_hand(""));
    }
    story.admit_of("b", 3, 100, BatchOptions::default());
    assert!(story.grant(10).iter().all(|(no, _)| *no == 3));
    let batch = story.scheduler.batch_mut(BatchNo(1)).unwrap();
    batch.paused = None;
    story.scheduler.unpause(BatchNo(1), story.now);
    let granted = story.grant(10);
    assert_eq!(
        granted.iter().filter(|(no, _)| *no == 1).count(),
        5,
        "{granted:?}"
    );
}

#[test]
fn priorities_and_age_count_within_a_tenant_alone() {
    let mut story = Story::default();
    let priority = |priority| BatchOptions {
        priority,
        ..BatchOptions::default()
    };
    story.admit_of("a", 1, 100, priority(9));
    story.admit_of("b", 2, 100, priority(-9));
    story.admit_of("b", 3, 100, priority(0));
    let granted: Vec<_> = story.grant(4).into_iter().map(|(no, _)| no).collect();
    assert_eq!(granted, [1, 3, 1, 3]);
    story.now = story.now.plus(limits::TURN_AGED);
    let granted: Vec<_> = story.grant(6).into_iter().map(|(no, _)| no).collect();
    assert_eq!(
        granted,
        [1, 2, 1, 3, 1, 3],
        "b's aged batch has one of b's turns"
    );
}

#[test]
fn tenants_that_have_gone_are_forgotten() {
    let mut story = Story::default();
    story.admit_of("stays", 1, 1_000_000, BatchOptions::default());
    for no in 2..5000 {
        story.admit_of(&format!("t{no}"), no, 1, BatchOptions::default());
        story.grant(4);
    }
    let queue = QueueName::default();
    let known = story.scheduler.queues[&queue].shares.known();
    assert!(known < 200, "{known} tenants are remembered");
}
