//! Which side of the server a request is for.
//!
//! Today there is one, gRPC. Whoever asks for something else is told so in words a person reads.

use std::convert::Infallible;

use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

/// The port's service: `grpc` has what it serves.
pub(super) fn service<S>(
    grpc: S,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send,
    S::Future: Send,
{
    tower::service_fn(move |request: Request<Incoming>| {
        let grpc = grpc.clone();
        async move {
            if request.version() == Version::HTTP_2 && is_grpc(request.headers()) {
                return grpc.oneshot(request).await;
            }
            // Requests for JSON, over HTTP/1 and HTTP/2, will be handed on from here.
            Ok(wrong_door(request.version()))
        }
    })
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let rest = content_type.and_then(|text| text.strip_prefix(b"application/grpc"));
    // Not `application/grpc-web`, which is another protocol.
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// What this port is, for whoever took it for something else.
fn wrong_door(version: Version) -> Response<Body> {
    let wrong = if version == Version::HTTP_2 {
        "content-type is not application/grpc"
    } else {
        "this is HTTP/1"
    };
    let hint = format!(
        "This is the gRPC port of sooner {}: it speaks gRPC over HTTP/2 ({wrong}).\n\
         Ask it what it serves:  grpcurl -plaintext HOST:PORT list\n\
         How to begin: the README of sooner, and `sooner --help`.\n",
        env!("CARGO_PKG_VERSION")
    );
    let response = Response::builder().header(CONTENT_TYPE, "text/plain; charset=utf-8");
    let response = if version == Version::HTTP_2 {
        response.status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    } else {
        response
            .status(StatusCode::UPGRADE_REQUIRED)
            .header(UPGRADE, "HTTP/2.0")
            .header(CONNECTION, "upgrade, close")
    };
    response
        .body(Body::new(hint))
        .expect("status and headers are constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_looks_like_it() {
        let cases = [
            (Some("application/grpc"), true),
            (Some("application/grpc+proto"), true),
            (Some("application/grpc; charset=utf-8"), true),
            (Some("application/grpc-web"), false),
            (Some("application/grpc-web+proto"), false),
            (Some("application/json"), false),
            (Some(""), false),
            (None, false),
        ];
        for (content_type, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(text) = content_type {
                headers.insert(CONTENT_TYPE, text.parse().unwrap());
            }
            assert_eq!(is_grpc(&headers), expected, "{content_type:?}");
        }
    }
}
