//! `GetBatch`: how a batch stands, now or when it is over.

use sooner::wire::{Batch, BatchState, GetBatchRequest};
use tonic::{Request, Status};

use crate::harness::client::{RawStub, next, raw_stub};
use crate::harness::{Client, Gates, Server, ServerSetup, within};

fn request(wait_seconds: i64) -> GetBatchRequest {
    let wait = Some(prost_types::Duration {
        seconds: wait_seconds,
        nanos: 0,
    });
    GetBatchRequest {
        batch_id: "batch".into(),
        wait,
    }
}

/// Waits in the background.
fn waiting(client: &Client, wait_seconds: i64) -> tokio::task::JoinHandle<Result<Batch, Status>> {
    let mut stub = client.stub.clone();
    tokio::spawn(async move {
        let answer = stub.get_batch(request(wait_seconds)).await?;
        Ok(answer.into_inner().batch.unwrap())
    })
}

#[tokio::test]
async fn counts_follow_the_items_and_always_sum() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let missing = gates.path("missing");
    let mut failing = crate::harness::item(missing);
    failing.item_id = "failing".into();
    failing.retry_policy.get_or_insert_default().max_attempts = Some(1);
    let items = vec![
        gates.item("a"),
        failing,
        gates.item("b"),
        gates.free_item("free"),
    ];
    let mut results = client.submit("batch", items).await.unwrap();
    assert_eq!(next(&mut results).await.item_id, "failing");
    let held = [gates.arrival("a").await, gates.arrival("b").await];
    let batch = client.batch("batch").await.unwrap();
    let counts = batch.counts.unwrap();
    assert_eq!((counts.total, counts.pending, counts.running), (4, 1, 2));
    assert_eq!((counts.succeeded, counts.failed), (0, 1));
    assert_eq!((batch.last_sequence, batch.finish_time), (1, None));
    for gate in held {
        gate.open();
    }
    let batch = client.batch_when_over("batch").await;
    let counts = batch.counts.unwrap();
    assert_eq!(
        batch.state(),
        BatchState::Completed,
        "any mix of results completes a batch"
    );
    assert_eq!((counts.total, counts.pending, counts.running), (4, 0, 0));
    assert_eq!((counts.succeeded, counts.failed), (3, 1));
    assert_eq!((counts.cancelled, counts.expired), (0, 0));
    assert_eq!(batch.last_sequence, 4);
}

#[tokio::test]
async fn a_waiting_call_answers_when_the_batch_is_over() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    let mut results = client.submit("batch", items).await.unwrap();
    // More than the limit is clipped, not refused.
    let waiting = [waiting(&client, 50), waiting(&client, 3600)];
    // On the same connection: the waiting calls are there when this one is answered.
    client.batch("batch").await.unwrap();
    gates.open("a").await;
    next(&mut results).await;
    assert!(
        waiting.iter().all(|call| !call.is_finished()),
        "one result is not the end"
    );
    gates.open("b").await;
    for call in waiting {
        let batch = within(call).await.unwrap().unwrap();
        assert_eq!(batch.state(), BatchState::Completed);
    }
}

#[tokio::test]
async fn a_wait_that_is_over_answers_how_the_batch_stands() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    let batch = within(waiting(&client, 1)).await.unwrap().unwrap();
    assert_eq!(batch.state(), BatchState::Running);
    gate.open();
}

#[tokio::test]
async fn a_wait_ends_before_the_callers_deadline() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    // The stub has no timer of its own: if the server does not answer in time, nobody does.
    for timeout in ["500m", "90m", "400000u"] {
        let batch = wait_with_deadline(&server, timeout).await.unwrap();
        assert_eq!(batch.state(), BatchState::Running, "{timeout}");
    }
    gate.open();
    // Without a wait there is no hurry either.
    client.batch_when_over("batch").await;
    let batch = wait_with_deadline(&server, "60S").await.unwrap();
    assert_eq!(batch.state(), BatchState::Completed);
}

async fn wait_with_deadline(server: &Server, timeout: &str) -> Result<Batch, Status> {
    let mut stub: RawStub = raw_stub(server);
    let mut request = Request::new(request(50));
    request
        .metadata_mut()
        .insert("grpc-timeout", timeout.parse().unwrap());
    Ok(within(stub.get_batch(request))
        .await?
        .into_inner()
        .batch
        .unwrap())
}
