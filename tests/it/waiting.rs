//! `GetItem` says of a pending item why it is not running, and what would change that.

use sooner::wire::{
    BatchOptions, CreateBatchRequest, GetItemRequest, ItemSpec, ItemState, PauseBatchRequest,
    RetryPolicy,
};
use sooner::{Attempt, Outcome, Queue, QueueName, Sooner, Submission, WaitingReason, handler_fn};

use crate::harness::client::milliseconds;
use crate::harness::{Client, Gates, ServerSetup, eventually, item, within};

async fn create(client: &mut Client, batch_id: &str, items: Vec<ItemSpec>, options: BatchOptions) {
    create_in(client, "default", batch_id, items, options).await;
}

async fn create_in(
    client: &mut Client,
    queue: &str,
    batch_id: &str,
    items: Vec<ItemSpec>,
    options: BatchOptions,
) {
    let request = CreateBatchRequest {
        queue: queue.into(),
        batch_id: batch_id.into(),
        items,
        options: Some(options),
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
}

/// Why the item waits: the reason and the sentence.
async fn why(client: &Client, batch_id: &str, item_id: &str) -> (String, String) {
    let item = client.clone().item(batch_id, item_id).await.unwrap();
    assert_eq!(item.state(), ItemState::Pending, "{item:?}");
    let waiting = item.waiting.expect("a pending item waits for something");
    (waiting.reason, waiting.message)
}

fn told(reason: &str, message: &str) -> (String, String) {
    (reason.to_owned(), message.to_owned())
}

#[tokio::test]
async fn what_a_caller_asked_for_is_told_as_the_reason() {
    let setup = ServerSetup::gated(4, "[queues.nobody]\n");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let free = || vec![gates.free_item("free")];

    create_in(
        &mut client,
        "nobody",
        "nobody",
        free(),
        BatchOptions::default(),
    )
    .await;
    let message = "nobody serves the queue nobody; it goes on when the server is started with a handler for it";
    assert_eq!(
        why(&client, "nobody", "free").await,
        told("NO_HANDLER", message)
    );

    let begins = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let later = BatchOptions {
        not_before: Some(begins.into()),
        ..BatchOptions::default()
    };
    create(&mut client, "later", free(), later).await;
    let (reason, message) = why(&client, "later", "free").await;
    let says = "its batch begins at 2";
    assert!(
        reason == "NOT_BEFORE" && message.starts_with(says),
        "{reason} {message}"
    );
    let pause = PauseBatchRequest {
        batch_id: "later".into(),
        reason: "too hot".into(),
    };
    within(client.stub.pause_batch(pause)).await.unwrap();
    let message = "its batch is paused (too hot); resume the batch";
    assert_eq!(
        why(&client, "later", "free").await,
        told("BATCH_PAUSED", message)
    );

    let modest = BatchOptions {
        max_parallelism: Some(1),
        ..BatchOptions::default()
    };
    let items = vec![gates.item("a"), gates.free_item("free")];
    create(&mut client, "modest", items, modest).await;
    let running = gates.arrival("a").await;
    let message = "1 item of its batch runs, and it wants no more than 1 at once";
    assert_eq!(
        why(&client, "modest", "free").await,
        told("MAX_PARALLELISM", message)
    );
    let runs = client.item("modest", "a").await.unwrap();
    assert_eq!(runs.lease.unwrap().worker_id, "local");
    assert_eq!(runs.waiting, None);
    running.open();
    client.batch_when_over("modest").await;
    let over = client.item("modest", "free").await.unwrap();
    assert_eq!((over.waiting, over.lease), (None, None));
}

#[tokio::test]
async fn a_backoff_is_told_with_its_attempts_and_its_end() {
    let setup = ServerSetup::new("[queues.default]\nhandler = { exec = [\"false\"] }\n");
    let server = setup.start();
    let mut client = server.client().await;
    let policy = RetryPolicy {
        max_attempts: Some(7),
        initial_backoff: Some(milliseconds(3_600_000)),
        max_backoff: Some(milliseconds(3_600_000)),
        jitter: Some(0.0),
        ..RetryPolicy::default()
    };
    let item = ItemSpec {
        retry_policy: Some(policy),
        ..item("x")
    };
    create(&mut client, "batch", vec![item], BatchOptions::default()).await;
    let fails = async || {
        let item = client.clone().item("batch", "0").await.unwrap();
        !item.attempts.is_empty() && item.state() == ItemState::Pending
    };
    eventually(fails).await;
    let (reason, message) = why(&client, "batch", "0").await;
    let says = "attempt 1 ended with EXIT_1; 1 of 7 attempts are used, the next begins at 2";
    assert!(
        reason == "BACKOFF" && message.starts_with(says),
        "{reason} {message}"
    );
}

#[tokio::test]
async fn a_queue_that_is_busy_or_limited_tells_the_place_in_line() {
    let limited = "[queues.limited]\nhandler = { echo = {} }\nrate = { per_second = 0.001 }\n";
    let setup = ServerSetup::gated(1, limited);
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c", "d"].map(|name| match name {
        "a" => gates.item("a"),
        name => gates.free_item(name),
    });
    create(&mut client, "batch", items.into(), BatchOptions::default()).await;
    let running = gates.arrival("a").await;
    let other = vec![gates.free_item("x")];
    create(&mut client, "other", other, BatchOptions::default()).await;
    let busy = "the one slot of the queue default is busy";
    let message = format!(
        "{busy}; at most 2 items of its batch go first, and 1 other batch takes turns with it"
    );
    assert_eq!(
        why(&client, "batch", "d").await,
        told("SLOTS_BUSY", &message)
    );
    running.open();

    let items = vec![item("x"); 3];
    create_in(
        &mut client,
        "limited",
        "limited",
        items,
        BatchOptions::default(),
    )
    .await;
    let first_is_done = async || client.clone().batch("limited").await.unwrap().last_sequence == 1;
    eventually(first_is_done).await;
    let (reason, message) = why(&client, "limited", "2").await;
    let says =
        "the rate of the queue limited, 0.001 attempts per second, allows the next attempt in";
    assert!(
        reason == "RATE_LIMIT" && message.starts_with(says),
        "{reason} {message}"
    );
    let place = "at most 1 item of its batch goes first";
    assert!(message.ends_with(place), "{message}");
}

#[tokio::test]
async fn marked_items_and_those_they_hold_back_are_told_apart() {
    let setup =
        ServerSetup::gated(3, "").with_environment("SOONER_QUEUES__DEFAULT__MAX_CRASHES", "2");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    create(&mut client, "batch", items, BatchOptions::default()).await;
    let running = [gates.arrival("a").await, gates.arrival("b").await];
    server.kill();
    drop(running);

    let server = setup.start();
    let mut client = server.client().await;
    let running = gates.arrival("a").await;
    create(
        &mut client,
        "free",
        vec![gates.free_item("x")],
        BatchOptions::default(),
    )
    .await;
    let message =
        "the server died while it ran, and such items run one at a time; others come first";
    assert_eq!(why(&client, "batch", "b").await, told("MARKED", message));
    let message =
        "an item under which the server died runs with nothing beside it; it goes on after that";
    assert_eq!(why(&client, "free", "x").await, told("HELD_BACK", message));
    running.open();
    gates.open("b").await;
    client.batch_when_over("free").await;
}

#[tokio::test]
async fn a_caller_that_waits_for_an_item_hears_that_the_server_stops() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    create(&mut client, "batch", items, BatchOptions::default()).await;
    let running = gates.arrival("a").await;
    let mut stub = client.stub.clone();
    let waits = tokio::spawn(async move {
        let request = GetItemRequest {
            batch_id: "batch".into(),
            item_id: "b".into(),
            wait: Some(milliseconds(50_000)),
            include_spec: false,
        };
        stub.get_item(request).await
    });
    // Its call is under way once the server counts it among those it answers; a look-up behind it on
    // the same connection is answered later than it is read.
    client.item("batch", "a").await.unwrap();
    server.signal(rustix::process::Signal::TERM);
    let item = within(waits)
        .await
        .unwrap()
        .unwrap()
        .into_inner()
        .item
        .unwrap();
    assert_eq!(item.waiting.unwrap().reason, "SERVER_DRAINING");
    running.open();
}

#[tokio::test]
async fn a_paused_queue_starts_nothing_until_it_is_resumed_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let echo = || {
        handler_fn(|attempt: Attempt| async move { Outcome::Succeeded(attempt.spec.input.clone()) })
    };
    let open = async || {
        let builder = Sooner::builder(dir.path())
            .queue("default", Queue::new(echo()))
            .queue("other", Queue::new(echo()));
        builder.open().await.unwrap()
    };
    let sooner = open().await;
    let queue = QueueName::default();
    let paused = sooner
        .pause_queue(&queue, "upstream is down")
        .await
        .unwrap();
    assert_eq!(paused.paused.as_deref(), Some("upstream is down"));
    let submission = |queue: &str| Submission::new(["x"]).with_queue(queue).unwrap();
    let waits = sooner.submit(submission("default")).await.unwrap();
    let id = waits.batch().head.id.clone();
    let mut other = sooner.submit(submission("other")).await.unwrap();
    within(other.next()).await.unwrap().unwrap();
    drop((waits, other));
    within(sooner.close()).await;

    let sooner = open().await;
    let item = sooner
        .item(&id, "0", std::time::Duration::ZERO)
        .await
        .unwrap();
    let waiting = item.waiting.unwrap();
    assert_eq!(waiting.reason, WaitingReason::QueuePaused);
    let message = "the queue default is paused (upstream is down); resume the queue";
    assert_eq!(waiting.message, message);
    let told: Vec<_> = sooner.queues();
    let told: Vec<_> = told
        .iter()
        .map(|queue| {
            (
                queue.name.as_str(),
                queue.paused.is_some(),
                queue.pending,
                queue.handler,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("default", true, 1, Some("library")),
            ("other", false, 0, Some("library"))
        ]
    );
    let resumed = sooner.resume_queue(&queue).await.unwrap();
    assert_eq!(resumed.paused, None);
    let over = within(sooner.batch_when_over(&id, std::time::Duration::from_secs(50))).await;
    assert_eq!(over.unwrap().tally.succeeded, 1);
    let nobody = QueueName::parse("nobody").unwrap();
    let refused = sooner.pause_queue(&nobody, "").await.unwrap_err();
    assert_eq!(refused.reason(), "QUEUE_NOT_FOUND");
    within(sooner.close()).await;
}
