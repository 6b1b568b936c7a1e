//! The table of batches.

use super::*;
use crate::domain::attempt::ItemError;
use crate::domain::failures::{FailureAction, FailurePolicy};
use crate::domain::item::Ending;
use crate::domain::settings::OnOpenTimeout;
use crate::engine::uploads::Uploads;
use crate::error::Error;
use crate::store::conformance::settlement;
use crate::store::{LeaseEnd, StoreError};

/// Where a batch is. It has two items, which run unless it is over or a restart came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Open,
    Running,
    Paused,
    Cancelling,
    Completed,
    Cancelled,
}

const PLACES: [Place; 6] = [
    Place::Open,
    Place::Running,
    Place::Paused,
    Place::Cancelling,
    Place::Completed,
    Place::Cancelled,
];

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Append,
    Seal,
    AllEnd,
    Enough,
    PolicyCancels,
    PolicyPauses,
    Deadline,
    MaxDuration,
    ItemsExpire,
    Cancel,
    Pause,
    Resume,
    OpenTimeoutSeals,
    OpenTimeoutCancels,
    Dies,
}

const EVENTS: [(Event, &str); 15] = [
    (Event::Append, "more items come"),
    (Event::Seal, "it is sealed"),
    (Event::OpenTimeoutSeals, "its `open_timeout`: SEAL"),
    (Event::OpenTimeoutCancels, "its `open_timeout`: CANCEL"),
    (Event::AllEnd, "all items have their results"),
    (Event::ItemsExpire, "all items expire by their own times"),
    (Event::Enough, "`enough` items succeeded"),
    (Event::PolicyCancels, "too many items failed: CANCEL"),
    (Event::PolicyPauses, "too many items failed: PAUSE"),
    (Event::Deadline, "its `deadline`"),
    (Event::MaxDuration, "its `max_duration`"),
    (Event::Cancel, "`CancelBatch`"),
    (Event::Pause, "`PauseBatch`"),
    (Event::Resume, "`ResumeBatch`"),
    (Event::Dies, "the server dies"),
];

impl Event {
    /// Whether it comes of its items, of which nothing is left once it is over.
    fn comes_of_items(self) -> bool {
        match self {
            Self::AllEnd
            | Self::ItemsExpire
            | Self::Enough
            | Self::PolicyCancels
            | Self::PolicyPauses => true,
            Self::Append
            | Self::Seal
            | Self::Deadline
            | Self::MaxDuration
            | Self::Cancel
            | Self::Pause
            | Self::Resume
            | Self::OpenTimeoutSeals
            | Self::OpenTimeoutCancels
            | Self::Dies => false,
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
            deadline: (self == Self::Deadline).then_some(at),
            max_duration: (self == Self::MaxDuration).then(|| at.since(clock::now())),
            enough: (self == Self::Enough).then_some(1),
            failure_policy: acts.map(|(_, action)| policy(action)),
            ..BatchOptions::default()
        }
    }

    fn terms(self) -> UploadTerms {
        UploadTerms {
            on_open_timeout: if self == Self::OpenTimeoutCancels {
                OnOpenTimeout::Cancel
            } else {
                OnOpenTimeout::Seal
            },
            ..UploadTerms::default()
        }
    }
}

/// A batch in its place, by the time that was given.
async fn placed(event: Event, place: Place, at: Timestamp) -> World {
    let mut item = ItemSpec::new("x");
    if event == Event::ItemsExpire {
        item = item.with_finish_by(at);
    }
    let upload = (place == Place::Open).then(|| event.terms());
    let mut world = World::new(event.options(at), vec![item; 2], upload).await;
    let no = world.batch.head.no;
    world.lease(2).await;
    match place {
        Place::Open | Place::Running => {}
        // Refused if its time has come too soon; then it is tried again with more of it.
        Place::Paused => drop(world.store.pause_batch(no, "").await),
        Place::Cancelling => drop(world.store.cancel_batch(no, "").await),
        Place::Completed => finish(&mut world, || Ending::Succeeded("x".into())).await,
        Place::Cancelled => {
            drop(world.store.cancel_batch(no, "").await);
            finish(&mut world, stopped).await;
        }
    }
    world
}

fn stopped() -> Ending {
    Ending::Cancelled(ItemError::permanent("STOPPED", ""))
}

/// Ends what runs, and all that is due.
async fn finish(world: &mut World, ending: impl Fn() -> Ending) {
    loop {
        while let Some(lease) = world.leases.pop() {
            let end = LeaseEnd::Finish(ending());
            world.settle(settlement(&lease, end)).await;
        }
        world.lease(1).await;
        if world.leases.is_empty() {
            return;
        }
    }
}

/// Ends one item.
async fn end_one(world: &mut World, ending: Ending) {
    if world.leases.is_empty() {
        world.lease(1).await;
    }
    if let Some(lease) = world.leases.pop() {
        let end = LeaseEnd::Finish(ending);
        world.settle(settlement(&lease, end)).await;
    }
}

/// Lets it happen.
async fn happen(world: &mut World, event: Event, at: Timestamp) -> Result<(), StoreError> {
    let no = world.batch.head.no;
    let store = world.store.clone();
    match event {
        Event::Append => {
            let appended = store.append_items(no, 2, vec![ItemSpec::new("x")].into());
            appended.await?;
        }
        Event::Seal => drop(store.seal(no, 2).await?),
        Event::AllEnd => finish(world, || Ending::Succeeded("x".into())).await,
        Event::Enough => end_one(world, Ending::Succeeded("x".into())).await,
        Event::PolicyCancels | Event::PolicyPauses => {
            let failed = ItemError::permanent("BAD", "");
            end_one(world, Ending::Failed(failed)).await;
        }
        Event::Deadline | Event::MaxDuration | Event::ItemsExpire => {
            let of_batch = world.batch.head.ends_at().map(|(at, _)| at);
            until(of_batch.unwrap_or(at)).await;
            store.end_overdue().await?;
            if event == Event::ItemsExpire {
                finish(world, || Ending::Succeeded("x".into())).await;
            }
        }
        Event::Cancel => drop(store.cancel_batch(no, "").await?),
        Event::Pause => drop(store.pause_batch(no, "").await?),
        Event::Resume => drop(store.resume_batch(no).await?),
        Event::OpenTimeoutSeals | Event::OpenTimeoutCancels => {
            Uploads::of(store).try_end(&world.batch.head).await?;
        }
        Event::Dies => world.die(),
    }
    Ok(())
}

/// Where the batch is.
async fn observed(world: &World) -> String {
    let batch = world.calm().await;
    let paused = if batch.paused.is_some() {
        ", paused"
    } else {
        ""
    };
    format!("{}{paused}", format!("{:?}", batch.state).to_uppercase())
}

/// What comes of an event there, live or after a restart.
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
    if let Err(refused) = happen(&mut world, event, at).await {
        let is_asked = !matches!(event, Event::OpenTimeoutSeals | Event::OpenTimeoutCancels);
        let refusal = format!("`{}`", Error::from(refused).reason());
        return if is_asked {
            refusal
        } else {
            "stays".to_owned()
        };
    }
    let mut after = observed(&world).await;
    let ended_early = world.batch().await.cause.is_some();
    if ended_early && place != Place::Cancelling && !before.ends_with("ED") {
        // Its leases are asked to stop, and do.
        finish(&mut world, stopped).await;
        after = format!("CANCELLING, then {}", observed(&world).await);
    }
    let last = observed(&world).await;
    if last != before && last != "CANCELLING" && !restarted {
        world.die();
        assert_eq!(observed(&world).await, last, "{event:?} {place:?}");
    }
    if after == before {
        "stays".to_owned()
    } else {
        after
    }
}

#[tokio::test]
async fn batches_come_to_what_the_docs_show() {
    let mut rows = Vec::new();
    for (event, name) in EVENTS {
        let mut row = vec![name.to_owned()];
        for place in PLACES {
            let over = [Place::Completed, Place::Cancelled].contains(&place);
            if over && event.comes_of_items() {
                row.push("–".to_owned());
                continue;
            }
            let live = met(event, place, false).await;
            // A restart ends what is cancelling, and nothing of what is paused can run after it.
            let differs =
                place == Place::Cancelling || (place == Place::Paused && event.comes_of_items());
            if !differs && !over {
                let after_restart = met(event, place, true).await;
                assert_eq!(live, after_restart, "{event:?} {place:?}");
            }
            row.push(live);
        }
        rows.push(row);
    }
    let head = [
        "what happens",
        "OPEN",
        "RUNNING",
        "RUNNING, paused",
        "CANCELLING",
        "COMPLETED",
        "CANCELLED",
    ];
    assert_shown("Batches", &head, &rows);
}
