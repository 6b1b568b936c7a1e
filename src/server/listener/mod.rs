//! The accept loop. tonic's own is unfit for us: it cannot be drained within a deadline, its
//! connection age never sends GOAWAY, and it holds a silent connection for ever.

mod bounds;
mod connection;
mod opening;
mod room;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

pub(super) use self::bounds::Bounds;
use self::connection::Serving;
use self::room::{Full, Room};
use crate::base::tasks::Tasks;
use crate::base::telemetry::Seldom;

/// A pause when the process has no file descriptor left: accepting at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        let tasks = io.sibling();
        let serving = Serving::new(&bounds, &tasks);
        let (drain, abort) = (serving.drain.clone(), serving.abort.clone());
        let accepting = Accepting {
            listener,
            room: Arc::new(Room::new(
                bounds.connections,
                bounds.connections_per_address,
            )),
            bounds,
            serving,
            tasks: tasks.clone(),
            no_room: Seldom::default(),
            failures: Seldom::default(),
        };
        tasks.spawn(accepting.run(service));
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

/// The accept loop.
struct Accepting {
    listener: TcpListener,
    bounds: Bounds,
    room: Arc<Room>,
    serving: Serving,
    tasks: Tasks,
    no_room: Seldom,
    failures: Seldom,
}

impl Accepting {
    async fn run<S>(mut self, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.serving.drain.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            let place = match self.room.enter(peer.ip()) {
                Ok(place) => place,
                // Closed at once, not left to wait: its client goes elsewhere or comes back later.
                Err(full) => {
                    self.refused(full, peer);
                    continue;
                }
            };
            let open = self.bounds.open.clone();
            open.inc();
            let connection = self.serving.clone().serve(stream, service.clone());
            self.tasks.spawn(async move {
                if let Err(error) = connection.await {
                    // A lost client is nobody's fault.
                    tracing::debug!(%peer, error, "a connection ended with an error");
                }
                open.dec();
                drop(place);
            });
        }
    }

    fn refused(&mut self, full: Full, peer: SocketAddr) {
        self.bounds.refused.inc();
        let Some(times) = self.no_room.due() else {
            return;
        };
        match full {
            Full::All => {
                tracing::warn!(%peer, times, "refused a connection: limits.connections are open");
            }
            Full::Address => tracing::warn!(
                %peer, times,
                "refused a connection: limits.connections_per_address are open from there"
            ),
        }
    }

    async fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // Its client has gone already; the next one has not.
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionReset | Interrupted
        ) {
            return;
        }
        if let Some(times) = self.failures.due() {
            tracing::warn!(%error, times, "accepting a connection failed");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
