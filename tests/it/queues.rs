//! `ListQueues`, `PauseQueue` and `ResumeQueue`, and how a person calls them.

use serde_json::{Value, json};
use sooner::wire::{
    CreateBatchRequest, ListQueuesRequest, PauseQueueRequest, Queue, ResumeQueueRequest,
};
use tonic::{Code, Status};

use crate::harness::cli::asked;
use crate::harness::client::{fields, reason};
use crate::harness::{Client, Gates, ServerSetup, all, within};

async fn list_queues(client: &mut Client) -> Vec<Queue> {
    let listed = within(client.admin.list_queues(ListQueuesRequest {})).await;
    listed.unwrap().into_inner().queues
}

async fn pause_queue(client: &mut Client, queue: &str, reason: &str) -> Result<Queue, Status> {
    let request = PauseQueueRequest {
        queue: queue.into(),
        reason: reason.into(),
    };
    let paused = within(client.admin.pause_queue(request)).await?;
    Ok(paused.into_inner().queue.unwrap())
}

async fn resume_queue(client: &mut Client, queue: &str) -> Result<Queue, Status> {
    let request = ResumeQueueRequest {
        queue: queue.into(),
    };
    let resumed = within(client.admin.resume_queue(request)).await?;
    Ok(resumed.into_inner().queue.unwrap())
}

/// Queues that echo, that nobody serves, and, by default, whose items wait at gates.
fn three(slots: usize) -> ServerSetup {
    ServerSetup::gated(
        slots,
        "[queues.later]\n[queues.limited]\nhandler = { echo = {} }\nslots = 3\n\
         rate = { per_second = 2.5 }\n",
    )
}

#[tokio::test]
async fn a_paused_queue_lets_go_on_what_runs_and_starts_nothing() {
    let setup = three(2);
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("first", vec![gates.item("a")]).await.unwrap();
    let running = gates.arrival("a").await;
    let paused = pause_queue(&mut client, "default", "too hot")
        .await
        .unwrap();
    assert!(paused.paused && paused.pause_reason == "too hot");
    let second = vec![gates.item("b"), gates.free_item("c")];
    client.create("second", second).await.unwrap();
    let told = list_queues(&mut client).await;
    let counts: Vec<_> = told
        .iter()
        .map(|it| {
            (
                &*it.name,
                it.paused,
                it.open_batches,
                it.pending_items,
                it.running_items,
            )
        })
        .collect();
    assert_eq!(
        counts,
        [
            ("default", true, 2, 2, 1),
            ("later", false, 0, 0, 0),
            ("limited", false, 0, 0, 0)
        ]
    );
    let kinds: Vec<_> = told.iter().map(|it| (&*it.handler, it.slots)).collect();
    assert_eq!(kinds, [("exec", 2), ("", 0), ("echo", 3)]);
    let rates: Vec<_> = told
        .iter()
        .map(|it| it.rate.map(|rate| (rate.per_second, rate.burst)))
        .collect();
    assert_eq!(rates, [None, None, Some((2.5, 3))]);
    running.open();
    client.batch_when_over("first").await;

    // A pause that was answered is durable, and other queues go on.
    server.kill();
    let server = setup.start();
    let mut client = server.client().await;
    let request = CreateBatchRequest {
        queue: "limited".into(),
        batch_id: "other".into(),
        items: vec![crate::harness::item("x")],
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
    client.batch_when_over("other").await;
    let waiting = client.item("second", "b").await.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason, "QUEUE_PAUSED");
    assert_eq!(
        waiting.message,
        "the queue default is paused (too hot); resume the queue"
    );
    let again = pause_queue(&mut client, "default", "still hot")
        .await
        .unwrap();
    assert_eq!(again.pause_reason, "still hot");
    let resumed = resume_queue(&mut client, "default").await.unwrap();
    assert!(!resumed.paused && resumed.pause_reason.is_empty());
    assert!(!resume_queue(&mut client, "default").await.unwrap().paused);
    gates.open("b").await;
    client.batch_when_over("second").await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_its_field() {
    let setup = three(1);
    let server = setup.start();
    let mut client = server.client().await;
    for refused in [
        pause_queue(&mut client, "nobody", "").await.unwrap_err(),
        resume_queue(&mut client, "nobody").await.unwrap_err(),
    ] {
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (Code::NotFound, "QUEUE_NOT_FOUND")
        );
    }
    for refused in [
        pause_queue(&mut client, "", "").await.unwrap_err(),
        pause_queue(&mut client, "a b", "").await.unwrap_err(),
        resume_queue(&mut client, "").await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(fields(&refused), ["queue"]);
    }
    let long = "x".repeat(1025);
    let refused = pause_queue(&mut client, "default", &long)
        .await
        .unwrap_err();
    assert_eq!(fields(&refused), ["reason"]);
}

#[tokio::test]
async fn a_person_sees_the_queues_pauses_one_and_resumes_it() {
    let setup = three(1);
    let gates = Gates::new(&setup, ["unused"]);
    let server = setup.start();
    let mut client = server.client().await;
    let paused = asked(
        &server,
        &["queue", "pause", "default", "--reason", "too hot"],
    );
    assert_eq!(
        (paused.code, &*paused.stdout),
        (Some(0), "queue default is paused: 0 pending, 0 running\n")
    );
    client
        .create("batch", vec![gates.free_item("a")])
        .await
        .unwrap();
    let list = asked(&server, &["queue", "list"]).stdout;
    let expected = "\
QUEUE    STATE     HANDLER  RUNNING  PENDING  BATCHES  RATE            REASON
default  paused    exec         0/1        1        1  -               too hot
later    unserved  -            0/0        0        0  -
limited  open      echo         0/3        0        0  2.5/s, burst 3
";
    assert_eq!(list, expected);
    let why = asked(&server, &["get", "batch", "a"]).stdout;
    let says = "waits      QUEUE_PAUSED: the queue default is paused (too hot); resume the queue\n";
    assert!(why.contains(says), "{why}");
    let listed = asked(&server, &["queue", "list", "-o", "json"]).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let expected = json!({
        "name": "default", "paused": true, "pause_reason": "too hot", "handler": "exec",
        "slots": 1, "open_batches": 1, "pending_items": 1, "running_items": 0
    });
    assert_eq!(listed["queues"][0], expected);
    assert_eq!(
        listed["queues"][2]["rate"],
        json!({"per_second": 2.5, "burst": 3})
    );
    let names = asked(&server, &["queue", "list", "-o", "name"]).stdout;
    assert_eq!(names, "default\nlater\nlimited\n");

    let resumed = asked(&server, &["queue", "resume", "default"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let mut results = client
        .submit("batch", vec![gates.free_item("a")])
        .await
        .unwrap();
    assert_eq!(all(&mut results).await.len(), 1);
    let nobody = asked(&server, &["queue", "pause", "nobody"]);
    assert_eq!(nobody.code, Some(6), "{}", nobody.stderr);
    for command in ["list", "pause", "resume"] {
        let help = asked(&server, &["queue", command, "--help"]).stdout;
        assert!(!help.contains("output:"), "{help}");
    }
}
