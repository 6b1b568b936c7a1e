//! Batches whose items run at most once: what was interrupted is not run again, whatever stopped it.

use rustix::process::Signal;
use sooner::wire::{BatchOptions, BatchState, CreateBatchRequest, Item, ItemSpec, ItemState};

use crate::harness::cli::asked;
use crate::harness::client::milliseconds;
use crate::harness::load::Dice;
use crate::harness::shim::Shim;
use crate::harness::{Client, Gates, Server, ServerSetup, item, within};

/// How many power cuts meet the same item.
const POWER_CUTS: u64 = 12;

async fn create(client: &mut Client, items: Vec<ItemSpec>) {
    let request = CreateBatchRequest {
        batch_id: "batch".into(),
        items,
        options: Some(BatchOptions {
            at_most_once: true,
            ..BatchOptions::default()
        }),
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
}

fn reason(item: &Item) -> &str {
    let error = item.result.as_ref().and_then(|it| it.error.as_ref());
    error.map_or("", |error| &error.reason)
}

/// Checks that nobody knows how the item ended, and that its one attempt is told.
fn assert_unknown(item: &Item) {
    assert_eq!(
        (item.state(), reason(item)),
        (ItemState::Failed, "UNKNOWN_OUTCOME"),
        "{item:?}"
    );
    let result = item.result.as_ref().unwrap();
    assert_eq!(result.error.as_ref().unwrap().code, 2);
    assert_eq!(result.attempt_count, 1);
    let [attempt] = &item.attempts[..] else {
        panic!("{:?}", item.attempts)
    };
    let error = attempt.error.as_ref().unwrap();
    assert_eq!((attempt.attempt, &*error.reason), (1, "UNKNOWN_OUTCOME"));
}

/// A server that is killed while an item runs and another waits.
async fn killed_in_the_middle(setup: &ServerSetup, gates: &Gates) {
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("runs"), gates.free_item("waits")];
    create(&mut client, items).await;
    let held = gates.arrival("runs").await;
    server.kill();
    drop(held);
}

#[tokio::test]
async fn what_ran_when_the_server_was_killed_is_not_run_again() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["runs"]);
    killed_in_the_middle(&setup, &gates).await;
    let server = setup.start();
    let mut client = server.client().await;
    let item = client.item("batch", "runs").await.unwrap();
    assert_unknown(&item);
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Completed);
    let counts = batch.counts.unwrap();
    assert_eq!((counts.failed, counts.succeeded), (1, 1));
    assert_eq!(client.item("batch", "runs").await.unwrap(), item);
}

#[tokio::test]
async fn what_a_drain_stops_is_not_run_again() {
    let setup = ServerSetup::gated(1, "[server]\ndrain_grace = \"3s\"");
    let gates = Gates::new(&setup, ["runs"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("runs"), gates.free_item("waits")];
    create(&mut client, items).await;
    let held = gates.arrival("runs").await;
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0), "{}", setup.log());
    drop(held);
    let server = setup.start();
    let mut client = server.client().await;
    assert_unknown(&client.item("batch", "runs").await.unwrap());
    let waited = client.item_when_over("batch", "waits").await;
    assert_eq!(waited.state(), ItemState::Succeeded);
}

#[tokio::test]
async fn what_fails_is_not_tried_again_whatever_it_failed_of() {
    let script =
        "read what; echo $what >> seen; test $what = hangs && exec sleep 1000; kill -KILL $$";
    let setup = ServerSetup::new(&format!(
        "[queues.default]\nhandler = {{ exec = [\"sh\", \"-c\", '''{script}'''] }}\nretry = {{ max_attempts = 9, initial_backoff = \"1ms\" }}\n"
    ));
    let server = setup.start();
    let mut client = server.client().await;
    let hangs = ItemSpec {
        timeout: Some(milliseconds(500)),
        ..item("hangs\n")
    };
    create(&mut client, vec![hangs, item("dies\n")]).await;
    client.batch_when_over("batch").await;
    for (id, why) in [("0", "ITEM_TIMEOUT"), ("1", "SIGNAL_KILL")] {
        let item = client.item("batch", id).await.unwrap();
        assert_eq!((item.state(), reason(&item)), (ItemState::Failed, why));
        assert_eq!(item.result.unwrap().attempt_count, 1);
    }
    let seen = std::fs::read_to_string(setup.path("seen")).unwrap();
    assert_eq!(seen.lines().count(), 2, "{seen}");
}

/// Kills a server under which an item runs, cuts the power in many ways, each on a copy of what was
/// left, and answers how often the item was known to have run.
async fn known_after_power_cuts(shim: &Shim, swallow: &str) -> u64 {
    let mut dice = Dice::new(7);
    let mut known = 0;
    for _ in 0..POWER_CUTS {
        let setup = ServerSetup::gated(1, "");
        let data = setup.data_dir();
        std::fs::create_dir(&data).unwrap();
        let setup = shim.recorded(setup, swallow);
        let gates = Gates::new(&setup, ["runs"]);
        killed_in_the_middle(&setup, &gates).await;
        shim.cut_power(&data, dice.next());
        // Nothing that the dead server left stands there: whoever comes now is a second run.
        let setup = setup.without_environment();
        let server = setup.start();
        known += u64::from(is_known(&server).await);
    }
    known
}

async fn is_known(server: &Server) -> bool {
    let mut client = server.client().await;
    let item = client.item("batch", "runs").await.unwrap();
    if item.result.is_some() {
        assert_unknown(&item);
        return true;
    }
    false
}

#[tokio::test]
async fn a_power_cut_does_not_hide_that_an_item_ran() {
    let Some(shim) = Shim::built() else { return };
    assert_eq!(known_after_power_cuts(shim, "").await, POWER_CUTS);
    let unsynced = known_after_power_cuts(shim, "in-flight").await;
    assert!(unsynced < POWER_CUTS, "without the sync nothing is missed");
}

#[tokio::test]
async fn it_is_asked_for_on_the_command_line_and_shown() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let input = setup.path("input");
    std::fs::write(&input, "a\n").unwrap();
    let input = input.to_str().unwrap();
    let submitted = asked(
        &server,
        &["submit", "--batch-id", "b", "--at-most-once", input],
    );
    assert_eq!(submitted.code, Some(0), "{}", submitted.stderr);
    let shown = asked(&server, &["get", "b"]).stdout;
    assert!(shown.contains("\nruns       at most once\n"), "{shown}");
    let json = asked(&server, &["get", "b", "-o", "jsonl"]).stdout;
    assert!(json.contains("\"at_most_once\":true"), "{json}");
    let other = asked(&server, &["submit", "--batch-id", "b", input]);
    assert_eq!(
        other.code,
        Some(7),
        "other options are other content: {}",
        other.stderr
    );
}
