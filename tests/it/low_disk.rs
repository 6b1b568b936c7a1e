//! When the disk is nearly full, what is left of it belongs to the results of accepted work.

use sooner::wire::{BatchState, CancelBatchRequest, PauseBatchRequest, SubmitBatchRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::client::{next, output, reason};
use crate::harness::{Gates, ServerSetup, UploadCall, all, item, upload_start, within};

/// More than any disk has: whatever the machine's disk is like, it is nearly full.
const MORE_THAN_ANY_DISK: &str = "1073741824GiB";

#[tokio::test]
async fn below_the_reserve_new_work_is_refused_and_accepted_work_ends() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = || vec![gates.item("a"), gates.item("b")];
    client.create("batch", items()).await.unwrap();
    client.create("other", vec![item("x")]).await.unwrap();
    let upload = UploadCall::open(&client, upload_start("upload")).await;
    let mut upload = upload.unwrap();
    upload.items(0, vec![gates.free_item("y")]).await;
    upload.durable(1).await;
    let running = gates.arrival("a").await;
    server.kill();
    drop(running);

    let setup = setup.with_environment("SOONER_STORE__RESERVE", MORE_THAN_ANY_DISK);
    let server = setup.start();
    let mut client = server.client().await;
    let refused = client.create("new", vec![item("x")]).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::ResourceExhausted, "DISK_FULL")
    );
    assert!(refused.get_error_details().retry_info().is_some());
    assert_eq!(
        refused.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    let upload = UploadCall::open(&client, upload_start("upload")).await;
    let mut upload = upload.unwrap();
    upload.items(1, vec![gates.free_item("z")]).await;
    assert_eq!(reason(&upload.failed().await), "DISK_FULL");
    // What is there already is no new work.
    let again = SubmitBatchRequest {
        batch_id: "batch".into(),
        items: items(),
        ..SubmitBatchRequest::default()
    };
    let (accepted, mut results) = client.submit_request(again).await.unwrap();
    assert!(!accepted.created);
    let pause = PauseBatchRequest {
        batch_id: "other".into(),
        ..PauseBatchRequest::default()
    };
    within(client.stub.pause_batch(pause)).await.unwrap();
    let cancel = CancelBatchRequest {
        batch_id: "other".into(),
        ..CancelBatchRequest::default()
    };
    within(client.stub.cancel_batch(cancel)).await.unwrap();
    let other = client.batch_when_over("other").await;
    assert_eq!(other.state(), BatchState::Cancelled);
    for name in ["a", "b"] {
        gates.open(name).await;
        assert_eq!(output(&next(&mut results).await), name);
    }
    assert!(setup.log().contains("the disk is nearly full"));
    server.kill();

    let setup = setup.with_environment("SOONER_STORE__RESERVE", "1B");
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client
        .submit("new", vec![gates.free_item("x")])
        .await
        .unwrap();
    assert_eq!(all(&mut results).await.len(), 1);
}
