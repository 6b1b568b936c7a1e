//! Faults at the points where the server writes and syncs: kills, power cuts, failing disks, full disks.
//!
//! `SOONER_FAULT_STRIDE=1 cargo test --test it -- faults` kills it at every single point.

use std::collections::BTreeMap;

use crate::harness::history::{Answer, Event, Facts, Guarantees};
use crate::harness::load::{Dice, Volume, seed};
use crate::harness::shim::{Fault, Recovery, Shim, Struck};

/// A load that is over in about a second and makes the server copy its log at least once.
const VOLUME: Volume = Volume {
    clients: 4,
    actions: 16,
};

/// What each sweep must have hit: the log, the database, and the traces of running items.
const VITAL: [&str; 5] = [
    "write sooner.db-wal",
    "sync sooner.db-wal",
    "write sooner.db",
    "sync sooner.db",
    "write in-flight",
];

/// Kills per vital kind of point, and per other kind, unless `SOONER_FAULT_STRIDE` says otherwise.
const VITAL_KILLS: u64 = 8;
const OTHER_KILLS: u64 = 1;

/// Power cuts of one run, and how many without syncs may go unnoticed.
const POWER_CUTS: u64 = 20;
const CONTROL_CUTS_MAX: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_point_of_io_loses_nothing() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::a_kill_at_any_point_of_io_loses_nothing");
    let mut hits: BTreeMap<String, u64> = BTreeMap::new();
    for at_restart in [false, true] {
        let points = Fault::points(shim, seed, VOLUME, at_restart).await;
        for (kind, count) in points {
            let points = kind.replacen(' ', ":", 1);
            for at in aims(&kind, count) {
                let action = ["kill", "kill_after", "short"][usize::try_from(at % 3).unwrap()];
                let fault = Fault {
                    points: points.clone(),
                    action,
                    at,
                    at_restart,
                    ..Fault::default()
                };
                let struck = fault.strike(shim, seed, VOLUME).await;
                *hits.entry(kind.clone()).or_default() += u64::from(struck.hit);
                struck.recover(Guarantees::All).await.assert_sound();
            }
        }
    }
    eprintln!("{} kills: {hits:?}", hits.values().sum::<u64>());
    let missed = |kind: &&&str| hits.get(**kind).copied().unwrap_or_default() == 0;
    assert_eq!(VITAL.iter().find(missed), None, "{hits:?}");
}

/// Which of so many points of a kind to aim at. Of the last ones some may not come in another run.
fn aims(kind: &str, count: u64) -> impl Iterator<Item = u64> {
    let kills = if VITAL.contains(&kind) {
        VITAL_KILLS
    } else {
        OTHER_KILLS
    };
    let given = std::env::var("SOONER_FAULT_STRIDE").ok();
    let stride: u64 = given.map_or(count.div_ceil(kills), |stride| stride.parse().unwrap());
    // Each kind is met at least once.
    let stride = stride.clamp(1, count);
    (stride.div_ceil(2)..=count).step_by(usize::try_from(stride).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::a_power_cut_takes_nothing_that_was_acknowledged");
    let mut cuts = PowerCuts::new(shim, seed, "").await;
    let mut unfinished = 0;
    for _ in 0..POWER_CUTS {
        let recovery = cuts.next().await;
        unfinished += Facts::of(&recovery.load.history().events())
            .hits()
            .unfinished;
        recovery.assert_sound();
    }
    assert!(unfinished > 0, "no cut met an unfinished batch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_is_noticed_if_the_log_is_not_synced() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::a_power_cut_is_noticed_if_the_log_is_not_synced");
    let mut cuts = PowerCuts::new(shim, seed, "-wal").await;
    for cut in 1..=CONTROL_CUTS_MAX {
        let is_noticed = match cuts.next().await.served {
            Ok(violations) => !violations.is_empty(),
            Err(status) => status.code() == Some(65),
        };
        if is_noticed {
            eprintln!("noticed at cut {cut}");
            return;
        }
    }
    panic!("{CONTROL_CUTS_MAX} power cuts without syncs went unnoticed: the test proves nothing");
}

/// Power cuts at random points of a load.
struct PowerCuts {
    shim: &'static Shim,
    dice: Dice,
    points: u64,
    swallow: &'static str,
}

impl PowerCuts {
    async fn new(shim: &'static Shim, seed: u64, swallow: &'static str) -> Self {
        let points = Fault::points(shim, seed, VOLUME, false).await;
        Self {
            shim,
            dice: Dice::new(seed),
            points: points.values().sum(),
            swallow,
        }
    }

    /// The next one, and what the restart came to.
    async fn next(&mut self) -> Recovery {
        let fault = Fault {
            action: "kill",
            at: self.dice.within(1, self.points),
            swallow: self.swallow,
            power_cut: true,
            ..Fault::default()
        };
        let struck = fault.strike(self.shim, self.dice.next(), VOLUME).await;
        struck.cut_power(self.shim, self.dice.next());
        struck.recover(Guarantees::WithoutTraces).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_leaves_submits_unknown_and_the_key_tells() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::a_sync_that_fails_leaves_submits_unknown_and_the_key_tells");
    let mut dice = Dice::new(seed);
    let (mut unknown, mut tried) = (0, 0);
    // Whose sync it is that fails is chance; some are of a submit.
    while unknown == 0 || tried < 3 {
        assert!(tried < 15, "no submit was told that its outcome is unknown");
        tried += 1;
        let at = dice.within(1, 50);
        let struck = fail(shim, &mut dice, ("sync:sooner.db-wal", at, false)).await;
        unknown += unknown_submits(&struck.load.history().events());
        struck.recover(Guarantees::All).await.assert_sound();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_ends_the_server() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::a_write_that_fails_ends_the_server");
    let mut dice = Dice::new(seed);
    for (points, most, at_restart) in [
        ("write:sooner.db-wal", 400, false),
        ("write:sooner.db-wal", 400, false),
        ("write:in-flight", 60, false),
        ("write:sooner.db", 20, false),
        ("write:sooner.db", 20, true),
        ("sync:sooner.db", 1, true),
    ] {
        let at = dice.within(1, most);
        let struck = fail(shim, &mut dice, (points, at, at_restart)).await;
        struck.recover(Guarantees::All).await.assert_sound();
    }
}

/// Lets one write or sync of a load fail: the server must end by itself, with code 74.
///
/// How many points a load has depends on how its operations are grouped: if it was over before the
/// one that was to fail, an earlier one is.
async fn fail(
    shim: &Shim,
    dice: &mut Dice,
    (points, mut at, at_restart): (&str, u64, bool),
) -> Struck {
    loop {
        let (points, action) = (points.to_owned(), "eio");
        let fault = Fault {
            points,
            action,
            at,
            at_restart,
            ..Fault::default()
        };
        let struck = fault.strike(shim, dice.next(), VOLUME).await;
        if !struck.hit && at > 1 {
            at /= 2;
            continue;
        }
        assert!(struck.hit, "{fault:?} did not come");
        assert_eq!(struck.code, Some(74), "{fault:?}: {}", struck.log());
        return struck;
    }
}

/// Submits that were answered with `ACCEPT_UNKNOWN`.
fn unknown_submits(events: &[Event]) -> usize {
    let unknown = |event: &&Event| matches!(event, Event::Came(_, Answer::Refused(_, reason)) if reason == "ACCEPT_UNKNOWN");
    events.iter().filter(unknown).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_work_and_keeps_what_was_accepted() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::a_full_disk_refuses_new_work_and_keeps_what_was_accepted");
    let at = Dice::new(seed).within(150, 900);
    let points = "write:".to_owned();
    let fault = Fault {
        points,
        action: "enospc_from",
        at,
        ..Fault::default()
    };
    let full = fault.befall(shim, seed, VOLUME);
    assert_eq!(full.load.submit_until_refused().await, "DISK_FULL");
    let read = full.load.look_at_accepted().await;
    assert!(read > 0, "nothing had been accepted before");
    let again = full.load.submit_until_refused().await;
    assert_eq!(again, "DISK_FULL", "it lives on");
    let struck = full.kill().await;
    assert!(
        struck.log().contains("the disk is full"),
        "{}",
        struck.log()
    );
    struck
        .recover(Guarantees::WithoutTraces)
        .await
        .assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_work_ends_in_the_room_that_the_ballast_gives_up() {
    let Some(shim) = Shim::built() else { return };
    let seed = seed("faults::accepted_work_ends_in_the_room_that_the_ballast_gives_up");
    let mut at = Dice::new(seed).within(150, 900);
    // The load gets through: whatever was accepted ends although the disk is full again and again.
    let struck = loop {
        let (points, only_while) = ("write:".to_owned(), "ballast");
        let fault = Fault {
            points,
            action: "enospc_from",
            at,
            only_while,
            ..Fault::default()
        };
        let struck = fault.strike(shim, seed, VOLUME).await;
        if struck.hit || at == 1 {
            break struck;
        }
        // The load was over before: an earlier write finds the disk full.
        at /= 2;
    };
    assert!(struck.hit);
    assert_eq!(
        struck.code,
        None,
        "it ended only because it was killed: {}",
        struck.log()
    );
    assert!(
        struck.log().contains("the disk is full"),
        "{}",
        struck.log()
    );
    struck
        .recover(Guarantees::WithoutTraces)
        .await
        .assert_sound();
}
