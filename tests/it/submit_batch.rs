//! `SubmitBatch`: a durable accept, then each result the moment its item ends.

use std::collections::HashSet;

use sooner::wire::{ItemResult, ItemState, OnDisconnect, SubmitBatchRequest};
use tonic::{Code, Status, Streaming};

use crate::harness::client::{Accepted, end, milliseconds, next, output, reason};
use crate::harness::{Client, Gates, ServerSetup, all, item, within};

/// A queue that notes each attempt in the file `ran` and answers its input.
const COUNTED: &str = r#"
[queues.default]
handler = { exec = ["sh", "-c", "echo \"$SOONER_ITEM_ID\" >> ran; cat"] }
"#;

/// Which items ran, in the order of their attempts.
fn ran(setup: &ServerSetup) -> Vec<String> {
    let lines = std::fs::read_to_string(setup.path("ran")).unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

fn request(batch_id: &str, request_id: &str, inputs: &[&str]) -> SubmitBatchRequest {
    SubmitBatchRequest {
        batch_id: batch_id.into(),
        request_id: request_id.into(),
        items: inputs.iter().map(|&input| item(input)).collect(),
        ..SubmitBatchRequest::default()
    }
}

fn sequences(results: &[ItemResult]) -> Vec<u64> {
    results.iter().map(|result| result.sequence).collect()
}

#[tokio::test]
async fn each_result_arrives_before_any_later_item_may_end() {
    results_overtake(&ServerSetup::gated(3, "")).await;
}

#[tokio::test]
async fn each_result_arrives_before_any_later_item_may_end_with_one_serving_thread() {
    results_overtake(&ServerSetup::gated(3, "[server]\nio_threads = 1")).await;
}

/// Only one gate is open at a time, and the next one opens only after the result is here.
async fn results_overtake(setup: &ServerSetup) {
    let names = ["a", "b", "c"];
    let gates = Gates::new(setup, names);
    let server = setup.start();
    let mut client = server.client().await;
    let items = names.map(|name| gates.item(name)).into();
    let mut results = client.submit("batch", items).await.unwrap();
    let all_run = [
        gates.arrival("a").await,
        gates.arrival("b").await,
        gates.arrival("c").await,
    ];
    let [a, b, c] = all_run;
    for (gate, name, index, sequence) in [(b, "b", 1, 1), (c, "c", 2, 2), (a, "a", 0, 3)] {
        gate.open();
        let result = next(&mut results).await;
        assert_eq!((result.item_id.as_str(), output(&result)), (name, name));
        assert_eq!(result.state(), ItemState::Succeeded);
        assert_eq!((result.index, result.sequence), (index, sequence));
        assert_eq!(result.remaining_count, Some(3 - sequence));
        assert_eq!(result.batch_id, "batch");
        assert_eq!(result.attempt_count, 1);
        assert_eq!(result.worker_id, "local");
    }
    end(&mut results).await.unwrap();
}

#[tokio::test]
async fn a_slow_item_delays_none_of_the_others() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["slow"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut items = vec![gates.item("slow")];
    items.extend((1..=50).map(|i| gates.free_item(&format!("free-{i}"))));
    let mut results = client.submit("batch", items).await.unwrap();
    let slow = gates.arrival("slow").await;
    for left in (1..=50).rev() {
        let result = next(&mut results).await;
        assert_ne!(result.item_id, "slow");
        assert_eq!(result.remaining_count, Some(left));
    }
    slow.open();
    assert_eq!(next(&mut results).await.item_id, "slow");
    end(&mut results).await.unwrap();
}

#[tokio::test]
async fn a_slow_batch_delays_no_other_batch() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["slow"]);
    let server = setup.start();
    let mut client = server.client().await;
    let slow = vec![gates.item("slow"), gates.free_item("behind")];
    let mut slow = client.submit("slow", slow).await.unwrap();
    let gate = gates.arrival("slow").await;
    let quick = vec![gates.free_item("quick")];
    let mut quick = client.submit("quick", quick).await.unwrap();
    assert_eq!(all(&mut quick).await.len(), 1);
    assert_eq!(next(&mut slow).await.item_id, "behind");
    gate.open();
    assert_eq!(all(&mut slow).await.len(), 1);
}

#[tokio::test]
async fn headers_arrive_before_any_item_may_end() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut request = request("", "", &[]);
    request.items = vec![gates.item("a"), gates.item("b")];
    // Both gates are shut: no item can have ended when the headers are here.
    let (accepted, mut results) = client.submit_request(request).await.unwrap();
    assert!(accepted.created);
    assert_eq!(
        accepted.batch_id, accepted.batch_uid,
        "the server names a batch by its uid"
    );
    assert_eq!(
        uuid::Uuid::parse_str(&accepted.batch_uid)
            .unwrap()
            .get_version_num(),
        7
    );
    let batch = client.batch(&accepted.batch_id).await.unwrap();
    assert_eq!(
        (batch.batch_uid, batch.last_sequence),
        (accepted.batch_uid, 0)
    );
    gates.open("b").await;
    gates.open("a").await;
    assert_eq!(all(&mut results).await.len(), 2);
}

#[tokio::test]
async fn headers_prove_that_the_batch_survives_a_crash() {
    let unserved = ServerSetup::new("[queues.later]\n");
    for round in 0..5 {
        let batch_id = format!("batch-{round}");
        let server = unserved.start();
        let mut client = server.client().await;
        let request = SubmitBatchRequest {
            queue: "later".into(),
            ..request(&batch_id, "", &["x", "y"])
        };
        let (accepted, results) = client.submit_request(request).await.unwrap();
        server.kill();
        drop(results);
        let server = unserved.start();
        let mut client = server.client().await;
        let batch = client.batch(&batch_id).await.unwrap();
        assert_eq!(batch.batch_uid, accepted.batch_uid);
        let counts = batch.counts.unwrap();
        assert_eq!((counts.total, counts.pending), (2, 2));
    }
}

#[tokio::test]
async fn progress_markers_come_only_on_request() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut request = request("batch", "", &[]);
    request.items = vec![gates.free_item("free"), gates.item("a")];
    let (_, mut without) = client.submit_request(request.clone()).await.unwrap();
    request.progress_interval = Some(milliseconds(1000));
    let (_, mut with) = client.submit_request(request).await.unwrap();
    assert_eq!(next(&mut with).await.item_id, "free");
    for _ in 0..2 {
        let marker = next(&mut with).await;
        assert_eq!(marker.state(), ItemState::Unspecified);
        assert_eq!(
            (marker.item_id.as_str(), marker.batch_id.as_str()),
            ("", "batch")
        );
        assert_eq!(marker.sequence, 1, "the last sequence so far");
        assert_eq!(marker.output, None);
    }
    gates.open("a").await;
    let ids: Vec<_> = all(&mut without)
        .await
        .into_iter()
        .map(|it| it.item_id)
        .collect();
    assert_eq!(ids, ["free", "a"]);
    let last = all(&mut with).await.pop().unwrap();
    assert_eq!(
        (last.item_id.as_str(), last.remaining_count),
        ("a", Some(0))
    );
}

#[tokio::test]
async fn outputs_are_left_out_on_request_and_can_be_fetched() {
    let server = ServerSetup::echo();
    let server = server.start();
    let mut client = server.client().await;
    let mut request = request("batch", "", &["hello"]);
    request.omit_output = true;
    let (_, mut results) = client.submit_request(request.clone()).await.unwrap();
    let [result] = &all(&mut results).await[..] else {
        panic!("one result")
    };
    assert_eq!((&result.output, result.output_omitted), (&None, true));
    let kept = client.item("batch", "0").await.unwrap().result.unwrap();
    assert_eq!((output(&kept), kept.output_omitted), ("hello", false));
    request.omit_output = false;
    let (again, mut results) = client.submit_request(request).await.unwrap();
    assert!(!again.created, "how it is read is no part of the content");
    assert_eq!(output(&next(&mut results).await), "hello");
}

#[tokio::test]
async fn every_item_of_the_largest_submit_has_one_result() {
    let server = ServerSetup::echo();
    let server = server.start();
    let mut client = server.client().await;
    let items = (0..10_000).map(|i| item(i.to_string())).collect();
    let mut results = client.submit("batch", items).await.unwrap();
    let results = all(&mut results).await;
    assert_eq!(sequences(&results), (1..=10_000).collect::<Vec<_>>());
    let indexes: HashSet<_> = results.iter().map(|result| result.index).collect();
    assert_eq!(indexes.len(), 10_000);
    for (result, left) in results.iter().zip((0..10_000).rev()) {
        assert_eq!(result.item_id, result.index.to_string());
        assert_eq!(output(result), result.item_id);
        assert_eq!(result.remaining_count, Some(left));
    }
}

#[tokio::test]
async fn a_repeated_submit_attaches_and_runs_nothing_twice() {
    let setup = ServerSetup::new(COUNTED);
    let server = setup.start();
    let mut client = server.client().await;
    for (batch_id, request_id) in [("named", ""), ("", "key"), ("both", "other-key")] {
        let request = request(batch_id, request_id, &["x", "y", "z"]);
        let (first, mut results) = client.submit_request(request.clone()).await.unwrap();
        let before = all(&mut results).await;
        let ran_before = ran(&setup).len();
        let mut second = server.client().await;
        let (again, mut results) = second.submit_request(request).await.unwrap();
        assert!(first.created);
        assert_eq!(
            again,
            Accepted {
                created: false,
                ..first
            }
        );
        assert_eq!(all(&mut results).await, before);
        assert_eq!(sequences(&before), [1, 2, 3]);
        assert_eq!(ran(&setup).len(), ran_before);
    }
    assert_eq!(ran(&setup).len(), 9);
}

#[tokio::test]
async fn a_submit_repeated_half_way_has_all_results_from_the_first_on() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.free_item("free"), gates.item("a")];
    let mut first = client.submit("batch", items.clone()).await.unwrap();
    assert_eq!(next(&mut first).await.item_id, "free");
    let mut second = client.submit("batch", items).await.unwrap();
    assert_eq!(next(&mut second).await.item_id, "free");
    gates.open("a").await;
    assert_eq!(all(&mut first).await, all(&mut second).await);
}

#[tokio::test]
async fn keys_are_remembered_over_a_crash() {
    let setup = ServerSetup::new(COUNTED);
    let request = request("batch", "key", &["x", "y"]);
    let server = setup.start();
    let (first, mut results) = server
        .client()
        .await
        .submit_request(request.clone())
        .await
        .unwrap();
    let before = all(&mut results).await;
    server.kill();
    let server = setup.start();
    let (again, mut results) = server.client().await.submit_request(request).await.unwrap();
    assert_eq!(
        again,
        Accepted {
            created: false,
            ..first
        }
    );
    assert_eq!(all(&mut results).await, before);
    assert_eq!(ran(&setup).len(), 2);
}

#[tokio::test]
async fn equal_submits_at_once_create_one_batch() {
    let setup = ServerSetup::new(COUNTED);
    let server = setup.start();
    for (batch_id, request_id) in [("named", ""), ("", "key")] {
        let mut submits = Vec::new();
        for _ in 0..8 {
            let mut client = server.client().await;
            let request = request(batch_id, request_id, &["x", "y"]);
            submits.push(tokio::spawn(async move {
                submit_to_end(&mut client, request).await
            }));
        }
        let mut told = Vec::new();
        for submit in submits {
            told.push(within(submit).await.unwrap().unwrap());
        }
        let created = told.iter().filter(|(accepted, _)| accepted.created).count();
        assert_eq!(created, 1);
        let uids: HashSet<_> = told
            .iter()
            .map(|(accepted, _)| &accepted.batch_uid)
            .collect();
        assert_eq!(uids.len(), 1);
        assert!(told.iter().all(|(_, results)| *results == told[0].1));
        assert_eq!(told[0].1.len(), 2);
    }
    assert_eq!(ran(&setup).len(), 4);
}

async fn submit_to_end(
    client: &mut Client,
    request: SubmitBatchRequest,
) -> Result<(Accepted, Vec<ItemResult>), Status> {
    let (accepted, mut results) = client.submit_request(request).await?;
    Ok((accepted, all(&mut results).await))
}

#[tokio::test]
async fn other_content_under_a_key_is_refused_and_changes_nothing() {
    let setup = ServerSetup::new(COUNTED);
    let server = setup.start();
    let mut client = server.client().await;
    let original = request("batch", "key", &["x", "y"]);
    let (_, results) = submit_to_end(&mut client, original.clone()).await.unwrap();
    let before = client.batch("batch").await.unwrap();

    let mut with_label = original.clone();
    with_label
        .options
        .get_or_insert_default()
        .labels
        .insert("a".into(), "b".into());
    let mut with_timeout = original.clone();
    with_timeout.items[1].timeout = Some(milliseconds(600_000));
    let mut with_other_type = original.clone();
    with_other_type.items[0]
        .input
        .as_mut()
        .unwrap()
        .content_type = "text/plain".into();
    let mut with_ids = original.clone();
    with_ids.items[0].item_id = "0".into();
    with_ids.items[1].item_id = "1".into();
    let others = [
        request("batch", "key", &["x", "other"]),
        request("batch", "key", &["y", "x"]),
        request("batch", "key", &["x"]),
        request("batch", "key", &["x", "y", "z"]),
        with_label,
        with_timeout,
        with_other_type,
        with_ids,
    ];
    for other in others {
        let by_id = SubmitBatchRequest {
            request_id: String::new(),
            ..other.clone()
        };
        assert_eq!(refused(&mut client, by_id).await, "BATCH_ID_CONFLICT");
        let by_request = SubmitBatchRequest {
            batch_id: String::new(),
            ..other
        };
        assert_eq!(
            refused(&mut client, by_request).await,
            "REQUEST_ID_CONFLICT"
        );
    }
    assert_eq!(client.batch("batch").await.unwrap(), before);
    assert_eq!(client.results("batch", 0).await, results);
    assert_eq!(ran(&setup).len(), 2);
}

async fn refused(client: &mut Client, request: SubmitBatchRequest) -> String {
    let status = client
        .submit_request(request)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    reason(&status)
}

#[tokio::test]
async fn how_a_batch_is_read_is_no_part_of_its_content() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut original = request("batch", "", &[]);
    original.items = vec![gates.item("a")];
    let mut streams: Vec<Streaming<ItemResult>> = Vec::new();
    for (on_disconnect, interval, omit_output) in [
        (OnDisconnect::Unspecified, None, false),
        (OnDisconnect::Continue, Some(milliseconds(0)), true),
        (OnDisconnect::Cancel, Some(milliseconds(9000)), false),
    ] {
        let again = SubmitBatchRequest {
            on_disconnect: on_disconnect.into(),
            progress_interval: interval,
            omit_output,
            ..original.clone()
        };
        let (accepted, results) = client.submit_request(again).await.unwrap();
        assert_eq!(accepted.created, streams.is_empty());
        streams.push(results);
    }
    gates.open("a").await;
    for mut results in streams {
        assert_eq!(all(&mut results).await.len(), 1);
    }
}

#[tokio::test]
async fn every_key_that_is_given_must_name_the_same_batch() {
    let setup = ServerSetup::new(COUNTED);
    let server = setup.start();
    let mut client = server.client().await;
    let submit = |batch_id, request_id| request(batch_id, request_id, &["x"]);
    for (batch_id, request_id) in [("a", "key-a"), ("b", "key-b"), ("c", "")] {
        submit_to_end(&mut client, submit(batch_id, request_id))
            .await
            .unwrap();
    }
    for (batch_id, request_id, conflict) in [
        ("a", "key-b", "REQUEST_ID_CONFLICT"),
        ("a", "new", "REQUEST_ID_CONFLICT"),
        ("c", "new", "REQUEST_ID_CONFLICT"),
        ("c", "key-a", "REQUEST_ID_CONFLICT"),
        ("new", "key-a", "BATCH_ID_CONFLICT"),
    ] {
        let request = submit(batch_id, request_id);
        assert_eq!(
            refused(&mut client, request).await,
            conflict,
            "{batch_id} {request_id}"
        );
    }
    for (batch_id, request_id, found) in [("a", "key-a", "a"), ("", "key-b", "b"), ("b", "", "b")] {
        let (accepted, _) = client
            .submit_request(submit(batch_id, request_id))
            .await
            .unwrap();
        assert_eq!(
            (accepted.batch_id.as_str(), accepted.created),
            (found, false)
        );
    }
    let missing = client.batch("new").await.unwrap_err();
    assert_eq!(reason(&missing), "BATCH_NOT_FOUND");
    let (accepted, _) = submit_to_end(&mut client, submit("new", "new"))
        .await
        .unwrap();
    assert!(accepted.created, "a refused key stays free");
    assert_eq!(ran(&setup).len(), 4);
}
