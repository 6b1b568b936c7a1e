//! The server is killed again and again in the middle of its work. Nothing that anyone saw is lost.
//!
//! A kill proves nothing about syncs: what was written is in the kernel's cache and survives it.
//! The power cuts in `faults` are for that.

use std::time::{Duration, Instant};

use crate::harness::history::Guarantees;
use crate::harness::load::{Dice, Load, Volume, seed, setup};

/// Kills unless `SOONER_KILLS` says how many.
const KILLS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_seen_is_lost_when_the_server_is_killed() {
    let seed = seed("kills::nothing_that_was_seen_is_lost_when_the_server_is_killed");
    let kills = std::env::var("SOONER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut dice = Dice::new(seed);
    let setup = setup();
    let volume = Volume {
        clients: 5,
        actions: usize::MAX,
    };
    let mut load = Load::start(&setup, seed, volume);
    let mut redriver = load.redrive_beside();
    let mut redriving = 0;
    let began = Instant::now();
    for _ in 0..kills {
        let server = setup.start();
        load.serve(&server);
        // Where in its work the kill meets the server, not a wait for something.
        std::thread::sleep(Duration::from_millis(dice.within(5, 120)));
        server.kill();
        redriving += usize::from(redriver.is_redriving());
        load.died();
    }
    let took = began.elapsed().as_secs_f64();
    load.stop().await;
    redriver.stop();
    let server = setup.start();
    load.serve(&server);
    load.settle().await;
    let rounds = redriver.settle().await;
    let hits = load.assert_holds(Guarantees::All);
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let rate = kills as f64 / took;
    eprintln!("{hits:?}, {redriving} of {rounds} redrives, at {rate:.1} kills a second");
    assert_eq!(hits.kills, kills);
    assert!(hits.running > 0, "no kill met a running item: {hits:?}");
    assert!(hits.submits > 0, "no kill met a submit: {hits:?}");
    assert!(
        hits.unfinished > 0,
        "no kill met an unfinished batch: {hits:?}"
    );
    assert!(redriving > 0, "no kill met a redrive");
    assert!(hits.uploads > 0, "no kill met an upload: {hits:?}");
}
