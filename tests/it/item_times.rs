//! Items with times of their own: what is stale is not computed, and nothing succeeds after its time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use sooner::wire::{
    BatchOptions, BatchState, CreateBatchRequest, ItemSpec, ItemState, PauseBatchRequest,
    RetryPolicy,
};

use crate::harness::client::{milliseconds, output};
use crate::harness::{Client, Gates, ServerSetup, item, within};

/// That long from now.
fn after(wait: Duration) -> Timestamp {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + wait;
    Timestamp {
        seconds: at.as_secs().try_into().unwrap(),
        // As fine as it is kept.
        nanos: (at.subsec_millis() * 1_000_000).try_into().unwrap(),
    }
}

fn hours(count: u64) -> Timestamp {
    after(Duration::from_secs(count * 3600))
}

/// A time that has passed.
const PAST: Timestamp = Timestamp {
    seconds: 1,
    nanos: 0,
};

fn stale(item: ItemSpec) -> ItemSpec {
    ItemSpec {
        start_by: Some(PAST),
        ..item
    }
}

fn with_finish_by(item: ItemSpec, at: Timestamp) -> ItemSpec {
    ItemSpec {
        finish_by: Some(at),
        ..item
    }
}

async fn create(client: &mut Client, items: Vec<ItemSpec>, options: BatchOptions) {
    let request = CreateBatchRequest {
        batch_id: "batch".into(),
        items,
        options: Some(options),
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
}

/// Checks that an item expired, and how many attempts of it are told.
async fn assert_expired(client: &mut Client, item_id: &str, reason: &str, attempts: usize) {
    let item = client.item_when_over("batch", item_id).await;
    assert_eq!(item.state(), ItemState::Expired, "{item:?}");
    let result = item.result.unwrap();
    let error = result.error.unwrap();
    assert_eq!((error.reason.as_str(), error.code), (reason, 4));
    assert_eq!(error.retryable, Some(false));
    assert_eq!(item.attempts.len(), attempts, "{:?}", item.attempts);
    assert_eq!(usize::try_from(result.attempt_count).unwrap(), attempts);
}

#[tokio::test]
async fn what_is_stale_is_not_computed() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"cat >> seen\"] }\nslots = 1\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let mut items: Vec<_> = (0..40).map(|_| stale(item("stale\n"))).collect();
    items.push(with_finish_by(item("late\n"), PAST));
    items.push(ItemSpec {
        start_by: Some(hours(1)),
        ..item("fresh\n")
    });
    create(&mut client, items, BatchOptions::default()).await;
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Completed);
    let counts = batch.counts.unwrap();
    assert_eq!((counts.expired, counts.succeeded), (41, 1));
    assert_eq!(batch.failure_reasons["START_BY"], 40);
    assert_eq!(batch.failure_reasons["FINISH_BY"], 1);
    assert_expired(&mut client, "0", "START_BY", 0).await;
    assert_expired(&mut client, "40", "FINISH_BY", 0).await;
    let seen = std::fs::read_to_string(setup.path("seen")).unwrap();
    assert_eq!(seen, "fresh\n");
}

#[tokio::test]
async fn what_waits_expires_where_nobody_serves_it_and_while_it_is_paused() {
    let setup = ServerSetup::gated(1, "[queues.unserved]\n");
    let gates = Gates::new(&setup, ["holds"]);
    let server = setup.start();
    let mut client = server.client().await;
    let unserved = CreateBatchRequest {
        batch_id: "unserved".into(),
        queue: "unserved".into(),
        items: vec![stale(item("x"))],
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(unserved)).await.unwrap();
    client.batch_when_over("unserved").await;

    // The slot is taken: what comes behind waits for the pause.
    client
        .create("before", vec![gates.item("holds")])
        .await
        .unwrap();
    let _held = gates.arrival("holds").await;
    let items = vec![stale(item("x")), item("y")];
    create(&mut client, items, BatchOptions::default()).await;
    let pause = PauseBatchRequest {
        batch_id: "batch".into(),
        ..PauseBatchRequest::default()
    };
    within(client.stub.pause_batch(pause)).await.unwrap();
    assert_expired(&mut client, "0", "START_BY", 0).await;
    let batch = client.batch("batch").await.unwrap();
    assert_eq!((batch.paused, batch.state()), (true, BatchState::Running));
}

#[tokio::test]
async fn what_runs_is_stopped_at_its_time() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["runs"]);
    let server = setup.start();
    let mut client = server.client().await;
    let at = after(Duration::from_secs(6));
    let items = vec![
        with_finish_by(gates.item("runs"), at),
        with_finish_by(gates.free_item("ends"), hours(1)),
    ];
    create(&mut client, items, BatchOptions::default()).await;
    let _held = gates.arrival("runs").await;
    assert_expired(&mut client, "runs", "FINISH_BY", 1).await;
    let ended = client.item("batch", "ends").await.unwrap();
    assert_eq!(ended.state(), ItemState::Succeeded);
}

#[tokio::test]
async fn a_handler_is_told_the_earliest_of_its_deadlines() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"printf %s $SOONER_DEADLINE\"] }\nitem_timeout = \"5h\"\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let (one, two) = (hours(1), hours(2));
    let items = vec![
        with_finish_by(item("its own"), one),
        item("its batch's"),
        with_finish_by(item("its batch's too"), hours(3)),
        ItemSpec {
            timeout: Some(milliseconds(60_000)),
            ..with_finish_by(item("its timeout"), one)
        },
    ];
    let options = BatchOptions {
        deadline: Some(two),
        ..BatchOptions::default()
    };
    create(&mut client, items, options).await;
    let mut results = client.results("batch", 0).await;
    results.sort_by_key(|result| result.index);
    let told = results
        .iter()
        .map(|result| output(result).parse::<Timestamp>().unwrap());
    let told: Vec<_> = told.collect();
    assert_eq!(told[..3], [one, two, two]);
    assert!(told[3].seconds < one.seconds, "{told:?}");
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_waited_for() {
    let setup =
        ServerSetup::new("[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 7\"] }\n");
    let server = setup.start();
    let mut client = server.client().await;
    let only = ItemSpec {
        retry_policy: Some(RetryPolicy {
            initial_backoff: Some(milliseconds(10_000_000)),
            max_backoff: Some(milliseconds(10_000_000)),
            ..RetryPolicy::default()
        }),
        ..with_finish_by(item("x"), hours(1))
    };
    create(&mut client, vec![only], BatchOptions::default()).await;
    assert_expired(&mut client, "0", "FINISH_BY", 1).await;
    let item = client.item("batch", "0").await.unwrap();
    let error = item.attempts[0].error.as_ref().unwrap();
    assert_eq!(error.reason, "EXIT_7", "why it failed is not lost");
    let told = item.result.unwrap().error.unwrap().message;
    assert!(told.contains("EXIT_7"), "{told}");
}

#[tokio::test]
async fn times_survive_a_crash() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["runs"]);
    let server = setup.start();
    let mut client = server.client().await;
    let at = after(Duration::from_secs(6));
    let items = vec![
        with_finish_by(gates.item("runs"), at),
        with_finish_by(gates.free_item("waits"), at),
        gates.free_item("stays"),
    ];
    create(&mut client, items, BatchOptions::default()).await;
    let held = gates.arrival("runs").await;
    let pause = PauseBatchRequest {
        batch_id: "batch".into(),
        ..PauseBatchRequest::default()
    };
    within(client.stub.pause_batch(pause)).await.unwrap();
    server.kill();
    drop(held);

    let server = setup.start();
    let mut client = server.client().await;
    for name in ["runs", "waits"] {
        let item = client.item_when_over("batch", name).await;
        assert_eq!(item.state(), ItemState::Expired, "{item:?}");
        assert_eq!(item.result.unwrap().error.unwrap().reason, "FINISH_BY");
    }
    let stays = client.item("batch", "stays").await.unwrap();
    assert_eq!(stays.state(), ItemState::Pending);
}
