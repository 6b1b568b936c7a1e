//! Measures each call, its stream included, and counts the refused ones by reason.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use crate::base::clock;
use crate::base::metrics::Metrics;

/// The method of a call that no service here has. Whoever calls must not choose our labels.
const UNKNOWN_METHOD: &str = "other";

/// The layer around the gRPC routes.
#[derive(Clone, Debug)]
pub struct MeterLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    /// `package.Service/Method` of every method that is served.
    methods: HashSet<String>,
}

impl MeterLayer {
    /// A layer that measures in `metrics` the calls of `methods`.
    pub fn new(metrics: Arc<Metrics>, methods: HashSet<String>) -> Self {
        Self(Arc::new(Shared { metrics, methods }))
    }
}

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Arc::clone(&self.0);
        Meter { inner, shared }
    }
}

/// The service with the layer around it.
#[derive(Clone, Debug)]
pub struct Meter<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<B>> for Meter<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().trim_start_matches('/');
        let known = self.shared.methods.get(path);
        let call = Call {
            method: known.map_or(UNKNOWN_METHOD, String::as_str).into(),
            shared: Arc::clone(&self.shared),
            began: clock::instant(),
            code: Code::Cancelled,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(call.answered(response))
        })
    }
}

/// A call under way. Dropping it is its end; whoever does so early has gone.
#[derive(Debug)]
struct Call {
    shared: Arc<Shared>,
    method: Box<str>,
    began: Instant,
    code: Code,
}

impl Call {
    fn answered(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.code = status.code();
            if self.code != Code::Ok {
                let details = status.get_error_details();
                let reason = details.error_info().map(|info| info.reason.as_str());
                let reason = reason.unwrap_or_else(|| name(self.code));
                self.shared.metrics.refused(reason);
            }
            return response;
        }
        response.map(|body| Body::new(Metered { body, call: self }))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = clock::instant().saturating_duration_since(self.began);
        let metrics = &self.shared.metrics;
        metrics.called(&self.method, name(self.code), took);
    }
}

/// The body of an answer; its last frame has the call's code.
#[derive(Debug)]
struct Metered {
    body: Body,
    call: Call,
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code_of)
        {
            self.call.code = code;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_of(trailers: &HeaderMap) -> Option<Code> {
    let status = trailers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
