//! `CreateBatch`: the same accept without a stream.

use std::collections::HashMap;

use sooner::wire::{
    BatchOptions, BatchState, CreateBatchRequest, CreateBatchResponse, FailureAction,
    FailurePolicy, ItemState, RetryPolicy, SubmitBatchRequest,
};
use tonic::{Code, Status};

use crate::harness::client::{milliseconds, output, reason};
use crate::harness::{Client, Gates, ServerSetup, all, item, within};

fn request(batch_id: &str, request_id: &str, inputs: &[&str]) -> CreateBatchRequest {
    CreateBatchRequest {
        batch_id: batch_id.into(),
        request_id: request_id.into(),
        items: inputs.iter().map(|&input| item(input)).collect(),
        ..CreateBatchRequest::default()
    }
}

async fn create(
    client: &mut Client,
    request: CreateBatchRequest,
) -> Result<CreateBatchResponse, Status> {
    Ok(within(client.stub.create_batch(request))
        .await?
        .into_inner())
}

#[tokio::test]
async fn a_batch_runs_without_anyone_reading_it() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    assert!(
        client
            .create("batch", vec![item("x"), item("y")])
            .await
            .unwrap()
    );
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Completed);
    assert_eq!(batch.counts.unwrap().succeeded, 2);
    assert_eq!(client.results("batch", 0).await.len(), 2);
}

/// Options of which none is what it is by default.
fn every_option() -> BatchOptions {
    BatchOptions {
        item_timeout: Some(prost_types::Duration {
            seconds: 90,
            nanos: 5,
        }),
        retry_policy: Some(RetryPolicy {
            jitter: Some(0.0),
            ..RetryPolicy::default()
        }),
        labels: HashMap::from([("team".into(), "blue".into())]),
        priority: -3,
        not_before: Some(prost_types::Timestamp {
            seconds: 7,
            nanos: 8_000_000,
        }),
        max_parallelism: Some(2),
        deadline: Some(prost_types::Timestamp {
            seconds: 1_900_000_000,
            nanos: 0,
        }),
        max_duration: Some(prost_types::Duration {
            seconds: 100_000,
            nanos: 1,
        }),
        enough: Some(7),
        failure_policy: Some(FailurePolicy {
            max_failed_items: Some(3),
            max_failed_ratio: Some(0.25),
            min_items: Some(0),
            action: FailureAction::Cancel.into(),
        }),
        at_most_once: true,
        retention: Some(milliseconds(3_600_001)),
    }
}

#[tokio::test]
async fn the_answer_tells_how_the_batch_stands() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut request = request("batch", "", &[]);
    request.items = vec![gates.item("a"), gates.item("b")];
    request.options = Some(every_option());
    let told = create(&mut client, request.clone()).await.unwrap();
    let batch = told.batch.unwrap();
    assert!(told.created);
    assert_eq!(
        (batch.state(), batch.queue.as_str()),
        (BatchState::Running, "default")
    );
    let counts = batch.counts.unwrap();
    assert_eq!((counts.total, counts.pending, counts.running), (2, 2, 0));
    assert_eq!(batch.labels["team"], "blue");
    assert_eq!(
        batch.options, request.options,
        "unset stays unset, and zero stays zero"
    );
    assert!(batch.create_time.is_some());
    assert_eq!((batch.finish_time, batch.last_sequence), (None, 0));
    gates.open("a").await;
    let gate = gates.arrival("b").await;
    // The slot is free for b once a has ended, which is a moment before that is durable.
    let first = client.item_when_over("batch", "a").await;
    assert_eq!(first.state(), ItemState::Succeeded);
    let again = create(&mut client, request).await.unwrap();
    let batch_now = again.batch.unwrap();
    assert!(!again.created);
    assert_eq!(batch_now.batch_uid, batch.batch_uid);
    assert_eq!(batch_now.create_time, batch.create_time);
    let counts = batch_now.counts.unwrap();
    assert_eq!(
        (counts.succeeded, counts.running, counts.pending),
        (1, 1, 0)
    );
    gate.open();
    client.batch_when_over("batch").await;
}

#[tokio::test]
async fn both_ways_to_submit_name_the_same_batch() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let by_create = request("batch", "key", &["x"]);
    let by_submit = SubmitBatchRequest {
        batch_id: by_create.batch_id.clone(),
        request_id: by_create.request_id.clone(),
        items: by_create.items.clone(),
        ..SubmitBatchRequest::default()
    };
    let created = create(&mut client, by_create.clone()).await.unwrap();
    let (accepted, mut results) = client.submit_request(by_submit.clone()).await.unwrap();
    assert!(!accepted.created);
    assert_eq!(accepted.batch_uid, created.batch.unwrap().batch_uid);
    let results = all(&mut results).await;
    assert_eq!((results.len(), output(&results[0])), (1, "x"));

    let other = SubmitBatchRequest {
        items: vec![item("y")],
        ..by_submit
    };
    let status = client.submit_request(other).await.map(|_| ()).unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::AlreadyExists, "BATCH_ID_CONFLICT")
    );
    let other = CreateBatchRequest {
        batch_id: String::new(),
        items: vec![item("y")],
        ..by_create
    };
    let status = create(&mut client, other).await.unwrap_err();
    assert_eq!(reason(&status), "REQUEST_ID_CONFLICT");
}

#[tokio::test]
async fn an_accepted_batch_survives_a_crash() {
    let setup = ServerSetup::new("[queues.later]\n");
    let server = setup.start();
    let later = CreateBatchRequest {
        queue: "later".into(),
        ..request("batch", "", &["x", "y"])
    };
    let told = create(&mut server.client().await, later)
        .await
        .unwrap()
        .batch
        .unwrap();
    server.kill();
    let server = setup.start();
    assert_eq!(server.client().await.batch("batch").await.unwrap(), told);
}
