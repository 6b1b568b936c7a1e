//! A store that an earlier version wrote is read as it was, and goes on.
//!
//! `tests/fixtures/format-1` was written by the first version of format 1. It never changes: a later
//! version that cannot read it needs a migration.

use sooner::wire::{
    BatchState, GetBatchRequest, GetItemRequest, ItemState, SubmitBatchRequest, payload,
};

use crate::harness::client::{all, item, output};
use crate::harness::{Client, ServerSetup};

const FIXTURE: &[u8] = include_bytes!("../fixtures/format-1/sooner.db");

fn setup() -> ServerSetup {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { echo = {} }\n[queues.later]\nhandler = { echo = {} }\n",
    );
    std::fs::create_dir(setup.data_dir()).unwrap();
    std::fs::write(setup.data_dir().join("sooner.db"), FIXTURE).unwrap();
    setup
}

async fn state(client: &mut Client, batch_id: &str) -> BatchState {
    let wait = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let request = GetBatchRequest {
        batch_id: batch_id.into(),
        wait,
    };
    client
        .stub
        .get_batch(request)
        .await
        .unwrap()
        .into_inner()
        .batch
        .unwrap()
        .state()
}

#[tokio::test]
async fn results_of_the_first_format_are_read_as_they_were_written() {
    let setup = setup();
    let server = setup.start();
    let mut client = server.client().await;
    let results = client.results("finished", 0).await;
    let told: Vec<_> = results
        .iter()
        .map(|result| (result.sequence, &*result.item_id, result.state()))
        .collect();
    let (well, badly) = (ItemState::Succeeded, ItemState::Failed);
    assert_eq!(told, [(1, "a", well), (2, "b/ä", badly), (3, "c", well)]);
    assert_eq!(output(&results[0]), "out one");
    let error = results[1].error.as_ref().unwrap();
    assert_eq!((&*error.reason, &*error.message), ("EXIT_65", "no"));
    let data = results[2].output.as_ref().unwrap().body.as_ref().unwrap();
    assert_eq!(data, &payload::Body::Data(b"out \xff"[..].into()));
}

#[tokio::test]
async fn what_was_asked_for_in_the_first_format_is_known() {
    let setup = setup();
    let server = setup.start();
    let mut client = server.client().await;
    let request = GetItemRequest {
        batch_id: "finished".into(),
        item_id: "c".into(),
        include_spec: true,
        ..GetItemRequest::default()
    };
    let spec = client
        .stub
        .get_item(request)
        .await
        .unwrap()
        .into_inner()
        .item
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(spec.attributes["k"], "v");
    assert_eq!(
        (
            spec.timeout.unwrap().seconds,
            &*spec.input.unwrap().content_type
        ),
        (5, "x/y")
    );
    assert_eq!(state(&mut client, "cancelled").await, BatchState::Cancelled);
    let other = client
        .submit("finished", vec![item("other")])
        .await
        .unwrap_err();
    assert_eq!(crate::harness::client::reason(&other), "BATCH_ID_CONFLICT");
}

#[tokio::test]
async fn batches_of_the_first_format_go_on() {
    let setup = setup();
    let server = setup.start();
    let mut client = server.client().await;
    assert_eq!(state(&mut client, "waiting").await, BatchState::Completed);
    let results = client.results("waiting", 0).await;
    assert_eq!(
        results[0].state(),
        ItemState::Cancelled,
        "what was recorded stays"
    );
    assert_eq!(results.len(), 3);
    assert_eq!(
        state(&mut client, "backing-off").await,
        BatchState::Completed
    );
    let results = client.results("backing-off", 0).await;
    assert!(results[0].attempt_count >= 2, "earlier attempts count");
    // The fingerprint of the first format attaches an equal submit.
    let items = ["x\n", "y\n", "z\n"].map(item).to_vec();
    let (batch_id, queue) = ("waiting".into(), "later".into());
    let request = SubmitBatchRequest {
        batch_id,
        queue,
        items,
        ..SubmitBatchRequest::default()
    };
    let response = client.stub.submit_batch(request).await.unwrap();
    assert_eq!(
        response.metadata().get("sooner-batch-created").unwrap(),
        "false"
    );
    assert_eq!(all(&mut response.into_inner()).await.len(), 3);
}
