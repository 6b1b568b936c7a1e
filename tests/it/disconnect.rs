//! A batch may ask to be cancelled once nobody reads it any more.

use sooner::wire::{BatchState, ItemResult, ItemState, OnDisconnect, SubmitBatchRequest};
use tonic::Streaming;

use crate::harness::client::next;
use crate::harness::{Client, Gates, ServerSetup};

const SHORT: &str = "[server]\ndisconnect_grace = \"100ms\"";

/// Submits one item that waits at a gate of the batch's name.
async fn submit(
    client: &mut Client,
    gates: &Gates,
    name: &str,
    on_disconnect: OnDisconnect,
) -> Streaming<ItemResult> {
    let request = SubmitBatchRequest {
        batch_id: name.into(),
        items: vec![gates.item(name)],
        on_disconnect: on_disconnect.into(),
        ..SubmitBatchRequest::default()
    };
    client.submit_request(request).await.unwrap().1
}

/// Lets a batch be cancelled for want of readers. Whatever was left before it would be by then too.
async fn see_another_cancelled(client: &mut Client, gates: &Gates) {
    let results = submit(client, gates, "other", OnDisconnect::Cancel).await;
    drop(results);
    let batch = client.batch_when_over("other").await;
    assert_eq!(batch.state(), BatchState::Cancelled);
}

async fn assert_goes_on(client: &mut Client, gates: &Gates) {
    let batch = client.batch("batch").await.unwrap();
    assert_eq!(batch.state(), BatchState::Running);
    gates.open("batch").await;
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Completed);
}

#[tokio::test]
async fn a_batch_whose_only_stream_is_dropped_is_cancelled() {
    let setup = ServerSetup::gated(2, SHORT);
    let gates = Gates::new(&setup, ["batch"]);
    let server = setup.start();
    let mut client = server.client().await;
    let results = submit(&mut client, &gates, "batch", OnDisconnect::Cancel).await;
    let held = gates.arrival("batch").await;
    drop(results);
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Cancelled);
    assert!(
        batch.cancel_reason.contains("100ms"),
        "{}",
        batch.cancel_reason
    );
    let [result] = &client.results("batch", 0).await[..] else {
        panic!("one result")
    };
    assert_eq!(result.state(), ItemState::Cancelled);
    assert_eq!(result.error.as_ref().unwrap().reason, "BATCH_CANCELLED");
    drop(held);
}

#[tokio::test]
async fn a_batch_whose_only_connection_breaks_is_cancelled() {
    let setup = ServerSetup::gated(2, SHORT);
    let gates = Gates::new(&setup, ["batch"]);
    let server = setup.start();
    let mut leaving = server.client().await;
    let results = submit(&mut leaving, &gates, "batch", OnDisconnect::Cancel).await;
    drop((results, leaving));
    let batch = server.client().await.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Cancelled);
}

#[tokio::test]
async fn the_last_reader_counts_whoever_it_is() {
    let setup = ServerSetup::gated(2, SHORT);
    let gates = Gates::new(&setup, ["batch", "other"]);
    let server = setup.start();
    let mut client = server.client().await;
    let results = submit(&mut client, &gates, "batch", OnDisconnect::Cancel).await;
    let mut watch = server.client().await.watch("batch", 0).await.unwrap();
    next(&mut watch).await;
    drop(results);
    see_another_cancelled(&mut client, &gates).await;
    assert_eq!(
        client.batch("batch").await.unwrap().state(),
        BatchState::Running
    );
    drop(watch);
    assert_eq!(
        client.batch_when_over("batch").await.state(),
        BatchState::Cancelled
    );
}

#[tokio::test]
async fn a_batch_goes_on_unless_it_asked() {
    for on_disconnect in [OnDisconnect::Unspecified, OnDisconnect::Continue] {
        let setup = ServerSetup::gated(2, SHORT);
        let gates = Gates::new(&setup, ["batch", "other"]);
        let server = setup.start();
        let mut client = server.client().await;
        drop(submit(&mut client, &gates, "batch", on_disconnect).await);
        see_another_cancelled(&mut client, &gates).await;
        assert_goes_on(&mut client, &gates).await;
    }
}

#[tokio::test]
async fn a_crash_of_the_server_is_no_disconnect() {
    let setup = ServerSetup::gated(2, SHORT);
    let gates = Gates::new(&setup, ["batch", "other"]);
    let server = setup.start();
    let mut client = server.client().await;
    let results = submit(&mut client, &gates, "batch", OnDisconnect::Cancel).await;
    let held = gates.arrival("batch").await;
    server.kill();
    drop((held, results));
    let server = setup.start();
    let mut client = server.client().await;
    see_another_cancelled(&mut client, &gates).await;
    assert_goes_on(&mut client, &gates).await;
}

#[tokio::test]
async fn a_drain_of_the_server_is_no_disconnect() {
    let setup = ServerSetup::gated(2, &format!("{SHORT}\ndrain_grace = \"3s\""));
    let gates = Gates::new(&setup, ["batch", "other"]);
    let server = setup.start();
    let mut client = server.client().await;
    let results = submit(&mut client, &gates, "batch", OnDisconnect::Cancel).await;
    let held = gates.arrival("batch").await;
    assert_eq!(server.terminate(), Some(0), "{}", setup.log());
    drop((held, results));
    let server = setup.start();
    let mut client = server.client().await;
    see_another_cancelled(&mut client, &gates).await;
    assert_goes_on(&mut client, &gates).await;
}
