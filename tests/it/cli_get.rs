//! `sooner get` and `sooner cancel`: how things stand, for people and for programs.

use jiff::Timestamp;
use serde_json::{Value, json};
use sooner::wire::{ItemSpec, Payload, payload};

use crate::harness::cli::{asked, sooner};
use crate::harness::run::Running;
use crate::harness::{Gates, Server, ServerSetup, ended, item};

fn parsed(server: &Server, arguments: &[&str]) -> Value {
    let run = asked(server, arguments);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

#[tokio::test]
async fn a_batch_is_shown_for_people_and_for_programs() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    client
        .create("b", vec![item("x"), item("y")])
        .await
        .unwrap();
    client.batch_when_over("b").await;

    let table = asked(&server, &["get", "b"]);
    assert_eq!(table.code, Some(0));
    assert!(
        table.stdout.starts_with("batch      b\n"),
        "{}",
        table.stdout
    );
    assert!(
        table.stdout.contains("\nitems      2: 2 succeeded\n"),
        "{}",
        table.stdout
    );

    let batch = parsed(&server, &["get", "b", "-o", "json"]);
    assert_eq!(batch["state"], "completed");
    assert_eq!(
        batch["counts"],
        json!({"total": 2, "pending": 0, "running": 0, "succeeded": 2, "failed": 0, "cancelled": 0, "expired": 0})
    );
    assert_eq!(
        (&batch["queue"], &batch["last_sequence"]),
        (&json!("default"), &json!(2))
    );
    assert!(batch["finish_time"].as_str().unwrap().ends_with('Z'));
    let line = asked(&server, &["get", "b", "-o", "jsonl"]).stdout;
    assert_eq!(
        (
            line.lines().count(),
            serde_json::from_str::<Value>(&line).unwrap()
        ),
        (1, batch)
    );
    assert_eq!(asked(&server, &["get", "b", "-o", "name"]).stdout, "b\n");
}

#[tokio::test]
async fn an_item_is_shown_with_its_payloads_as_they_are() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let spec = |id: &str, body, content_type: &str| ItemSpec {
        item_id: id.into(),
        input: Some(Payload {
            body: Some(body),
            content_type: content_type.into(),
        }),
        ..ItemSpec::default()
    };
    let json_text = "{\"n\": 12345678901234567890.10}";
    let mut described = spec(
        "json",
        payload::Body::Text(json_text.into()),
        "application/json",
    );
    described.attributes.insert("k".into(), "v".into());
    described.timeout = Some(crate::harness::client::milliseconds(1500));
    let items = vec![
        described,
        spec("text", payload::Body::Text("two\nlines".into()), ""),
        spec("data", payload::Body::Data(vec![0xff, 0].into()), "image/x"),
    ];
    client.create("b", items).await.unwrap();
    client.batch_when_over("b").await;

    let run = asked(&server, &["get", "b", "json", "--spec", "-o", "jsonl"]);
    assert!(
        run.stdout.contains(&format!("\"output\":{json_text},")),
        "byte for byte: {}",
        run.stdout
    );
    let shown: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&shown["state"], &shown["index"]),
        (&json!("succeeded"), &json!(0))
    );
    assert_eq!(shown["spec"]["attributes"], json!({"k": "v"}));
    assert_eq!(shown["spec"]["timeout"], "1.5s");
    assert!(
        run.stdout.contains(&format!("\"input\":{json_text},")),
        "{}",
        run.stdout
    );

    let text = parsed(&server, &["get", "b", "text", "-o", "json"]);
    assert_eq!(text["result"]["output_text"], "two\nlines");
    assert_eq!(text["spec"], Value::Null);
    let data = parsed(&server, &["get", "b", "data", "-o", "json"]);
    assert_eq!(data["result"]["output_base64"], "/wA=");
    assert_eq!(data["result"]["content_type"], "image/x");

    assert_eq!(
        asked(&server, &["get", "b", "text", "-o", "output"]).stdout,
        "two\nlines"
    );
    let table = asked(&server, &["get", "b", "text", "--spec"]).stdout;
    assert!(table.contains("\noutput     two lines\n"), "{table}");
    assert!(table.contains("\ninput      two lines\n"), "{table}");
}

#[tokio::test]
async fn waiting_ends_with_the_end_or_with_its_time() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("b", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;

    let early = asked(&server, &["get", "b", "--wait=50ms", "-o", "jsonl"]);
    assert_eq!(early.code, Some(5), "{}", early.stderr);
    assert!(
        early.stdout.contains("\"state\":\"running\""),
        "it is shown anyway"
    );
    assert_eq!(early.stderr, "it is not over yet\n");
    assert_eq!(
        asked(&server, &["get", "b", "a", "--wait=50ms"]).code,
        Some(5)
    );
    let without = asked(&server, &["get", "b", "a", "-o", "output"]);
    assert_eq!((without.code, without.stdout.as_str()), (Some(5), ""));

    let batch = Running::start(&mut sooner(
        server.address(),
        &["get", "b", "--wait", "-o", "name"],
    ));
    let of_item = Running::start(&mut sooner(server.address(), &["get", "b", "a", "--wait"]));
    gate.open();
    assert_eq!(batch.rest().code, Some(0));
    let item = of_item.rest();
    assert_eq!(item.code, Some(0));
    assert!(
        item.stdout.contains("\nstate      succeeded\n"),
        "{}",
        item.stdout
    );
}

#[tokio::test]
async fn a_failed_item_tells_its_attempts_and_its_end() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"echo oh no >&2; exit 7\"] }\n\
         retry = { initial_backoff = \"1ms\" }\n",
    );
    let server = setup.start();
    server
        .client()
        .await
        .create("b", vec![item("x")])
        .await
        .unwrap();
    let run = asked(&server, &["get", "b", "0", "--wait"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(
        run.stdout.matches(": EXIT_7 oh no").count(),
        3,
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("\nerror      EXIT_7: oh no\n"),
        "{}",
        run.stdout
    );
    let shown = parsed(&server, &["get", "b", "0", "-o", "json"]);
    assert_eq!(shown["attempts"][2]["error"]["reason"], "EXIT_7");
    assert_eq!(shown["result"]["error"]["retryable"], true);
    assert_eq!(
        asked(&server, &["get", "b", "--wait", "-o", "name"]).code,
        Some(3)
    );
    let without = asked(&server, &["get", "b", "0", "-o", "output"]);
    assert_eq!(without.code, Some(3));
    assert!(
        without.stderr.contains("it is failed: EXIT_7"),
        "{}",
        without.stderr
    );
}

/// Nobody saw when it ended: what is told is when it began.
#[tokio::test]
async fn an_attempt_that_the_server_died_under_has_a_beginning_and_no_made_up_end() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["again", "once"]);
    let server = setup.start();
    for (id, flag) in [("again", "-q"), ("once", "--at-most-once")] {
        let mut command = sooner(server.address(), &["submit", "--batch-id", id, flag]);
        let run = ended(&mut command, gates.path(id).as_bytes());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    }
    let held = [gates.arrival("again").await, gates.arrival("once").await];
    let began = ["again", "once"].map(|id| {
        let shown = parsed(&server, &["get", id, "0", "-o", "json"]);
        let began = shown["attempts"][0]["start_time"].clone();
        assert!(moment(&began) >= accepted(&server, id), "{shown}");
        let told = asked(&server, &["get", id, "0"]).stdout;
        let line = format!("attempt    1 from {}: running\n", began.as_str().unwrap());
        assert!(told.contains(&line), "{told}");
        began
    });
    let paused = asked(&server, &["pause", "again", "--reason", "too hot"]);
    assert_eq!(paused.code, Some(0), "{}", paused.stderr);
    server.kill();
    drop(held);

    let server = setup.start();
    assert_eq!(asked(&server, &["get", "once", "--wait"]).code, Some(3));
    for (id, reason, began) in [
        ("again", "INTERRUPTED", &began[0]),
        ("once", "UNKNOWN_OUTCOME", &began[1]),
    ] {
        let shown = parsed(&server, &["get", id, "0", "-o", "json"]);
        let attempt = &shown["attempts"][0];
        assert_eq!(&attempt["start_time"], began, "{shown}");
        assert_eq!(attempt["error"]["reason"], reason, "{shown}");
        assert_eq!(attempt.get("finish_time"), None, "{shown}");
        assert_eq!(shown.get("next_attempt_time"), None, "{shown}");
        assert_eq!(shown["result"].get("run_duration"), None, "{shown}");
        let told = asked(&server, &["get", id, "0"]).stdout;
        let began = began.as_str().unwrap();
        let line = format!("attempt    1 from {began} to an unknown time: {reason} the server");
        assert!(told.contains(&line), "{told}");
        assert!(
            !told.contains("\nran ") && !told.contains("\nnext "),
            "{told}"
        );
    }
    let told = asked(&server, &["get", "again", "0"]).stdout;
    let why = "\nwaits      BATCH_PAUSED: its batch is paused (too hot); resume the batch\n";
    assert!(told.contains(why), "{told}");
}

/// When the batch was accepted.
fn accepted(server: &Server, id: &str) -> Timestamp {
    let shown = parsed(server, &["get", id, "-o", "json"]);
    moment(&shown["create_time"])
}

/// A time. As texts they do not compare: `.51Z` is behind `.515Z`.
fn moment(time: &Value) -> Timestamp {
    time.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_cancel_prints_what_it_met() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c"].map(|name| gates.item(name)).to_vec();
    client.create("batch", items).await.unwrap();
    gates.open("a").await;
    let waiting = gates.arrival("b").await;

    let one = asked(&server, &["cancel", "batch", "c", "a", "-o", "jsonl"]);
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    let answer: Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!(answer["never_started_count"], 1);
    assert_eq!(answer["finished_count"], 1);
    assert_eq!(answer["batch"]["state"], "running");

    let whole = asked(&server, &["cancel", "batch", "--reason", "wrong list"]);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    assert_eq!(
        whole.stdout,
        "batch batch is cancelling: 0 never started, 1 are being stopped, 2 had finished\n"
    );
    drop(waiting);
    let after = asked(&server, &["get", "batch", "--wait"]);
    assert_eq!(after.code, Some(4), "{}", after.stderr);
    assert!(
        after.stdout.contains("\ncancelled  wrong list\n"),
        "{}",
        after.stdout
    );
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_with_its_exit_code() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    client.create("b", vec![item("x")]).await.unwrap();
    client.batch_when_over("b").await;
    for (arguments, code, says) in [
        (&["get", "nowhere"][..], 6, "(BATCH_NOT_FOUND)\nhint: "),
        (&["get", "b", "7"], 6, "(ITEM_NOT_FOUND)\nhint: "),
        (&["get", "b", "-o", "output"], 2, "needs an item"),
        (&["get", "b", "--spec"], 2, "ITEM"),
        (&["get", "b", "--wait=5"], 2, "is not a duration"),
        (&["get"], 2, "<ID>"),
        (&["cancel", "nowhere"], 6, "(BATCH_NOT_FOUND)"),
        (&["cancel", "b"], 7, "(BATCH_FINISHED)"),
        (&["cancel", "b", "7"], 6, "(ITEM_NOT_FOUND)"),
        (&["cancel"], 2, "<ID>"),
    ] {
        let run = asked(&server, arguments);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(code), ""),
            "{arguments:?} {}",
            run.stderr
        );
        assert!(
            run.stderr.contains(says),
            "{}\n  does not say {says}",
            run.stderr
        );
    }
}

#[test]
fn what_listens_there_but_is_no_sooner_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            use std::io::Write as _;
            client
                .unwrap()
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .ok();
        }
    });
    let run = ended(
        &mut sooner(&address, &["get", "b", "--retry-for", "0s"]),
        b"",
    );
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(9), ""),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains(&address), "{}", run.stderr);
}

#[tokio::test]
async fn a_variable_that_is_empty_is_as_good_as_unset() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let list = ended(
        sooner(server.address(), &["list"]).env("SOONER_TENANT", ""),
        b"",
    );
    assert_eq!(list.code, Some(0), "{}", list.stderr);
    // Whether anybody listens where servers do is not known, but that is where it asks.
    let arguments = ["list", "--retry-for", "1ms"];
    let list = ended(sooner("", &arguments).env("SOONER_SERVER", ""), b"");
    assert_ne!(list.code, Some(2), "{}", list.stderr);
    let arguments = ["list", "--server", ""];
    let list = ended(&mut sooner(server.address(), &arguments), b"");
    assert_eq!(
        list.code,
        Some(2),
        "the flag is no variable: {}",
        list.stderr
    );
}
