//! `sooner submit` and a server that is full: it says so, waits as long as it is told to, and cuts its
//! pieces to what the server lets in at once.

use crate::harness::cli::{asked, sooner};
use crate::harness::run::Running;
use crate::harness::{Ended, Gates, Server, ServerSetup, ended};

fn submitted(server: &Server, arguments: &[&str], input: &str) -> Ended {
    let mut command = sooner(server.address(), &["submit"]);
    ended(command.args(arguments), input.as_bytes())
}

fn limited(limits: &str) -> ServerSetup {
    ServerSetup::gated(1, &format!("[limits]\n{limits}\n"))
}

#[tokio::test]
async fn a_wait_for_room_is_told_and_ends_when_there_is_some() {
    let setup = limited("queued_items = 2");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.item("b")];
    client.create("full", items).await.unwrap();
    let mut run = Running::start(&mut sooner(
        server.address(),
        &["submit", "--batch-id", "late"],
    ));
    run.say(&gates.free_path("free"));
    run.close();
    assert_eq!(run.next_remark(), "batch late");
    assert_eq!(
        run.next_remark(),
        "the server has no room now: there would be more than 2 items without a result, the \
         limit (QUEUE_FULL); trying for 10m"
    );

    // Another one does not wait as long, and says how to go on.
    let arguments = ["--batch-id", "short", "--retry-for", "200ms"];
    let short = submitted(&server, &arguments, "/dev/null\n");
    assert_eq!((short.code, &*short.stdout), (Some(10), ""));
    let (told, error) = short.stderr.split_once("error: ").unwrap();
    assert!(told.ends_with("(QUEUE_FULL); trying for 200ms\n"), "{told}");
    assert!(
        error.starts_with("there would be more than 2 items"),
        "{error}"
    );
    assert!(
        error.contains("hint: batch short has the first 0 items"),
        "{error}"
    );
    let free = "; to free its room: sooner cancel short";
    assert!(error.contains(free), "{error}");

    // One that nobody has named leaves nothing behind that takes room.
    let unnamed = submitted(&server, &["--retry-for", "200ms"], "/dev/null\n");
    assert_eq!(unnamed.code, Some(10), "{}", unnamed.stderr);
    assert!(
        !unnamed.stderr.contains("has the first"),
        "{}",
        unnamed.stderr
    );
    let open = asked(&server, &["list", "--state", "open", "-o", "name"]);
    assert_eq!(open.stdout, "short\nlate\n");
    let cancelled = asked(&server, &["list", "--state", "cancelled", "-o", "name"]);
    assert_eq!(cancelled.stdout.lines().count(), 1, "{}", cancelled.stdout);

    gates.open("a").await;
    let rest = run.rest();
    assert_eq!(
        (rest.code, &*rest.stdout),
        (Some(0), "late\n"),
        "{}",
        rest.stderr
    );
    assert_eq!(rest.stderr, "", "it was told once");
    gates.open("b").await;
    client.batch_when_over("late").await;
}

#[tokio::test]
async fn a_batch_is_named_once_the_server_has_it() {
    let setup = limited("open_batches = 1");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("full", vec![gates.item("a")]).await.unwrap();
    let short = submitted(&server, &["--retry-for", "200ms"], "/dev/null\n");
    assert_eq!((short.code, &*short.stdout), (Some(10), ""));
    assert!(
        short.stderr.starts_with("the server has no room now: "),
        "{}",
        short.stderr
    );
    assert!(
        short
            .stderr
            .contains("\nerror: there would be more than 1 open batches"),
        "{}",
        short.stderr
    );
    assert!(!short.stderr.contains("--batch-id"), "{}", short.stderr);

    let arguments = ["submit", "--batch-id", "late"];
    let mut run = Running::start(&mut sooner(server.address(), &arguments));
    run.say("/dev/null");
    run.close();
    assert!(run.next_remark().starts_with("the server has no room now"));
    gates.open("a").await;
    assert_eq!(run.next_remark(), "batch late");
    assert_eq!(run.rest().code, Some(0));
}

#[tokio::test]
async fn pieces_are_cut_to_what_is_let_in_at_once() {
    for limits in ["queued_items = 3", "queued_bytes = \"10B\""] {
        let setup = ServerSetup::new(&format!(
            "[limits]\n{limits}\n[queues.default]\nhandler = {{ echo = {{}} }}\n"
        ));
        let server = setup.start();
        let lines: Vec<_> = (0..25).map(|n| format!("{n:03}\n")).collect();
        let lines = lines.concat();
        let run = submitted(&server, &["--follow", "-o", "output"], &lines);
        assert_eq!(run.code, Some(0), "{limits}: {}", run.stderr);
        // Room comes bit by bit; that is no news each time.
        let told = run.stderr.matches("no room now").count();
        assert!(told <= 1, "{}", run.stderr);
        let mut printed: Vec<_> = run.stdout.lines().collect();
        printed.sort_unstable();
        assert!(printed.into_iter().eq(lines.lines()), "{}", run.stdout);
    }
}

#[tokio::test]
async fn an_item_that_never_fits_ends_the_upload_with_the_server_s_words() {
    let setup = ServerSetup::new(
        "[limits]\nqueued_bytes = \"10B\"\n[queues.default]\nhandler = { echo = {} }\n",
    );
    let server = setup.start();
    let input = "one\ntwo\neleven bytes\nfour\n";
    let run = submitted(&server, &["--batch-id", "b"], input);
    assert_eq!((run.code, &*run.stdout), (Some(10), ""), "{}", run.stderr);
    let (_, error) = run.stderr.split_once("error: ").unwrap();
    assert!(
        error.starts_with("what came alone has more than 10 bytes"),
        "{error}"
    );
    assert!(error.contains("\n  in item 2 of the input"), "{error}");
    let got = asked(&server, &["get", "b", "-o", "json"]).stdout;
    let got: serde_json::Value = serde_json::from_str(&got).unwrap();
    assert_eq!(got["counts"]["total"], 2, "what comes before it is there");
}
