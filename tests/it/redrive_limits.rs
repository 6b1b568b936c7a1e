//! Redrives beside limits: as many letters are copied as there is room for, the others wait for it.

use std::collections::BTreeSet;

use sooner::wire::{
    Batch, BatchState, DeleteBatchRequest, GetBatchRequest, ItemSpec, ListDeadLettersRequest,
    RedriveDeadLettersRequest,
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::harness::client::{output, reason};
use crate::harness::letters::expiring;
use crate::harness::{Client, Gates, ServerSetup, item, within};

const LIMIT: &str = "SOONER_LIMITS__QUEUED_ITEMS";

/// Nobody serves its queues: what is accepted stays.
fn unserved() -> ServerSetup {
    ServerSetup::new("[queues.default]\n[queues.other]\n")
}

fn all_of(batch_id: &str) -> RedriveDeadLettersRequest {
    RedriveDeadLettersRequest {
        batch_id: batch_id.into(),
        ..RedriveDeadLettersRequest::default()
    }
}

fn named(name: &str, text: impl Into<String>) -> ItemSpec {
    ItemSpec {
        item_id: name.into(),
        ..item(text)
    }
}

fn total(batch: &Batch) -> u64 {
    batch.counts.unwrap().total
}

async fn left(client: &mut Client) -> Vec<String> {
    let mut left = client
        .letters(ListDeadLettersRequest::default())
        .await
        .items();
    left.sort_unstable();
    left
}

/// The batch once it has so many items.
async fn grown(client: &mut Client, batch_id: &str, items: u64) -> Batch {
    let grown = async {
        loop {
            let batch = client.batch(batch_id).await.unwrap();
            assert!(total(&batch) <= items, "{batch:?}");
            if total(&batch) == items {
                return batch;
            }
        }
    };
    within(grown).await
}

fn of_other<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let other = "other".parse().unwrap();
    request.metadata_mut().insert("sooner-tenant", other);
    request
}

/// Waits until a batch of the other tenant is so.
async fn other_when(client: &mut Client, batch_id: &str, is_so: impl Fn(&Batch) -> bool) {
    let request = || GetBatchRequest {
        batch_id: batch_id.into(),
        ..GetBatchRequest::default()
    };
    let asked = async {
        loop {
            let answer = client.stub.get_batch(of_other(request())).await.unwrap();
            if is_so(&answer.into_inner().batch.unwrap()) {
                return;
            }
        }
    };
    within(asked).await;
}

#[track_caller]
fn assert_refused(refused: &Status, expected: &str, setting: &str, for_good: bool) {
    let told = (refused.code(), &*reason(refused));
    assert_eq!(told, (Code::ResourceExhausted, expected), "{refused:?}");
    let details = refused.get_error_details();
    let violated = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violated.subject, setting);
    let pushback = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, if for_good { "-1" } else { "1000" });
    assert_eq!(details.retry_info().is_none(), for_good);
}

#[tokio::test]
async fn a_redrive_larger_than_the_limit_goes_on_as_its_items_end_and_survives_a_kill() {
    const LETTERS: u64 = 40;
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["first"]);
    let server = setup.start();
    let mut client = server.client().await;
    let name = |index: u64| format!("letter-{index:02}");
    let letters = (0..LETTERS).map(|index| match index {
        0 => named(&name(0), gates.path("first")),
        index => named(&name(index), gates.free_path(&name(index))),
    });
    client.expire("old", letters.collect()).await;
    server.kill();
    let setup = setup.with_environment(LIMIT, "4");
    let server = setup.start();
    let mut client = server.client().await;
    let new = client.redrive(all_of("old")).await.unwrap();
    assert_eq!((new.state(), total(&new)), (BatchState::Open, 4));
    let gate = gates.arrival("first").await;
    let refused = client.create("another", vec![item("x")]).await;
    let refused = refused.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.queued_items", false);
    let refused = client.redrive(all_of("old")).await.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.queued_items", false);
    server.kill();
    drop(gate);

    let server = setup.start();
    let mut client = server.client().await;
    let gate = gates.arrival("first").await;
    let waiting = client.batch(&new.batch_id).await.unwrap();
    assert_eq!((waiting.state(), total(&waiting)), (BatchState::Open, 4));
    let dead = left(&mut client).await;
    assert_eq!(dead.len() as u64, LETTERS - 4, "a letter that waits is one");
    gate.open();
    let over = client.batch_when_over(&new.batch_id).await;
    assert_eq!(over.counts.unwrap().succeeded, LETTERS);
    let results = client.results(&new.batch_id, 0).await;
    let names: BTreeSet<_> = results.iter().map(|result| &*result.item_id).collect();
    assert_eq!(names.len() as u64, LETTERS, "each ran again once");
    assert!(results.iter().skip(1).all(|it| output(it) == it.item_id));
    assert_eq!(left(&mut client).await, [""; 0]);
}

#[tokio::test]
async fn room_that_a_cancel_frees_lets_a_redrive_go_on_and_its_own_cancel_ends_it() {
    let setup = unserved();
    let server = setup.start();
    let mut client = server.client().await;
    let letters = (0..7).map(|index| named(&format!("l{index}"), "x"));
    client.expire("old", letters.collect()).await;
    for id in ["a", "b"] {
        client.create(id, vec![item("x"); 2]).await.unwrap();
    }
    server.kill();
    let setup = setup.with_environment(LIMIT, "4");
    let server = setup.start();
    let mut client = server.client().await;
    let refused = client.redrive(all_of("old")).await.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.queued_items", false);
    assert_eq!(left(&mut client).await.len(), 7, "it has taken nothing");
    client.cancel("a", &[]).await.unwrap();
    client.batch_when_over("a").await;
    let new = client.redrive(all_of("old")).await.unwrap();
    assert_eq!((new.state(), total(&new)), (BatchState::Open, 2));
    // One item is room for one letter, and a batch for two.
    client.cancel("b", &["1"]).await.unwrap();
    grown(&mut client, &new.batch_id, 3).await;
    client.cancel("b", &[]).await.unwrap();
    let waiting = grown(&mut client, &new.batch_id, 4).await;
    assert_eq!(waiting.state(), BatchState::Open);
    let delete = DeleteBatchRequest {
        batch_id: "old".into(),
    };
    let refused = within(client.stub.delete_batch(delete.clone())).await;
    assert_eq!(reason(&refused.unwrap_err()), "BATCH_RUNNING");

    client.cancel(&new.batch_id, &[]).await.unwrap();
    let over = client.batch_when_over(&new.batch_id).await;
    let told = (over.state(), over.counts.unwrap().cancelled, total(&over));
    assert_eq!(told, (BatchState::Cancelled, 4, 4));
    let names = ["old/l4", "old/l5", "old/l6"];
    assert_eq!(left(&mut client).await, names, "what was not copied");
    let again = client.redrive(all_of("old")).await.unwrap();
    assert_eq!((again.state(), total(&again)), (BatchState::Running, 3));
    within(client.stub.delete_batch(delete)).await.unwrap();
}

#[tokio::test]
async fn a_tenants_quota_holds_its_own_redrive_and_no_others() {
    let setup = unserved().with_environment("SOONER_SERVER__TRUST_TENANT_HEADER", "true");
    let server = setup.start();
    let mut client = server.client().await;
    let letters = || vec![item("12345"); 2500];
    let other = of_other(expiring("old", letters()));
    within(client.stub.create_batch(other)).await.unwrap();
    client.expire("old", letters()).await;
    other_when(&mut client, "old", |it| it.finish_time.is_some()).await;
    server.kill();
    let setup = setup.with_environment("SOONER_TENANTS__DEFAULT__QUEUED_BYTES", "7001B");
    let server = setup.start();
    let mut client = server.client().await;
    let waits = client.redrive(all_of("old")).await.unwrap();
    grown(&mut client, &waits.batch_id, 1400).await;
    let refused = client.redrive(all_of("old")).await.unwrap_err();
    let setting = "tenants.default.queued_bytes";
    assert_refused(&refused, "QUOTA", setting, false);
    let whole = client.admin.redrive_dead_letters(of_other(all_of("old")));
    let whole = within(whole).await.unwrap().into_inner().batch.unwrap();
    let is_whole = |batch: &Batch| batch.state() == BatchState::Running && total(batch) == 2500;
    other_when(&mut client, &whole.batch_id, is_whole).await;
    let waits = client.batch(&waits.batch_id).await.unwrap();
    assert_eq!((waits.state(), total(&waits)), (BatchState::Open, 1400));
    assert_eq!(left(&mut client).await.len(), 1100);
}

#[tokio::test]
async fn a_letter_that_alone_is_larger_than_a_limit_stays_one_and_holds_nobody_up() {
    let setup = unserved();
    let server = setup.start();
    let mut client = server.client().await;
    let long = || "x".repeat(1001);
    let letters = vec![
        named("a", long()),
        named("b", "1"),
        named("c", long()),
        named("d", "x".repeat(1000)),
        named("e", ""),
        named("f", long()),
    ];
    client.expire("old", letters).await;
    server.kill();
    let setup = setup.with_environment("SOONER_LIMITS__QUEUED_BYTES", "1000");
    let server = setup.start();
    let mut client = server.client().await;
    let only = |id: &str| RedriveDeadLettersRequest {
        item_ids: vec![id.into()],
        ..all_of("old")
    };
    let refused = client.redrive(only("c")).await.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.queued_bytes", true);
    let new = client.redrive(all_of("old")).await.unwrap();
    assert_eq!((new.state(), total(&new)), (BatchState::Open, 1));
    client.cancel(&new.batch_id, &["b"]).await.unwrap();
    let whole = async {
        loop {
            let batch = client.batch(&new.batch_id).await.unwrap();
            if batch.state() == BatchState::Running {
                return batch;
            }
        }
    };
    assert_eq!(total(&within(whole).await), 3);
    assert_eq!(left(&mut client).await, ["old/a", "old/c", "old/f"]);
    let said = "dead letters that are larger than a limit are not redriven";
    assert!(setup.log().contains(said));
}
