//! Connections: how many, how old, and what they are told who speak something else.

use sooner::wire::WatchBatchRequest;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::client::reason;
use crate::harness::raw::{Frame, GOAWAY, NO_ERROR, RawConnection, call};
use crate::harness::transport::{Pieces, Transport, text};
use crate::harness::{Gates, Server, ServerSetup, all, eventually, item};

const WATCH: &str = "/sooner.v1.BatchService/WatchBatch";

async fn served(server: &Server, batch_id: &str) {
    let mut client = server.client().await;
    let mut results = client.submit(batch_id, vec![item("x")]).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 1);
}

/// A server with these lines under `[server]` and `[limits]`.
fn echo_with(server: &str, limits: &str) -> ServerSetup {
    ServerSetup::new(&format!(
        "[server]\n{server}\n[limits]\n{limits}\n[queues.default]\nhandler = {{ echo = {{}} }}\n"
    ))
}

/// Whether the server talks to a connection.
async fn is_served(connection: &mut RawConnection) -> bool {
    connection.next().await.is_some()
}

/// One address can take its share of connections and no more; others connect as ever.
#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let setup = echo_with("", "connections_per_address = 10");
    let server = setup.start();
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut connection = RawConnection::http2(&server).await;
        assert!(is_served(&mut connection).await);
        open.push(connection);
    }
    for _ in 0..20 {
        let mut refused = RawConnection::silent(&server).await;
        assert_eq!(refused.rest().await, b"", "closed at once, unasked");
    }
    let mut elsewhere = RawConnection::from(&server, [127, 0, 0, 2]).await;
    elsewhere.hello().await;
    assert!(is_served(&mut elsewhere).await);

    let log = setup.log();
    let lines = log
        .matches("limits.connections_per_address are open")
        .count();
    assert_eq!(lines, 1, "told once, not twenty times:\n{log}");
    let refused = "sooner_connections_refused_total{port=\"main\"}";
    server.metric_becomes(refused, |it| it == "20").await;
    open.pop();
    eventually(async || {
        let mut again = RawConnection::silent(&server).await;
        again.hello().await;
        is_served(&mut again).await
    })
    .await;
}

#[tokio::test]
async fn all_addresses_together_cannot_take_more_than_there_is() {
    let setup = echo_with("", "connections = 10");
    let server = setup.start();
    let mut open = Vec::new();
    for address in 0..10 {
        let mut connection = RawConnection::from(&server, [127, 0, 1, address]).await;
        connection.hello().await;
        assert!(is_served(&mut connection).await);
        open.push(connection);
    }
    let mut refused = RawConnection::from(&server, [127, 0, 2, 1]).await;
    assert_eq!(refused.rest().await, b"");
    assert!(setup.log().contains("limits.connections are open"));
    drop(open);
    eventually(async || {
        let mut again = RawConnection::silent(&server).await;
        again.hello().await;
        is_served(&mut again).await
    })
    .await;
}

/// With few descriptors there are fewer connections, not a server that cannot open its files.
#[tokio::test]
async fn connections_leave_descriptors_for_the_rest() {
    let setup = ServerSetup::echo().with_open_files(80);
    let server = setup.start();
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = RawConnection::silent(&server).await;
        connection.hello().await;
        connections.push(connection);
    }
    let mut open = Vec::new();
    for mut connection in connections {
        if is_served(&mut connection).await {
            open.push(connection);
        }
    }
    assert!((1..=40).contains(&open.len()), "{} of 80", open.len());
    open.truncate(5);
    // A batch is a file to write and a feed to read.
    eventually(async || {
        let mut connection = RawConnection::silent(&server).await;
        connection.hello().await;
        is_served(&mut connection).await
    })
    .await;
    served(&server, "batch").await;
    let log = setup.log();
    assert!(log.contains("leaves room for fewer connections"), "{log}");
}

/// A connection that has reached its age is told to go (GOAWAY), may end its calls, and is then cut.
#[tokio::test]
async fn an_aged_connection_says_goodbye_and_is_cut_after_the_grace() {
    let setup = ServerSetup::gated(
        2,
        "[server]\nmax_connection_age = \"1s\"\nmax_connection_age_grace = \"3s\"\n",
    );
    let gates = Gates::new(&setup, ["ends", "stuck"]);
    let server = setup.start();
    let mut watching = Vec::new();
    for name in ["ends", "stuck"] {
        let mut client = server.client().await;
        assert!(client.create(name, vec![gates.item(name)]).await.unwrap());
        let mut watch = RawConnection::http2(&server).await;
        let request = WatchBatchRequest {
            batch_id: name.into(),
            ..WatchBatchRequest::default()
        };
        watch.send(&call(WATCH, &request)).await.unwrap();
        watching.push(watch);
    }
    let mut idle = RawConnection::http2(&server).await;
    let goodbye = idle.next_of(GOAWAY).await.unwrap();
    assert_eq!(goodbye.goaway_code(), Some(NO_ERROR));
    idle.frames_to_the_end().await;

    for watch in &mut watching {
        let goodbye = watch.next_of(GOAWAY).await.unwrap();
        assert_eq!(goodbye.goaway_code(), Some(NO_ERROR));
    }
    gates.open("ends").await;
    let ends = watching[0].frames_to_the_end().await;
    assert!(ends.iter().any(Frame::is_trailers), "{ends:?}");
    // Nothing ends this call; only the grace can end its connection.
    let stuck = watching[1].frames_to_the_end().await;
    assert!(!stuck.iter().any(Frame::is_trailers), "{stuck:?}");

    gates.open("stuck").await;
    server.client().await.batch_when_over("stuck").await;
}

/// Whoever opens the port in a browser, with curl or with a JSON client is told what it is.
#[tokio::test]
async fn who_speaks_something_else_is_told_what_this_is() {
    let setup = ServerSetup::echo().with_environment("RUST_LOG", "info,sooner=debug");
    let server = setup.start();
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        "POST /sooner.v1.BatchService/GetBatch HTTP/1.1\r\nhost: x\r\n\
         content-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut curl = RawConnection::silent(&server).await;
        curl.send(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(curl.rest().await).unwrap();
        let lower = answer.to_lowercase();
        assert!(answer.contains(" 426 Upgrade Required\r\n"), "{answer}");
        assert!(lower.contains("upgrade: http/2.0\r\n"), "{answer}");
        assert!(answer.contains("gRPC over HTTP/2"), "{answer}");
    }
    let json = [("content-type", "application/json")];
    let transport = Transport::to(&server);
    let (pieces, body) = Pieces::new();
    drop(pieces);
    let response = transport.send("/v1/batches", &json, body).await;
    assert_eq!(response.status(), 415);
    let hint = text(response).await;
    assert!(
        hint.contains("content-type is not application/grpc"),
        "{hint}"
    );

    let mut tls = RawConnection::silent(&server).await;
    tls.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        .await
        .unwrap();
    assert_eq!(tls.rest().await, b"");
    // Written once the connection is closed.
    eventually(async || setup.log().contains("it speaks TLS")).await;
    served(&server, "afterwards").await;
}

#[tokio::test]
async fn too_much_http1_is_refused() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let many = "x: y\r\n".repeat(101);
    let long = format!("x: {}\r\n", "y".repeat(17 << 10));
    for headers in [many, long] {
        let mut curl = RawConnection::silent(&server).await;
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        curl.send(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(curl.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let mut nonsense = RawConnection::silent(&server).await;
    nonsense.send(b"\0\xff nonsense\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(nonsense.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// Result streams are counted in all, and refused before anything is accepted.
#[tokio::test]
async fn more_streams_than_the_limit_are_told_to_come_back() {
    let setup = ServerSetup::gated(1, "[limits]\nwatchers = 2\n");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let first = client.submit("batch", vec![gates.item("a")]).await.unwrap();
    let second = server.client().await.watch("batch", 0).await.unwrap();

    let watch = client.watch("batch", 0).await.map(drop);
    let submit = client.submit("other", vec![item("x")]).await.map(drop);
    for refused in [watch, submit] {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(reason(&status), "TOO_MANY_STREAMS", "{status:?}");
        let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
        assert_eq!(pushback, "1000");
        let details = status.get_error_details();
        assert!(details.retry_info().unwrap().retry_delay.is_some());
        let quota = &details.quota_failure().unwrap().violations[0];
        assert_eq!(quota.subject, "limits.watchers");
    }
    let status = client.batch("other").await.unwrap_err();
    assert_eq!(reason(&status), "BATCH_NOT_FOUND", "nothing was accepted");
    drop(second);
    eventually(async || client.clone().watch("batch", 0).await.is_ok()).await;
    drop(first);
}
