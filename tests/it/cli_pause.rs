//! `sooner pause` and `sooner resume`, and batches that pause or end themselves.

use serde_json::{Value, json};

use crate::harness::cli::{asked, sooner};
use crate::harness::{Ended, Gates, Server, ServerSetup, ended, item};

fn parsed(run: &Ended) -> Value {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn submitted(server: &Server, arguments: &[&str], input: &str) -> Ended {
    let mut command = sooner(server.address(), &["submit", "--batch-id", "b"]);
    ended(command.args(arguments), input.as_bytes())
}

#[tokio::test]
async fn a_batch_is_paused_and_goes_on() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    client.create("x", items).await.unwrap();
    let gate = gates.arrival("a").await;

    let arguments = ["pause", "x", "--reason", "too hot", "-o", "json"];
    let paused = parsed(&asked(&server, &arguments));
    assert_eq!(paused["paused"], true);
    assert_eq!(paused["pause_reason"], "too hot");
    let again = asked(&server, &["pause", "x"]);
    assert_eq!(again.stdout, "batch x is paused: 1 pending, 1 running\n");
    let got = parsed(&asked(&server, &["get", "x", "-o", "jsonl"]));
    assert_eq!(got["paused"], true);
    assert_eq!(got.get("pause_reason"), None, "it has the new reason");
    let table = asked(&server, &["get", "x"]).stdout;
    assert!(table.contains("\npaused     yes\n"), "{table}");

    gate.open();
    client.item_when_over("x", "a").await;
    let resumed = asked(&server, &["resume", "x"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(resumed.stdout, "batch x is running: 1 pending, 0 running\n");
    gates.open("b").await;
    let over = parsed(&asked(&server, &["get", "x", "--wait", "-o", "json"]));
    assert_eq!(over["paused"], false);
    assert_eq!(over.get("pause_reason"), None);
}

#[tokio::test]
async fn a_batch_pauses_itself_after_too_many_failures() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"cat $0; exit 65\", \"{}\"] }\n\
         slots = 1\n",
    );
    let gates = Gates::new(&setup, ["a", "b", "c", "d"]);
    let server = setup.start();
    let items = ["a", "b", "c", "d"].map(|name| gates.path(name) + "\n");
    let run = submitted(&server, &["--max-failed", "2"], &items.concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for name in ["a", "b"] {
        gates.open(name).await;
    }
    let series = "sooner_batches_paused{queue=\"default\",reason=\"failure_policy\"}";
    server.metric_becomes(series, |it| it == "1").await;
    let got = parsed(&asked(&server, &["get", "b", "-o", "json"]));
    assert_eq!(got["paused"], true);
    assert_eq!(got["pause_reason"], "failure policy: 2 items failed");
    assert_eq!(got["failure_reasons"], json!({"EXIT_65": 2}));
    let policy = json!({"max_failed_items": 2, "action": "pause"});
    assert_eq!(got["options"], json!({"failure_policy": policy}));

    let resumed = parsed(&asked(&server, &["resume", "b", "-o", "jsonl"]));
    assert_eq!(resumed["paused"], false);
    for name in ["c", "d"] {
        gates.open(name).await;
    }
    let over = asked(&server, &["get", "b", "--wait", "-o", "json"]);
    assert_eq!(over.code, Some(3), "{}", over.stderr);
    server.metric_becomes(series, |it| it == "0").await;
}

#[tokio::test]
async fn how_a_batch_ends_early_is_the_exit_code() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 65\"] }\nslots = 1\n\
         [queues.good]\nhandler = { echo = {} }\nslots = 1\n[queues.none]\n",
    );
    let server = setup.start();
    let of = |id, queue, options: &[&str]| {
        let mut command = sooner(server.address(), &["submit", "--wait", "-q"]);
        command.args(["--batch-id", id, "--queue", queue]);
        let run = ended(command.args(options), b"1\n2\n3\n");
        let seen = asked(&server, &["watch", id, "-q"]).code;
        let got = asked(&server, &["get", id, "--wait", "-o", "json"]);
        assert_eq!((run.code, seen), (got.code, got.code), "{}", run.stderr);
        let batch: Value = serde_json::from_str(&got.stdout).unwrap();
        (got.code, batch["state"].as_str().unwrap().to_owned())
    };
    let options = ["--max-failed", "1", "--on-failures", "cancel"];
    let failed = of("failed", "default", &options);
    assert_eq!(failed, (Some(3), "failed".to_owned()));
    let expired = of("expired", "none", &["--max-duration", "1ms"]);
    assert_eq!(expired, (Some(3), "expired".to_owned()));
    let enough = of("enough", "good", &["--enough", "1"]);
    assert_eq!(enough, (Some(0), "completed".to_owned()));
}

#[tokio::test]
async fn items_that_were_cancelled_one_by_one_are_no_success() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b"].map(|name| gates.item(name)).to_vec();
    client.create("b", items).await.unwrap();
    let gate = gates.arrival("a").await;
    assert_eq!(asked(&server, &["cancel", "b", "b"]).code, Some(0));
    gate.open();
    let over = asked(&server, &["get", "b", "--wait", "-o", "json"]);
    assert_eq!(over.code, Some(4), "{}", over.stderr);
    let batch: Value = serde_json::from_str(&over.stdout).unwrap();
    assert_eq!(batch["state"], "completed");
    assert_eq!(asked(&server, &["watch", "b", "-q"]).code, Some(4));
    assert_eq!(asked(&server, &["get", "b"]).code, Some(0));
}

#[tokio::test]
async fn what_cannot_be_paused_is_told_with_its_exit_code() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    client.create("done", vec![item("x")]).await.unwrap();
    client.batch_when_over("done").await;
    for command in ["pause", "resume"] {
        let told = |arguments: &[&str]| {
            let run = asked(&server, arguments);
            assert_eq!(run.stdout, "");
            (run.code, run.stderr)
        };
        let (code, says) = told(&[command, "done"]);
        assert_eq!(code, Some(7), "{says}");
        assert!(says.contains("(BATCH_FINISHED)"), "{says}");
        let (code, says) = told(&[command, "nobody"]);
        assert_eq!(code, Some(6), "{says}");
        let (code, says) = told(&[command, "done", "-o", "output"]);
        assert_eq!(code, Some(2));
        assert!(
            says.contains("[possible values: table, json, jsonl, name]"),
            "{says}"
        );
    }
}
