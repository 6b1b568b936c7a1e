//! The accept loop. tonic's own is unfit for us: it cannot be drained within a deadline, and its
//! connection age never sends GOAWAY.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use crate::base::limits;
use crate::base::metrics::Gauge;
use crate::base::tasks::Tasks;

/// A pause when the process has no file descriptor left: accepting at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds the connections of one port.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Connections at once; more are closed as they come.
    pub(super) connections: usize,
    /// Calls at once on one of them.
    pub(super) streams: u32,
    /// Whether HTTP/1 is spoken too.
    pub(super) http1: bool,
    /// How long a connection may take to say what it wants.
    pub(super) silence: Option<Duration>,
    /// Where the open ones are counted.
    pub(super) open: Gauge,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    /// Ends the accept loop and tells clients to open no more calls.
    drain: CancellationToken,
    /// Closes what is still open.
    abort: CancellationToken,
    tasks: Tasks,
}

impl Connections {
    /// Serves `service` on everything that `listener` accepts, within `bounds`.
    pub(super) fn accept<S>(listener: TcpListener, service: S, bounds: Bounds, io: &Tasks) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
        let tasks = io.sibling();
        let serving = Serving {
            builder: builder(&bounds, &tasks),
            bounds,
            drain: drain.clone(),
            abort: abort.clone(),
        };
        tasks.spawn(accept(listener, service, serving, tasks.clone()));
        Self {
            drain,
            abort,
            tasks,
        }
    }

    /// Takes no more connections and lets those there are finish their calls.
    pub(super) fn stop_accepting(&self) {
        self.drain.cancel();
    }

    /// Waits until all connections have ended, and ends them if they take longer than `patience`.
    pub(super) async fn end_within(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.tasks.all_ended())
            .await
            .is_err()
        {
            self.abort.cancel();
            self.tasks.all_ended().await;
        }
    }
}

/// How connections are served.
#[derive(Clone)]
struct Serving {
    builder: Builder<OurExecutor>,
    bounds: Bounds,
    drain: CancellationToken,
    abort: CancellationToken,
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

fn builder(bounds: &Bounds, tasks: &Tasks) -> Builder<OurExecutor> {
    // A group of their own: the calls' tasks end with their connection.
    let mut builder = Builder::new(OurExecutor(tasks.sibling()));
    if bounds.http1 {
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.silence);
    } else {
        builder = builder.http2_only();
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(limits::HEADER_BYTES_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    builder
}

async fn accept<S>(listener: TcpListener, service: S, serving: Serving, tasks: Tasks)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let room = Arc::new(Semaphore::new(serving.bounds.connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = serving.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    tracing::debug!(%peer, "a connection too many was closed");
                    continue;
                };
                let open = serving.bounds.open.clone();
                open.inc();
                let connection = serve(stream, service.clone(), serving.clone());
                tasks.spawn(async move {
                    if let Err(error) = connection.await {
                        // A lost client is nobody's fault.
                        tracing::debug!(%peer, %error, "a connection ended with an error");
                    }
                    open.dec();
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<S>(
    stream: TcpStream,
    service: S,
    serving: Serving,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let Serving {
        builder,
        bounds,
        drain,
        abort,
    } = serving;
    // Without it a small result waits for the acknowledgement of the one before, 40 ms and more.
    stream.set_nodelay(true)?;
    if let Some(silence) = bounds.silence {
        tokio::time::timeout(silence, stream.peek(&mut [0])).await??;
    }
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = abort.cancelled() => return Ok(()),
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => ended,
        () = abort.cancelled() => Ok(()),
    }
}
