//! One connection, from its first byte to its end.
//!
//! ```text
//!   opening ── first bytes, in time ──▶ serving ── age or drain ──▶ closing ──▶ end
//!      └─ TLS, or nothing in time ──▶ end       (GOAWAY; calls go on for a while)
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use super::bounds::Bounds;
use super::opening::{self, Protocol};
use crate::base::tasks::Tasks;
use crate::base::{entropy, limits};
use crate::config::ConnectionTimes;

type Served = Result<(), Box<dyn Error + Send + Sync>>;

/// How connections are served.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    builder: Builder<OurExecutor>,
    times: ConnectionTimes,
    /// Tells clients to open no more calls.
    pub(super) drain: CancellationToken,
    /// Closes what is still open.
    pub(super) abort: CancellationToken,
}

/// Starts hyper's tasks through our door.
#[derive(Clone, Debug)]
struct OurExecutor(Tasks);

impl<F> Executor<F> for OurExecutor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Serving {
    pub(super) fn new(bounds: &Bounds, tasks: &Tasks) -> Self {
        Self {
            builder: builder(bounds, tasks),
            times: bounds.times,
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Serves a connection to its end.
    pub(super) async fn serve<S>(self, stream: TcpStream, service: S) -> Served
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        // Without it a small result waits for the acknowledgement of the one before, 40 ms and more.
        stream.set_nodelay(true)?;
        let patience = self.times.handshake_timeout;
        let opened = tokio::select! {
            opened = tokio::time::timeout(patience, opening::open(stream)) => opened,
            // It has no call that could be waited for.
            () = self.drain.cancelled() => return Ok(()),
        };
        let Ok(opened) = opened else {
            return Err(format!("it did not say within {patience:?} what it speaks").into());
        };
        let (protocol, stream) = opened?;
        match protocol {
            Protocol::Http => self.serve_http(stream, service).await,
            Protocol::Tls => Err("it speaks TLS; this port does not".into()),
            Protocol::Gone => Err("it left before it had said what it speaks".into()),
        }
    }

    async fn serve_http<S>(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        service: S,
    ) -> Served
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let service = TowerToHyperService::new(service);
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let grace = tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.abort.cancelled() => return Ok(()),
            // The drain has its own end, which is the abort.
            () = self.drain.cancelled() => None,
            () = elapsed(self.times.age_max.map(jittered)) => Some(self.times.age_grace),
        };
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended,
            () = self.abort.cancelled() => Ok(()),
            () = elapsed(grace) => Err("it had calls left when its age and the grace were over".into()),
        }
    }
}

fn builder(bounds: &Bounds, tasks: &Tasks) -> Builder<OurExecutor> {
    // A group of their own: the calls' tasks end with their connection.
    let mut builder = Builder::new(OurExecutor(tasks.sibling()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_headers(limits::HTTP1_HEADERS_MAX)
        .max_buf_size(limits::HTTP1_HEADER_BYTES_MAX)
        // It counts between two requests too.
        .header_read_timeout(bounds.times.handshake_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(limits::HEADER_BYTES_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::STREAM_SEND_BYTES)
        .keep_alive_interval(bounds.times.keepalive_interval)
        .keep_alive_timeout(bounds.times.keepalive_timeout);
    builder
}

fn jittered(age: Duration) -> Duration {
    let share = limits::AGE_JITTER * (2.0 * entropy::fraction() - 1.0);
    age.mul_f64(1.0 + share)
}

async fn elapsed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..1000).map(|_| jittered(age).as_secs()).collect();
        assert!(ages.iter().all(|age| (900..=1100).contains(age)));
        assert!(ages.iter().any(|&age| age < 950) && ages.iter().any(|&age| age > 1050));
    }
}
