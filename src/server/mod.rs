//! Floor 5: the composition root. It wires everything together and decides nothing.
//!
//! [`Node`] is a store with an engine on it, which `sooner run` uses as it is; [`Server`] puts the
//! gRPC port in front of one.

mod drain;
mod listener;
mod node;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::listener::Connections;
pub use self::node::{Node, Purpose, Runtimes, StartError};
use crate::api::grpc::{AnswerLayer, BATCH_SERVICE, BatchApi, InputLimits, routes};
use crate::config::Config;

/// Why a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to, and everything is in order.
    Drained,
    /// The store could not go on.
    StoreFailed,
}

/// A server whose port accepts.
#[derive(Debug)]
pub struct Server {
    node: Node,
    listen: SocketAddr,
    drain_grace: Duration,
    connections: Connections,
    health: HealthReporter,
    /// Ends the calls' streams.
    closing: CancellationToken,
}

impl Server {
    /// Binds the port, opens the store, and serves. In this order, so that a port in use leaves the
    /// data directory untouched.
    pub async fn start(config: &Config, runtimes: &Runtimes) -> Result<Self, StartError> {
        let handlers = Node::handlers(config)?;
        let wanted = config.server.listen;
        let listener = TcpListener::bind(wanted)
            .await
            .map_err(|error| StartError::Bind(wanted, error))?;
        let listen = listener
            .local_addr()
            .map_err(|error| StartError::Bind(wanted, error))?;
        let node = Node::open(config, handlers, Purpose::Serve, runtimes)?;

        let (health, health_service) = tonic_health::server::health_reporter();
        tell_health(&health, ServingStatus::NotServing).await;
        let closing = CancellationToken::new();
        let input = InputLimits {
            items_max: config.limits.submit_items,
            input_bytes_max: config.limits.input_bytes,
        };
        let batches = BatchApi::new(
            node.engine().clone(),
            input,
            closing.clone(),
            runtimes.io.sibling(),
        );
        let routes = routes(batches, config.limits.message_bytes).add_service(health_service);
        let service = tower::Layer::layer(&AnswerLayer, routes.prepare());
        let connections = Connections::accept(listener, service, &runtimes.io);
        tell_health(&health, ServingStatus::Serving).await;
        let drain_grace = config.server.drain_grace;
        Ok(Self {
            node,
            listen,
            drain_grace,
            connections,
            health,
            closing,
        })
    }

    /// Where it listens: the port is the real one even if 0 was asked for.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The store and the engine.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Serves until `asked` to end or the store fails, and ends in order.
    pub async fn run(&self, asked: impl Future<Output = ()>) -> End {
        let failed = self.node.store_failed();
        tokio::select! {
            biased;
            () = failed.cancelled() => {}
            () = asked => {
                let drained = self.drain();
                tokio::select! {
                    biased;
                    () = failed.cancelled() => {}
                    () = drained => return End::Drained,
                }
            }
        }
        // Those who wait for an accept are still told that its outcome is unknown.
        tokio::time::sleep(Duration::from_millis(200)).await;
        End::StoreFailed
    }
}

async fn tell_health(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status(BATCH_SERVICE, status).await;
}
