//! Gives answers what the services do not: tonic's own errors a reason, and callers that name a tenant
//! the one that they acted for.
//!
//! A request that cannot be decoded, is too large or names an unknown call is answered by tonic
//! before it reaches us. Such an answer is a response without a body whose headers hold the status
//! and no details.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use super::status::{DOMAIN, PUSHBACK};
use super::tenancy::{self, Tenancy};

/// The layer around the gRPC routes.
#[derive(Clone, Copy, Debug)]
pub struct AnswerLayer {
    tenancy: Tenancy,
}

impl AnswerLayer {
    /// A layer around services whose calls act for tenants as `tenancy` says.
    pub fn new(tenancy: Tenancy) -> Self {
        Self { tenancy }
    }
}

impl<S> Layer<S> for AnswerLayer {
    type Service = Answers<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let tenancy = self.tenancy;
        Answers { inner, tenancy }
    }
}

/// The service with the layer around it.
#[derive(Clone, Debug)]
pub struct Answers<S> {
    inner: S,
    tenancy: Tenancy,
}

impl<S, Asked, Body> Service<Request<Asked>> for Answers<S>
where
    S: Service<Request<Asked>, Response = Response<Body>>,
    S::Future: Send + 'static,
    Body: 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let tenant = self.tenancy.told(request.headers());
        let answer = Box::pin(self.inner.call(request));
        Answer { answer, tenant }
    }
}

/// The future of a call.
pub struct Answer<F> {
    answer: Pin<Box<F>>,
    /// What is told of the tenant.
    tenant: Option<HeaderValue>,
}

impl<F> std::fmt::Debug for Answer<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl<F, Body, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(self.answer.as_mut().poll(cx));
        if let Ok(response) = &mut answer
            && let Some(explained) = explain(response.headers())
        {
            for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
                response.headers_mut().remove(name);
            }
            // It was written by us just now; a header that does not fit leaves tonic's bare status.
            drop(explained.add_header(response.headers_mut()));
        }
        if let (Ok(response), Some(tenant)) = (&mut answer, self.tenant.take()) {
            response.headers_mut().insert(tenancy::HEADER, tenant);
        }
        Poll::Ready(answer)
    }
}

/// The status that an answer of tonic's own should have had.
fn explain(headers: &HeaderMap) -> Option<Status> {
    explanation(&Status::from_header_map(headers)?)
}

/// The status that a failed read of a request should have.
pub(super) fn explained(status: Status) -> Status {
    explanation(&status).unwrap_or(status)
}

fn explanation(status: &Status) -> Option<Status> {
    if status.code() == Code::Ok || !status.details().is_empty() {
        return None;
    }
    let message = status.message();
    let (code, reason, message) = if status.code() == Code::OutOfRange {
        let message = message.strip_prefix("Error, ").unwrap_or(message);
        let message = format!("{message}; waiting does not help, split the batch into several");
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
    } else if status.code() == Code::Internal {
        (Code::Internal, "MALFORMED_REQUEST", message.to_owned())
    } else if status.code() == Code::Unimplemented && message.contains("compressed") {
        (
            Code::Unimplemented,
            "UNSUPPORTED_ENCODING",
            message.to_owned(),
        )
    } else if status.code() == Code::Unimplemented {
        (
            Code::Unimplemented,
            "UNKNOWN_METHOD",
            "this server has no such service or method".to_owned(),
        )
    } else {
        (status.code(), "TRANSPORT", message.to_owned())
    };
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let mut metadata = MetadataMap::new();
    if code == Code::ResourceExhausted {
        metadata.insert(PUSHBACK, MetadataValue::from_static("-1"));
    }
    Some(Status::with_error_details_and_metadata(
        code, message, details, metadata,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &Status) -> Option<(Code, String)> {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let explained = explain(&headers)?;
        let reason = explained
            .get_error_details()
            .error_info()
            .unwrap()
            .reason
            .clone();
        Some((explained.code(), reason))
    }

    #[test]
    fn only_errors_without_details_are_explained() {
        let too_large = answered(&Status::out_of_range("decoded message length too large"));
        assert_eq!(
            too_large,
            Some((Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned()))
        );
        let malformed = answered(&Status::internal("failed to decode Protobuf message"));
        assert_eq!(
            malformed,
            Some((Code::Internal, "MALFORMED_REQUEST".to_owned()))
        );
        assert_eq!(answered(&Status::ok("")), None);
        let ours =
            crate::error::Error::new(crate::error::ErrorKind::OutOfRange, "CURSOR_AHEAD", "ahead");
        assert_eq!(answered(&Status::from(ours)), None);
    }
}
