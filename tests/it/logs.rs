//! An item can be followed in the log from its start to its end.

use serde_json::Value;

use crate::harness::{Server, ServerSetup, all, item};

/// A server that logs items as `items` says, in JSON, and ends each by its input.
fn setup(items: &str) -> ServerSetup {
    ServerSetup::new(&format!(
        r#"
[log]
format = "json"
items = "{items}"

[queues.default]
handler = {{ exec = ["sh", "-c", "read code; echo trouble >&2; exit $code"] }}
retry = {{ max_attempts = 2, initial_backoff = "1ms" }}
"#
    ))
}

/// One item that succeeds, one that fails twice; then the server ends. Answers its lines about items.
async fn told(setup: &ServerSetup) -> Vec<Value> {
    let server: Server = setup.start();
    let mut client = server.client().await;
    let items = vec![item("0\n"), item("1\n")];
    let mut results = client.submit("batch", items).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 2);
    drop((results, client));
    assert_eq!(server.terminate(), Some(0), "{}", setup.log());
    let log = setup.log();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["target"] == "sooner::item")
        .collect()
}

/// What is told of one item, by attempt: its number, its state and the reason.
fn life<'a>(lines: &'a [Value], item_id: &str) -> Vec<(u64, &'a str, &'a str)> {
    let mut life = Vec::new();
    for line in lines.iter().filter(|line| line["item_id"] == item_id) {
        assert_eq!(line["batch_id"], "batch");
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        life.push((
            line["attempt"].as_u64().unwrap(),
            text("state"),
            text("reason"),
        ));
    }
    // An attempt may begin before the end of the one before it is told.
    life.sort_by_key(|&(attempt, ..)| attempt);
    life
}

#[tokio::test]
async fn all_items_are_told_from_start_to_end() {
    let lines = told(&setup("all")).await;
    assert_eq!(
        life(&lines, "0"),
        [(1, "running", ""), (1, "succeeded", "")]
    );
    assert_eq!(
        life(&lines, "1"),
        [
            (1, "running", ""),
            (1, "pending", "EXIT_1"),
            (2, "running", ""),
            (2, "failed", "EXIT_1"),
        ]
    );
    let ends: Vec<_> = lines
        .iter()
        .filter(|line| line["state"] != "running")
        .collect();
    assert_eq!(ends.len(), 3);
    for line in ends {
        assert!(line["ran_ms"].as_u64().is_some(), "a number: {line}");
        assert!(line["queued_ms"].as_u64().is_some(), "a number: {line}");
        let has_error = line["error"]
            .as_str()
            .unwrap_or_default()
            .contains("trouble");
        assert_eq!(has_error, line["item_id"] == "1", "{line}");
    }
}

#[tokio::test]
async fn by_default_failures_are_told() {
    let lines = told(&setup("failed")).await;
    assert_eq!(life(&lines, "0"), []);
    assert_eq!(
        life(&lines, "1"),
        [(1, "pending", "EXIT_1"), (2, "failed", "EXIT_1")]
    );
    assert_eq!(told(&setup("none")).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_wrong_filter_in_the_environment_is_told_and_the_file_s_holds() {
    let setup = setup("all").with_environment("RUST_LOG", "sooner=loud");
    let lines = told(&setup).await;
    assert!(!lines.is_empty(), "{}", setup.log());
    assert!(setup.log().contains("RUST_LOG is ignored"));
}
