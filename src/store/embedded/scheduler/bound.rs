//! The bound that the module page states, against random arrivals.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::sharing::weights;
use super::tests::{Story, key, tried};
use super::*;
use crate::base::limits;
use crate::domain::pause::Pause;
use crate::domain::settings::BatchOptions;

/// Who there is, and how much each weighs.
const TENANTS: [(&str, u32); 5] = [("a", 1), ("b", 1), ("c", 2), ("d", 7), ("e", 1000)];

/// One thing that happens. Numbers pick among what is there, modulo how much there is.
#[derive(Clone, Debug)]
enum Step {
    Admit {
        tenant: usize,
        items: u32,
        options: Options,
    },
    /// More items come.
    Append {
        batch: usize,
        items: u32,
    },
    Grant {
        want: usize,
    },
    Finish {
        running: usize,
    },
    Retry {
        running: usize,
        after: i64,
    },
    /// Cancels an item that waits.
    Cancel {
        waiting: usize,
    },
    Pause {
        batch: usize,
    },
    Unpause {
        batch: usize,
    },
    Wait {
        millis: i64,
    },
}

#[derive(Clone, Debug)]
struct Options {
    priority: i32,
    max_parallelism: Option<u32>,
    not_before: Option<i64>,
}

fn step() -> impl Strategy<Value = Step> {
    let any = || any::<usize>();
    let options = (
        prop_oneof![6 => Just(0), 1 => -1i32..2],
        prop::option::weighted(0.2, 1u32..4),
        prop::option::weighted(0.1, 1i64..9_000),
    );
    let options = options.prop_map(|(priority, max_parallelism, not_before)| Options {
        priority,
        max_parallelism,
        not_before,
    });
    let wait = prop_oneof![4 => 0i64..3_000, 1 => 0i64..90_000];
    prop_oneof![
        4 => (0..TENANTS.len(), 1u32..25, options)
            .prop_map(|(tenant, items, options)| Step::Admit { tenant, items, options }),
        2 => (any(), 1u32..9).prop_map(|(batch, items)| Step::Append { batch, items }),
        8 => (1usize..9).prop_map(|want| Step::Grant { want }),
        4 => any().prop_map(|running| Step::Finish { running }),
        4 => (any(), 0i64..20_000).prop_map(|(running, after)| Step::Retry { running, after }),
        1 => any().prop_map(|waiting| Step::Cancel { waiting }),
        1 => any().prop_map(|batch| Step::Pause { batch }),
        2 => any().prop_map(|batch| Step::Unpause { batch }),
        2 => wait.prop_map(|millis| Step::Wait { millis }),
    ]
}

/// What is known of a batch from outside.
#[derive(Debug)]
struct Seen {
    tenant: usize,
    options: Options,
    /// When each item is due that waits.
    waiting: BTreeMap<u32, Timestamp>,
    running: BTreeSet<u32>,
    paused: bool,
    /// When it last had a turn, or whatever kept it from one ended.
    free_since: Timestamp,
    /// Its wait for a turn, if it may have one.
    wait: Option<Wait>,
}

/// A wait for a turn: since when, and what others were granted meanwhile.
#[derive(Debug, Default)]
struct Wait {
    since: Timestamp,
    /// By batch, or by tenant if it is a tenant that waits.
    others: HashMap<u32, u32>,
    /// The same, since the one that waits is aged.
    since_aged: HashMap<u32, u32>,
}

impl Seen {
    fn is_full(&self) -> bool {
        let most = self.options.max_parallelism;
        most.is_some_and(|most| self.running.len() >= usize::try_from(most).unwrap())
    }

    /// Since when it waits for a turn, if it does.
    fn waits_since(&self, now: Timestamp) -> Option<Timestamp> {
        if self.paused || self.is_full() {
            return None;
        }
        let begins = Timestamp(self.options.not_before.unwrap_or_default());
        let due = self.waiting.values().copied().min()?.max(begins);
        (due <= now).then_some(due.max(self.free_since))
    }

    /// An attempt of it ends.
    fn end(&mut self, index: u32, now: Timestamp) {
        if self.is_full() {
            self.free_since = now;
        }
        self.running.remove(&index);
    }
}

/// A scheduler and what somebody sees who watches it.
#[derive(Default)]
struct Watched {
    story: Story,
    batches: BTreeMap<u32, Seen>,
    tenants: [Option<Wait>; TENANTS.len()],
}

impl Watched {
    fn new() -> Self {
        let mut watched = Self::default();
        watched.story.scheduler.weigh(weights(&TENANTS));
        watched
    }

    fn take(&mut self, step: &Step) {
        let now = self.story.now;
        match *step {
            Step::Admit {
                tenant,
                items,
                ref options,
            } => self.admit(tenant, items, options),
            Step::Append { batch, items } => self.append(batch, items),
            Step::Grant { want } => self.grant(want),
            Step::Finish { running } => {
                if let Some((no, index)) = pick(self.items(|seen| &seen.running), running) {
                    self.batches.get_mut(&no).unwrap().end(index, now);
                    self.story.finish(no, index);
                }
            }
            Step::Retry { running, after } => {
                if let Some((no, index)) = pick(self.items(|seen| &seen.running), running) {
                    let seen = self.batches.get_mut(&no).unwrap();
                    seen.end(index, now);
                    seen.waiting.insert(index, Timestamp(now.0 + after));
                    self.story.resume(no, index, tried(1), now.0 + after);
                }
            }
            Step::Cancel { waiting } => {
                let items = self.batches.iter().flat_map(|(&no, seen)| {
                    let indexes = seen.waiting.keys();
                    indexes.map(move |&index| (no, index))
                });
                if let Some((no, index)) = pick(items.collect(), waiting) {
                    self.batches.get_mut(&no).unwrap().waiting.remove(&index);
                    let item = key(no, index);
                    let scheduler = &mut self.story.scheduler;
                    scheduler.end(item, TerminalState::Cancelled, &mut Vec::new());
                    scheduler.ended(item, now);
                }
            }
            Step::Pause { batch } => self.pause(batch, true),
            Step::Unpause { batch } => self.pause(batch, false),
            Step::Wait { millis } => self.story.now.0 += millis,
        }
        self.look();
    }

    fn admit(&mut self, tenant: usize, items: u32, options: &Options) {
        let now = self.story.now;
        let no = u32::try_from(self.batches.len()).unwrap() + 1;
        let mut options = options.clone();
        options.not_before = options.not_before.map(|after| now.0 + after);
        let asked = BatchOptions {
            priority: options.priority,
            max_parallelism: options.max_parallelism,
            not_before: options.not_before.map(Timestamp),
            ..BatchOptions::default()
        };
        self.story.admit_of(TENANTS[tenant].0, no, items, asked);
        let seen = Seen {
            tenant,
            options,
            waiting: (0..items).map(|index| (index, now)).collect(),
            running: BTreeSet::new(),
            paused: false,
            free_since: now,
            wait: None,
        };
        self.batches.insert(no, seen);
    }

    fn append(&mut self, batch: usize, items: u32) {
        let Some(no) = pick(self.batches.keys().copied().collect(), batch) else {
            return;
        };
        let now = self.story.now;
        let (scheduler, no_inside) = (&mut self.story.scheduler, BatchNo(no));
        let first = scheduler.batch(no_inside).unwrap().total;
        scheduler.stage_items(no_inside, first + items, 0);
        scheduler.batch_mut(no_inside).unwrap().extend(now);
        scheduler.wake(no_inside, now);
        let seen = self.batches.get_mut(&no).unwrap();
        let waiting = (first..first + items).map(|index| (index, now));
        seen.waiting.extend(waiting);
    }

    fn pause(&mut self, batch: usize, pause: bool) {
        if let Some(no) = pick(self.batches.keys().copied().collect(), batch) {
            self.set_paused(no, pause);
        }
    }

    fn set_paused(&mut self, no: u32, pause: bool) {
        let seen = self.batches.get_mut(&no).unwrap();
        if seen.paused == pause {
            return;
        }
        seen.paused = pause;
        let (no, now) = (BatchNo(no), self.story.now);
        let batch = self.story.scheduler.batch_mut(no).unwrap();
        batch.paused = pause.then(|| Pause::by_hand(""));
        if !pause {
            self.batches.get_mut(&no.0).unwrap().free_since = now;
            self.story.scheduler.unpause(no, now);
        }
    }

    fn items(&self, of: impl Fn(&Seen) -> &BTreeSet<u32>) -> Vec<(u32, u32)> {
        let each = self.batches.iter();
        let each = each.flat_map(|(&no, seen)| of(seen).iter().map(move |&index| (no, index)));
        each.collect()
    }

    fn grant(&mut self, want: usize) {
        let granted = self.story.grant(want);
        for &(no, index) in &granted {
            self.check(no);
            let now = self.story.now;
            let seen = self.batches.get_mut(&no).unwrap();
            assert!(seen.wait.is_some(), "{no} has no turn: {seen:?}");
            let due = seen.waiting.remove(&index);
            assert!(
                due.is_some_and(|due| due <= now),
                "{no}/{index} is not to run: {due:?}, {seen:?}"
            );
            seen.running.insert(index);
            seen.free_since = now;
            seen.wait = None;
            self.tenants[seen.tenant] = None;
            self.look();
        }
        let left = self.batches.values().find(|seen| seen.wait.is_some());
        assert!(
            granted.len() == want || left.is_none(),
            "a slot stays empty although there is {left:?}"
        );
    }

    /// Counts a turn of `no` against everybody who waits.
    fn check(&mut self, no: u32) {
        let now = self.story.now;
        let aged = |wait: &Wait| now.since(wait.since) >= limits::TURN_AGED;
        let (tenant, priority) = {
            let seen = &self.batches[&no];
            (seen.tenant, seen.options.priority)
        };
        let was_aged = self.batches[&no].wait.as_ref().is_some_and(aged);
        for (&other, seen) in &mut self.batches {
            let own = seen.options.priority;
            let Some(wait) = seen.wait.as_mut() else {
                continue;
            };
            if other == no || seen.tenant != tenant {
                continue;
            }
            let turns = wait.others.entry(no).or_default();
            *turns += 1;
            if priority <= own {
                assert!(*turns <= 1, "{no} has {turns} turns while {other} waits");
            }
            if priority < own {
                assert!(was_aged, "{no} goes before {other}");
            }
            if aged(wait) {
                let turns = wait.since_aged.entry(no).or_default();
                *turns += 1;
                assert!(*turns <= 1, "{no} has {turns} turns while {other} is aged");
            }
        }
        for (other, wait) in self.tenants.iter_mut().enumerate() {
            let Some(wait) = wait.as_mut().filter(|_| other != tenant) else {
                continue;
            };
            let turns = wait
                .others
                .entry(u32::try_from(tenant).unwrap())
                .or_default();
            *turns += 1;
            let most = TENANTS[tenant].1.div_ceil(TENANTS[other].1);
            assert!(
                *turns <= most,
                "{tenant} has {turns} turns while {other} waits"
            );
        }
    }

    /// Notes who waits for a turn now.
    fn look(&mut self) {
        let now = self.story.now;
        let mut waits = [false; TENANTS.len()];
        for seen in self.batches.values_mut() {
            match seen.waits_since(now) {
                None => seen.wait = None,
                Some(since) => {
                    waits[seen.tenant] = true;
                    let begun = Wait {
                        since,
                        ..Wait::default()
                    };
                    seen.wait.get_or_insert(begun);
                }
            }
        }
        for (wait, waits) in self.tenants.iter_mut().zip(waits) {
            if waits {
                wait.get_or_insert_default();
            } else {
                *wait = None;
            }
        }
    }
}

fn pick<T>(mut from: Vec<T>, number: usize) -> Option<T> {
    let place = number.checked_rem(from.len())?;
    Some(from.swap_remove(place))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_arrivals_break_the_bound(steps in prop::collection::vec(step(), 1..200)) {
        let mut watched = Watched::new();
        for step in &steps {
            watched.take(step);
        }
        // Whatever waits then is granted in the end: nothing was lost on the way.
        for no in watched.batches.keys().copied().collect::<Vec<_>>() {
            watched.set_paused(no, false);
        }
        watched.look();
        let left = |watched: &Watched| watched.batches.values().any(|seen| !seen.waiting.is_empty());
        while left(&watched) {
            watched.take(&Step::Grant { want: 50 });
            while !watched.items(|seen| &seen.running).is_empty() {
                watched.take(&Step::Finish { running: 0 });
            }
            watched.take(&Step::Wait { millis: 1000 });
        }
    }
}
