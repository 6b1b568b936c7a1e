//! `sooner watch`: each result once, whatever happens to the connection and the server.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cli::{Relay, asked, sooner};
use crate::harness::run::Running;
use crate::harness::{Gates, ServerSetup, ended, item};

fn sequences(stdout: &str) -> Vec<u64> {
    stdout
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["sequence"].as_u64().unwrap()
        })
        .collect()
}

#[tokio::test]
async fn a_finished_batch_is_printed_from_the_cursor_on_in_every_form() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["one", "two", "three"].map(item).to_vec();
    client.create("b", items).await.unwrap();
    client.batch_when_over("b").await;

    let all = asked(&server, &["watch", "b"]);
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    assert_eq!(
        sequences(&all.stdout),
        [1, 2, 3],
        "JSON lines, for programs"
    );
    assert!(
        all.stderr.contains("3 succeeded, 0 failed"),
        "{}",
        all.stderr
    );

    let rest = asked(&server, &["watch", "b", "--after", "2", "-q"]);
    assert_eq!(sequences(&rest.stdout), [3]);
    assert_eq!(rest.stderr, "");

    let in_order = ["watch", "b", "--order", "index", "-o", "output"];
    assert_eq!(asked(&server, &in_order).stdout, "one\ntwo\nthree\n");
    let behind = [
        "watch", "b", "--order", "index", "--after", "1", "-o", "output", "--tag",
    ];
    assert_eq!(asked(&server, &behind).stdout, "1\ttwo\n2\tthree\n");
    let names = asked(&server, &["watch", "b", "--order", "index", "-o", "name"]);
    assert_eq!(names.stdout, "0\n1\n2\n");
    let table = asked(&server, &["watch", "b", "-o", "table"]).stdout;
    assert!(table.contains("SEQ  ITEM"), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[tokio::test]
async fn results_come_the_moment_they_are_there_and_survive_kills_and_cuts() {
    let setup = ServerSetup::gated(4, "[server]\ndrain_grace = \"500ms\"\n");
    let gates = Gates::new(&setup, ["a", "b", "c", "d"]);
    let mut server = setup.start();
    let items = ["a", "b", "c", "d"].map(|name| gates.item(name)).to_vec();
    server.client().await.create("batch", items).await.unwrap();
    let relay = Relay::to(&server);
    let watch = Running::start(&mut sooner(
        relay.address(),
        &["watch", "batch", "-o", "name"],
    ));

    gates.open("b").await;
    assert_eq!(watch.next_line(), "b");
    // The connection breaks and comes back.
    relay.cut();
    let told = watch.next_remark();
    assert!(told.contains("trying again"), "{told}");
    gates.open("d").await;
    relay.lead_to(&server);
    assert_eq!(watch.next_line(), "d");

    // The server dies and comes back. What ran then is tried again one by one.
    let waiting = (gates.arrival("a").await, gates.arrival("c").await);
    relay.cut();
    server.kill();
    drop(waiting);
    server = setup.start();
    relay.lead_to(&server);
    gates.open("a").await;
    assert_eq!(watch.next_line(), "a");

    // The server is stopped in order, and tells the watch so.
    let waiting = gates.arrival("c").await;
    assert_eq!(server.terminate(), Some(0));
    drop(waiting);
    let server = setup.start();
    relay.lead_to(&server);
    gates.open("c").await;
    let rest = watch.rest();
    assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    assert_eq!(
        rest.stdout, "c\n",
        "the last one, and none for a second time"
    );
}

#[tokio::test]
async fn in_index_order_too_a_cut_repeats_and_loses_nothing() {
    let setup = ServerSetup::gated(3, "");
    let gates = Gates::new(&setup, ["a", "b", "c"]);
    let server = setup.start();
    let items = ["a", "b", "c"].map(|name| gates.item(name)).to_vec();
    server.client().await.create("batch", items).await.unwrap();
    let relay = Relay::to(&server);
    let arguments = ["watch", "batch", "-o", "output", "--order", "index"];
    let watch = Running::start(&mut sooner(relay.address(), &arguments));
    gates.open("c").await;
    gates.open("a").await;
    assert_eq!(watch.next_line(), "a");
    relay.cut();
    watch.next_remark();
    relay.lead_to(&server);
    gates.open("b").await;
    let rest = watch.rest();
    assert_eq!(
        (rest.code, rest.stdout.as_str()),
        (Some(0), "b\nc\n"),
        "{}",
        rest.stderr
    );
}

#[tokio::test]
async fn ctrl_c_leaves_the_batch_alone_and_says_how_to_go_on() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b"].map(|name| gates.item(name)).to_vec();
    client.create("batch", items).await.unwrap();
    let watch = Running::start(&mut sooner(
        server.address(),
        &["watch", "batch", "-o", "name"],
    ));
    gates.open("b").await;
    assert_eq!(watch.next_line(), "b");
    watch.signal(Signal::INT);
    let rest = watch.rest();
    let go_on = format!(
        "sooner watch batch --after 1 --server http://{}",
        server.address()
    );
    assert_eq!(rest.code, Some(130));
    assert!(
        rest.stderr.ends_with(&format!("to go on: {go_on}\n")),
        "{}",
        rest.stderr
    );
    gates.open("a").await;
    assert_eq!(
        client
            .batch_when_over("batch")
            .await
            .counts
            .unwrap()
            .succeeded,
        2
    );
    // What it said works as it stands.
    let arguments: Vec<_> = go_on.split(' ').skip(1).collect();
    let rest = ended(&mut sooner("127.0.0.1:1", &arguments), b"");
    assert_eq!(sequences(&rest.stdout), [2], "{}", rest.stderr);
}

#[tokio::test]
async fn how_the_batch_ended_is_the_exit_code() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"exit 65\"] }\n[queues.none]\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    client.create("failed", vec![item("x")]).await.unwrap();
    let failed = asked(&server, &["watch", "failed", "-o", "output"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(3), ""));
    assert!(
        failed.stderr.contains("item 0 failed: EXIT_65"),
        "{}",
        failed.stderr
    );
    let failed = asked(&server, &["watch", "failed"]);
    assert!(
        !failed.stderr.contains("item 0"),
        "it is on standard output: {}",
        failed.stderr
    );

    let request = sooner::wire::CreateBatchRequest {
        batch_id: "cancelled".into(),
        queue: "none".into(),
        items: vec![item("x")],
        ..sooner::wire::CreateBatchRequest::default()
    };
    client.stub.create_batch(request).await.unwrap();
    client.cancel("cancelled", &[]).await.unwrap();
    let cancelled = asked(&server, &["watch", "cancelled"]);
    assert_eq!(cancelled.code, Some(4));
    let told = "0 succeeded, 0 failed, 1 cancelled (BATCH_CANCELLED 1)";
    assert!(cancelled.stderr.contains(told), "{}", cancelled.stderr);
}

#[tokio::test]
async fn what_cannot_be_watched_is_told_in_one_line_and_by_the_exit_code() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    server
        .client()
        .await
        .create("b", vec![item("x")])
        .await
        .unwrap();
    for (arguments, code, says) in [
        (&["watch", "nowhere"][..], 6, "(BATCH_NOT_FOUND)\nhint: "),
        (
            &["watch", "b", "--after", "99"],
            2,
            "(CURSOR_AHEAD)\nhint: ",
        ),
        (&["watch", "a:b"], 2, "error: the batch's ID: "),
        (&["watch"], 2, "<ID>"),
        (&["watch", "b", "--order", "size"], 2, "completion"),
        (
            &["watch", "b", "--server", "localhost:1"],
            2,
            "such as http://127.0.0.1:50051",
        ),
    ] {
        let run = asked(&server, arguments);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(code), ""),
            "{}",
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
fn a_server_that_is_not_there_is_told_in_one_line() {
    // Bound, so that nobody else listens there, but not listening would be refused the same way.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    for arguments in [&["watch", "b"][..], &["get", "b"], &["cancel", "b"]] {
        let run = ended(
            sooner(&address, arguments).args(["--retry-for", "300ms"]),
            b"",
        );
        assert_eq!((run.code, run.stdout.as_str()), (Some(9), ""));
        assert_eq!(
            run.stderr,
            format!(
                "error: no server can be reached at http://{address}: Connection refused (os error 111)\n"
            )
        );
    }
}

#[tokio::test]
async fn a_server_that_never_comes_back_ends_the_watch_with_the_way_to_go_on() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b"]);
    let server = setup.start();
    let items = ["a", "b"].map(|name| gates.item(name)).to_vec();
    server.client().await.create("batch", items).await.unwrap();
    let arguments = ["watch", "batch", "-o", "name", "--retry-for", "300ms"];
    let watch = Running::start(&mut sooner(server.address(), &arguments));
    gates.open("a").await;
    assert_eq!(watch.next_line(), "a");
    server.kill();
    let rest = watch.rest();
    assert_eq!((rest.code, rest.stdout.as_str()), (Some(9), ""));
    assert!(
        rest.stderr
            .contains("hint: to go on: sooner watch batch --after 1"),
        "{}",
        rest.stderr
    );
}
