//! A server that is asked to stop finishes what runs, says where to go on, and loses nothing.

use std::net::TcpStream;

use rustix::process::Signal;
use sooner::wire::{BatchState, GetBatchRequest, ItemState};
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::harness::client::{end, fact, next, output, reason};
use crate::harness::{Gates, Server, ServerSetup, all, within};

/// A drain that leaves next to nothing to those who run: they are stopped at once.
const SHORT: &str = "[server]\ndrain_grace = \"3s\"";

/// Health as it changes.
async fn health(server: &Server) -> Streaming<HealthCheckResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let mut client = HealthClient::new(within(endpoint.connect()).await.unwrap());
    let request = HealthCheckRequest {
        service: "sooner.v1.BatchService".into(),
    };
    let mut health = within(client.watch(request)).await.unwrap().into_inner();
    assert_eq!(next(&mut health).await.status(), ServingStatus::Serving);
    health
}

/// Asks the server to stop and waits until the drain has begun.
async fn begin_drain(server: &Server, signal: Signal) -> Streaming<HealthCheckResponse> {
    let mut health = health(server).await;
    server.signal(signal);
    assert_eq!(next(&mut health).await.status(), ServingStatus::NotServing);
    health
}

#[tokio::test]
async fn what_runs_may_finish_and_its_result_is_sent() {
    for signal in [Signal::TERM, Signal::INT] {
        let setup = ServerSetup::gated(1, "");
        let gates = Gates::new(&setup, ["a"]);
        let mut server = setup.start();
        let mut client = server.client().await;
        let mut results = client.submit("batch", vec![gates.item("a")]).await.unwrap();
        let gate = gates.arrival("a").await;
        let mut health = begin_drain(&server, signal).await;
        gate.open();
        let result = next(&mut results).await;
        assert_eq!((output(&result), result.remaining_count), ("a", Some(0)));
        end(&mut results).await.unwrap();
        // However it ends, it must not hold the server.
        within(health.message()).await.ok();
        assert_eq!(server.wait(), Some(0), "{}", setup.log());
        let server = setup.start();
        assert_eq!(server.client().await.results("batch", 0).await, [result]);
    }
}

#[tokio::test]
async fn what_does_not_finish_is_pending_again_without_a_charge() {
    let setup = ServerSetup::gated(1, SHORT);
    let gates = Gates::new(&setup, ["a"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.free_item("free"), gates.item("a")];
    let mut results = client.submit("batch", items).await.unwrap();
    assert_eq!(next(&mut results).await.item_id, "free");
    let mut watch = client.watch("batch", 0).await.unwrap();
    next(&mut watch).await;
    next(&mut watch).await;
    let held = gates.arrival("a").await;
    server.signal(Signal::TERM);
    for status in [
        end(&mut results).await.unwrap_err(),
        end(&mut watch).await.unwrap_err(),
    ] {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "SERVER_DRAINING")
        );
        assert_eq!(fact(&status, "batch_id").as_deref(), Some("batch"));
        assert_eq!(fact(&status, "last_sequence").as_deref(), Some("1"));
    }
    assert_eq!(server.wait(), Some(0), "{}", setup.log());
    drop(held);

    let server = setup.start();
    let mut client = server.client().await;
    gates.open("a").await;
    let [result] = &client.results("batch", 1).await[..] else {
        panic!("one result is left")
    };
    assert_eq!(
        (result.item_id.as_str(), result.state()),
        ("a", ItemState::Succeeded)
    );
    assert_eq!(
        result.attempt_count, 1,
        "the interrupted attempt is not charged"
    );
    let [interrupted, _] = &client.item("batch", "a").await.unwrap().attempts[..] else {
        panic!("the interrupted attempt is told");
    };
    assert_eq!(interrupted.attempt, 1);
    assert_eq!(interrupted.error.as_ref().unwrap().reason, "INTERRUPTED");
}

#[tokio::test]
async fn nothing_new_starts() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    let items = vec![gates.item("a"), gates.free_item("free")];
    let mut results = client.submit("batch", items).await.unwrap();
    let gate = gates.arrival("a").await;
    let _health = begin_drain(&server, Signal::TERM).await;
    gate.open();
    assert_eq!(next(&mut results).await.item_id, "a");
    let status = end(&mut results).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SERVER_DRAINING")
    );
    assert_eq!(fact(&status, "last_sequence").as_deref(), Some("1"));
    assert_eq!(server.wait(), Some(0), "{}", setup.log());

    let server = setup.start();
    let mut client = server.client().await;
    let [result] = &client.results("batch", 1).await[..] else {
        panic!("one result is left")
    };
    assert_eq!((result.item_id.as_str(), result.attempt_count), ("free", 1));
    let attempts = client.item("batch", "free").await.unwrap().attempts;
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [1], "it never ran before");
}

#[tokio::test]
async fn nothing_new_is_accepted() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    let mut results = client.submit("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    let _health = begin_drain(&server, Signal::TERM).await;
    // Either the server says no, or the client finds no connection; which is a matter of time.
    for late in ["late-1", "late-2", "late-3"] {
        let items = vec![gates.free_item("free")];
        let status = client.create(late, items).await.unwrap_err();
        if std::error::Error::source(&status).is_none() {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert_eq!(reason(&status), "SERVER_DRAINING", "{status:?}");
        }
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    within(endpoint.connect()).await.unwrap_err();
    gate.open();
    assert_eq!(all(&mut results).await.len(), 1);
    assert_eq!(server.wait(), Some(0), "{}", setup.log());

    let server = setup.start();
    let mut client = server.client().await;
    for late in ["late-1", "late-2", "late-3"] {
        assert_eq!(
            reason(&client.batch(late).await.unwrap_err()),
            "BATCH_NOT_FOUND"
        );
    }
}

#[tokio::test]
async fn a_waiting_call_is_answered_with_what_is_known() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let gate = gates.arrival("a").await;
    let wait = Some(prost_types::Duration {
        seconds: 600,
        nanos: 0,
    });
    let mut stub = client.stub.clone();
    let waiting = tokio::spawn(async move {
        stub.get_batch(GetBatchRequest {
            batch_id: "batch".into(),
            wait,
        })
        .await
    });
    // On the same connection, so the waiting call is there when this one is answered.
    client.batch("batch").await.unwrap();
    let _health = begin_drain(&server, Signal::TERM).await;
    let answer = within(waiting).await.unwrap().unwrap().into_inner();
    assert_eq!(answer.batch.unwrap().state(), BatchState::Running);
    gate.open();
    assert_eq!(server.wait(), Some(0), "{}", setup.log());
}

#[tokio::test]
async fn connections_that_say_nothing_hold_nobody() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let silent: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(server.address()).unwrap())
        .collect();
    let client = server.client().await;
    assert_eq!(server.terminate(), Some(0), "{}", setup.log());
    drop((silent, client));
}

#[tokio::test]
async fn a_second_signal_leaves_at_once_and_loses_nothing() {
    let setup = ServerSetup::gated(1, "[server]\ndrain_grace = \"1h\"");
    let gates = Gates::new(&setup, ["a"]);
    let mut server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    let held = gates.arrival("a").await;
    let _health = begin_drain(&server, Signal::TERM).await;
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(143), "{}", setup.log());
    drop(held);
    let server = setup.start();
    gates.open("a").await;
    assert_eq!(server.client().await.results("batch", 0).await.len(), 1);
}
