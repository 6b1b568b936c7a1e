//! Tenants: whose a batch is, and that nobody else sees it.

use serde_json::Value;
use sooner::wire::stream_batch_request::Message as Asked;
use sooner::wire::{
    CancelBatchRequest, CreateBatchRequest, DeleteBatchRequest, GetBatchRequest, GetItemRequest,
    ListBatchesRequest, ListItemsRequest, PauseBatchRequest, ResumeBatchRequest,
    StreamBatchRequest, StreamStart, SubmitBatchRequest, WatchBatchRequest,
};
use tonic::{Code, Request, Status};

use crate::harness::cli::{asked, sooner};
use crate::harness::client::{Accepted, Stub, fields, reason};
use crate::harness::{Gates, Server, ServerSetup, ended, item, within};

/// A server that is told who is who. Nobody serves its queue.
fn trusting() -> ServerSetup {
    ServerSetup::new("[server]\ntrust_tenant_header = true\n")
}

fn of<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tenant.parse().unwrap();
    request.metadata_mut().insert("sooner-tenant", value);
    request
}

/// A batch `b` with so many items.
fn create(items: usize) -> CreateBatchRequest {
    CreateBatchRequest {
        batch_id: "b".into(),
        request_id: "r".into(),
        items: (0..items).map(|n| item(n.to_string())).collect(),
        ..CreateBatchRequest::default()
    }
}

async fn items_of(stub: &mut Stub, tenant: &str) -> Result<u64, Status> {
    let batch_id = "b".to_owned();
    let request = GetBatchRequest {
        batch_id,
        wait: None,
    };
    let answer = within(stub.get_batch(of(tenant, request))).await?;
    Ok(answer.into_inner().batch.unwrap().counts.unwrap().total)
}

/// What every call that names a batch `b` answers to this tenant.
async fn calls(stub: &mut Stub, tenant: &str) -> [(&'static str, Result<(), Status>); 7] {
    let batch_id = || "b".to_owned();
    let get = GetBatchRequest {
        batch_id: batch_id(),
        wait: None,
    };
    let get_item = GetItemRequest {
        batch_id: batch_id(),
        item_id: "0".into(),
        ..GetItemRequest::default()
    };
    let watch = WatchBatchRequest {
        batch_id: batch_id(),
        ..WatchBatchRequest::default()
    };
    let pause = PauseBatchRequest {
        batch_id: batch_id(),
        ..PauseBatchRequest::default()
    };
    let resume = ResumeBatchRequest {
        batch_id: batch_id(),
    };
    let cancel = CancelBatchRequest {
        batch_id: batch_id(),
        ..CancelBatchRequest::default()
    };
    let start = StreamBatchRequest {
        message: Some(Asked::Start(StreamStart {
            batch_id: batch_id(),
            resume: true,
            ..StreamStart::default()
        })),
    };
    let upload = tokio_stream::once(start);
    [
        ("get_batch", stub.get_batch(of(tenant, get)).await.map(drop)),
        (
            "get_item",
            stub.get_item(of(tenant, get_item)).await.map(drop),
        ),
        (
            "watch_batch",
            stub.watch_batch(of(tenant, watch)).await.map(drop),
        ),
        (
            "pause_batch",
            stub.pause_batch(of(tenant, pause)).await.map(drop),
        ),
        (
            "resume_batch",
            stub.resume_batch(of(tenant, resume)).await.map(drop),
        ),
        (
            "stream_batch",
            stub.stream_batch(of(tenant, upload)).await.map(drop),
        ),
        // The last one: it ends the batch.
        (
            "cancel_batch",
            stub.cancel_batch(of(tenant, cancel)).await.map(drop),
        ),
    ]
}

#[tokio::test]
async fn ids_and_keys_are_each_tenants_own() {
    let setup = trusting();
    let server = setup.start();
    let mut stub = server.client().await.stub;
    for (tenant, items) in [("acme", 1), ("umbrella", 2), ("default", 3)] {
        let created = within(stub.create_batch(of(tenant, create(items))))
            .await
            .unwrap();
        assert!(created.into_inner().created, "{tenant} has its own");
    }
    // Who says nothing is tenant `default`.
    let again = within(stub.create_batch(create(3))).await.unwrap();
    assert!(!again.into_inner().created);
    let other = within(stub.create_batch(of("acme", create(2)))).await;
    assert_eq!(reason(&other.unwrap_err()), "BATCH_ID_CONFLICT", "its own");
    let submit = SubmitBatchRequest {
        batch_id: "b".into(),
        request_id: "r".into(),
        items: create(2).items,
        ..SubmitBatchRequest::default()
    };
    let attached = within(stub.submit_batch(of("umbrella", submit)))
        .await
        .unwrap();
    assert!(!Accepted::of(attached.metadata()).created);
    drop(attached);

    server.kill();
    let server = setup.start();
    let mut stub = server.client().await.stub;
    for (tenant, items) in [("acme", 1), ("umbrella", 2), ("default", 3)] {
        assert_eq!(
            items_of(&mut stub, tenant).await.unwrap(),
            items,
            "{tenant}"
        );
    }
}

#[tokio::test]
async fn a_batch_of_another_tenant_is_not_there_for_any_call() {
    let server = trusting().start();
    let mut stub = server.client().await.stub;
    within(stub.create_batch(of("acme", create(1))))
        .await
        .unwrap();
    for tenant in ["umbrella", "default", "acm", "Acme"] {
        for (call, answer) in within(calls(&mut stub, tenant)).await {
            let refused = answer.expect_err(call);
            assert_eq!(refused.code(), Code::NotFound, "{call}: {refused:?}");
            assert_eq!(reason(&refused), "BATCH_NOT_FOUND", "{call}");
        }
    }
    let untouched = items_of(&mut stub, "acme").await;
    assert_eq!(untouched.unwrap(), 1);
    for (call, answer) in within(calls(&mut stub, "acme")).await {
        match (call, answer) {
            // It was submitted whole.
            ("stream_batch", answer) => {
                assert_eq!(reason(&answer.unwrap_err()), "BATCH_ID_CONFLICT");
            }
            (call, answer) => assert!(answer.is_ok(), "{call}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn lists_and_deletes_are_of_a_tenant_s_own_batches() {
    let server = trusting().start();
    let mut stub = server.client().await.stub;
    within(stub.create_batch(of("acme", create(1))))
        .await
        .unwrap();
    let items = || ListItemsRequest {
        batch_id: "b".into(),
        ..ListItemsRequest::default()
    };
    let delete = || DeleteBatchRequest {
        batch_id: "b".into(),
    };
    for (tenant, batches) in [("acme", 1), ("umbrella", 0), ("default", 0)] {
        let list = of(tenant, ListBatchesRequest::default());
        let listed = within(stub.list_batches(list)).await.unwrap().into_inner();
        assert_eq!(listed.batches.len(), batches, "{tenant}");
        let listed = within(stub.list_items(of(tenant, items()))).await;
        let deleted = within(stub.delete_batch(of(tenant, delete()))).await;
        if batches == 0 {
            assert_eq!(reason(&listed.unwrap_err()), "BATCH_NOT_FOUND", "{tenant}");
            assert_eq!(reason(&deleted.unwrap_err()), "BATCH_NOT_FOUND", "{tenant}");
        } else {
            assert_eq!(listed.unwrap().into_inner().items.len(), 1);
            assert_eq!(reason(&deleted.unwrap_err()), "BATCH_RUNNING");
        }
    }
}

#[tokio::test]
async fn a_header_that_is_no_tenant_is_refused_where_it_is_trusted() {
    let server = trusting().start();
    let mut stub = server.client().await.stub;
    for wrong in ["", "a b", "-a", "a,b", &"x".repeat(65)] {
        for (call, answer) in within(calls(&mut stub, wrong)).await {
            let refused = answer.expect_err(call);
            assert_eq!(refused.code(), Code::InvalidArgument, "{call}: {refused:?}");
            assert_eq!(reason(&refused), "INVALID_FIELD", "{call}");
            assert_eq!(fields(&refused), ["sooner-tenant"], "{call}");
        }
        let refused = within(stub.create_batch(of(wrong, create(1))))
            .await
            .unwrap_err();
        assert_eq!(fields(&refused), ["sooner-tenant"]);
    }
    let mut twice = of("acme", create(1));
    let second = "umbrella".parse().unwrap();
    twice.metadata_mut().append("sooner-tenant", second);
    let refused = within(stub.create_batch(twice)).await.unwrap_err();
    assert_eq!(fields(&refused), ["sooner-tenant"]);
}

#[tokio::test]
async fn a_header_that_is_not_trusted_is_not_looked_at() {
    let server = ServerSetup::new("").start();
    let mut stub = server.client().await.stub;
    within(stub.create_batch(of("acme", create(1))))
        .await
        .unwrap();
    for tenant in ["umbrella", "default", "a b", ""] {
        assert_eq!(items_of(&mut stub, tenant).await.unwrap(), 1, "{tenant:?}");
    }
}

#[tokio::test]
async fn the_command_line_acts_for_a_tenant() {
    let server = trusting().start();
    let submit = ["submit", "--tenant", "acme", "--batch-id", "b"];
    let accepted = ended(&mut sooner(server.address(), &submit), b"one\n");
    assert_eq!(accepted.code, Some(0), "{}", accepted.stderr);
    let total = |arguments: &[&str]| {
        let got = asked(&server, arguments);
        let batch: Option<Value> = serde_json::from_str(&got.stdout).ok();
        (
            got.code,
            batch.map(|batch| batch["counts"]["total"].clone()),
        )
    };
    let get = ["get", "b", "-o", "json"];
    assert_eq!(
        total(&[&get[..], &["--tenant", "acme"]].concat()),
        (Some(0), Some(1.into()))
    );
    assert_eq!(total(&get), (Some(6), None), "there is no such batch");
    let by_environment = |server: &Server, tenant: &str| {
        let mut command = sooner(server.address(), &get);
        ended(command.env("SOONER_TENANT", tenant), b"")
    };
    assert_eq!(by_environment(&server, "acme").code, Some(0));
    assert_eq!(by_environment(&server, "umbrella").code, Some(6));
    let wrong = by_environment(&server, "a b");
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
}

/// Whoever names a tenant to a server that does not trust the name works with what is everybody's.
#[tokio::test]
async fn who_acts_for_another_tenant_than_asked_is_warned() {
    let warning = "warning: the server acts for tenant default, not acme: it does not trust the \
                   header sooner-tenant (trust_tenant_header in its configuration)\n";
    let server = ServerSetup::echo().start();
    let submit = ["submit", "--tenant", "acme", "--batch-id", "b", "--follow"];
    let run = ended(&mut sooner(server.address(), &submit), b"one\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.starts_with(warning), "{}", run.stderr);
    assert_eq!(run.stderr.matches("warning").count(), 1, "{}", run.stderr);
    // What is not found is where it matters most.
    let missing = asked(&server, &["get", "nothing", "--tenant", "acme"]);
    assert_eq!(missing.code, Some(6));
    assert!(missing.stderr.starts_with(warning), "{}", missing.stderr);
    for tenant in ["--tenant=default", "--wait"] {
        let run = ended(
            &mut sooner(server.address(), &["submit", "-q", tenant]),
            b"one\n",
        );
        assert_eq!((run.code, &*run.stderr), (Some(0), ""), "{tenant}");
    }
    let trusting = trusting().start();
    let run = ended(&mut sooner(trusting.address(), &submit[..5]), b"one\n");
    assert_eq!(run.code, Some(0));
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
}

/// One slot, so that attempts run in the order of their grants.
#[tokio::test]
async fn a_queue_is_shared_by_weight() {
    let dir = tempfile::tempdir().unwrap();
    let gates = Gates::in_directory(dir.path().to_owned(), ["gate"]);
    let log = dir.path().join("log").display().to_string();
    let setup = ServerSetup::new(&format!(
        "[server]\ntrust_tenant_header = true\n[tenants.big]\nweight = 3\n[queues.default]\nslots = 1\n\
         handler = {{ exec = [\"sh\", \"-c\", \"cat $0; echo $SOONER_BATCH_ID >> {log}\", \"{{}}\"] }}\n"
    ));
    let server = setup.start();
    let mut client = server.client().await;
    client
        .create("gate", vec![gates.item("gate")])
        .await
        .unwrap();
    let gate = gates.arrival("gate").await;
    for tenant in ["small", "big"] {
        let batch = CreateBatchRequest {
            batch_id: tenant.into(),
            items: vec![item(gates.free_path("free")); 8],
            ..CreateBatchRequest::default()
        };
        within(client.stub.create_batch(of(tenant, batch)))
            .await
            .unwrap();
    }
    gate.open();
    for tenant in ["small", "big"] {
        let over = GetBatchRequest {
            batch_id: tenant.into(),
            wait: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
        };
        within(client.stub.get_batch(of(tenant, over)))
            .await
            .unwrap();
    }
    let log = std::fs::read_to_string(log).unwrap();
    let ran: Vec<_> = log.lines().collect();
    assert_eq!(ran.len(), 17, "{ran:?}");
    assert_eq!(ran[0], "gate");
    let small = ran[1..9].iter().filter(|batch| **batch == "small").count();
    assert_eq!(small, 2, "one in four: {ran:?}");
}
