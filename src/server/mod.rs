//! Floor 5: the composition root. It wires everything together and decides nothing.
//!
//! [`Node`] is a store with an engine on it, which `sooner run` uses as it is; [`Server`] puts the
//! gRPC port in front of one, and the ops port beside it.

mod drain;
mod front;
mod health;
mod listener;
mod node;
mod ops;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::drain::LAST_WORDS;
use self::health::{Health, Phase};
use self::listener::{Bounds, Connections};
pub use self::node::{Handlers, Node, Purpose, Runtimes, StartError};
use self::ops::Ops;
use crate::api::grpc::{
    AdminApi, AnswerLayer, BatchApi, InputLimits, MeterLayer, RequestBudget, RequestLimits, Routes,
    Tenancy, client_streams, methods, routes, with_reflection,
};
use crate::base::limits;
use crate::base::metrics::Metrics;
use crate::config::Config;
pub use crate::store::{OpenError, Recovered};

/// Why a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to, and everything is in order.
    Drained,
    /// The store could not go on.
    StoreFailed,
}

/// Which ports a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The one that batches come in by.
    Batches,
    /// That, and the ops port.
    BatchesAndOps,
}

/// A server whose ports accept.
#[derive(Debug)]
pub struct Server {
    node: Node,
    listen: SocketAddr,
    ops_listen: Option<SocketAddr>,
    drain_delay: Duration,
    drain_grace: Duration,
    connections: Connections,
    ops_connections: Option<Connections>,
    health: Health,
    /// Ends the calls' streams.
    closing: CancellationToken,
}

impl Server {
    /// Binds the ports, opens the store, and serves. In this order, so that a port in use leaves the
    /// data directory untouched. The ops port answers while the store is being opened.
    pub async fn start(config: &Config, runtimes: &Runtimes) -> Result<Self, StartError> {
        let handlers = Node::handlers(config)?;
        Self::start_with(config, handlers, Ports::BatchesAndOps, runtimes).await
    }

    /// The same with these handlers in place of configured ones, and these ports.
    pub async fn start_with(
        config: &Config,
        handlers: Handlers,
        ports: Ports,
        runtimes: &Runtimes,
    ) -> Result<Self, StartError> {
        let (listener, listen) = bind("--listen", config.server.listen).await?;
        let (ops_listener, ops_listen) = match ports {
            Ports::Batches => (None, None),
            Ports::BatchesAndOps => {
                let (listener, listen) = bind("--ops-listen", config.server.ops_listen).await?;
                (Some(listener), Some(listen))
            }
        };

        let metrics = Arc::new(Metrics::new());
        // Health says no before either port accepts.
        let (health, services) = Health::new().await;
        let ops = Arc::new(Ops {
            health: health.clone(),
            metrics: Arc::clone(&metrics),
            store: OnceLock::new(),
            requests: OnceLock::new(),
        });
        let service = ops::service(Arc::clone(&ops), with_reflection(Routes::new(services.ops)));
        let bounds = Bounds::of_ops(config, &metrics);
        let ops_connections = ops_listener
            .map(|listener| Connections::accept(listener, service, bounds, &runtimes.io));

        let node = Node::open(
            config,
            handlers,
            &Purpose::Serve,
            Arc::clone(&metrics),
            runtimes,
        )?;
        ops.store.get_or_init(|| node.store().clone());
        let closing = CancellationToken::new();
        let input = InputLimits {
            items_max: config.limits.submit_items,
            input_bytes_max: config.limits.input_bytes,
            watchers_max: config.limits.watchers,
        };
        let tenancy = Tenancy::trusting(config.server.trust_tenant_header);
        let batches = BatchApi::new(
            node.engine().clone(),
            input,
            tenancy,
            closing.clone(),
            runtimes.io.sibling(),
        );
        let admin = AdminApi::new(node.engine().clone(), tenancy);
        let routes = routes(batches, admin, config.limits.message_bytes).add_service(services.main);
        let budget = RequestBudget::new(request_limits(config), client_streams());
        ops.requests.get_or_init(|| budget.clone());
        let service = tower::ServiceBuilder::new()
            .layer(MeterLayer::new(Arc::clone(&metrics), methods()))
            .layer(AnswerLayer::new(tenancy))
            .layer(budget)
            .service(routes.prepare());
        let bounds = Bounds::of_main(config, &metrics);
        let service = front::service(service);
        let connections = Connections::accept(listener, service, bounds, &runtimes.io);
        health.enter(Phase::Serving).await;
        Ok(Self {
            node,
            listen,
            ops_listen,
            drain_delay: config.server.drain_delay,
            drain_grace: config.server.drain_grace,
            connections,
            ops_connections,
            health,
            closing,
        })
    }

    /// Where it listens: the port is the real one even if 0 was asked for.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where its ops port listens, if it has one.
    pub fn ops_listen(&self) -> Option<SocketAddr> {
        self.ops_listen
    }

    /// Fires when the streams of results end: everything that a drain waits for is recorded.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
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
        self.health.enter(Phase::Draining).await;
        // Those who wait for an accept are still told that its outcome is unknown.
        tokio::time::sleep(Duration::from_millis(200)).await;
        End::StoreFailed
    }
}

async fn bind(
    flag: &'static str,
    wanted: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Bind(flag, wanted, error);
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn request_limits(config: &Config) -> RequestLimits {
    let items = config.limits.submit_items;
    RequestLimits {
        message_bytes_max: config.limits.message_bytes,
        message_fields_max: items.max(limits::CANCEL_ITEMS_MAX) + limits::OTHER_FIELDS_MAX,
        request_bytes_max: config.limits.request_bytes,
        message_timeout: config.server.message_timeout,
    }
}
