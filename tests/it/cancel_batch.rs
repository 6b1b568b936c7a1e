//! `CancelBatch`: no attempt starts any more, running ones are stopped, every item is accounted for.

use std::collections::HashSet;

use sooner::wire::{BatchState, ItemResult, ItemState, SubmitBatchRequest};
use tonic::Code;

use crate::harness::client::{Client, end, next, reason};
use crate::harness::{Gates, ServerSetup, all, item};

/// Asserts how an item was cancelled.
#[track_caller]
fn assert_cancelled(result: &ItemResult, reason: &str, attempt_count: u32) {
    assert_eq!(result.state(), ItemState::Cancelled, "{result:?}");
    let error = result.error.as_ref().unwrap();
    assert_eq!(
        (error.code, error.reason.as_str()),
        (1, reason),
        "{result:?}"
    );
    assert_eq!((error.retryable, &result.output), (Some(false), &None));
    assert_eq!(result.attempt_count, attempt_count, "{result:?}");
}

#[tokio::test]
async fn a_cancelled_batch_accounts_for_every_item() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b", "c", "d"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut items = vec![gates.free_item("free")];
    items.extend(["a", "b", "c", "d"].map(|name| gates.item(name)));
    let mut results = client.submit("batch", items).await.unwrap();
    assert_eq!(next(&mut results).await.item_id, "free");
    let held = [gates.arrival("a").await, gates.arrival("b").await];

    let told = client.cancel("batch", &[]).await.unwrap();
    assert_eq!((told.never_started_count, told.stopping_count), (2, 2));
    assert_eq!(told.finished_count, 1);
    let state = told.batch.unwrap().state();
    assert!(
        [BatchState::Cancelling, BatchState::Cancelled].contains(&state),
        "{state:?}"
    );

    let rest = all(&mut results).await;
    assert_eq!(rest.len(), 4);
    for result in &rest {
        let ran = ["a", "b"].contains(&result.item_id.as_str());
        assert_cancelled(result, "BATCH_CANCELLED", u32::from(ran));
    }
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Cancelled);
    assert_eq!(batch.cancel_reason, "no longer wanted");
    let counts = batch.counts.unwrap();
    assert_eq!(
        (counts.total, counts.succeeded, counts.cancelled),
        (5, 1, 4)
    );
    drop(held);
}

#[tokio::test]
async fn a_repeated_cancel_is_fine_and_changes_nothing() {
    let setup = ServerSetup::new("[queues.default]\n");
    let server = setup.start();
    let mut client = server.client().await;
    client
        .create("batch", vec![item("x"), item("y")])
        .await
        .unwrap();
    client.cancel("batch", &[]).await.unwrap();
    client.cancel("batch", &[]).await.unwrap();
    let before = client.batch_when_over("batch").await;
    let results = client.results("batch", 0).await;
    let told = client.cancel("batch", &[]).await.unwrap();
    assert_eq!((told.never_started_count, told.stopping_count), (0, 0));
    assert_eq!(told.finished_count, 2);
    assert_eq!(told.batch.unwrap(), before);
    assert_eq!(client.results("batch", 0).await, results);
}

#[tokio::test]
async fn a_completed_batch_cannot_be_cancelled() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![item("x")]).await.unwrap();
    all(&mut results).await;
    let before = client.batch_when_over("batch").await;
    let status = client.cancel("batch", &[]).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "BATCH_FINISHED")
    );
    assert_eq!(client.batch("batch").await.unwrap(), before);
}

#[tokio::test]
async fn some_items_are_cancelled_and_the_others_go_on() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b", "c", "d"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut items = vec![gates.free_item("free")];
    items.extend(["a", "b", "c", "d"].map(|name| gates.item(name)));
    let mut results = client.submit("batch", items).await.unwrap();
    let free = next(&mut results).await;
    let held = [gates.arrival("a").await, gates.arrival("b").await];

    // Naming an item twice counts it once.
    let some = ["a", "c", "free", "c"];
    let told = client.cancel("batch", &some).await.unwrap();
    assert_eq!((told.never_started_count, told.stopping_count), (1, 1));
    assert_eq!(
        (told.finished_count, told.batch.unwrap().state()),
        (1, BatchState::Running)
    );
    let mut cancelled = [next(&mut results).await, next(&mut results).await];
    cancelled.sort_by_key(|result| result.index);
    assert_cancelled(&cancelled[0], "ITEM_CANCELLED", 1);
    assert_cancelled(&cancelled[1], "ITEM_CANCELLED", 0);
    assert_eq!(
        (cancelled[0].item_id.as_str(), cancelled[1].item_id.as_str()),
        ("a", "c")
    );
    let again = client.cancel("batch", &some).await.unwrap();
    assert_eq!((again.never_started_count, again.stopping_count), (0, 0));
    assert_eq!(again.finished_count, 3);

    let [a, b] = held;
    drop(a);
    b.open();
    assert_eq!(next(&mut results).await.item_id, "b");
    gates.open("d").await;
    assert_eq!(next(&mut results).await.item_id, "d");
    end(&mut results).await.unwrap();
    let batch = client.batch_when_over("batch").await;
    assert_eq!(
        (batch.state(), batch.cancel_reason.as_str()),
        (BatchState::Completed, "")
    );
    let counts = batch.counts.unwrap();
    assert_eq!((counts.succeeded, counts.cancelled), (3, 2));
    let kept = client.item("batch", "free").await.unwrap().result.unwrap();
    assert_eq!(
        (kept.state(), kept.sequence),
        (free.state(), 1),
        "what had ended stays as it was"
    );
}

#[tokio::test]
async fn an_unknown_item_is_refused_and_no_other_is_cancelled() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    let mut results = client.submit("batch", items).await.unwrap();
    let gate = gates.arrival("a").await;
    let status = client.cancel("batch", &["a", "b", "c"]).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "ITEM_NOT_FOUND")
    );
    gate.open();
    gates.open("b").await;
    let results = all(&mut results).await;
    assert!(
        results
            .iter()
            .all(|result| result.state() == ItemState::Succeeded),
        "{results:?}"
    );
}

#[tokio::test]
async fn an_item_that_waits_for_its_next_attempt_is_cancelled_with_what_it_spent() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 1\"] }\nretry = { initial_backoff = \"1h\", max_backoff = \"1h\" }\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![item("x")]).await.unwrap();
    is_in_backoff(&mut client).await;
    let told = client.cancel("batch", &[]).await.unwrap();
    assert_eq!((told.never_started_count, told.stopping_count), (1, 0));
    assert_cancelled(&next(&mut results).await, "BATCH_CANCELLED", 1);
    end(&mut results).await.unwrap();
}

/// Asks until the only item has failed once and waits.
async fn is_in_backoff(client: &mut Client) {
    crate::harness::within(async {
        while client
            .item("batch", "0")
            .await
            .unwrap()
            .next_attempt_time
            .is_none()
        {}
    })
    .await;
}

#[tokio::test]
async fn a_cancel_is_carried_out_after_a_crash_in_the_middle_of_it() {
    const ITEMS: u64 = 5000;
    let setup = ServerSetup::new("[queues.default]\n");
    let server = setup.start();
    let mut client = server.client().await;
    let items = (0..ITEMS).map(|i| item(i.to_string())).collect();
    let request = SubmitBatchRequest {
        batch_id: "batch".into(),
        items,
        ..SubmitBatchRequest::default()
    };
    let (_, mut results) = client.submit_request(request).await.unwrap();
    let told = client.cancel("batch", &[]).await.unwrap();
    assert_eq!(told.never_started_count, ITEMS);
    let first = next(&mut results).await;
    server.kill();

    let server = setup.start();
    let mut client = server.client().await;
    let batch = client.batch_when_over("batch").await;
    assert_eq!(
        (batch.state(), batch.last_sequence),
        (BatchState::Cancelled, ITEMS)
    );
    assert_eq!(batch.counts.unwrap().cancelled, ITEMS);
    assert_eq!(batch.cancel_reason, "no longer wanted");
    let results = client.results("batch", 0).await;
    assert!(results.iter().map(|result| result.sequence).eq(1..=ITEMS));
    let indexes: HashSet<_> = results.iter().map(|result| result.index).collect();
    assert_eq!(indexes.len(), 5000, "one record for each item");
    for result in &results {
        assert_cancelled(result, "BATCH_CANCELLED", 0);
    }
    assert_eq!(results[0], first);
}

#[tokio::test]
async fn a_running_item_that_was_cancelled_does_not_run_again_after_a_crash() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    client.create("batch", items).await.unwrap();
    let held = [gates.arrival("a").await, gates.arrival("b").await];
    client.cancel("batch", &["a"]).await.unwrap();
    server.kill();
    drop(held);

    let server = setup.start();
    let mut client = server.client().await;
    gates.open("b").await;
    let results = client.results("batch", 0).await;
    assert_eq!(results.len(), 2);
    for result in results {
        if result.item_id == "a" {
            assert_eq!(result.state(), ItemState::Cancelled, "{result:?}");
        } else {
            assert_eq!(result.state(), ItemState::Succeeded, "{result:?}");
        }
    }
}
