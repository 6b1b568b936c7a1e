//! Requests that are no request: damaged, too large, or for a call that does not exist.

use bytes::{Buf as _, BufMut as _, Bytes};
use sooner::wire::SubmitBatchRequest;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::harness::client::reason;
use crate::harness::{Server, ServerSetup, all, item, within};

/// Sends bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Calls `path` with these bytes.
async fn call(server: &Server, path: &'static str, request: Request<Bytes>) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let mut grpc: Grpc<Channel> = Grpc::new(within(endpoint.connect()).await.unwrap());
    within(grpc.ready()).await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    within(grpc.unary(request, path, Raw)).await.map(|_| ())
}

async fn still_serves(server: &Server, batch_id: &str) {
    let mut client = server.client().await;
    let mut results = client.submit(batch_id, vec![item("x")]).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 1);
}

#[tokio::test]
async fn damaged_messages_are_refused() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let paths = [
        "/sooner.v1.BatchService/SubmitBatch",
        "/sooner.v1.BatchService/CreateBatch",
        "/sooner.v1.BatchService/WatchBatch",
        "/sooner.v1.BatchService/GetBatch",
        "/sooner.v1.BatchService/GetItem",
        "/sooner.v1.BatchService/CancelBatch",
    ];
    for path in paths {
        for damaged in [
            &b"\x0a\x7fshort"[..], // a field that is longer than the message
            b"\x0a\x02\xff\xfe",   // a string that is not UTF-8
            b"\x08\x01",           // batch_id as a number
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // no field at all
        ] {
            let request = Request::new(Bytes::from_static(damaged));
            let status = call(&server, path, request).await.unwrap_err();
            assert_eq!(
                status.code(),
                Code::Internal,
                "{path} {damaged:?}: {status:?}"
            );
            assert_eq!(reason(&status), "MALFORMED_REQUEST", "{path} {damaged:?}");
        }
    }
    still_serves(&server, "batch").await;
}

#[tokio::test]
async fn an_unknown_call_says_so() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    for path in [
        "/sooner.v1.BatchService/Nothing",
        "/sooner.v2.Other/SubmitBatch",
        "/",
        "/x",
    ] {
        let status = call(&server, path, Request::new(Bytes::new()))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        assert_eq!(reason(&status), "UNKNOWN_METHOD", "{path}: {status:?}");
    }
    still_serves(&server, "batch").await;
}

/// A client that compresses where the server does not is told that, not that the call is unknown.
#[tokio::test]
async fn an_unknown_compression_says_so() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut request = Request::new(Bytes::new());
    request
        .metadata_mut()
        .insert("grpc-encoding", "gzip".parse().unwrap());
    let status = call(&server, "/sooner.v1.BatchService/GetBatch", request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_ne!(reason(&status), "UNKNOWN_METHOD", "{status:?}");
    assert!(status.message().contains("gzip"), "{status:?}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_changes_nothing() {
    let setup = ServerSetup::new(
        "[limits]\nmessage_bytes = \"64KiB\"\n[queues.default]\nhandler = { echo = {} }\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let text = "x".repeat(1 << 10);
    let request = SubmitBatchRequest {
        batch_id: "batch".into(),
        items: vec![item(text); 64],
        ..SubmitBatchRequest::default()
    };
    let status = client
        .submit_request(request.clone())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(&status), "MESSAGE_TOO_LARGE", "{status:?}");
    assert_eq!(
        reason(&client.batch("batch").await.unwrap_err()),
        "BATCH_NOT_FOUND"
    );
    let fits = SubmitBatchRequest {
        items: request.items[..60].to_vec(),
        ..request
    };
    let (accepted, mut results) = client.submit_request(fits).await.unwrap();
    assert!(accepted.created);
    assert_eq!(all(&mut results).await.len(), 60);
}

#[tokio::test]
async fn an_item_of_the_largest_size_passes() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let largest = item("x".repeat(3 << 20));
    let mut results = client.submit("batch", vec![largest; 4]).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 4);
}
