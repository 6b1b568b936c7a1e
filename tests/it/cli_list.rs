//! `sooner list` and `sooner delete`, as someone types them.

use serde_json::Value;

use crate::harness::cli::{asked, sooner};
use crate::harness::{Server, ServerSetup, ended};

/// A server with a batch of three, of which "b" has failed, one labelled "blue", and one that waits.
fn used(setup: &ServerSetup) -> Server {
    let server = setup.start();
    let submit = |arguments: &[&str], input: &[u8]| {
        let mut command = sooner(server.address(), &["submit", "-q"]);
        ended(command.args(arguments), input)
    };
    let items = b"{\"item_id\":\"a\",\"input_text\":\"good\"}\n\
        {\"item_id\":\"b\",\"input_text\":\"bad\"}\n{\"item_id\":\"c\",\"input_text\":\"fine\"}\n";
    let three = submit(&["--batch-id", "three", "--wait", "--jsonl"], items);
    assert_eq!(three.code, Some(3), "{}", three.stderr);
    let label = ["--label", "team=blue", "--label", "size=s"];
    let mut blue = vec!["--batch-id", "blue", "--wait"];
    blue.extend(label);
    assert_eq!(submit(&blue, b"good\n").code, Some(0));
    let waits = [
        "--batch-id",
        "waits",
        "--queue",
        "later",
        "--retention",
        "1h",
    ];
    assert_eq!(submit(&waits, b"1\n2\n").code, Some(0));
    server
}

fn setup() -> ServerSetup {
    let echo = "test \\\"$1\\\" != bad && printf %s \\\"$1\\\" || { echo no >&2; exit 65; }";
    ServerSetup::new(&format!(
        "[queues.default]\nhandler = {{ exec = [\"sh\", \"-c\", \"{echo}\", \"sh\", \"{{}}\"] }}\n[queues.later]\n"
    ))
}

/// What is told whoever wants the outputs of what has none.
const FORMS: &str = "[possible values: table, json, jsonl, name]";

/// More than a page of it, as one JSON document.
#[test]
fn a_list_as_json_is_one_document_however_long_it_is() {
    let setup = setup();
    let server = setup.start();
    let count = 450;
    let lines = "x\n".repeat(count);
    let arguments = ["submit", "-q", "--batch-id", "b", "--queue", "later"];
    let run = ended(&mut sooner(server.address(), &arguments), lines.as_bytes());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let listed = asked(&server, &["list", "b", "--all", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let items = listed["items"].as_array().unwrap();
    let indexes = items.iter().map(|item| item["index"].as_u64().unwrap());
    assert!(indexes.eq(0..count as u64));
    let listed = asked(&server, &["list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["batches"][0]["batch_id"], "b");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn batches_are_listed_for_people_and_for_programs() {
    let setup = setup();
    let server = used(&setup);
    let table = asked(&server, &["list"]);
    assert_eq!((table.code, &*table.stderr), (Some(0), ""));
    let lines: Vec<_> = table.stdout.lines().map(words).collect();
    assert_eq!(
        lines[0],
        ["BATCH", "STATE", "DONE", "FAILED", "AGE", "QUEUE", "LABELS"]
    );
    assert_eq!(lines[1][..4], ["waits", "running", "0/2", "-"]);
    assert_eq!(lines[2][..4], ["blue", "completed", "1/1", "-"]);
    assert_eq!(lines[2][5..], ["default", "size=s", "team=blue"]);
    assert_eq!(lines[3][..4], ["three", "completed", "3/3", "1"]);
    assert_eq!(lines.len(), 4);

    let names = |arguments: &[&str]| {
        let arguments = [&["list", "-o", "name"], arguments].concat();
        asked(&server, &arguments).stdout
    };
    assert_eq!(names(&["--state", "completed"]), "blue\nthree\n");
    assert_eq!(names(&["--state", "running,cancelled"]), "waits\n");
    assert_eq!(
        names(&["--label", "team=blue", "--label", "size=s"]),
        "blue\n"
    );
    assert_eq!(names(&["--label", "team=red"]), "");
    let first = asked(&server, &["list", "--limit", "1", "-o", "name"]);
    assert_eq!(first.stdout, "waits\n");
    assert_eq!(
        first.stderr,
        "there are more: raise --limit, or say --all\n"
    );
    for command in [&["list"][..], &["dead", "list"]] {
        let none = asked(&server, &[command, &["--limit", "0"]].concat());
        assert_eq!(none.code, Some(2), "{}", none.stdout);
        assert!(none.stderr.contains("0 is not in 1.."), "{}", none.stderr);
    }
    let json = asked(&server, &["list", "--all", "-o", "jsonl"]).stdout;
    let batches: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(batches[2]["counts"]["failed"], 1);
    assert!(batches[2]["expire_time"].is_string() && batches[2]["start_time"].is_string());
    assert_eq!(batches[0]["options"]["retention"], "3600.0s");
}

#[test]
fn items_are_listed_by_state() {
    let setup = setup();
    let server = used(&setup);
    let table = asked(&server, &["list", "three"]).stdout;
    let lines: Vec<_> = table.lines().map(words).collect();
    assert_eq!(
        lines[0],
        ["INDEX", "ITEM", "STATE", "TRIES", "OUTPUT", "OR", "ERROR"]
    );
    assert_eq!(lines[1], ["0", "a", "succeeded", "1", "good"]);
    assert_eq!(lines[2], ["1", "b", "failed", "1", "EXIT_65:", "no"]);
    assert_eq!(lines.len(), 4);
    let waiting = asked(&server, &["list", "waits", "--state", "pending"]).stdout;
    assert_eq!(waiting.lines().count(), 3, "{waiting}");
    let failed = asked(
        &server,
        &["list", "three", "--state", "failed", "-o", "json"],
    )
    .stdout;
    let failed: Value = serde_json::from_str(&failed).unwrap();
    assert_eq!(
        failed["items"][0]["result"]["error"]["reason"], "EXIT_65",
        "{failed}"
    );
    let none = asked(&server, &["list", "three", "--state", "pending"]);
    assert_eq!(none.stdout, "no items\n");
    let names = asked(&server, &["list", "three", "--all", "-o", "name"]).stdout;
    assert_eq!(names, "a\nb\nc\n");
}

#[test]
fn what_cannot_be_listed_is_told_with_its_exit_code() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    for (arguments, code, says) in [
        (&["list", "nobody"][..], 6, "(BATCH_NOT_FOUND)"),
        (&["list", "a:b"], 2, "(INVALID_FIELD)"),
        (
            &["list", "--state", "done"],
            2,
            "is not a state of a batch: open, running",
        ),
        (
            &["list", "x", "--state", "open"],
            2,
            "is not a state of an item: pending",
        ),
        (&["list", "x", "--label", "a=b"], 2, "cannot be used with"),
        (
            &["list", "--label", "a"],
            2,
            "is not of the form NAME=VALUE",
        ),
        (&["list", "-o", "output"], 2, FORMS),
        (&["delete"], 2, "required"),
        (&["delete", "nobody"], 6, "(BATCH_NOT_FOUND)"),
        (&["delete", "x", "-o", "output"], 2, FORMS),
        (&["cancel", "x", "-o", "output"], 2, FORMS),
    ] {
        let run = asked(&server, arguments);
        assert_eq!(
            (run.code, &*run.stdout),
            (Some(code), ""),
            "{arguments:?}: {}",
            run.stderr
        );
        assert!(run.stderr.contains(says), "{arguments:?}: {}", run.stderr);
    }
    let empty = asked(&server, &["list"]);
    assert_eq!(
        (empty.code, &*empty.stdout, &*empty.stderr),
        (Some(0), "no batches\n", "")
    );
    let none = asked(&server, &["list", "-o", "json"]);
    let none: Value = serde_json::from_str(&none.stdout).unwrap();
    assert_eq!(none, serde_json::json!({"batches": []}));
}

#[test]
fn of_several_batches_each_is_deleted_that_can_be() {
    let setup = setup();
    let server = used(&setup);
    let run = asked(&server, &["delete", "three", "waits", "nobody", "blue"]);
    assert_eq!(run.code, Some(7), "the first trouble's");
    assert_eq!(
        run.stdout,
        "batch three is deleted\nbatch blue is deleted\n"
    );
    assert!(
        run.stderr
            .contains("(BATCH_RUNNING)\nhint: a batch that is not over is cancelled first"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("(BATCH_NOT_FOUND)"), "{}", run.stderr);
    assert_eq!(asked(&server, &["list", "-o", "name"]).stdout, "waits\n");
    assert_eq!(asked(&server, &["get", "three"]).code, Some(6));
    assert_eq!(asked(&server, &["cancel", "waits"]).code, Some(0));
    assert_eq!(asked(&server, &["get", "waits", "--wait"]).code, Some(4));
    let json = asked(&server, &["delete", "waits", "-o", "jsonl"]);
    assert_eq!(
        (json.code, &*json.stdout),
        (Some(0), "{\"batch_id\":\"waits\"}\n")
    );
}
