//! `GetItem`: how an item stands, now or when it has its result.

use std::collections::HashMap;

use sooner::wire::{
    GetItemRequest, Item, ItemSpec, ItemState, Payload, RetryPolicy, payload::Body,
};
use tonic::{Request, Status};

use crate::harness::client::{next, raw_stub};
use crate::harness::{Client, Gates, ServerSetup, all, item, within};

fn request(item_id: &str, wait_seconds: i64) -> GetItemRequest {
    GetItemRequest {
        batch_id: "batch".into(),
        item_id: item_id.into(),
        wait: Some(prost_types::Duration {
            seconds: wait_seconds,
            nanos: 0,
        }),
        ..GetItemRequest::default()
    }
}

async fn ask(client: &mut Client, request: GetItemRequest) -> Result<Item, Status> {
    Ok(within(client.stub.get_item(request))
        .await?
        .into_inner()
        .item
        .unwrap())
}

#[tokio::test]
async fn an_item_is_pending_then_running_then_has_its_result() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    let mut results = client.submit("batch", items).await.unwrap();
    let first = gates.arrival("a").await;

    let pending = client.item("batch", "b").await.unwrap();
    assert_eq!(pending.state(), ItemState::Pending);
    assert_eq!((pending.item_id.as_str(), pending.index), ("b", 1));
    assert_eq!((pending.attempts.len(), pending.result), (0, None));
    assert_eq!((pending.spec, pending.batch_id.as_str()), (None, "batch"));

    let running = client.item("batch", "a").await.unwrap();
    assert_eq!(
        (running.state(), running.result),
        (ItemState::Running, None)
    );
    let [attempt] = &running.attempts[..] else {
        panic!("{:?}", running.attempts)
    };
    assert_eq!(
        (attempt.attempt, attempt.finish_time, &attempt.error),
        (1, None, &None)
    );

    first.open();
    let told = next(&mut results).await;
    let done = client.item("batch", "a").await.unwrap();
    assert_eq!(done.state(), ItemState::Succeeded);
    let [attempt] = &done.attempts[..] else {
        panic!("{:?}", done.attempts)
    };
    let result = done.result.unwrap();
    assert_eq!((attempt.attempt, &attempt.error), (1, &None));
    assert_eq!(attempt.worker_id, result.worker_id);
    assert_eq!(attempt.finish_time, result.finish_time);
    assert!(attempt.start_time.is_some());
    assert_eq!(
        (result.sequence, &result.output),
        (told.sequence, &told.output)
    );
    assert_eq!(result.finish_time, told.finish_time);
    gates.open("b").await;
}

#[tokio::test]
async fn a_waiting_call_answers_when_the_item_has_its_result() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    client.create("batch", items).await.unwrap();
    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move { ask(&mut waiter, request("b", 50)).await });
    // On the same connection: the waiting call is there when this one is answered.
    client.batch("batch").await.unwrap();
    gates.open("b").await;
    let item = within(waiting).await.unwrap().unwrap();
    assert_eq!(
        (item.state(), item.item_id.as_str()),
        (ItemState::Succeeded, "b")
    );
    assert_eq!(
        client.item("batch", "a").await.unwrap().result,
        None,
        "its neighbour goes on"
    );
    gates.open("a").await;
}

#[tokio::test]
async fn a_wait_ends_in_time_with_how_the_item_stands() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    let item = ask(&mut client, request("a", 1)).await.unwrap();
    assert_eq!(item.state(), ItemState::Running);

    let mut hurried = Request::new(request("a", 50));
    hurried
        .metadata_mut()
        .insert("grpc-timeout", "500m".parse().unwrap());
    let answer = within(raw_stub(&server).get_item(hurried)).await.unwrap();
    assert_eq!(
        answer.into_inner().item.unwrap().state(),
        ItemState::Running
    );
    gate.open();
}

#[tokio::test]
async fn items_without_ids_are_named_by_their_position() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let items = (0..12).map(|i| item(format!("input {i}"))).collect();
    let mut results = client.submit("batch", items).await.unwrap();
    all(&mut results).await;
    for (id, index) in [("0", 0), ("10", 10), ("11", 11)] {
        let item = client.item("batch", id).await.unwrap();
        assert_eq!((item.item_id.as_str(), item.index), (id, index));
        assert_eq!(item.result.unwrap().item_id, id);
    }
}

#[tokio::test]
async fn ids_that_were_given_are_the_only_names() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    // One of them looks like the position of another.
    let ids = ["1", "a b/ä?", "日本 🦀", &"x".repeat(256)];
    let items = ids
        .map(|id| ItemSpec {
            item_id: id.into(),
            ..item(id)
        })
        .into();
    let mut results = client.submit("batch", items).await.unwrap();
    all(&mut results).await;
    for (index, id) in (0..).zip(ids) {
        let item = client.item("batch", id).await.unwrap();
        assert_eq!((item.item_id.as_str(), item.index), (id, index));
    }
    client.item("batch", "0").await.unwrap_err();
}

#[tokio::test]
async fn what_was_submitted_is_answered_on_request() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let body = Body::Text("{\"big\": 12345678901234567890.10, \"b\":1, \"a\": 2 }".into());
    let json = Payload {
        body: Some(body),
        content_type: "application/json".into(),
    };
    let full = ItemSpec {
        item_id: "full".into(),
        input: Some(json),
        timeout: Some(prost_types::Duration {
            seconds: 3,
            nanos: 7,
        }),
        retry_policy: Some(RetryPolicy {
            max_attempts: Some(7),
            jitter: Some(0.0),
            non_retryable_reasons: vec!["BAD".into()],
            ..RetryPolicy::default()
        }),
        attributes: HashMap::from([("name".into(), "value".into())]),
        start_by: Some(prost_types::Timestamp {
            seconds: 1_950_000_000,
            nanos: 0,
        }),
        finish_by: Some(prost_types::Timestamp {
            seconds: 1_950_000_001,
            nanos: 7_000_000,
        }),
    };
    let bytes = Payload {
        body: Some(Body::Data(vec![0, 255, 10].into())),
        content_type: String::new(),
    };
    let plain = ItemSpec {
        item_id: "plain".into(),
        input: Some(bytes),
        ..ItemSpec::default()
    };
    let mut results = client
        .submit("batch", vec![full.clone(), plain.clone()])
        .await
        .unwrap();
    for result in all(&mut results).await {
        let submitted = if result.item_id == "full" {
            &full
        } else {
            &plain
        };
        assert_eq!(result.output, submitted.input, "byte for byte");
    }
    for submitted in [full, plain] {
        let with_spec = GetItemRequest {
            include_spec: true,
            ..request(&submitted.item_id, 0)
        };
        let item = ask(&mut client, with_spec).await.unwrap();
        assert_eq!(item.spec, Some(submitted));
    }
}
