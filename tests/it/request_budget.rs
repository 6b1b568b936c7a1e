//! The bytes of all requests together are bounded, and whoever is slow holds up nobody for long.

use bytes::Bytes;
use prost::Message as _;
use sooner::wire::{CreateBatchRequest, GetBatchRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::client::reason;
use crate::harness::memory::{MIB, peak};
use crate::harness::raw::message;
use crate::harness::transport::{Pieces, Transport};
use crate::harness::{Server, ServerSetup, all, item, within};

const CREATE: &str = "/sooner.v1.BatchService/CreateBatch";

/// Room for one message of the largest size, which is 128 KiB here.
fn narrow(message_timeout: &str) -> ServerSetup {
    ServerSetup::new(&format!(
        "[server]\nmessage_timeout = \"{message_timeout}\"\n\
         [limits]\nmessage_bytes = \"128KiB\"\nrequest_bytes = \"128KiB\"\n\
         [queues.default]\nhandler = {{ echo = {{}} }}\n"
    ))
}

fn large(batch_id: &str) -> CreateBatchRequest {
    CreateBatchRequest {
        batch_id: batch_id.into(),
        items: vec![item("x".repeat(100 << 10))],
        ..CreateBatchRequest::default()
    }
}

/// A call that has announced a large message and sent the first half. It goes on when it is told to.
struct Dribble {
    pieces: tokio::sync::mpsc::Sender<Bytes>,
    rest: Bytes,
    status: tokio::task::JoinHandle<tonic::Status>,
}

impl Dribble {
    async fn begin(server: &Server, batch_id: &str) -> Self {
        let mut bytes = Bytes::from(message(&large(batch_id).encode_to_vec()));
        let (pieces, body) = Pieces::new();
        let transport = Transport::to(server);
        let status = tokio::spawn(async move { transport.status_of(CREATE, &[], body).await });
        let half = bytes.split_to(bytes.len() / 2);
        within(pieces.send(half)).await.unwrap();
        // Taken by the transport once this one is: the channel has room for one.
        within(pieces.send(bytes.split_to(1))).await.unwrap();
        Self {
            pieces,
            rest: bytes,
            status,
        }
    }
}

/// A message that never comes to its end is given up, and those who waited for its room get it.
#[tokio::test]
async fn a_message_that_dribbles_holds_the_room_for_a_bounded_time() {
    let setup = narrow("2s");
    let server = setup.start();
    let dribble = Dribble::begin(&server, "dribble").await;

    // Small messages do not wait for large ones.
    let mut client = server.client().await;
    let mut results = client.submit("small", vec![item("x")]).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 1);
    assert!(!dribble.status.is_finished(), "it still holds the room");

    let created = within(client.stub.create_batch(large("large"))).await;
    assert!(created.unwrap().into_inner().created);
    let status = within(dribble.status).await.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(reason(&status), "MESSAGE_TIMEOUT", "{status:?}");
    let status = client.batch("dribble").await.unwrap_err();
    assert_eq!(reason(&status), "BATCH_NOT_FOUND");
    drop((dribble.pieces, dribble.rest));
}

/// A call that is begun and brings nothing is ended too.
#[tokio::test]
async fn a_call_without_a_message_is_given_up() {
    let setup = narrow("500ms");
    let server = setup.start();
    let (pieces, body) = Pieces::new();
    let status = Transport::to(&server).status_of(CREATE, &[], body).await;
    assert_eq!(reason(&status), "MESSAGE_TIMEOUT", "{status:?}");
    drop(pieces);

    // Nor does a second message keep a call alive that takes one.
    let (pieces, body) = Pieces::new();
    let first = message(&GetBatchRequest::default().encode_to_vec());
    let two = [first, message(&[0x0a, 1, b'x'])].concat();
    pieces.send(Bytes::from(two)).await.unwrap();
    let get = "/sooner.v1.BatchService/GetBatch";
    let status = Transport::to(&server).status_of(get, &[], body).await;
    assert_eq!(reason(&status), "MALFORMED_REQUEST", "{status:?}");
}

/// More than a few hundred large messages do not even wait: they are told to come back.
#[tokio::test]
async fn a_crowd_is_told_to_come_back_and_memory_stays_bounded() {
    let setup = narrow("60s");
    let server = setup.start();
    let dribble = Dribble::begin(&server, "dribble").await;
    let crowd: Vec<_> = (0..300)
        .map(|at| {
            let transport = Transport::to(&server);
            let bytes = Bytes::from(message(&large(&format!("crowd-{at}")).encode_to_vec()));
            tokio::spawn(async move {
                let (pieces, body) = Pieces::new();
                pieces.send(bytes).await.unwrap();
                drop(pieces);
                let response = transport.grpc(CREATE, &[], body).await;
                tonic::Status::from_header_map(response.headers())
            })
        })
        .collect();
    // Nobody's patience is over yet: it is the one too many who is refused.
    let (first, _, rest) = within(futures_util::future::select_all(crowd)).await;
    let status = first.unwrap().expect("nobody gets in yet");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(&status), "SERVER_BUSY", "{status:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, "1000");
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    let peak = peak(&server);
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);

    // When the crowd goes, so does its claim on the room, as the server learns of each.
    rest.iter().for_each(tokio::task::JoinHandle::abort);
    within(dribble.pieces.send(dribble.rest)).await.unwrap();
    drop(dribble.pieces);
    let mut client = server.client().await;
    let created = within(async {
        loop {
            match client.stub.create_batch(large("large")).await {
                Ok(created) => break created.into_inner(),
                Err(status) => assert_eq!(reason(&status), "SERVER_BUSY", "{status:?}"),
            }
        }
    });
    assert!(created.await.created);
}

#[tokio::test]
async fn the_room_that_is_taken_shows() {
    const SERIES: &str = "sooner_request_bytes";
    let setup = narrow("60s");
    let server = setup.start();
    server.metric_becomes(SERIES, |bytes| bytes == "0").await;
    let dribble = Dribble::begin(&server, "dribble").await;
    // All of the message, of which half has come.
    let is_held = |bytes: &str| bytes.parse::<usize>().is_ok_and(|it| it > 100 << 10);
    server.metric_becomes(SERIES, is_held).await;
    // It ends in mid-message.
    drop((dribble.pieces, dribble.rest));
    within(dribble.status).await.unwrap();
    server.metric_becomes(SERIES, |bytes| bytes == "0").await;
}
