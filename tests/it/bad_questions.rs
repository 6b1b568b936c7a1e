//! Questions about what is not there, or that make no sense.

use sooner::wire::{
    CancelBatchRequest, GetBatchRequest, GetItemRequest, ListBatchesRequest, ListItemsRequest,
    ResultOrder, SubmitBatchRequest, WatchBatchRequest,
};
use tonic::{Code, Status};

use crate::harness::client::{fact, fields, milliseconds, reason};
use crate::harness::{Client, Server, ServerSetup, all, item, within};

const BATCH: &str = "batch";

/// A server that has computed the items "0" to "2" of one batch.
async fn used(setup: &ServerSetup) -> (Server, Client) {
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["x", "y", "z"].map(item).into();
    let mut results = client.submit(BATCH, items).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 3);
    (server, client)
}

type Spoil<T> = Box<dyn Fn(&mut T)>;

/// Longer than a caller may set, or less than nothing.
fn absurd_durations() -> [Option<prost_types::Duration>; 3] {
    let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    [duration(-1, 0), duration(i64::MAX, 0), duration(1, -1)]
}

#[track_caller]
fn assert_invalid(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(reason(status), "INVALID_FIELD", "{status:?}");
    assert_eq!(fields(status), [field], "{status:?}");
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_refused() {
    let setup = ServerSetup::echo();
    let (_server, mut client) = used(&setup).await;
    let request = SubmitBatchRequest {
        batch_id: "other".into(),
        queue: "other-queue".into(),
        items: vec![item("x")],
        ..SubmitBatchRequest::default()
    };
    let status = client
        .submit_request(request)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "NO_HANDLER");
    assert_eq!(fact(&status, "queue").as_deref(), Some("other-queue"));
    assert_eq!(
        reason(&client.batch("other").await.unwrap_err()),
        "BATCH_NOT_FOUND"
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let setup = ServerSetup::echo();
    let (_server, mut client) = used(&setup).await;
    let missing = "missing";
    for status in [
        client.batch(missing).await.unwrap_err(),
        client.watch(missing, 0).await.map(|_| ()).unwrap_err(),
        client.item(missing, "0").await.unwrap_err(),
        client.cancel(missing, &[]).await.unwrap_err(),
        client.cancel(missing, &["0"]).await.unwrap_err(),
        client.delete_batch(missing).await.unwrap_err(),
        client
            .list_items(ListItemsRequest {
                batch_id: missing.into(),
                ..ListItemsRequest::default()
            })
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status), "BATCH_NOT_FOUND");
        assert_eq!(
            fact(&status, "batch_id").as_deref(),
            Some(missing),
            "{status:?}"
        );
    }
    for status in [
        client.item(BATCH, "3").await.unwrap_err(),
        client.item(BATCH, "00").await.unwrap_err(),
        client.item(BATCH, "+1").await.unwrap_err(),
        client.item(BATCH, "-1").await.unwrap_err(),
        client.cancel(BATCH, &["0", "9"]).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status), "ITEM_NOT_FOUND");
        assert_eq!(
            fact(&status, "batch_id").as_deref(),
            Some(BATCH),
            "{status:?}"
        );
        assert!(fact(&status, "item_id").is_some(), "{status:?}");
    }
}

#[tokio::test]
async fn wrong_questions_about_a_batch_are_refused() {
    let setup = ServerSetup::echo();
    let (_server, mut client) = used(&setup).await;
    for batch_id in ["", "a:b", " ", "ä"] {
        let status = client.batch(batch_id).await.unwrap_err();
        assert_invalid(&status, "batch_id");
        let status = client.watch(batch_id, 0).await.map(|_| ()).unwrap_err();
        assert_invalid(&status, "batch_id");
        let status = client.item(batch_id, "0").await.unwrap_err();
        assert_invalid(&status, "batch_id");
        let status = client.cancel(batch_id, &[]).await.unwrap_err();
        assert_invalid(&status, "batch_id");
        let status = client.delete_batch(batch_id).await.unwrap_err();
        assert_invalid(&status, "batch_id");
    }
    assert_invalid(&client.item(BATCH, "").await.unwrap_err(), "item_id");
    for wait in absurd_durations() {
        let request = GetBatchRequest {
            batch_id: BATCH.into(),
            wait,
        };
        let status = within(client.stub.get_batch(request)).await.unwrap_err();
        assert_invalid(&status, "wait");
        let request = GetItemRequest {
            batch_id: BATCH.into(),
            item_id: "0".into(),
            wait,
            ..GetItemRequest::default()
        };
        let status = within(client.stub.get_item(request)).await.unwrap_err();
        assert_invalid(&status, "wait");
    }
}

#[tokio::test]
async fn wrong_questions_to_lists_are_refused() {
    let setup = ServerSetup::echo();
    let (_server, mut client) = used(&setup).await;
    let cases: Vec<(&str, Spoil<ListBatchesRequest>)> = vec![
        ("page_size", Box::new(|it| it.page_size = -1)),
        ("page_size", Box::new(|it| it.page_size = i32::MIN)),
        ("page_token", Box::new(|it| it.page_token = "x".into())),
        (
            "page_token",
            Box::new(|it| it.page_token = "x".repeat(9000)),
        ),
        ("states[0]", Box::new(|it| it.states = vec![0])),
        ("states[1]", Box::new(|it| it.states = vec![3, 8])),
        (
            "labels[\"a b\"]",
            Box::new(|it| drop(it.labels.insert("a b".into(), String::new()))),
        ),
        (
            "labels[\"a\"]",
            Box::new(|it| drop(it.labels.insert("a".into(), "x".repeat(257)))),
        ),
        (
            "labels",
            Box::new(|it| {
                it.labels
                    .extend((0..65).map(|i| (format!("label-{i}"), String::new())));
            }),
        ),
    ];
    for (field, spoil) in cases {
        let mut request = ListBatchesRequest::default();
        spoil(&mut request);
        assert_invalid(&client.list_batches(request).await.unwrap_err(), field);
    }
    let cases: Vec<(&str, Spoil<ListItemsRequest>)> = vec![
        ("page_size", Box::new(|it| it.page_size = -1)),
        ("page_token", Box::new(|it| it.page_token = "\u{e4}".into())),
        ("states[0]", Box::new(|it| it.states = vec![0])),
        ("states[0]", Box::new(|it| it.states = vec![7])),
        ("batch_id", Box::new(|it| it.batch_id = "a:b".into())),
        ("batch_id", Box::new(|it| it.batch_id.clear())),
    ];
    for (field, spoil) in cases {
        let mut request = ListItemsRequest {
            batch_id: BATCH.into(),
            ..ListItemsRequest::default()
        };
        spoil(&mut request);
        assert_invalid(&client.list_items(request).await.unwrap_err(), field);
    }
}

#[tokio::test]
async fn wrong_watches_are_refused() {
    let setup = ServerSetup::echo();
    let (_server, mut client) = used(&setup).await;
    let index: i32 = ResultOrder::Index.into();
    let mut cases: Vec<(&str, Spoil<WatchBatchRequest>)> = vec![
        ("states[1]", Box::new(|it| it.states = vec![3, 1])),
        ("states[0]", Box::new(|it| it.states = vec![99])),
        ("order", Box::new(|it| it.order = 9)),
        ("after_index", Box::new(|it| it.after_index = 1)),
        (
            "after_sequence",
            Box::new(move |it| {
                it.after_sequence = 1;
                it.order = index;
            }),
        ),
    ];
    for interval in absurd_durations()
        .into_iter()
        .chain([Some(milliseconds(999))])
    {
        let spoil: Spoil<WatchBatchRequest> = Box::new(move |it| it.progress_interval = interval);
        cases.push(("progress_interval", spoil));
    }
    for (field, spoil) in cases {
        let mut request = WatchBatchRequest {
            batch_id: BATCH.into(),
            ..WatchBatchRequest::default()
        };
        spoil(&mut request);
        let status = client.watch_request(request).await.map(|_| ()).unwrap_err();
        assert_invalid(&status, field);
    }
}

#[tokio::test]
async fn wrong_cancels_are_refused() {
    let setup = ServerSetup::echo();
    let (_server, mut client) = used(&setup).await;
    let cancel = CancelBatchRequest {
        batch_id: BATCH.into(),
        ..CancelBatchRequest::default()
    };
    let with_long_reason = CancelBatchRequest {
        reason: "x".repeat(1025),
        ..cancel.clone()
    };
    let status = within(client.stub.cancel_batch(with_long_reason))
        .await
        .unwrap_err();
    assert_invalid(&status, "reason");
    let of_many = CancelBatchRequest {
        item_ids: vec!["0".into(); 10_001],
        ..cancel
    };
    let status = within(client.stub.cancel_batch(of_many)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(reason(&status), "TOO_MANY_ITEMS");
    assert_eq!(fields(&status), ["item_ids"]);
}
