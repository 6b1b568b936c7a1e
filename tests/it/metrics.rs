//! What `/metrics` tells is what happened.

use std::collections::{BTreeMap, BTreeSet};

use sooner::wire::{
    BatchOptions, CreateBatchRequest, FailurePolicy, PauseBatchRequest, ResumeBatchRequest,
    SubmitBatchRequest,
};

use crate::harness::client::{next, reason};
use crate::harness::ops::ask_for;
use crate::harness::{Gates, ServerSetup, UploadCall, all, item, upload_start, within};

fn count(histogram: &str, labels: &str) -> String {
    format!("sooner_{histogram}_seconds_count{labels}")
}

#[track_caller]
fn assert_told(metrics: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (series, value) in expected {
        let told = metrics.get(*series).map(String::as_str);
        assert_eq!(told, Some(*value), "{series}");
    }
}

/// How often a method of the service was called and ended so.
fn calls(method: &str, code: &str) -> String {
    let labels = format!(
        "{{rpc_method=\"sooner.v1.BatchService/{method}\",rpc_response_status_code=\"{code}\"}}"
    );
    count("rpc_server_call_duration", &labels)
}

const BAD_QUEUE: &str = "[queues.default]\nhandler = { echo = {} }\n\
    [queues.bad]\nhandler = { exec = [\"false\"] }\n\
    retry = { max_attempts = 2, initial_backoff = \"1ms\" }\n";

#[tokio::test]
async fn what_happens_to_items_is_counted() {
    let setup = ServerSetup::new(BAD_QUEUE);
    let server = setup.start();
    let mut client = server.client().await;
    let submit = |queue: &str, items| SubmitBatchRequest {
        queue: queue.into(),
        items: vec![item("x"); items],
        ..SubmitBatchRequest::default()
    };
    for request in [submit("default", 3), submit("bad", 1)] {
        let expected = request.items.len();
        let (_, mut results) = client.submit_request(request).await.unwrap();
        assert_eq!(all(&mut results).await.len(), expected);
    }
    let refused = client.submit_request(submit("nowhere", 1)).await;
    assert_eq!(reason(&refused.unwrap_err()), "NO_HANDLER");

    // What is durable is counted before anybody sees it; the rest when its call has ended.
    server
        .metric_becomes(&calls("SubmitBatch", "OK"), |it| it == "2")
        .await;
    server
        .metric_becomes(&count("end_to_end", ""), |it| it == "4")
        .await;
    server
        .metric_becomes("sooner_watchers", |it| it == "0")
        .await;
    let metrics = server.metrics().await;
    assert_told(
        &metrics,
        &[
            ("sooner_items_accepted_total", "4"),
            ("sooner_items_terminal_total{outcome=\"succeeded\"}", "3"),
            ("sooner_items_terminal_total{outcome=\"failed\"}", "1"),
            (
                "sooner_attempts_total{queue=\"default\",outcome=\"succeeded\"}",
                "3",
            ),
            (
                "sooner_attempts_total{queue=\"default\",outcome=\"failed\"}",
                "0",
            ),
            (
                "sooner_attempts_total{queue=\"bad\",outcome=\"failed\"}",
                "2",
            ),
            (&count("queue_wait", "{queue=\"bad\"}"), "2"),
            (&count("attempt_duration", "{queue=\"default\"}"), "3"),
            (&count("result_latency", ""), "4"),
            ("sooner_items_in_state{state=\"pending\"}", "0"),
            ("sooner_items_in_state{state=\"running\"}", "0"),
            ("sooner_batches_open", "0"),
            ("sooner_oldest_pending_age_seconds", "0.0"),
            ("sooner_rejected_total{reason=\"NO_HANDLER\"}", "1"),
            (&calls("SubmitBatch", "FAILED_PRECONDITION"), "1"),
            ("sooner_store_fsync_errors_total", "0"),
            ("sooner_connections{port=\"main\"}", "1"),
        ],
    );
    for series in [
        &count("store_commit", ""),
        "sooner_store_bytes",
        "sooner_store_wal_bytes",
        "sooner_store_free_bytes",
        "sooner_connections{port=\"ops\"}",
    ] {
        assert!(metrics[series] != "0", "{series}");
    }
}

#[tokio::test]
async fn what_waits_and_runs_shows() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c"].map(|name| gates.item(name)).to_vec();
    let mut results = client.submit("batch", items).await.unwrap();
    let gate = gates.arrival("a").await;
    let metrics = server.metrics().await;
    assert_told(
        &metrics,
        &[
            ("sooner_items_in_state{state=\"pending\"}", "2"),
            ("sooner_items_in_state{state=\"running\"}", "1"),
            ("sooner_batches_open", "1"),
            ("sooner_watchers", "1"),
            ("sooner_items_accepted_total", "3"),
        ],
    );
    server
        .metric_becomes("sooner_oldest_pending_age_seconds", |age| age != "0.0")
        .await;
    // A cancel ends what never ran, too.
    client.cancel("batch", &["c"]).await.unwrap();
    gate.open();
    gates.open("b").await;
    assert_eq!(all(&mut results).await.len(), 3);
    let metrics = server.metrics().await;
    assert_told(
        &metrics,
        &[
            ("sooner_items_terminal_total{outcome=\"succeeded\"}", "2"),
            ("sooner_items_terminal_total{outcome=\"cancelled\"}", "1"),
            ("sooner_items_in_state{state=\"pending\"}", "0"),
            ("sooner_oldest_pending_age_seconds", "0.0"),
        ],
    );
}

#[tokio::test]
async fn paused_batches_are_counted_by_who_paused_them() {
    let setup = ServerSetup::new(
        "[queues.bad]\nhandler = { exec = [\"sh\", \"-c\", \"cat $0; exit 65\", \"{}\"] }\n\
         slots = 1\n[queues.none]\n",
    );
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let of = |queue: &str, reason: &str| {
        format!("sooner_batches_paused{{queue=\"{queue}\",reason=\"{reason}\"}}")
    };
    let create = |id: &str, queue: &str| CreateBatchRequest {
        batch_id: id.into(),
        queue: queue.into(),
        items: vec![gates.item("a"), gates.item("b")],
        options: Some(BatchOptions {
            failure_policy: Some(FailurePolicy {
                max_failed_items: Some(1),
                ..FailurePolicy::default()
            }),
            ..BatchOptions::default()
        }),
        ..CreateBatchRequest::default()
    };
    for id in ["one", "two"] {
        client.stub.create_batch(create(id, "none")).await.unwrap();
        let (batch_id, reason) = (id.into(), String::new());
        let request = PauseBatchRequest { batch_id, reason };
        client.stub.pause_batch(request).await.unwrap();
    }
    client
        .stub
        .create_batch(create("bad", "bad"))
        .await
        .unwrap();
    gates.open("a").await;
    let by_itself = of("bad", "failure_policy");
    server.metric_becomes(&by_itself, |it| it == "1").await;
    let by_hand = of("none", "hand");
    let told = server.metrics().await;
    assert_told(&told, &[(&by_hand, "2"), (&of("bad", "hand"), "0")]);

    let batch_id = "one".into();
    let resume = ResumeBatchRequest { batch_id };
    client.stub.resume_batch(resume).await.unwrap();
    client.cancel("bad", &[]).await.unwrap();
    client.batch_when_over("bad").await;
    let told = server.metrics().await;
    assert_told(&told, &[(&by_itself, "0"), (&by_hand, "1")]);
}

#[tokio::test]
async fn uploaded_items_are_counted_as_they_become_durable() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let client = server.client().await;
    let mut upload = UploadCall::open(&client, upload_start("upload"))
        .await
        .unwrap();
    for (first, items) in [(0, 2), (2, 3)] {
        upload.items(first, vec![item("x"); items]).await;
        upload.durable(first + items as u64).await;
    }
    let told = server.metrics().await;
    assert_told(&told, &[("sooner_items_accepted_total", "5")]);
    // Sent again, they are nothing new.
    upload.items(3, vec![item("x"); 3]).await;
    upload.durable(6).await;
    let told = server.metrics().await;
    assert_told(&told, &[("sooner_items_accepted_total", "6")]);
    upload.finish(6).await;
    assert_eq!(upload.ended().await.1.len(), 6);
    let told = server.metrics().await;
    let succeeded = "sooner_items_terminal_total{outcome=\"succeeded\"}";
    assert_told(&told, &[(succeeded, "6"), ("sooner_batches_open", "0")]);
}

/// Otherwise whoever reads an old batch would make the server look slow, or quick.
#[tokio::test]
async fn only_readers_that_follow_measure_promptness() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let measured = count("result_latency", "");
    let items = vec![gates.free_item("free"), gates.item("a")];
    client.create("batch", items).await.unwrap();
    let gate = gates.arrival("a").await;
    // That the next one runs does not say that the first one's record is durable.
    client.item_when_over("batch", "free").await;
    // It has that record to catch up on, which is all there is; then it follows.
    let mut watch = client.watch("batch", 0).await.unwrap();
    for _ in 0..2 {
        next(&mut watch).await;
    }
    gate.open();
    next(&mut watch).await;
    assert_told(&server.metrics().await, &[(&measured, "1")]);
    assert_eq!(client.results("batch", 0).await.len(), 2);
    assert_told(&server.metrics().await, &[(&measured, "1")]);
}

#[tokio::test]
async fn what_is_told_is_sound_and_what_the_documents_say() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![item("x")]).await.unwrap();
    all(&mut results).await;
    // Families with labels of which none was seen yet are not told.
    client.batch("none").await.unwrap_err();
    let answer = server.ops("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.content_type.starts_with("text/plain; version=0.0.4"));
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let modern = ask_for(server.ops_address(), ("GET", "/metrics"), accept);
    let content_type = within(modern).await.unwrap().content_type;
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(answer.body.ends_with("# EOF\n"));
    let mut told = BTreeMap::new();
    for line in answer.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            let again = told.insert(format!("{name}{suffix}"), kind.to_owned());
            assert_eq!(again, None, "{name} is told twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"];
            let base = base.iter().find_map(|suffix| name.strip_suffix(suffix));
            let known = |name: &str| told.contains_key(name);
            assert!(known(name) || base.is_some_and(known), "{line}");
        }
    }
    let page = include_str!("../../docs/operations.md");
    let rows = page.lines().filter(|line| line.starts_with("| `sooner_"));
    let documented: BTreeMap<_, _> = rows
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let name = cells.next().unwrap().trim_matches('`');
            (name.to_owned(), cells.next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(
        documented, told,
        "left: docs/operations.md, right: /metrics"
    );
    // Expressions of alerts name what exists.
    let names: BTreeSet<_> = page
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("sooner_") && !word.ends_with('_'))
        .collect();
    for name in names {
        let base = ["_bucket", "_sum", "_count"];
        let base = base.iter().find_map(|suffix| name.strip_suffix(suffix));
        let known = |name: &str| told.contains_key(name);
        assert!(known(name) || base.is_some_and(known), "{name} is not told");
    }
}
