//! What a server tells of itself: probes, health and reflection on a port of its own, up to the end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_stream::iter;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::{v1, v1alpha};

use crate::harness::client::{Stub, end, next, output};
use crate::harness::ops::ask;
use crate::harness::{Gates, PATIENCE, ServerSetup, within};

const SERVICE: &str = "sooner.v1.BatchService";

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    within(endpoint.connect()).await.unwrap()
}

async fn health(address: &str, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    let mut client = HealthClient::new(channel(address).await);
    within(client.check(request))
        .await
        .unwrap()
        .into_inner()
        .status()
}

async fn watch_health(address: &str) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest {
        service: SERVICE.into(),
    };
    let mut client = HealthClient::new(channel(address).await);
    let mut health = within(client.watch(request)).await.unwrap().into_inner();
    assert_eq!(next(&mut health).await.status(), ServingStatus::Serving);
    health
}

#[tokio::test]
async fn probes_are_answered_over_http() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let livez = server.ops("/livez").await;
    assert_eq!((livez.status, livez.body.as_str()), (200, "ok\n"));
    let readyz = server.ops("/readyz").await;
    assert_eq!((readyz.status, readyz.body.as_str()), (200, "ready\n"));
    let verbose = server.ops("/readyz?verbose").await;
    assert_eq!(verbose.status, 200);
    assert_eq!(verbose.body, "[+] start\n[+] store\n[+] drain\nready\n");
    let version = server.ops("/version").await;
    let json: serde_json::Value = serde_json::from_str(&version.body).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version.content_type, "application/json");
    let lost = server.ops("/lost").await;
    assert_eq!(lost.status, 404);
    assert!(lost.body.contains("/readyz"), "{lost:?}");
    let posted = ask(server.ops_address(), "POST", "/livez").await.unwrap();
    assert_eq!(posted.status, 405);
    let head = ask(server.ops_address(), "HEAD", "/readyz").await.unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn probes_are_answered_over_http2_too() {
    use hyper_util::client::legacy;
    use hyper_util::rt::TokioExecutor;
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    let client: legacy::Client<_, String> = builder.http2_only(true).build_http();
    for (path, status) in [
        ("livez", 200),
        ("readyz", 200),
        ("metrics", 200),
        ("x", 404),
    ] {
        let uri = format!("http://{}/{path}", server.ops_address());
        let response = within(client.get(uri.parse().unwrap())).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(response.status(), status, "{path}");
    }
}

#[tokio::test]
async fn health_and_reflection_are_on_both_ports_and_batches_on_one() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    for address in [server.address(), server.ops_address()] {
        for service in ["", SERVICE, "readiness", "liveness"] {
            let status = health(address, service).await;
            assert_eq!(status, ServingStatus::Serving, "{address} {service:?}");
        }
        assert!(reflects_v1(address).await.contains(&SERVICE.to_owned()));
        assert!(
            reflects_v1alpha(address)
                .await
                .contains(&SERVICE.to_owned())
        );
    }
    let mut stub = Stub::new(channel(server.ops_address()).await);
    let request = sooner::wire::GetBatchRequest::default();
    let status = within(stub.get_batch(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

async fn reflects_v1(address: &str) -> Vec<String> {
    use v1::server_reflection_client::ServerReflectionClient;
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let question = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(address).await);
    let answers = client.server_reflection_info(iter([question]));
    let mut answers = within(answers).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        next(&mut answers).await.message_response
    else {
        panic!("a list of services");
    };
    list.service.into_iter().map(|it| it.name).collect()
}

async fn reflects_v1alpha(address: &str) -> Vec<String> {
    use v1alpha::server_reflection_client::ServerReflectionClient;
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(address).await);
    let answers = client.server_reflection_info(iter([question]));
    let mut answers = within(answers).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        next(&mut answers).await.message_response
    else {
        panic!("a list of services");
    };
    list.service.into_iter().map(|it| it.name).collect()
}

/// The order of a drain as those see it who route calls to the server: it says no, still takes what
/// comes, takes nothing more, finishes what runs, tells of itself all the while, and is gone.
#[tokio::test]
async fn a_drain_goes_in_order() {
    let setup = ServerSetup::gated(1, "[server]\ndrain_delay = \"5s\"");
    let gates = Gates::new(&setup, ["a"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    let mut on_main = watch_health(server.address()).await;
    let mut on_ops = watch_health(server.ops_address()).await;

    // 1. Everybody who asks is told no, and calls are still taken.
    server.signal(Signal::TERM);
    assert_eq!(next(&mut on_main).await.status(), ServingStatus::NotServing);
    assert_eq!(next(&mut on_ops).await.status(), ServingStatus::NotServing);
    let readyz = server.ops("/readyz").await;
    assert_eq!(readyz.status, 503);
    assert_eq!(
        readyz.body,
        "not ready: drain: the server is shutting down\n"
    );
    let mut late = server.client().await;
    assert!(
        late.create("late", vec![gates.free_item("b")])
            .await
            .unwrap()
    );

    // 2. The port closes, what runs goes on, and the ops port tells of it.
    let began = Instant::now();
    while TcpStream::connect(server.address()).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "the port stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.ops("/livez").await.status, 200);
    let verbose = server.ops("/readyz?verbose").await;
    assert_eq!(verbose.status, 503);
    assert!(
        verbose
            .body
            .contains("[-] drain: the server is shutting down\n"),
        "{verbose:?}"
    );
    for (service, expected) in [
        (SERVICE, ServingStatus::NotServing),
        ("", ServingStatus::NotServing),
        ("liveness", ServingStatus::Serving),
    ] {
        let status = health(server.ops_address(), service).await;
        assert_eq!(status, expected, "{service:?}");
    }
    let metrics = server.metrics().await;
    assert_eq!(metrics["sooner_items_in_state{state=\"running\"}"], "1");
    assert_eq!(metrics["sooner_items_in_state{state=\"pending\"}"], "1");

    // 3. What runs finishes, its result is sent, and then everything ends.
    gate.open();
    assert_eq!(output(&next(&mut results).await), "a");
    end(&mut results).await.unwrap();
    within(on_main.message()).await.ok();
    within(on_ops.message()).await.ok();
    assert_eq!(server.wait(), Some(0), "{}", setup.log());
    TcpStream::connect(server.ops_address()).await.unwrap_err();

    let server = setup.start();
    assert_eq!(server.client().await.results("late", 0).await.len(), 1);
}

/// A second server waits a moment for the data directory before it gives up: its store is being opened.
#[tokio::test]
async fn a_server_that_is_starting_lives_and_is_not_ready() {
    let setup = ServerSetup::echo();
    let _first = setup.start();
    let began = Instant::now();
    let readyz = loop {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut second = setup.command_with_ops(&address);
        let mut second = second.stderr(Stdio::null()).spawn().unwrap();
        let mut seen = None;
        while second.try_wait().unwrap().is_none() && seen.is_none() {
            seen = ask(&address, "GET", "/readyz?verbose").await.ok();
        }
        let code = second.wait().unwrap().code();
        assert_eq!(code, Some(69), "the directory is in use");
        // Whoever is slow to look finds nobody, and looks again.
        if let Some(seen) = seen {
            break seen;
        }
        assert!(began.elapsed() < PATIENCE, "nobody answers");
    };
    assert_eq!(readyz.status, 503);
    assert!(
        readyz
            .body
            .contains("[-] start: the store is being opened\n"),
        "{readyz:?}"
    );
}

#[tokio::test]
async fn watchers_of_the_ops_port_do_not_hold_the_server() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut on_ops = watch_health(server.ops_address()).await;
    let silent = TcpStream::connect(server.ops_address()).await.unwrap();
    assert_eq!(server.terminate(), Some(0), "{}", setup.log());
    assert_eq!(next(&mut on_ops).await.status(), ServingStatus::NotServing);
    drop(silent);
}

#[tokio::test]
async fn a_flood_on_the_ops_port_hurts_nobody_and_passes() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(TcpStream::connect(server.ops_address()).await.unwrap());
    }
    // Those that are too many are closed at once, while the first ones are still waited for …
    let began = Instant::now();
    for mut stream in flood.drain(100..) {
        assert_eq!(within(stream.read(&mut [0])).await.unwrap_or(0), 0);
    }
    let waits = |stream: &TcpStream| {
        let read = stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert!(waits(&flood[0]));
    // … batches are served all the while …
    let mut client = server.client().await;
    let mut results = client
        .submit("batch", vec![crate::harness::item("x")])
        .await
        .unwrap();
    next(&mut results).await;
    // … and those that say nothing make room for those who do.
    while ask(server.ops_address(), "GET", "/livez").await.is_err() {
        assert!(began.elapsed() < PATIENCE, "silence holds the ops port");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(flood);
}
