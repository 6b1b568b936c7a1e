//! `sooner dead`: what failed, as a person looks at it and runs it again.

use serde_json::{Value, json};
use sooner::wire::ItemSpec;

use crate::harness::cli::asked;
use crate::harness::{Client, Ended, Server, ServerSetup, item};

fn parsed(run: &Ended) -> Value {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

async fn used(setup: &ServerSetup) -> (Server, Client) {
    let server = setup.start();
    let mut client = server.client().await;
    let codes = [("a", "65"), ("b", "0"), ("c", "66"), ("d", "65")];
    let items = codes.map(|(id, code)| ItemSpec {
        item_id: id.into(),
        ..item(code)
    });
    client.create("nightly", items.into()).await.unwrap();
    client.batch_when_over("nightly").await;
    (server, client)
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_reasons_on_top() {
    let setup = ServerSetup::broken();
    let (server, _client) = used(&setup).await;
    let table = asked(&server, &["dead", "list"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let lines: Vec<_> = table.stdout.lines().collect();
    assert_eq!(
        &lines[..4],
        ["3 dead letters", "      2  EXIT_65", "      1  EXIT_66", ""]
    );
    let head: Vec<_> = lines[4].split_whitespace().collect();
    assert_eq!(
        head,
        [
            "BATCH", "ITEM", "STATE", "REASON", "TRIES", "AGE", "MESSAGE"
        ]
    );
    assert_eq!(lines.len(), 8, "{}", table.stdout);
    let c = lines
        .iter()
        .find(|line| line.contains("EXIT_66  "))
        .unwrap();
    assert!(
        c.starts_with("nightly  c     failed  EXIT_66      1   "),
        "{c}"
    );
    assert!(c.ends_with("s  failed with 66"), "{c}");

    let few = asked(&server, &["dead", "list", "--limit", "2"]).stdout;
    assert!(few.starts_with("3 dead letters\n"), "{few}");
    assert!(
        few.ends_with("\nthe newest 2 are shown; --limit shows more\n"),
        "{few}"
    );
    let some = [
        "dead", "list", "nightly", "--reason", "EXIT_66", "--state", "failed",
    ];
    let got = parsed(&asked(&server, &[&some[..], &["-o", "json"]].concat()));
    assert_eq!(got["reasons"], json!({"EXIT_66": 1}));
    let letter = &got["dead_letters"][0];
    assert_eq!(
        (&letter["batch_id"], &letter["item_id"]),
        (&json!("nightly"), &json!("c"))
    );
    assert_eq!(letter["error"]["message"], "failed with 66");
    assert_eq!(
        (&letter["state"], &letter["attempt_count"]),
        (&json!("failed"), &json!(1))
    );
    let names = asked(
        &server,
        &["dead", "list", "--reason", "EXIT_66", "-o", "name"],
    );
    assert_eq!(names.stdout, "nightly c\n");
    for none in [
        ["--state", "expired"],
        ["--before", "2h"],
        ["--queue", "other"],
    ] {
        let listed = asked(&server, &[&["dead", "list"][..], &none].concat());
        assert_eq!(
            (listed.code, &*listed.stdout),
            (Some(0), "no dead letters\n")
        );
    }
}

#[tokio::test]
async fn dead_letters_are_redriven_and_followed() {
    let setup = ServerSetup::broken();
    let (server, _client) = used(&setup).await;
    setup.mend();
    let one = asked(&server, &["dead", "redrive", "nightly", "a"]);
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    let id = one.stdout.trim_end();
    assert!(
        one.stderr
            .contains(&format!("batch {id} runs 1 of nightly again\n")),
        "{}",
        one.stderr
    );
    assert!(
        one.stderr.contains(&format!("sooner watch {id}")),
        "{}",
        one.stderr
    );
    let got = parsed(&asked(&server, &["get", id, "--wait", "-o", "json"]));
    assert_eq!(
        (&got["source_batch_id"], &got["counts"]["succeeded"]),
        (&json!("nightly"), &json!(1))
    );
    let facts = asked(&server, &["get", id]).stdout;
    assert!(facts.contains("\nredrives   nightly\n"), "{facts}");

    let followed = asked(
        &server,
        &[
            "dead", "redrive", "nightly", "--reason", "EXIT_65", "--queue", "default", "--follow",
            "-o", "name", "-q",
        ],
    );
    assert_eq!(
        (followed.code, &*followed.stdout),
        (Some(0), "d\n"),
        "{}",
        followed.stderr
    );
    let all = [
        "dead",
        "redrive",
        "nightly",
        "--all",
        "--wait",
        "--request-id",
        "rest",
    ];
    let waited = asked(&server, &all);
    assert_eq!(waited.code, Some(0), "{}", waited.stderr);
    let rest = waited.stdout.trim_end();
    let got = parsed(&asked(&server, &["get", rest, "-o", "json"]));
    assert_eq!(got["source_batch_id"], "nightly");
    // The same again is the same batch, told as it has ended.
    let again = parsed(&asked(&server, &[&all[..], &["-o", "json"]].concat()));
    assert_eq!(again, got);
    assert_eq!(again["counts"]["succeeded"], 1, "{again}");
    let left = asked(&server, &["dead", "list"]).stdout;
    assert_eq!(left, "no dead letters\n");
    let redriven = asked(&server, &["dead", "list", "--redriven"]).stdout;
    assert!(
        redriven.contains("REDRIVEN TO") && redriven.contains(id),
        "{redriven}"
    );
}

#[tokio::test]
async fn what_cannot_be_redriven_is_told_with_its_exit_code() {
    let setup = ServerSetup::broken();
    let (server, _client) = used(&setup).await;
    let told = |arguments: &[&str]| {
        let run = asked(&server, &[&["dead", "redrive"][..], arguments].concat());
        assert_eq!(run.stdout, "", "{arguments:?}");
        (run.code, run.stderr)
    };
    let (code, says) = told(&["nightly", "b"]);
    assert_eq!(code, Some(7), "{says}");
    assert!(
        says.contains("(NOT_A_DEAD_LETTER)\nhint: sooner dead list"),
        "{says}"
    );
    let (code, says) = told(&["nightly", "--queue", "other"]);
    assert_eq!(code, Some(7), "{says}");
    assert!(says.contains("(NOTHING_TO_REDRIVE)"), "{says}");
    let (code, says) = told(&["nightly", "--reason", "EXIT_1"]);
    assert_eq!(code, Some(7), "{says}");
    assert!(says.contains("(NOTHING_TO_REDRIVE)"), "{says}");
    assert_eq!(told(&["nobody", "--all"]).0, Some(6));
    let (code, says) = told(&["nightly"]);
    assert_eq!(code, Some(2));
    assert!(
        says.starts_with("error: say which: items, --reason, --queue, or --all"),
        "{says}"
    );
    assert_eq!(told(&["nightly", "--all", "--tag"]).0, Some(2));
    assert_eq!(told(&["nightly", "--all", "-o", "output"]).0, Some(2));
}

#[tokio::test]
async fn dead_letters_are_purged_once_somebody_says_which() {
    let setup = ServerSetup::broken();
    let (server, _client) = used(&setup).await;
    for (arguments, whose) in [
        (&["dead", "purge"][..], "every dead letter there is"),
        (&["dead", "purge", "nightly"], "of the batch"),
    ] {
        let refused = asked(&server, arguments);
        assert_eq!((refused.code, &*refused.stdout), (Some(2), ""));
        assert!(refused.stderr.contains(whose), "{}", refused.stderr);
    }
    let one = asked(&server, &["dead", "purge", "nightly", "a"]);
    assert_eq!(
        (one.code, &*one.stdout),
        (Some(0), "purged 1 dead letter\n"),
        "{}",
        one.stderr
    );
    let some = asked(
        &server,
        &["dead", "purge", "--reason", "EXIT_65", "-o", "json"],
    );
    assert_eq!(parsed(&some), json!({"purged_count": 1}));
    for form in ["name", "output"] {
        let refused = asked(&server, &["dead", "purge", "--all", "-o", form]);
        assert_eq!((refused.code, &*refused.stdout), (Some(2), ""));
    }
    let rest = asked(&server, &["dead", "purge", "--all"]);
    assert_eq!(rest.stdout, "purged 1 dead letter\n");
    let none = asked(&server, &["dead", "purge", "--all"]);
    assert_eq!(none.stdout, "purged 0 dead letters\n");
}

/// A redrive that waits asks the server over two connections, and each had its own warning.
#[tokio::test]
async fn a_redrive_that_waits_warns_of_another_tenant_once() {
    let setup = ServerSetup::broken();
    let (server, _client) = used(&setup).await;
    setup.mend();
    let all = [
        "dead", "redrive", "nightly", "--all", "--wait", "--tenant", "acme",
    ];
    let run = asked(&server, &all);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let warned = run.stderr.matches("warning: the server acts for tenant");
    assert_eq!(warned.count(), 1, "{}", run.stderr);
}
