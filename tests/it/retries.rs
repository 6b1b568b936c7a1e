//! What fails is tried again as its settings say, and every try is accounted for.

use sooner::wire::{
    BatchOptions, BatchState, Item, ItemResult, ItemSpec, ItemState, RetryPolicy,
    SubmitBatchRequest,
};

use crate::harness::client::{all, milliseconds, output};
use crate::harness::{Client, Gates, ServerSetup, item, within};

/// A queue that runs a script; failed items are tried again at once.
fn scripted(script: &str) -> ServerSetup {
    ServerSetup::new(&format!(
        "[queues.default]\nhandler = {{ exec = [\"sh\", \"-c\", '''{script}'''] }}\nretry = {{ initial_backoff = \"1ms\" }}\n"
    ))
}

fn with_policy(policy: RetryPolicy, input: &str) -> ItemSpec {
    ItemSpec {
        retry_policy: Some(policy),
        ..item(input)
    }
}

fn attempts(max_attempts: u32) -> RetryPolicy {
    RetryPolicy {
        max_attempts: Some(max_attempts),
        ..RetryPolicy::default()
    }
}

/// Submits items and answers their results by index.
async fn results_of(client: &mut Client, batch_id: &str, items: Vec<ItemSpec>) -> Vec<ItemResult> {
    let mut results = client.submit(batch_id, items).await.unwrap();
    let mut results = all(&mut results).await;
    results.sort_by_key(|result| result.index);
    results
}

#[track_caller]
fn assert_failed(result: &ItemResult, reason: &str, attempt_count: u32) {
    assert_eq!(result.state(), ItemState::Failed, "{result:?}");
    assert_eq!(result.error.as_ref().unwrap().reason, reason);
    assert_eq!(result.attempt_count, attempt_count, "{result:?}");
}

#[tokio::test]
async fn an_item_that_fails_twice_succeeds_at_the_third_attempt() {
    let setup = scripted(
        "echo x >> tries; tries=$(wc -l < tries); test $tries -ge 3 && cat && exit; echo try $tries >&2; exit 1",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let [result] = &results_of(&mut client, "batch", vec![item("ok")]).await[..] else {
        panic!("one result");
    };
    assert_eq!((output(result), result.attempt_count), ("ok", 3));
    let mut failed = client.item("batch", "0").await.unwrap().attempts;
    let last = failed.pop().unwrap();
    assert_eq!((last.attempt, last.error), (3, None));
    assert_eq!(failed.len(), 2);
    for (attempt, number) in failed.iter().zip(1..) {
        let error = attempt.error.as_ref().unwrap();
        assert_eq!((attempt.attempt, error.reason.as_str()), (number, "EXIT_1"));
        assert_eq!(
            (error.message.trim_end(), error.code),
            (&*format!("try {number}"), 10)
        );
        assert_eq!(
            (error.retryable, attempt.worker_id.as_str()),
            (Some(true), "local")
        );
        let time = |time: &Option<prost_types::Timestamp>| {
            let time = time.as_ref().unwrap();
            (time.seconds, time.nanos)
        };
        assert!(time(&attempt.start_time) <= time(&attempt.finish_time));
        assert!(time(&attempt.finish_time) <= time(&result.finish_time));
    }
}

#[tokio::test]
async fn what_can_never_succeed_is_not_tried_again() {
    let setup = scripted("read code; exit $code");
    let server = setup.start();
    let mut client = server.client().await;
    let codes = ["64", "65", "66", "77", "1", "75", "255"];
    let items = codes.map(|code| item(format!("{code}\n"))).into();
    let results = results_of(&mut client, "batch", items).await;
    for (result, code) in results.iter().zip(codes) {
        let is_final = ["64", "65", "66", "77"].contains(&code);
        assert_failed(
            result,
            &format!("EXIT_{code}"),
            if is_final { 1 } else { 3 },
        );
        assert_eq!(result.error.as_ref().unwrap().retryable, Some(!is_final));
    }
    let batch = client.batch_when_over("batch").await;
    assert_eq!(
        batch.state(),
        BatchState::Completed,
        "a failing item is data"
    );
    assert_eq!(batch.counts.unwrap().failed, 7);
}

#[tokio::test]
async fn a_program_that_is_killed_is_tried_again() {
    let setup = scripted("test $SOONER_ATTEMPT = 2 && cat || kill -KILL $$");
    let server = setup.start();
    let mut client = server.client().await;
    let results = results_of(&mut client, "batch", vec![item("ok")]).await;
    assert_eq!((output(&results[0]), results[0].attempt_count), ("ok", 2));
    let failed = client.item("batch", "0").await.unwrap().attempts;
    assert_eq!(failed[0].error.as_ref().unwrap().reason, "SIGNAL_KILL");
}

#[tokio::test]
async fn settings_are_those_of_the_item_then_of_the_batch_then_of_the_queue() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 7\"] }\nretry = { max_attempts = 4, initial_backoff = \"1ms\" }\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let listed = RetryPolicy {
        non_retryable_reasons: vec!["EXIT_7".into()],
        ..RetryPolicy::default()
    };
    let own_jitter = RetryPolicy {
        jitter: Some(0.0),
        ..RetryPolicy::default()
    };
    let items = vec![
        item("its batch's"),
        with_policy(attempts(1), "its own"),
        with_policy(attempts(5), "its own, which is more"),
        with_policy(own_jitter, "its batch's, because it sets something else"),
        with_policy(listed, "a reason that ends it"),
    ];
    let request = SubmitBatchRequest {
        batch_id: "batch".into(),
        items: items.clone(),
        options: Some(BatchOptions {
            retry_policy: Some(attempts(2)),
            ..BatchOptions::default()
        }),
        ..SubmitBatchRequest::default()
    };
    let (_, mut results) = client.submit_request(request).await.unwrap();
    let mut results = all(&mut results).await;
    results.sort_by_key(|result| result.index);
    for (result, attempt_count) in results.iter().zip([2, 1, 5, 2, 1]) {
        assert_failed(result, "EXIT_7", attempt_count);
    }
    let plain = results_of(&mut client, "plain", items).await;
    for (result, attempt_count) in plain.iter().zip([4, 1, 5, 4, 1]) {
        assert_failed(result, "EXIT_7", attempt_count);
    }
}

/// A queue that fails for good or not, as an item says, and whose own retry settings are known.
fn unlike_the_server() -> ServerSetup {
    ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 7\"] }\n\
         retry = { initial_backoff = \"1h\", max_attempts = 9, jitter = 0.0 }\n",
    )
}

/// How long an item waits for its next attempt, once it waits for the one behind `failed` others.
async fn wait_after(client: &mut Client, item_id: &str, failed: usize) -> f64 {
    within(async {
        loop {
            let item = client.item("batch", item_id).await.unwrap();
            if let Some(next) = item.next_attempt_time
                && item.attempts.len() == failed
            {
                let ended = item.attempts[failed - 1].finish_time.unwrap();
                let seconds = i32::try_from(next.seconds - ended.seconds).unwrap();
                return f64::from(seconds) + f64::from(next.nanos - ended.nanos) / 1e9;
            }
        }
    })
    .await
}

#[tokio::test]
async fn each_setting_comes_from_the_first_that_has_it() {
    let setup = unlike_the_server();
    let server = setup.start();
    let mut client = server.client().await;
    let quick = RetryPolicy {
        initial_backoff: Some(milliseconds(300)),
        ..RetryPolicy::default()
    };
    let own_limit = RetryPolicy {
        max_backoff: Some(milliseconds(100_000)),
        ..RetryPolicy::default()
    };
    let own_reasons = RetryPolicy {
        non_retryable_reasons: vec!["OTHER".into()],
        ..RetryPolicy::default()
    };
    let of_batch = RetryPolicy {
        max_backoff: Some(milliseconds(1_000_000)),
        multiplier: Some(100.0),
        non_retryable_reasons: vec!["EXIT_7".into()],
        ..RetryPolicy::default()
    };
    let listed = RetryPolicy::default();
    let with_reasons = |policy: &RetryPolicy| RetryPolicy {
        non_retryable_reasons: own_reasons.non_retryable_reasons.clone(),
        ..policy.clone()
    };
    let request = SubmitBatchRequest {
        batch_id: "batch".into(),
        items: vec![
            with_policy(
                own_reasons.clone(),
                "the queue's first wait, the batch's limit",
            ),
            with_policy(
                with_reasons(&own_limit),
                "the queue's first wait, its own limit",
            ),
            with_policy(
                with_reasons(&quick),
                "its own first wait, the batch's multiplier",
            ),
            with_policy(listed, "a reason of the batch's that ends it"),
        ],
        options: Some(BatchOptions {
            retry_policy: Some(of_batch),
            ..BatchOptions::default()
        }),
        ..SubmitBatchRequest::default()
    };
    let _results = client.submit_request(request).await.unwrap();
    // A wait is counted from the handler's end; what is told is a moment less.
    for (item_id, failed, expected) in [("0", 1, 1000.0), ("1", 1, 100.0), ("2", 2, 30.0)] {
        let wait = wait_after(&mut client, item_id, failed).await;
        assert!(
            wait <= expected && wait > expected / 2.0,
            "item {item_id} waits {wait} s, not {expected}"
        );
    }
    let ended = client.item_when_over("batch", "3").await;
    assert_eq!(ended.result.unwrap().attempt_count, 1);
}

#[tokio::test]
async fn what_nobody_sets_is_the_servers() {
    let setup = unlike_the_server();
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![item("x")]).await.unwrap();
    // The queue's first wait is an hour; the longest is the server's, and without jitter that is it.
    let wait = wait_after(&mut client, "0", 1).await;
    assert!(wait <= 30.0 && wait > 15.0, "{wait} s");
}

#[tokio::test]
async fn an_attempt_that_runs_into_its_limit_fails_and_is_tried_again() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["own", "batch"]);
    let server = setup.start();
    let mut client = server.client().await;
    let own = ItemSpec {
        timeout: Some(milliseconds(100)),
        ..gates.item("own")
    };
    let of_batch = gates.item("batch");
    let request = SubmitBatchRequest {
        batch_id: "batch".into(),
        items: vec![own, of_batch, gates.free_item("free")],
        options: Some(BatchOptions {
            item_timeout: Some(milliseconds(400)),
            retry_policy: Some(RetryPolicy {
                initial_backoff: Some(milliseconds(1)),
                ..attempts(2)
            }),
            ..BatchOptions::default()
        }),
        ..SubmitBatchRequest::default()
    };
    let (_, mut results) = client.submit_request(request).await.unwrap();
    let results = all(&mut results).await;
    for result in results {
        if result.item_id == "free" {
            assert_eq!(result.state(), ItemState::Succeeded);
            continue;
        }
        assert_failed(&result, "ITEM_TIMEOUT", 2);
        let error = result.error.as_ref().unwrap();
        assert_eq!(error.code, 4);
        assert!(!error.message.contains("last words"), "{}", error.message);
        let ran = result.run_duration.unwrap();
        let limit = if result.item_id == "own" { 100 } else { 400 };
        assert!(ran.seconds > 0 || ran.nanos >= limit * 1_000_000, "{ran:?}");
        let item = client.item("batch", &result.item_id).await.unwrap();
        let numbers: Vec<_> = item.attempts.iter().map(|it| it.attempt).collect();
        assert_eq!(numbers, [1, 2], "the last attempt is told too");
        for attempt in &item.attempts {
            assert_eq!(attempt.error.as_ref().unwrap().reason, "ITEM_TIMEOUT");
            assert_eq!(attempt.worker_id, "local");
        }
        assert_eq!(item.attempts[1].error, result.error);
    }
}

/// Asks until the item waits for its next attempt.
async fn in_backoff(client: &mut Client) -> Item {
    within(async {
        loop {
            let item = client.item("batch", "0").await.unwrap();
            if item.next_attempt_time.is_some() {
                return item;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_backoff_goes_on_after_a_crash() {
    let setup = scripted("test $SOONER_ATTEMPT = 2 && cat || exit 1");
    let server = setup.start();
    let mut client = server.client().await;
    let policy = RetryPolicy {
        initial_backoff: Some(milliseconds(2000)),
        jitter: Some(0.0),
        ..attempts(2)
    };
    let items = vec![with_policy(policy, "ok")];
    client.create("batch", items).await.unwrap();
    let waiting = in_backoff(&mut client).await;
    assert_eq!(
        (waiting.state(), waiting.attempts.len()),
        (ItemState::Pending, 1)
    );
    server.kill();

    let server = setup.start();
    let mut client = server.client().await;
    let [result] = &client.results("batch", 0).await[..] else {
        panic!("one result")
    };
    assert_eq!((output(result), result.attempt_count), ("ok", 2));
    let time = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        (time.seconds, time.nanos)
    };
    assert!(
        time(result.finish_time) >= time(waiting.next_attempt_time),
        "not before its turn"
    );
    let item = client.item("batch", "0").await.unwrap();
    assert_eq!(item.attempts[..1], waiting.attempts);
    assert_eq!(item.attempts.len(), 2);
}

#[tokio::test]
async fn a_crash_of_the_server_costs_an_item_no_attempt() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let policy = RetryPolicy {
        max_crashes: Some(3),
        ..attempts(1)
    };
    let only = ItemSpec {
        retry_policy: Some(policy),
        ..gates.item("a")
    };
    server
        .client()
        .await
        .create("batch", vec![only])
        .await
        .unwrap();
    let mut running = server;
    for _ in 0..2 {
        let held = gates.arrival("a").await;
        running.kill();
        drop(held);
        running = setup.start();
    }
    gates.open("a").await;
    let mut client = running.client().await;
    let [result] = &client.results("batch", 0).await[..] else {
        panic!("one result")
    };
    assert_eq!((output(result), result.attempt_count), ("a", 1));
    let mut interrupted = client.item("batch", "a").await.unwrap().attempts;
    let numbers: Vec<_> = interrupted.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [1, 2, 3], "numbers count executions");
    assert_eq!(interrupted.pop().unwrap().error, None);
    for attempt in interrupted {
        assert_eq!(attempt.error.unwrap().reason, "INTERRUPTED");
    }
}

#[tokio::test]
async fn an_item_under_which_the_server_dies_too_often_fails() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let mut running = setup.start();
    let policy = RetryPolicy {
        max_crashes: Some(2),
        ..RetryPolicy::default()
    };
    let culprit = ItemSpec {
        retry_policy: Some(policy),
        ..gates.item("a")
    };
    running
        .client()
        .await
        .create("batch", vec![culprit])
        .await
        .unwrap();
    for _ in 0..2 {
        let held = gates.arrival("a").await;
        running.kill();
        drop(held);
        running = setup.start();
    }
    let [result] = &running.client().await.results("batch", 0).await[..] else {
        panic!("one result");
    };
    assert_eq!(result.state(), ItemState::Failed, "{result:?}");
    assert_eq!(result.error.as_ref().unwrap().reason, "CRASHED_TOO_OFTEN");
}
