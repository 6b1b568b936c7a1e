//! `WatchBatch`: the results of a batch from a cursor on, for as many readers as there are.

use sooner::wire::{
    Batch, BatchState, ItemResult, ItemState, ResultOrder, WatchBatchRequest, WatchBatchResponse,
    watch_batch_response::Message,
};
use tonic::{Code, Status, Streaming};

use crate::harness::client::{end, fact, milliseconds, next, output, reason};
use crate::harness::{Client, Gates, ServerSetup, all, item, within};

/// A queue whose items end with the exit code that is their input.
const EXITS: &str = r#"
[queues.default]
handler = { exec = ["sh", "-c", "exit \"$0\"", "{}"] }
retry = { max_attempts = 1 }
"#;

fn watch(batch_id: &str) -> WatchBatchRequest {
    WatchBatchRequest {
        batch_id: batch_id.into(),
        ..WatchBatchRequest::default()
    }
}

async fn next_message(watch: &mut Streaming<WatchBatchResponse>) -> Message {
    next(watch).await.message.unwrap()
}

/// The next result, with nothing but progress before it.
async fn next_result(watch: &mut Streaming<WatchBatchResponse>) -> ItemResult {
    // As a whole, because signs of life come without end.
    within(async {
        loop {
            match next_message(watch).await {
                Message::Result(result) => return result,
                Message::Progress(_) => {}
                other @ (Message::Attached(_) | Message::Ended(_)) => panic!("{other:?}"),
            }
        }
    })
    .await
}

/// The first message, which tells where the watch begins.
async fn attached(watch: &mut Streaming<WatchBatchResponse>) -> (Batch, u64) {
    match next_message(watch).await {
        Message::Attached(attached) => {
            assert_eq!(attached.oldest_sequence, 1);
            (attached.batch.unwrap(), attached.last_sequence)
        }
        other @ (Message::Result(_) | Message::Progress(_) | Message::Ended(_)) => {
            panic!("{other:?}")
        }
    }
}

/// The last message.
async fn ended(watch: &mut Streaming<WatchBatchResponse>) -> Batch {
    match next_message(watch).await {
        Message::Ended(ended) => {
            end(watch).await.unwrap();
            ended.batch.unwrap()
        }
        other @ (Message::Attached(_) | Message::Result(_) | Message::Progress(_)) => {
            panic!("{other:?}")
        }
    }
}

fn ids(results: &[ItemResult]) -> Vec<&str> {
    results
        .iter()
        .map(|result| result.item_id.as_str())
        .collect()
}

async fn refused(client: &mut Client, request: WatchBatchRequest) -> Status {
    client.watch_request(request).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_watch_goes_on_behind_the_last_result_seen() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let items = (0..100).map(|i| item(i.to_string())).collect();
    let mut submitted = client.submit("batch", items).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(next(&mut submitted).await);
    }
    drop((submitted, client));
    let mut client = server.client().await;
    let rest = client.results("batch", 7).await;
    let whole = client.results("batch", 0).await;
    let sequences: Vec<_> = rest.iter().map(|result| result.sequence).collect();
    assert_eq!(sequences, (8..=100).collect::<Vec<_>>());
    seen.extend(rest);
    assert_eq!(seen, whole);
    for after in [1, 50, 99, 100] {
        assert_eq!(client.results("batch", after as u64).await, whole[after..]);
    }
}

#[tokio::test]
async fn a_watch_goes_on_over_a_crash_of_the_server() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c"].map(|name| gates.item(name)).into();
    let mut results = client.submit("batch", items).await.unwrap();
    let held = [gates.arrival("a").await, gates.arrival("c").await];
    gates.open("b").await;
    let first = next(&mut results).await;
    server.kill();
    drop(held);

    let server = setup.start();
    let mut client = server.client().await;
    let mut watch = client.watch("batch", 1).await.unwrap();
    let (batch, last_sequence) = attached(&mut watch).await;
    assert_eq!((last_sequence, batch.state()), (1, BatchState::Running));
    // Of what ran when the server died, one item runs at a time.
    for name in ["a", "c"] {
        gates.open(name).await;
        assert_eq!(next_result(&mut watch).await.item_id, name);
    }
    assert_eq!(ended(&mut watch).await.state(), BatchState::Completed);
    assert_eq!(client.results("batch", 0).await[0], first);
}

#[tokio::test]
async fn a_watch_begins_with_where_it_is_and_ends_with_how_it_ended() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.free_item("free"), gates.item("a")];
    let mut results = client.submit("batch", items).await.unwrap();
    next(&mut results).await;
    let gate = gates.arrival("a").await;

    let mut watch = client.watch("batch", 0).await.unwrap();
    let (batch, last_sequence) = attached(&mut watch).await;
    assert_eq!((batch.state(), last_sequence), (BatchState::Running, 1));
    let counts = batch.counts.unwrap();
    assert_eq!((counts.total, counts.pending), (2, 0));
    assert_eq!((counts.running, counts.succeeded), (1, 1));
    assert_eq!(next_result(&mut watch).await.item_id, "free");
    gate.open();
    assert_eq!(next_result(&mut watch).await.item_id, "a");
    let batch = ended(&mut watch).await;
    assert_eq!(
        (batch.state(), batch.last_sequence),
        (BatchState::Completed, 2)
    );
    assert_eq!(batch.counts.unwrap().succeeded, 2);
    assert!(batch.finish_time.is_some());

    // Behind the last result of a batch that is over there is still its end.
    let mut watch = client.watch("batch", 2).await.unwrap();
    assert_eq!(attached(&mut watch).await.1, 2);
    ended(&mut watch).await;
}

#[tokio::test]
async fn twenty_watchers_see_the_same_results_in_the_same_order() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c"].map(|name| gates.item(name)).into();
    let mut results = client.submit("batch", items).await.unwrap();
    let mut watches = Vec::new();
    for i in 0..20 {
        // Some share a connection, some have one of their own.
        if i % 4 == 0 {
            client = server.client().await;
        }
        let mut watch = client.watch("batch", 0).await.unwrap();
        attached(&mut watch).await;
        watches.push(watch);
    }
    for name in ["c", "a", "b"] {
        gates.open(name).await;
        assert_eq!(next(&mut results).await.item_id, name);
    }
    for mut watch in watches {
        let mut seen = Vec::new();
        for sequence in 1..=3 {
            let result = next_result(&mut watch).await;
            assert_eq!(result.sequence, sequence);
            seen.push(result);
        }
        assert_eq!(ids(&seen), ["c", "a", "b"]);
        ended(&mut watch).await;
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_delays_nobody() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let big = "x".repeat(100_000);
    let items = (0..100).map(|_| item(&big)).collect();
    let mut results = client.submit("batch", items).await.unwrap();
    // More than all windows hold: this watcher's stream stands still. It shares the connection.
    let mut idle = client.watch("batch", 0).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 100);
    assert_eq!(server.client().await.results("batch", 0).await.len(), 100);
    attached(&mut idle).await;
    for sequence in 1..=100 {
        assert_eq!(next_result(&mut idle).await.sequence, sequence);
    }
    ended(&mut idle).await;
}

#[tokio::test]
async fn index_order_waits_for_each_item_in_turn() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c"].map(|name| gates.item(name)).into();
    let mut results = client.submit("batch", items).await.unwrap();
    let in_order = WatchBatchRequest {
        order: ResultOrder::Index.into(),
        ..watch("batch")
    };
    let mut watch = client.watch_request(in_order.clone()).await.unwrap();
    attached(&mut watch).await;
    for name in ["c", "b", "a"] {
        gates.open(name).await;
        assert_eq!(next(&mut results).await.item_id, name);
    }
    for (name, sequence) in [("a", 3), ("b", 2), ("c", 1)] {
        let result = next_result(&mut watch).await;
        assert_eq!((result.item_id.as_str(), result.sequence), (name, sequence));
    }
    ended(&mut watch).await;

    let behind = WatchBatchRequest {
        after_index: 2,
        ..in_order
    };
    let mut watch = client.watch_request(behind).await.unwrap();
    attached(&mut watch).await;
    assert_eq!(next_result(&mut watch).await.item_id, "c");
    ended(&mut watch).await;
}

#[tokio::test]
async fn index_order_sends_an_item_before_later_ones_may_end() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c"].map(|name| gates.item(name)).into();
    client.create("batch", items).await.unwrap();
    let in_order = WatchBatchRequest {
        order: ResultOrder::Index.into(),
        ..watch("batch")
    };
    let mut watch = client.watch_request(in_order).await.unwrap();
    attached(&mut watch).await;
    for name in ["a", "b", "c"] {
        gates.open(name).await;
        assert_eq!(next_result(&mut watch).await.item_id, name);
    }
    ended(&mut watch).await;
}

#[tokio::test]
async fn a_filter_lets_through_the_states_asked_for() {
    let setup = ServerSetup::new(EXITS);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["0", "7", "0", "9"].map(item).into();
    let mut results = client.submit("batch", items).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 4);
    let (good, bad) = (ItemState::Succeeded.into(), ItemState::Failed.into());
    let expired = ItemState::Expired.into();
    for (states, expected) in [
        (vec![bad], vec!["1", "3"]),
        (vec![good], vec!["0", "2"]),
        (vec![good, bad], vec!["0", "1", "2", "3"]),
        (vec![expired], vec![]),
    ] {
        let request = WatchBatchRequest {
            states,
            order: ResultOrder::Index.into(),
            ..watch("batch")
        };
        let mut watch = client.watch_request(request).await.unwrap();
        attached(&mut watch).await;
        let mut seen = Vec::new();
        for _ in &expected {
            seen.push(next_result(&mut watch).await);
        }
        assert_eq!(ids(&seen), expected);
        assert_eq!(ended(&mut watch).await.counts.unwrap().failed, 2);
    }
}

#[tokio::test]
async fn a_quiet_watch_shows_progress_past_what_its_filter_left_out() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.free_item("free"), gates.item("a")];
    let mut results = client.submit("batch", items).await.unwrap();
    next(&mut results).await;
    let request = WatchBatchRequest {
        states: vec![ItemState::Failed.into()],
        progress_interval: Some(milliseconds(1000)),
        ..watch("batch")
    };
    let mut watch = client.watch_request(request).await.unwrap();
    attached(&mut watch).await;
    for _ in 0..2 {
        let Message::Progress(progress) = next_message(&mut watch).await else {
            panic!("only progress is left to tell");
        };
        assert_eq!(progress.last_sequence, 1);
        let counts = progress.counts.unwrap();
        assert_eq!((counts.total, counts.succeeded), (2, 1));
        assert_eq!(counts.pending + counts.running, 1);
    }
    gates.open("a").await;
    while let message @ (Message::Progress(_) | Message::Ended(_)) = next_message(&mut watch).await
    {
        if let Message::Ended(_) = message {
            return;
        }
    }
    panic!("a result that was filtered out");
}

/// Results that are filtered out say nothing to the reader: proxies cut a stream that is silent.
#[tokio::test]
async fn a_filter_that_leaves_out_a_steady_flow_still_shows_progress() {
    // One at a time and 200 ms each: never a second without a result, five seconds in all.
    let delay = "handler = { echo = { delay = \"200ms\" } }\nslots = 1";
    let setup = ServerSetup::new(&format!("[queues.default]\n{delay}\n"));
    let server = setup.start();
    let mut client = server.client().await;
    client
        .create("batch", (0..25).map(|_| item("x")).collect())
        .await
        .unwrap();
    let request = WatchBatchRequest {
        states: vec![ItemState::Failed.into()],
        progress_interval: Some(milliseconds(1000)),
        ..watch("batch")
    };
    let mut watch = client.watch_request(request).await.unwrap();
    attached(&mut watch).await;
    assert!(matches!(
        next_message(&mut watch).await,
        Message::Progress(_)
    ));
}

#[tokio::test]
async fn a_watch_may_stop_at_what_is_there() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.free_item("free"), gates.item("a")];
    let mut results = client.submit("batch", items).await.unwrap();
    next(&mut results).await;
    let request = WatchBatchRequest {
        stop_when_caught_up: true,
        ..watch("batch")
    };
    let mut watch = client.watch_request(request.clone()).await.unwrap();
    attached(&mut watch).await;
    assert_eq!(next_result(&mut watch).await.item_id, "free");
    end(&mut watch).await.unwrap();
    gates.open("a").await;
    all(&mut results).await;
    let mut watch = client.watch_request(request).await.unwrap();
    attached(&mut watch).await;
    next_result(&mut watch).await;
    next_result(&mut watch).await;
    ended(&mut watch).await;
}

#[tokio::test]
async fn a_cursor_ahead_of_the_journal_is_refused() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client
        .submit("batch", vec![item("x"), item("y")])
        .await
        .unwrap();
    all(&mut results).await;
    let index = ResultOrder::Index.into();
    for request in [
        WatchBatchRequest {
            after_sequence: 3,
            ..watch("batch")
        },
        WatchBatchRequest {
            after_sequence: u64::MAX,
            ..watch("batch")
        },
        WatchBatchRequest {
            after_index: 3,
            order: index,
            ..watch("batch")
        },
    ] {
        let status = refused(&mut client, request).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::OutOfRange, "CURSOR_AHEAD")
        );
        assert_eq!(fact(&status, "last_sequence").as_deref(), Some("2"));
        assert_eq!(fact(&status, "batch_id").as_deref(), Some("batch"));
    }
}

#[tokio::test]
async fn a_uid_guards_against_a_reused_id() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![item("x")]).await.unwrap();
    all(&mut results).await;
    let uid = client.batch("batch").await.unwrap().batch_uid;
    let guarded = |batch_uid| WatchBatchRequest {
        batch_uid,
        ..watch("batch")
    };
    let mut watch = client.watch_request(guarded(uid)).await.unwrap();
    attached(&mut watch).await;
    let other = uuid::Uuid::nil().to_string();
    let status = refused(&mut client, guarded(other)).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "BATCH_NOT_FOUND")
    );
}

#[tokio::test]
async fn outputs_are_left_out_on_request() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![item("hello")]).await.unwrap();
    assert_eq!(output(&next(&mut results).await), "hello");
    let request = WatchBatchRequest {
        omit_output: true,
        ..watch("batch")
    };
    let mut watch = within(client.watch_request(request)).await.unwrap();
    attached(&mut watch).await;
    let result = next_result(&mut watch).await;
    assert_eq!((result.output, result.output_omitted), (None, true));
}
