//! `PauseBatch` and `ResumeBatch`, and how batches share a queue's slots.

use sooner::wire::{
    Batch, BatchOptions, CreateBatchRequest, ItemSpec, ItemState, PauseBatchRequest,
    ResumeBatchRequest,
};
use tonic::{Code, Status};

use crate::harness::client::{fields, next, reason};
use crate::harness::{Client, Gates, ServerSetup, all, item, within};

async fn pause_batch(client: &mut Client, batch_id: &str, why: &str) -> Result<Batch, Status> {
    let request = PauseBatchRequest {
        batch_id: batch_id.into(),
        reason: why.into(),
    };
    let paused = within(client.stub.pause_batch(request)).await?;
    Ok(paused.into_inner().batch.unwrap())
}

async fn resume_batch(client: &mut Client, batch_id: &str) -> Result<Batch, Status> {
    let request = ResumeBatchRequest {
        batch_id: batch_id.into(),
    };
    let resumed = within(client.stub.resume_batch(request)).await?;
    Ok(resumed.into_inner().batch.unwrap())
}

async fn create(client: &mut Client, batch_id: &str, items: Vec<ItemSpec>, options: BatchOptions) {
    let request = CreateBatchRequest {
        batch_id: batch_id.into(),
        items,
        options: Some(options),
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
}

#[tokio::test]
async fn a_paused_batch_finishes_what_runs_and_starts_nothing_until_it_is_resumed() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    let mut results = client.submit("batch", items).await.unwrap();
    let running = gates.arrival("a").await;
    let paused = pause_batch(&mut client, "batch", "too hot").await.unwrap();
    assert!(paused.paused && paused.pause_reason == "too hot");
    running.open();
    assert_eq!(next(&mut results).await.item_id, "a");
    // The slot is free for others, so it would have been for its next item.
    let free = vec![gates.free_item("free")];
    let mut other = client.submit("other", free).await.unwrap();
    all(&mut other).await;
    let counts = client.batch("batch").await.unwrap().counts.unwrap();
    assert_eq!((counts.pending, counts.running), (1, 0));

    drop(results);
    server.kill();
    let server = setup.start();
    let mut client = server.client().await;
    assert!(client.batch("batch").await.unwrap().paused, "it is durable");
    let resumed = resume_batch(&mut client, "batch").await.unwrap();
    assert!(!resumed.paused && resumed.pause_reason.is_empty());
    gates.open("b").await;
    assert_eq!(client.results("batch", 0).await.len(), 2);
}

#[tokio::test]
async fn a_batch_whose_last_item_ran_when_it_was_paused_is_over_and_not_paused() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let running = gates.arrival("a").await;
    pause_batch(&mut client, "batch", "too hot").await.unwrap();
    running.open();
    let over = client.batch_when_over("batch").await;
    assert!(!over.paused && over.pause_reason.is_empty(), "{over:?}");
}

#[tokio::test]
async fn what_is_over_is_neither_paused_nor_resumed() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("done", vec![item("x")]).await.unwrap();
    all(&mut results).await;
    client.batch_when_over("done").await;
    for refused in [
        pause_batch(&mut client, "done", "").await.unwrap_err(),
        resume_batch(&mut client, "done").await.unwrap_err(),
    ] {
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (Code::FailedPrecondition, "BATCH_FINISHED")
        );
    }
    let nobody = resume_batch(&mut client, "nobody").await.unwrap_err();
    assert_eq!(reason(&nobody), "BATCH_NOT_FOUND");
    let long = "x".repeat(1025);
    let refused = pause_batch(&mut client, "done", &long).await.unwrap_err();
    assert_eq!(fields(&refused), ["reason"]);
}

#[tokio::test]
async fn a_higher_priority_goes_first_and_a_batch_may_ask_for_few_slots() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["a", "b", "c", "d", "e"]);
    let server = setup.start();
    let mut client = server.client().await;
    let modest = BatchOptions {
        max_parallelism: Some(1),
        ..BatchOptions::default()
    };
    let items = ["a", "b"].map(|name| gates.item(name)).into();
    create(&mut client, "modest", items, modest).await;
    let first = gates.arrival("a").await;
    let items = vec![gates.item("c"), gates.item("d")];
    client.create("plain", items).await.unwrap();
    let plain = [gates.arrival("c").await, gates.arrival("d").await];
    let options = BatchOptions {
        priority: 1,
        ..BatchOptions::default()
    };
    create(&mut client, "urgent", vec![gates.item("e")], options).await;
    // One slot comes free: b has waited longer, e goes before it.
    first.open();
    let urgent = gates.arrival("e").await;
    let b = client.item("modest", "b").await.unwrap();
    assert_eq!(b.state(), ItemState::Pending);
    for gate in plain.into_iter().chain([urgent]) {
        gate.open();
    }
    gates.open("b").await;
    client.batch_when_over("modest").await;
}
