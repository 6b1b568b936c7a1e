//! How much may be accepted and not over: what is beyond a limit is refused, or waits where it can.

use sooner::wire::{CreateBatchRequest, ItemSpec};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::harness::client::{Stub, next, reason};
use crate::harness::{Gates, ServerSetup, UploadCall, eventually, item, upload_start, within};

fn limited(slots: usize, limits: &str) -> ServerSetup {
    ServerSetup::gated(slots, &format!("[limits]\n{limits}\n"))
}

/// Asserts all that a caller needs to come back: the reason, which limit it was, and when.
#[track_caller]
fn assert_refused(refused: &Status, expected: &str, setting: &str) {
    assert_limited(refused, (expected, setting), "1000");
    let delay = refused.get_error_details().retry_info().cloned();
    assert!(delay.unwrap().retry_delay.is_some());
}

/// Room that comes free would not help.
fn assert_refused_for_good(refused: &Status, expected: &str, setting: &str) {
    assert_limited(refused, (expected, setting), "-1");
    assert!(refused.get_error_details().retry_info().is_none());
}

fn assert_limited(refused: &Status, (expected, setting): (&str, &str), wait: &str) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(reason(refused), expected);
    let details = refused.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        setting
    );
    let pushback = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, wait);
}

#[tokio::test]
async fn one_open_batch_too_many_is_refused_until_another_is_over() {
    let setup = limited(1, "open_batches = 2");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("a", vec![gates.item("a")]).await.unwrap();
    client.create("b", vec![gates.item("b")]).await.unwrap();
    let running = gates.arrival("a").await;
    let c = || vec![gates.free_item("c")];
    let refused = client.create("c", c()).await.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.open_batches");
    let opened = UploadCall::open(&client, upload_start("upload")).await;
    assert_refused(&opened.unwrap_err(), "QUEUE_FULL", "limits.open_batches");
    // What is accepted is attached to, and nothing was stored of what was refused.
    assert!(!client.create("a", vec![gates.item("a")]).await.unwrap());
    assert_eq!(
        reason(&client.batch("c").await.unwrap_err()),
        "BATCH_NOT_FOUND"
    );
    server.kill();
    drop(running);

    let server = setup.start();
    let mut client = server.client().await;
    let refused = client.create("c", c()).await.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.open_batches");
    gates.open("a").await;
    client.batch_when_over("a").await;
    eventually(async || Box::pin(client.clone().create("c", c())).await.is_ok()).await;
    gates.open("b").await;
    client.batch_when_over("c").await;
}

#[tokio::test]
async fn items_and_bytes_count_until_they_have_their_result() {
    let setup = limited(1, "queued_items = 3\nqueued_bytes = \"1000\"");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    let mut results = client.submit("batch", items).await.unwrap();
    let two = || vec![gates.free_item("c"), gates.free_item("d")];
    let refused = client.create("two", two()).await.unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.queued_items");
    gates.open("a").await;
    next(&mut results).await;
    client.create("two", two()).await.unwrap();
    let refused = client.create("one", vec![gates.free_item("e")]).await;
    assert_refused(&refused.unwrap_err(), "QUEUE_FULL", "limits.queued_items");
    gates.open("b").await;
    client.batch_when_over("two").await;
    // All is over. The bytes are those of the inputs.
    let long = |bytes: usize| vec![item("x".repeat(bytes))];
    let refused = client.create("long", long(1001)).await.unwrap_err();
    assert_refused_for_good(&refused, "QUEUE_FULL", "limits.queued_bytes");
    assert!(
        refused.message().starts_with("what came alone has more"),
        "{refused:?}"
    );
    client.create("long", long(1000)).await.unwrap();
}

#[tokio::test]
async fn an_upload_waits_for_room_while_its_results_come() {
    let setup = limited(1, "queued_items = 2");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut upload = UploadCall::open(&client, upload_start("upload"))
        .await
        .unwrap();
    for (first, name) in [(0, "a"), (1, "b"), (2, "c")] {
        upload.items(first, vec![gates.item(name)]).await;
    }
    upload.finish(3).await;
    upload.durable(2).await;
    let (reason, message) = upload.waits_for_room().await;
    assert_eq!(reason, "QUEUE_FULL");
    assert_eq!(
        message,
        "there would be more than 2 items without a result, the limit"
    );
    let running = gates.arrival("a").await;
    let refused = client.create("other", vec![gates.free_item("x")]).await;
    assert_refused(&refused.unwrap_err(), "QUEUE_FULL", "limits.queued_items");
    assert_eq!(
        client.batch("upload").await.unwrap().counts.unwrap().total,
        2
    );
    running.open();
    upload.has_results(1).await;
    gates.open("b").await;
    upload.sealed().await;
    gates.open("c").await;
    let (batch, results) = upload.ended().await;
    assert_eq!((batch.counts.unwrap().succeeded, results.len()), (3, 3));

    // What never fits does not wait.
    let upload = UploadCall::open(&client, upload_start("large")).await;
    let mut upload = upload.unwrap();
    upload.items(0, vec![item("x"); 3]).await;
    let refused = upload.failed().await;
    assert_refused_for_good(&refused, "QUEUE_FULL", "limits.queued_items");
}

async fn create_for(
    stub: &mut Stub,
    tenant: &str,
    id: &str,
    items: Vec<ItemSpec>,
) -> Result<(), Status> {
    let mut request = Request::new(CreateBatchRequest {
        batch_id: id.into(),
        items,
        ..CreateBatchRequest::default()
    });
    let tenant = tenant.parse().unwrap();
    request.metadata_mut().insert("sooner-tenant", tenant);
    within(stub.create_batch(request)).await.map(drop)
}

#[tokio::test]
async fn a_tenant_at_its_quota_is_refused_and_others_are_not() {
    let setup = ServerSetup::new(
        "[server]\ntrust_tenant_header = true\n[limits]\nopen_batches = 4\n\
         [tenants.small]\nopen_batches = 1\n[tenants.few]\nqueued_items = 2\n\
         [tenants.short]\nqueued_bytes = \"10\"\n",
    );
    let server = setup.start();
    let mut stub = server.client().await.stub;
    let some = |count: usize| vec![item("12345"); count];
    create_for(&mut stub, "small", "a", some(9)).await.unwrap();
    create_for(&mut stub, "few", "a", some(2)).await.unwrap();
    create_for(&mut stub, "short", "a", some(2)).await.unwrap();
    for (tenant, setting) in [
        ("small", "tenants.small.open_batches"),
        ("few", "tenants.few.queued_items"),
        ("short", "tenants.short.queued_bytes"),
    ] {
        let refused = create_for(&mut stub, tenant, "b", some(1))
            .await
            .unwrap_err();
        assert_refused(&refused, "QUOTA", setting);
        create_for(
            &mut stub,
            tenant,
            "a",
            some(if tenant == "small" { 9 } else { 2 }),
        )
        .await
        .expect("it attaches");
    }
    create_for(&mut stub, "free", "a", some(50)).await.unwrap();
    let refused = create_for(&mut stub, "free", "b", some(1))
        .await
        .unwrap_err();
    assert_refused(&refused, "QUEUE_FULL", "limits.open_batches");
}

/// The wait was told once, with a reason that was not true any more.
#[tokio::test]
async fn an_upload_that_waits_is_told_when_another_limit_is_in_its_way() {
    let setup = ServerSetup::gated(
        1,
        "[limits]\nqueued_items = 3\n[tenants.default]\nqueued_items = 2\n\
         [server]\ntrust_tenant_header = true\n",
    );
    let gates = Gates::new(&setup, ["own", "other"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("own", vec![gates.item("own")]).await.unwrap();
    let others = vec![gates.item("other"), gates.free_item("x")];
    create_for(&mut client.stub, "other", "other", others)
        .await
        .unwrap();
    let upload = UploadCall::open(&client, upload_start("upload")).await;
    let mut upload = upload.unwrap();
    let items = vec![gates.free_item("y"), gates.free_item("z")];
    upload.items(0, items).await;
    assert_eq!(upload.waits_for_room().await.0, "QUOTA");
    gates.open("own").await;
    assert_eq!(upload.waits_for_room().await.0, "QUEUE_FULL");
    gates.open("other").await;
    upload.durable(2).await;
}

/// One limit that passes hid another that does not: the upload waited for ever.
#[tokio::test]
async fn an_upload_that_waits_is_refused_once_only_what_never_fits_is_in_its_way() {
    let setup = limited(1, "queued_items = 1\nqueued_bytes = \"500B\"");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("full", vec![gates.item("a")]).await.unwrap();
    let upload = UploadCall::open(&client, upload_start("upload")).await;
    let mut upload = upload.unwrap();
    upload.items(0, vec![item("x".repeat(501))]).await;
    assert_eq!(upload.waits_for_room().await.0, "QUEUE_FULL");
    gates.open("a").await;
    let refused = upload.failed().await;
    assert_refused_for_good(&refused, "QUEUE_FULL", "limits.queued_bytes");
}
