//! A caller's deadline ends its call, not its batch. The header is sent raw, by a stub without a timer.

use sooner::wire::{ItemResult, SubmitBatchRequest, WatchBatchRequest};
use tonic::{Code, Request, Status};

use crate::harness::client::{Accepted, end, fact, next, raw_stub, reason};
use crate::harness::{Gates, ServerSetup, within};

fn by<T>(timeout: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("grpc-timeout", timeout.parse().unwrap());
    request
}

fn assert_deadline(status: &Status, last_sequence: &str) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(reason(status), "RPC_DEADLINE", "{status:?}");
    assert_eq!(
        fact(status, "batch_id").as_deref(),
        Some("batch"),
        "{status:?}"
    );
    assert_eq!(
        fact(status, "last_sequence").as_deref(),
        Some(last_sequence),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_submit_ends_at_its_deadline_and_the_batch_goes_on() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let request = SubmitBatchRequest {
        batch_id: "batch".into(),
        items: vec![gates.item("a"), gates.item("b")],
        ..SubmitBatchRequest::default()
    };
    // Long enough for the accept on a busy machine; the gates are shut for much longer.
    let submit = within(raw_stub(&server).submit_batch(by("2S", request)))
        .await
        .unwrap();
    assert!(Accepted::of(submit.metadata()).created);
    let mut results = submit.into_inner();
    gates.open("b").await;
    let first: ItemResult = next(&mut results).await;
    assert_eq!(first.item_id, "b");
    let gate = gates.arrival("a").await;
    assert_deadline(&end(&mut results).await.unwrap_err(), "1");

    gate.open();
    let mut client = server.client().await;
    let rest = client.results("batch", 1).await;
    assert_eq!((rest.len(), rest[0].item_id.as_str()), (1, "a"));
    assert_eq!(rest[0].attempt_count, 1);
}

#[tokio::test]
async fn a_watch_ends_at_its_deadline_and_the_batch_goes_on() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    let request = WatchBatchRequest {
        batch_id: "batch".into(),
        ..WatchBatchRequest::default()
    };
    let mut stub = raw_stub(&server);
    let watch = within(stub.watch_batch(by("1500m", request.clone())))
        .await
        .unwrap();
    let mut patient = within(stub.watch_batch(by("1H", request)))
        .await
        .unwrap()
        .into_inner();
    let mut watch = watch.into_inner();
    next(&mut watch).await;
    assert_deadline(&end(&mut watch).await.unwrap_err(), "0");
    gate.open();
    for _ in 0..3 {
        next(&mut patient).await;
    }
    end(&mut patient).await.unwrap();
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_changes_nothing_it_does_not_tell() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    for i in 0..20 {
        let batch_id = format!("batch-{i}");
        let request = SubmitBatchRequest {
            batch_id: batch_id.clone(),
            items: vec![crate::harness::item("x")],
            ..SubmitBatchRequest::default()
        };
        // Whether it was accepted in time is open; repeating it with the same key tells.
        let in_no_time = within(raw_stub(&server).submit_batch(by("1n", request.clone()))).await;
        if let Err(status) = in_no_time {
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::DeadlineExceeded, "RPC_DEADLINE")
            );
        }
        client.submit_request(request).await.unwrap();
        assert_eq!(client.results(&batch_id, 0).await.len(), 1);
    }
}
