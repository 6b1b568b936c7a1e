//! A queue's rate limits the attempts that start, and nothing else.

use std::time::Instant;

use sooner::wire::{BatchOptions, ItemState, RetryPolicy, SubmitBatchRequest};
use sooner::{ItemSpec, OpenError, Outcome, Queue, Rate, Sooner, Submission, handler_fn};

use crate::harness::client::milliseconds;
use crate::harness::{Client, ServerSetup, all, eventually, item, within};

/// Three attempts at once; the next would come after hours.
const THREE: &str = "rate = { per_second = 0.0001, burst = 3 }\n";

fn limited(handler: &str, rest: &str) -> ServerSetup {
    ServerSetup::new(&format!(
        "[queues.default]\nhandler = {{ echo = {{}} }}\n[queues.limited]\nslots = 8\nhandler = {handler}\n{rest}"
    ))
}

fn to_limited(items: usize) -> SubmitBatchRequest {
    SubmitBatchRequest {
        batch_id: "limited".into(),
        queue: "limited".into(),
        items: vec![item("x"); items],
        ..SubmitBatchRequest::default()
    }
}

async fn succeeded(client: &Client, batch_id: &str) -> u64 {
    let batch = client.clone().batch(batch_id).await.unwrap();
    batch.counts.unwrap().succeeded
}

#[tokio::test]
async fn a_burst_starts_at_once_the_rest_waits_and_other_queues_do_not() {
    let setup = limited("{ echo = {} }", THREE);
    let server = setup.start();
    let mut client = server.client().await;
    let _results = client.submit_request(to_limited(10)).await.unwrap();
    let mut free = client.submit("free", vec![item("x"); 200]).await.unwrap();
    assert_eq!(all(&mut free).await.len(), 200);
    eventually(async || succeeded(&client, "limited").await == 3).await;
    let waits = r#"sooner_rate_waits_total{queue="limited"}"#;
    server.metric_becomes(waits, |it| it == "1").await;
    // It waits for its next token and looks at nothing meanwhile: no second wait was counted.
    let mut free = client.submit("more", vec![item("x"); 200]).await.unwrap();
    assert_eq!(all(&mut free).await.len(), 200);
    assert_eq!(server.metrics().await[waits], "1");
    let counts = client.batch("limited").await.unwrap().counts.unwrap();
    assert_eq!(
        (counts.pending, counts.running, counts.succeeded),
        (7, 0, 3)
    );
}

#[tokio::test]
async fn a_retry_takes_from_the_rate_like_a_first_attempt() {
    let setup = limited("{ exec = [\"false\"] }", THREE);
    let server = setup.start();
    let mut client = server.client().await;
    let retry_policy = Some(RetryPolicy {
        max_attempts: Some(5),
        initial_backoff: Some(milliseconds(1)),
        max_backoff: Some(milliseconds(1)),
        ..RetryPolicy::default()
    });
    let options = BatchOptions {
        retry_policy,
        ..BatchOptions::default()
    };
    let request = SubmitBatchRequest {
        options: Some(options),
        ..to_limited(1)
    };
    let _results = client.submit_request(request).await.unwrap();
    let waits = r#"sooner_rate_waits_total{queue="limited"}"#;
    server.metric_becomes(waits, |it| it == "1").await;
    // The third may still run when the wait for a fourth begins.
    eventually(async || {
        let item = client.clone().item("limited", "0").await.unwrap();
        (item.state(), item.attempts.len()) == (ItemState::Pending, 3)
    })
    .await;
    assert_eq!(server.metrics().await[waits], "1");
}

#[tokio::test]
async fn a_limited_queue_goes_on_and_is_no_faster_than_its_rate() {
    let rate = "rate = { per_second = 40, burst = 2 }\n";
    let setup = limited("{ echo = {} }", rate);
    let server = setup.start();
    let mut client = server.client().await;
    let began = Instant::now();
    let (_, mut results) = client.submit_request(to_limited(22)).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 22);
    // Noise only makes it later: two at once, then twenty of which each takes its fortieth of a second.
    assert!(began.elapsed().as_secs_f64() >= 20.0 / 40.0);
}

#[tokio::test]
async fn a_program_limits_its_queues_too() {
    let dir = tempfile::tempdir().unwrap();
    let echo = || handler_fn(|_| async { Outcome::Succeeded("done".into()) });
    let rate = Rate::per_second(0.0001).with_burst(2);
    let sooner = Sooner::builder(dir.path())
        .queue("limited", Queue::new(echo()).rate(rate))
        .queue("default", Queue::new(echo()))
        .open()
        .await
        .unwrap();
    let items = |count| vec![ItemSpec::new("x"); count];
    let limited = Submission::new(items(5)).with_queue("limited").unwrap();
    let mut limited = sooner.submit(limited).await.unwrap();
    for _ in 0..2 {
        within(limited.next()).await.unwrap().unwrap();
    }
    let mut free = sooner.submit(Submission::new(items(50))).await.unwrap();
    for _ in 0..50 {
        within(free.next()).await.unwrap().unwrap();
    }
    let batch = sooner.batch(&limited.batch().head.id).await.unwrap();
    assert_eq!((batch.tally.succeeded, batch.total), (2, 5));
    within(sooner.close()).await;

    let wrong = Queue::new(echo()).rate(Rate::per_second(0.0));
    let opened = Sooner::builder(dir.path()).queue("limited", wrong).open();
    let Err(OpenError::Setting(error)) = opened.await else {
        panic!("a rate of nothing is no rate")
    };
    let says = "queue \"limited\": rate.per_second: 0 is not between 0.0001 and 1000000";
    assert_eq!(error.to_string(), says);
}
