//! A program with Sooner inside: its handlers delay nobody but themselves.

use std::net::SocketAddr;
use std::time::Duration;

use sooner::wire::WatchBatchRequest;
use sooner::wire::watch_batch_response::Message;
use sooner::{
    Attempt, BatchId, FailurePolicy, ItemError, ItemSpec, Order, PausedBy, Queue, Results,
    RetrySettings, Sooner, Submission, handler_fn,
};

use crate::harness::gate::{Gate, OpenAtEnd, place};
use crate::harness::{Client, within};

type Done = Result<String, ItemError>;

/// A handler that blocks the thread it is polled on until its gate opens.
fn blocked(gate: &Gate) -> sooner::HandlerFn {
    let gate = gate.clone();
    handler_fn(move |attempt: Attempt| {
        let gate = gate.clone();
        async move {
            gate.pass(place(&attempt));
            Done::Ok("through".to_owned())
        }
    })
}

/// A handler that answers at once.
fn prompt() -> sooner::HandlerFn {
    handler_fn(|attempt: Attempt| async move { Done::Ok(attempt.text()?.to_owned()) })
}

fn texts(count: usize) -> Vec<ItemSpec> {
    (0..count).map(|n| ItemSpec::new(n.to_string())).collect()
}

fn once() -> RetrySettings {
    RetrySettings {
        max_attempts: Some(1),
        ..RetrySettings::default()
    }
}

/// The reason of the next result, which is a failure.
async fn next_reason(results: &mut Results) -> String {
    let record = within(results.next()).await.unwrap().unwrap();
    record.ending.error().unwrap().reason.to_string()
}

/// api.md tells what a computing handler did on the async threads: eight results came in two heaps,
/// at 502 ms and at 803 ms, instead of one by one. Here item k + 2 ends only after the result of item
/// k has been received: if results waited for each other, none would come at all.
#[tokio::test]
async fn results_of_items_that_compute_come_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let _open = OpenAtEnd(gate.clone());
    let received = gate.clone();
    let compute = sooner::blocking(move |attempt: &Attempt| {
        received.pass(place(attempt));
        let sum = (0..100_000u64).fold(0, |sum, n| sum ^ n.wrapping_mul(0x9e37));
        Done::Ok(sum.to_string())
    });
    let queue = Queue::new(compute).slots(2);
    let sooner = Sooner::builder(dir.path()).queue("default", queue);
    let sooner = sooner.open().await.unwrap();

    let mut results = sooner.submit(Submission::new(texts(8))).await.unwrap();
    // Two may pass before anything is received.
    gate.open_below(2);
    let mut order = Vec::new();
    for received in 1..=8 {
        let record = within(results.next()).await.unwrap().unwrap();
        assert!(record.ending.output().is_some(), "{record:?}");
        // Two slots: when a result is here, the items two places behind it cannot have ended yet.
        assert!(place_of(record.index) < received + 2);
        order.push(record.index);
        gate.open_below(received + 2);
    }
    assert!(results.next().await.is_none());
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    sooner.close().await;
}

fn place_of(index: u32) -> usize {
    usize::try_from(index).unwrap()
}

#[tokio::test]
async fn a_handler_that_blocks_its_threads_delays_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let _open = OpenAtEnd(gate.clone());
    let sooner = Sooner::builder(dir.path())
        .queue("blocked", Queue::new(blocked(&gate)).slots(8).threads(2))
        .queue("default", Queue::new(prompt()).slots(2))
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .open()
        .await
        .unwrap();
    let submission = Submission::new(texts(8)).with_queue("blocked").unwrap();
    let mut stuck = sooner.submit(submission).await.unwrap();
    // All the threads of its queue.
    gate.arrivals(2).await;

    let address = sooner.listen().unwrap().to_string();
    assert_eq!(sooner.ops_listen(), None, "no port that was not asked for");
    let mut client = Client::connect(&address).await;
    let other = Submission::new(texts(50)).with_batch_id("other").unwrap();
    let mut own = sooner.submit(other).await.unwrap();
    let request = WatchBatchRequest {
        batch_id: "other".to_owned(),
        ..WatchBatchRequest::default()
    };
    let mut watch = within(client.stub.watch_batch(request))
        .await
        .unwrap()
        .into_inner();
    let mut watched = 0;
    while let Some(message) = within(watch.message()).await.unwrap() {
        watched += u32::from(matches!(message.message, Some(Message::Result(_))));
    }
    assert_eq!(watched, 50);
    while let Some(record) = within(own.next()).await {
        record.unwrap();
    }
    assert_eq!(own.batch().tally.succeeded, 50);

    // Nothing of this has waited for the gate.
    assert_eq!(gate.arrived(), 2);
    assert_eq!(stuck.batch().tally.terminal(), 0);
    gate.open();
    while let Some(record) = within(stuck.next()).await {
        record.unwrap();
    }
    assert_eq!(stuck.batch().tally.succeeded, 8);
    sooner.close().await;
}

#[tokio::test]
async fn an_attempt_ends_at_its_limit_or_cancel_even_if_its_thread_is_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let _open = OpenAtEnd(gate.clone());
    let stay = gate.clone();
    let computes = sooner::blocking(move |attempt: &Attempt| {
        stay.pass(place(attempt));
        Done::Ok("too late".to_owned())
    });
    let queues = [
        ("async", Queue::new(blocked(&gate)).threads(1)),
        (
            "computes",
            Queue::new(computes.with_stop_grace(Duration::ZERO)),
        ),
    ];
    let mut builder = Sooner::builder(dir.path());
    for (name, queue) in queues {
        builder = builder.queue(name, queue.slots(1).retry(once()));
    }
    let sooner = builder.open().await.unwrap();
    for (arrived, queue) in (1..).zip(["async", "computes"]) {
        let limited = ItemSpec {
            // Long enough for a thread to begin on a busy machine.
            timeout: Some(Duration::from_millis(500)),
            ..ItemSpec::new("limited")
        };
        let submission = Submission::new([limited, ItemSpec::new("waits")]);
        let submission = submission.with_queue(queue).unwrap();
        let submission = submission.with_batch_id(queue).unwrap();
        let mut results = sooner.submit(submission).await.unwrap();
        assert_eq!(next_reason(&mut results).await, "ITEM_TIMEOUT");
        // Its thread is not free, so its slot is not: the next item does not start only to end at
        // its limit without having run.
        assert_eq!(gate.arrived(), arrived);
        let id = BatchId::parse(queue).unwrap();
        let view = sooner.item(&id, "1", Duration::ZERO).await.unwrap();
        assert_eq!((view.item.running, view.item.record), (None, None));
    }
    gate.open();
    for queue in ["async", "computes"] {
        let id = BatchId::parse(queue).unwrap();
        let over = within(sooner.batch_when_over(&id, Duration::from_secs(60)));
        assert_eq!(over.await.unwrap().tally.succeeded, 1);
    }
    sooner.close().await;
}

#[tokio::test]
async fn a_batch_is_paused_resumed_and_refused_as_by_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let _open = OpenAtEnd(gate.clone());
    let stay = gate.clone();
    let waits = sooner::blocking(move |attempt: &Attempt| {
        stay.pass(place(attempt));
        Done::Ok("through".to_owned())
    });
    let queue = Queue::new(waits).slots(1);
    let sooner = Sooner::builder(dir.path()).queue("default", queue);
    let sooner = sooner.open().await.unwrap();
    let submission = Submission::new(texts(2)).with_batch_id("b").unwrap();
    let mut results = sooner.submit(submission).await.unwrap();
    let id = BatchId::parse("b").unwrap();
    let paused = sooner.pause(&id, &"x".repeat(2000)).await.unwrap();
    let pause = paused.paused.unwrap();
    assert_eq!((pause.by, pause.why.len()), (PausedBy::Hand, 1024));
    let resumed = sooner.resume(&id).await.unwrap();
    assert_eq!(resumed.paused, None);
    gate.open();
    for _ in 0..2 {
        within(results.next()).await.unwrap().unwrap();
    }
    let over = within(sooner.batch_when_over(&id, Duration::from_secs(60)));
    over.await.unwrap();
    let late = sooner.pause(&id, "").await.unwrap_err();
    assert_eq!(late.reason(), "BATCH_FINISHED");

    let mut submission = Submission::new(texts(1));
    submission.options.failure_policy = Some(FailurePolicy::default());
    let refused = sooner.submit(submission).await.unwrap_err();
    assert_eq!(&*refused.violations()[0].field, "options.failure_policy");
    sooner.close().await;
}

/// A runtime without a clock of its own, and without tokio's threads: the crate brings both.
#[test]
fn it_works_in_a_runtime_that_has_no_clock() {
    let dir = tempfile::tempdir().unwrap();
    let caller = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    caller.block_on(async {
        let sooner = Sooner::builder(dir.path()).queue("default", Queue::new(prompt()));
        let sooner = sooner.open().await.unwrap();
        let submission = Submission::new(["a"]).with_batch_id("a").unwrap();
        let mut results = sooner.submit(submission).await.unwrap();
        while let Some(record) = results.next().await {
            record.unwrap();
        }
        let id = BatchId::parse("a").unwrap();
        let wait = Duration::from_secs(60);
        assert_eq!(sooner.batch_when_over(&id, wait).await.unwrap().total, 1);
        let again = sooner.watch(&id, Order::Index(0)).await.unwrap();
        assert_eq!(again.batch().tally.succeeded, 1);
        drop(again);
        sooner.close().await;
    });
}
