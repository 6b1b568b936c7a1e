//! A transport under no gRPC client: any headers, any body, at any speed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Server, within};

/// A connection, opened by its first request.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    client: legacy::Client<HttpConnector, Pieces>,
    origin: String,
}

/// A body that comes piece by piece, and ends with its sender.
#[derive(Debug)]
pub(crate) struct Pieces(mpsc::Receiver<Bytes>);

impl Pieces {
    /// A body and what it is fed by.
    pub(crate) fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (pieces, body) = mpsc::channel(1);
        (pieces, Self(body))
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Transport {
    pub(crate) fn to(server: &Server) -> Self {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        Self {
            client: builder.http2_only(true).build_http(),
            origin: format!("http://{}", server.address()),
        }
    }

    /// Sends a request with these headers and this body.
    pub(crate) async fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Pieces,
    ) -> Response<Incoming> {
        let mut request = Request::post(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        within(self.client.request(request)).await.unwrap()
    }

    /// Calls with this body, all of it at once, and answers the status that the call was refused with.
    pub(crate) async fn status(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        bytes: Bytes,
    ) -> Status {
        let (pieces, body) = Pieces::new();
        pieces.send(bytes).await.unwrap();
        drop(pieces);
        self.status_of(path, headers, body).await
    }

    /// Calls with a body that comes as it comes.
    pub(crate) async fn status_of(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Pieces,
    ) -> Status {
        let response = self.grpc(path, headers, body).await;
        let status = Status::from_header_map(response.headers());
        status.expect("a refusal is a response without a body")
    }

    /// Calls, and answers what there is once the headers are there.
    pub(crate) async fn grpc(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Pieces,
    ) -> Response<Incoming> {
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        self.send(path, &[&grpc, headers].concat(), body).await
    }
}

/// The body of a response.
pub(crate) async fn text(response: Response<Incoming>) -> String {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let mut next = async || {
        within(std::future::poll_fn(|cx| {
            Pin::new(&mut body).poll_frame(cx)
        }))
        .await
    };
    while let Some(frame) = next().await {
        if let Ok(data) = frame.unwrap().into_data() {
            bytes.extend(data);
        }
    }
    String::from_utf8(bytes).unwrap()
}
