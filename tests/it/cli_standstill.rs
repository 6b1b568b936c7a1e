//! What a client says that waits for a batch of which nothing runs.

use crate::harness::cli::{asked, sooner};
use crate::harness::run::Running;
use crate::harness::{ServerSetup, item};

/// The next remark that begins so; items that failed are told in between.
fn remark(run: &Running, start: &str) -> String {
    loop {
        let line = run.next_remark();
        if line.starts_with(start) {
            return line;
        }
        assert!(line.starts_with("item "), "{line}");
    }
}

#[tokio::test]
async fn who_follows_a_batch_that_pauses_itself_is_told_each_time() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 65\"] }\nslots = 1\n",
    );
    let server = setup.start();
    let flags = format!(" --server http://{}", server.address());
    let is_told = |line: &str| {
        let told = line.strip_prefix("batch b is paused: failure policy: ");
        let end = format!(" failed; to go on: sooner resume b{flags}");
        assert!(told.is_some_and(|told| told.ends_with(&end)), "{line}");
    };
    let mut arguments = vec!["submit", "--batch-id", "b", "--max-failed", "1", "--wait"];
    let mut submit = Running::start(&mut sooner(server.address(), &arguments));
    for line in ["1"; 12] {
        submit.say(line);
    }
    submit.close();
    assert_eq!(submit.next_remark(), "batch b");
    is_told(&remark(&submit, "batch"));

    arguments = vec!["watch", "b", "-o", "output"];
    let watch = Running::start(&mut sooner(server.address(), &arguments));
    let get = Running::start(&mut sooner(server.address(), &["get", "b", "--wait"]));
    let quiet = Running::start(&mut sooner(server.address(), &["watch", "b", "-q"]));
    is_told(&remark(&watch, "batch"));
    is_told(&get.next_remark());

    assert_eq!(asked(&server, &["resume", "b"]).code, Some(0));
    is_told(&remark(&submit, "batch"));
    is_told(&remark(&watch, "batch"));
    assert_eq!(asked(&server, &["cancel", "b"]).code, Some(0));
    for run in [submit, watch, get] {
        let rest = run.rest();
        assert_eq!(rest.code, Some(4), "{}", rest.stderr);
        assert!(!rest.stderr.contains("is paused"), "{}", rest.stderr);
    }
    assert!(!quiet.rest().stderr.contains("is paused"));
}

#[tokio::test]
async fn who_waits_for_a_queue_that_starts_nothing_is_told() {
    let setup =
        ServerSetup::new("[queues.default]\nhandler = { echo = {} }\nslots = 1\n[queues.none]\n");
    let server = setup.start();
    let mut client = server.client().await;
    let flags = format!(" --server http://{}", server.address());
    let submitted = |id, queue| {
        let arguments = ["submit", "--batch-id", id, "--queue", queue, "--follow"];
        let mut run = Running::start(&mut sooner(server.address(), &arguments));
        run.say("1");
        run.close();
        assert_eq!(run.next_remark(), format!("batch {id}"));
        run
    };
    let unserved = submitted("unserved", "none");
    assert_eq!(
        unserved.next_remark(),
        "nobody serves the queue none; its items wait"
    );

    let arguments = ["queue", "pause", "default", "--reason", "too hot"];
    assert_eq!(asked(&server, &arguments).code, Some(0));
    let held = submitted("held", "default");
    assert_eq!(
        held.next_remark(),
        format!("queue default is paused: too hot; to go on: sooner queue resume default{flags}")
    );
    client.create("other", vec![item("x")]).await.unwrap();
    let arguments = ["get", "other", "0", "--wait", "-o", "output"];
    let get = Running::start(&mut sooner(server.address(), &arguments));
    assert_eq!(
        get.next_remark(),
        "item 0 waits: the queue default is paused (too hot); resume the queue"
    );
    assert_eq!(
        asked(&server, &["queue", "resume", "default"]).code,
        Some(0)
    );
    for run in [held, get] {
        let rest = run.rest();
        assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    }
}
