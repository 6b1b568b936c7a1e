//! The ops port: what probes, scrapers and people ask a server about itself.
//!
//! HTTP/1 and HTTP/2 without TLS, beside the gRPC port and with bounds of its own, so that it answers
//! while the other is full, while the store is opened, and to the very end of a drain.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::front::is_grpc;
use super::health::{Health, Phase};
use crate::api::grpc::{RequestBudget, Routes};
use crate::base::metrics::Metrics;
use crate::store::Store;

/// How long a scrape waits for the file system before it shows what it had last.
const FOOTPRINT_PATIENCE: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OLDER_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const HINT: &str = "This is the ops port of sooner. It answers\n\
    /livez     200 while the process lives\n\
    /readyz    200 while calls are served, else 503 and why; ?verbose lists the checks\n\
    /metrics   figures for Prometheus\n\
    /version   the version of the program\n\
    and gRPC health and reflection. Batches are served on the other port.\n";

/// What the ops port tells of.
#[derive(Debug)]
pub(super) struct Ops {
    pub(super) health: Health,
    pub(super) metrics: Arc<Metrics>,
    /// Set once it is open.
    pub(super) store: OnceLock<Store>,
    /// Set once requests are taken.
    pub(super) requests: OnceLock<RequestBudget>,
}

/// The port's service: `grpc` has health and reflection.
pub(super) fn service(
    ops: Arc<Ops>,
    grpc: Routes,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send {
    let grpc = grpc.prepare();
    tower::service_fn(move |request: Request<Incoming>| {
        let (ops, grpc) = (Arc::clone(&ops), grpc.clone());
        async move {
            if is_grpc(request.headers()) {
                return grpc.oneshot(request).await;
            }
            Ok(ops.answer(&request).await)
        }
    })
}

/// A check of readiness: its name, and what is wrong if anything is.
type Check = (&'static str, Result<(), &'static str>);

impl Ops {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, HINT);
        }
        match request.uri().path() {
            "/livez" => response(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.readyz(request.uri().query()),
            "/metrics" => self.scrape(request.headers()).await,
            "/version" => {
                let version = format!("{{\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"));
                response(StatusCode::OK, "application/json", version)
            }
            _ => response(StatusCode::NOT_FOUND, TEXT, HINT),
        }
    }

    fn checks(&self) -> [Check; 3] {
        let phase = self.health.phase();
        let unless = |wrong: bool, why| if wrong { Err(why) } else { Ok(()) };
        let starting = phase == Phase::Starting;
        let failed = |store: &Store| store.fatal().is_cancelled();
        [
            ("start", unless(starting, "the store is being opened")),
            (
                "store",
                unless(
                    self.store.get().is_some_and(failed),
                    "writing failed, the process ends",
                ),
            ),
            (
                "drain",
                unless(phase == Phase::Draining, "the server is shutting down"),
            ),
        ]
    }

    fn readyz(&self, query: Option<&str>) -> Response<Body> {
        let checks = self.checks();
        let wrong = checks.iter().find_map(|(name, check)| {
            let why = check.err()?;
            Some(format!("not ready: {name}: {why}\n"))
        });
        let status = if wrong.is_some() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        };
        let mut text = String::new();
        if query.is_some_and(|query| query.split('&').any(|key| key == "verbose")) {
            text = checks.iter().map(told).collect();
        }
        text.push_str(wrong.as_deref().unwrap_or("ready\n"));
        response(status, TEXT, text)
    }

    async fn scrape(&self, headers: &HeaderMap) -> Response<Body> {
        if let Some(store) = self.store.get() {
            self.metrics.set_backlog(&store.backlog());
            let footprint = tokio::time::timeout(FOOTPRINT_PATIENCE, store.footprint()).await;
            // A store that is busy or closed leaves the figures as they were.
            if let Ok(Ok(footprint)) = footprint {
                self.metrics.set_footprint(footprint);
            }
        }
        let held = self.requests.get().map_or(0, RequestBudget::bytes_held);
        self.metrics.set_request_bytes(held);
        // The same lines either way; only the name of their format differs.
        let modern = headers.get_all(ACCEPT).iter().any(|accept| {
            let accept = accept.to_str().unwrap_or_default();
            accept.contains("application/openmetrics-text")
        });
        let content_type = if modern { OPEN_METRICS } else { OLDER_METRICS };
        response(StatusCode::OK, content_type, self.metrics.text())
    }
}

fn told((name, check): &Check) -> String {
    match check {
        Ok(()) => format!("[+] {name}\n"),
        Err(why) => format!("[-] {name}: {why}\n"),
    }
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<String>,
) -> Response<Body> {
    let mut response = Response::new(Body::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
