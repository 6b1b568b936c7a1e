//! The table of items.

use super::*;
use crate::domain::attempt::{ItemError, Reason, Shortage};
use crate::domain::failures::{FailureAction, FailurePolicy};
use crate::domain::item::{Ending, TerminalState};
use crate::store::conformance::settlement;
use crate::store::{Charge, LeaseEnd};

/// Where an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It never ran.
    Pending,
    /// It ran and did not end; its next attempt is due.
    Again,
    Running,
    Over(TerminalState),
}

/// How items end; each event meets one of them that is over, in turn.
const ENDS: [TerminalState; 4] = [
    TerminalState::Succeeded,
    TerminalState::Failed,
    TerminalState::Cancelled,
    TerminalState::Expired,
];

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Turn,
    Ends(End),
    EndsWellAfter(Limit),
    CancelItem,
    CancelBatch,
    StartBy,
    FinishBy,
    Deadline,
    MaxDuration,
    Enough,
    PolicyCancels,
    PolicyPauses,
    Pause,
    Resume,
    Drain,
    DrainOnce,
    Dies,
    DiesTooOften,
    DiesOnce,
}

/// How its attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Well,
    Retryable,
    Last,
    ForGood,
    Once,
    GivenBack,
    Short,
    Timeout,
    LastTimeout,
    OnceTimeout,
}

/// After what an attempt ends well that did not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Cancel,
    FinishBy,
    Deadline,
}

const EVENTS: [(Event, &str); 30] = [
    (Event::Turn, "its turn comes"),
    (Event::Ends(End::Well), "its attempt ends well"),
    (Event::Ends(End::Retryable), "it fails, attempts are left"),
    (Event::Ends(End::Last), "it fails at its last attempt"),
    (Event::Ends(End::ForGood), "it fails for good"),
    (Event::Ends(End::Once), "it fails, `at_most_once`"),
    (Event::Ends(End::GivenBack), "its handler gives it back"),
    (
        Event::Ends(End::Short),
        "the system has no thread or process for it",
    ),
    (Event::Ends(End::Timeout), "its timeout, attempts are left"),
    (
        Event::Ends(End::LastTimeout),
        "its timeout at its last attempt",
    ),
    (Event::Ends(End::OnceTimeout), "its timeout, `at_most_once`"),
    (Event::StartBy, "its `start_by`"),
    (Event::FinishBy, "its `finish_by`"),
    (Event::Deadline, "its batch's `deadline`"),
    (Event::MaxDuration, "its batch's `max_duration`"),
    (
        Event::EndsWellAfter(Limit::FinishBy),
        "it ends well after its `finish_by`",
    ),
    (
        Event::EndsWellAfter(Limit::Deadline),
        "it ends well after its batch's `deadline`",
    ),
    (Event::CancelItem, "it is cancelled"),
    (Event::CancelBatch, "its batch is cancelled"),
    (Event::Enough, "`enough` others succeeded"),
    (Event::PolicyCancels, "too many others failed: CANCEL"),
    (
        Event::EndsWellAfter(Limit::Cancel),
        "it ends well, though asked to stop by one of these four",
    ),
    (Event::PolicyPauses, "too many others failed: PAUSE"),
    (Event::Pause, "its batch is paused"),
    (Event::Resume, "its batch is resumed"),
    (Event::Drain, "a drain stops what runs"),
    (Event::DrainOnce, "the same, `at_most_once`"),
    (Event::Dies, "the server dies"),
    (Event::DiesTooOften, "the same, `max_crashes` times"),
    (Event::DiesOnce, "the same, `at_most_once`"),
];

impl Event {
    /// Whether another item of the batch runs, by whose end it happens.
    fn needs_another(self) -> bool {
        matches!(
            self,
            Self::Enough | Self::PolicyCancels | Self::PolicyPauses
        )
    }

    fn is_once(self) -> bool {
        matches!(
            self,
            Self::DrainOnce | Self::DiesOnce | Self::Ends(End::Once | End::OnceTimeout)
        )
    }

    /// Whether it can meet an item there.
    fn meets(self, place: Place) -> bool {
        let is_running = place == Place::Running;
        let of_attempt = matches!(self, Self::Ends(_) | Self::EndsWellAfter(_));
        (is_running || !of_attempt) && !(is_running && self == Self::Turn)
    }

    fn spec(self, at: Timestamp) -> ItemSpec {
        let has = |events: &[Self]| events.contains(&self);
        let last = [Self::Ends(End::Last), Self::Ends(End::LastTimeout)];
        let timeouts = [End::Timeout, End::LastTimeout, End::OnceTimeout].map(Self::Ends);
        let finish_by = [Self::FinishBy, Self::EndsWellAfter(Limit::FinishBy)];
        ItemSpec {
            start_by: has(&[Self::StartBy]).then_some(at),
            finish_by: has(&finish_by).then_some(at),
            timeout: has(&timeouts).then_some(Duration::from_millis(1)),
            retry: RetrySettings {
                max_attempts: has(&last).then_some(1),
                max_crashes: has(&[Self::DiesTooOften]).then_some(1),
                ..RetrySettings::default()
            },
            ..ItemSpec::new("x")
        }
    }

    fn options(self, at: Timestamp) -> BatchOptions {
        let policy = |action| FailurePolicy {
            max_failed_items: Some(1),
            action,
            ..FailurePolicy::default()
        };
        let policies = [
            (Self::PolicyCancels, FailureAction::Cancel),
            (Self::PolicyPauses, FailureAction::Pause),
        ];
        let acts = policies.into_iter().find(|&(event, _)| event == self);
        BatchOptions {
            at_most_once: self.is_once(),
            deadline: matches!(self, Self::Deadline | Self::EndsWellAfter(Limit::Deadline))
                .then_some(at),
            max_duration: (self == Self::MaxDuration).then(|| at.since(clock::now())),
            enough: (self == Self::Enough).then_some(1),
            failure_policy: acts.map(|(_, action)| policy(action)),
            ..BatchOptions::default()
        }
    }
}

/// An item in its place, by the time that was given. The item is the last one of its batch.
async fn placed(event: Event, place: Place, at: Timestamp) -> World {
    let another = event.needs_another().then(|| ItemSpec::new("another"));
    let items = another.into_iter().chain([event.spec(at)]).collect();
    let mut world = World::new(event.options(at), items, None).await;
    if event.needs_another() {
        world.lease(1).await;
    }
    if place == Place::Pending {
        return world;
    }
    world.lease(1).await;
    let end = match place {
        Place::Pending | Place::Running => return world,
        Place::Again => LeaseEnd::Release {
            due: PAST,
            error: ItemError::retryable("FLAKY", ""),
            charge: if event.is_once() {
                Charge::Stop
            } else {
                Charge::Attempt
            },
        },
        Place::Over(state) => LeaseEnd::Finish(ending(state)),
    };
    // Without one its time has come too soon, and it is tried again with more of it.
    if let Some(lease) = world.leases.pop() {
        world.settle(settlement(&lease, end)).await;
    }
    world
}

fn ending(state: TerminalState) -> Ending {
    let error = ItemError::permanent("EARLIER", "");
    match state {
        TerminalState::Succeeded => Ending::Succeeded("x".into()),
        TerminalState::Failed => Ending::Failed(error),
        TerminalState::Cancelled => Ending::Cancelled(error),
        TerminalState::Expired => Ending::Expired(error),
    }
}

/// Lets it happen. A lease whose attempt is stopped by it is run to its end.
async fn happen(world: &mut World, event: Event, at: Timestamp) {
    let running = (world.leases.len() > usize::from(event.needs_another()))
        .then(|| world.leases.pop())
        .flatten();
    let halt = CancellationToken::new();
    match event {
        Event::Turn => world.lease(1).await,
        Event::Ends(end) => {
            let lease = running.expect("it runs");
            return world.run(lease, end.outcome(), halt).await;
        }
        Event::Dies | Event::DiesOnce => return world.die(),
        Event::EndsWellAfter(limit) => {
            if limit == Limit::Cancel {
                asked(world, Event::CancelBatch).await;
            } else {
                until(at).await;
            }
            let end = LeaseEnd::Finish(Ending::Succeeded("x".into()));
            world
                .settle(settlement(&running.expect("it runs"), end))
                .await;
            return;
        }
        Event::DiesTooOften => {
            world.die();
            if running.is_none() {
                return;
            }
            // Its turn comes, and it is no turn: it is over.
            world.lease(1).await;
            if let Some(lease) = world.leases.pop() {
                world
                    .run(lease, Some(Outcome::Succeeded("x".into())), halt)
                    .await;
            }
            return;
        }
        Event::Drain | Event::DrainOnce => halt.cancel(),
        Event::StartBy | Event::FinishBy | Event::Deadline | Event::MaxDuration => {
            let of_batch = world.batch.head.ends_at().map(|(at, _)| at);
            until(of_batch.unwrap_or(at)).await;
            world.store.end_overdue().await.unwrap();
        }
        Event::Enough => end_another(world, ending(TerminalState::Succeeded)).await,
        Event::PolicyCancels | Event::PolicyPauses => {
            end_another(world, ending(TerminalState::Failed)).await;
        }
        Event::CancelItem | Event::CancelBatch | Event::Pause | Event::Resume => {
            asked(world, event).await;
        }
    }
    let is_drained = matches!(event, Event::Drain | Event::DrainOnce);
    if let Some(lease) = running
        && (lease.stop.is_cancelled() || event == Event::FinishBy || is_drained)
    {
        world.run(lease, None, halt).await;
    }
    if is_drained {
        world.die();
    }
}

/// What somebody asks for. A batch that is over refuses most of it; that changes nothing.
async fn asked(world: &World, event: Event) {
    let (store, no) = (&world.store, world.batch.head.no);
    let last = world.batch.total - 1;
    if event == Event::CancelItem {
        drop(store.cancel_items(no, vec![last]).await);
    } else if event == Event::CancelBatch {
        drop(store.cancel_batch(no, "").await);
    } else {
        drop(store.pause_batch(no, "").await);
    }
    if event == Event::Resume {
        drop(store.resume_batch(no).await);
    }
}

/// Ends the other item, which may be enough, or too many.
async fn end_another(world: &mut World, ending: Ending) {
    if world.leases.is_empty() {
        // After a restart it has yet to be leased again; it is marked, and goes first.
        world.lease(1).await;
    }
    if world.leases.is_empty() {
        // The item itself was enough, or too many.
        return;
    }
    let another = world.leases.remove(0);
    assert_eq!(another.token.item.index, 0);
    world
        .settle(settlement(&another, LeaseEnd::Finish(ending)))
        .await;
}

impl End {
    fn outcome(self) -> Option<Outcome> {
        let failed = || ItemError::retryable("FLAKY", "");
        match self {
            Self::Well => Some(Outcome::Succeeded("x".into())),
            Self::Retryable | Self::Last | Self::Once => Some(Outcome::Failed(failed())),
            Self::ForGood => Some(Outcome::Failed(ItemError::permanent("BAD", ""))),
            Self::GivenBack => Some(Outcome::Released {
                error: failed(),
                wait: Duration::ZERO,
            }),
            Self::Short => Some(Outcome::Short(Shortage {
                error: ItemError::of(Reason::SPAWN_FAILED, "no process"),
                wait: Duration::ZERO,
            })),
            Self::Timeout | Self::LastTimeout | Self::OnceTimeout => None,
        }
    }
}

/// Where the item is, with the reason if it is over.
async fn observed(world: &World) -> String {
    world.calm().await;
    let (no, index) = (world.batch.head.no, world.batch.total - 1);
    let view = world.store.item(no, index, false).await.unwrap();
    let Some(record) = view.record else {
        return if view.running.is_some() {
            "RUNNING"
        } else {
            "PENDING"
        }
        .to_owned();
    };
    let state = record.ending.state().name().to_uppercase();
    match record.ending.error() {
        Some(error) => format!("{state} `{}`", error.reason),
        None => state,
    }
}

/// What comes of an event there, live or after a restart; nothing if they cannot meet.
async fn met(event: Event, place: Place, restarted: bool) -> String {
    let meeting = try_met(event, place, restarted);
    patiently(meeting, &format!("{event:?} {place:?} {restarted}")).await
}

async fn try_met(event: Event, place: Place, restarted: bool) -> String {
    let (at, mut world) = in_time(async |at| {
        let mut world = placed(event, place, at).await;
        if restarted {
            world.die();
        }
        world
    })
    .await;
    let before = observed(&world).await;
    happen(&mut world, event, at).await;
    let after = observed(&world).await;
    if after != before && after != "RUNNING" && !restarted {
        world.die();
        assert_eq!(observed(&world).await, after, "{event:?} {place:?}");
    }
    if after == before {
        "stays".to_owned()
    } else {
        after
    }
}

/// What is shown of an event there.
async fn cell(event: Event, place: Place) -> String {
    if !event.meets(place) {
        return "–".to_owned();
    }
    let live = met(event, place, false).await;
    // What runs does not outlive its server: that is an event of its own.
    if matches!(place, Place::Pending | Place::Again) {
        let after_restart = met(event, place, true).await;
        assert_eq!(live, after_restart, "{event:?} {place:?}");
    }
    live
}

#[tokio::test]
async fn items_come_to_what_the_docs_show() {
    let mut rows = Vec::new();
    for ((event, name), over) in EVENTS.into_iter().zip(ENDS.into_iter().cycle()) {
        let mut row = vec![name.to_owned()];
        let over = Place::Over(over);
        for place in [Place::Pending, Place::Again, Place::Running, over] {
            row.push(cell(event, place).await);
        }
        rows.push(row);
    }
    let head = [
        "what happens",
        "PENDING",
        "PENDING, tried before",
        "RUNNING",
        "over",
    ];
    assert_shown("Items", &head, &rows);
}

// Who could name the reason could have its items tried for ever.
#[tokio::test]
async fn only_a_shortage_costs_an_item_nothing_however_often() {
    for at_most_once in [false, true] {
        let options = BatchOptions {
            at_most_once,
            ..BatchOptions::default()
        };
        let mut world = World::new(options, vec![ItemSpec::new("x")], None).await;
        let shown = ItemError::of(Reason::SPAWN_FAILED, "no process");
        let given_back = Outcome::Released {
            error: shown.clone(),
            wait: Duration::ZERO,
        };
        let often = limits::RELEASES_MAX + 20;
        for number in 1..=often {
            world.lease(1).await;
            let lease = world.leases.pop().unwrap();
            assert_eq!(lease.token.attempt, number, "no number comes twice");
            let short = End::Short.outcome();
            world.run(lease, short, CancellationToken::new()).await;
        }
        let view = world.store.item(world.batch.head.no, 0, false).await;
        let past = view.unwrap().past;
        assert_eq!(past.len(), 1, "the last one stands for all");
        assert_eq!((past[0].number, past[0].began), (often, false));
        assert_eq!(past[0].error, Some(shown));
        for _ in 0..limits::RELEASES_MAX {
            assert_eq!(observed(&world).await, "PENDING");
            world.lease(1).await;
            let lease = world.leases.pop().unwrap();
            let outcome = Some(given_back.clone());
            world.run(lease, outcome, CancellationToken::new()).await;
        }
        assert_eq!(observed(&world).await, "FAILED `RELEASED_TOO_OFTEN`");
    }
}
