//! A store with an engine on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::metrics::Metrics;
use crate::base::tasks::{OwnRuntime, TaskTrackerToken, Tasks};
use crate::config::{Config, HandlerConfig, LimitsConfig, TenantConfig};
use crate::domain::ids::{BatchName, QueueName};
use crate::domain::weights::Weights;
use crate::engine::{Engine, EngineOptions, Handler, QueueSettings};
use crate::handler::{Echo, Exec, end_orphans};
use crate::store::admission::{Bounds, Limits};
use crate::store::{OpenError, Recovered, Store, StoreOptions};

/// Why a server or a run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A handler cannot be used as it is configured.
    #[error("queue {0}: {1}")]
    Handler(QueueName, String),
    /// A port cannot be bound: its flag, its address and why.
    #[error("listen on {1}: {2}; choose another {0}, or stop what uses it")]
    Bind(&'static str, SocketAddr, std::io::Error),
    /// The data directory cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The data directory holds work of somebody else's, which must not run with this command.
    #[error(
        "data directory {0} holds {1} unfinished items of an earlier run or of a server; go on with the same command and --resume, choose another --data-dir, or let sooner serve finish them"
    )]
    Unfinished(PathBuf, u64),
}

/// The threads: few that serve, and others that compute.
#[derive(Debug)]
pub struct Runtimes {
    /// Tasks that must never wait for a handler.
    pub io: Tasks,
    /// Tasks of handlers.
    pub handlers: Tasks,
    io_runtime: OwnRuntime,
    _handler_runtime: OwnRuntime,
}

/// A store with an engine on it.
#[derive(Debug)]
pub struct Node {
    store: Store,
    engine: Engine,
    found: Recovered,
    /// Those who read results in this process.
    readers: Tasks,
}

/// What a node is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: what was accepted before goes on.
    Serve,
    /// To run one command over one input, in a journal of its own.
    Run {
        /// The batch of an earlier run of the command, which goes on. Nothing else may be unfinished.
        resumed: Option<BatchName>,
    },
}

/// What computes the items of each queue that has a handler.
pub type Handlers = HashMap<QueueName, Arc<dyn Handler>>;

impl Runtimes {
    /// Starts the threads.
    pub fn start(io_threads: usize) -> std::io::Result<Self> {
        let io_runtime = OwnRuntime::start("sooner-io", io_threads)?;
        let computing = std::thread::available_parallelism().map_or(1, usize::from);
        let handler_runtime = OwnRuntime::start("sooner-handler", computing)?;
        Ok(Self {
            io: io_runtime.tasks().sibling(),
            handlers: handler_runtime.tasks().sibling(),
            io_runtime,
            _handler_runtime: handler_runtime,
        })
    }

    /// Runs `main` to its end on the serving threads.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.io_runtime.block_on(main)
    }

    /// Lets go of the threads without waiting for what a handler may still do on them.
    pub fn end(self) {
        drop(self);
    }
}

/// How much may be accepted and not over.
fn weights(config: &Config) -> Weights {
    let mut weights = Weights::default();
    for (name, tenant) in &config.tenants {
        weights.set(name.clone(), tenant.weight);
    }
    weights
}

fn accepted_limits(config: &Config) -> Limits {
    let number = |most: usize| u64::try_from(most).unwrap_or(u64::MAX);
    let LimitsConfig {
        open_batches,
        queued_items,
        queued_bytes,
        ..
    } = config.limits;
    let of_tenant = |tenant: &TenantConfig| Bounds {
        open_batches: tenant.open_batches.map_or(u64::MAX, number),
        queued_items: tenant.queued_items.map_or(u64::MAX, number),
        queued_bytes: tenant.queued_bytes.map_or(u64::MAX, number),
    };
    let tenants = config.tenants.iter();
    Limits {
        all: Bounds {
            open_batches: number(open_batches),
            queued_items: number(queued_items),
            queued_bytes: number(queued_bytes),
        },
        tenants: tenants
            .map(|(name, tenant)| (name.clone(), of_tenant(tenant)))
            .collect(),
    }
}

impl Node {
    /// The handlers of the configured queues, checked.
    pub fn handlers(config: &Config) -> Result<Handlers, StartError> {
        let mut handlers = Handlers::new();
        for (name, queue) in &config.queues {
            let handler: Arc<dyn Handler> = match &queue.handler {
                None => continue,
                Some(HandlerConfig::Echo { delay }) => Arc::new(Echo { delay: *delay }),
                Some(HandlerConfig::Exec(settings)) => {
                    let exec = Exec::new(settings.clone());
                    Arc::new(exec.map_err(|problem| StartError::Handler(name.clone(), problem))?)
                }
            };
            handlers.insert(name.clone(), handler);
        }
        Ok(handlers)
    }

    /// Opens the store, ends what the last process left running, and starts the engine.
    pub fn open(
        config: &Config,
        mut handlers: Handlers,
        purpose: &Purpose,
        metrics: Arc<Metrics>,
        runtimes: &Runtimes,
    ) -> Result<Self, StartError> {
        let data_dir = &config.store.data_dir;
        let reserve = (*purpose == Purpose::Serve).then_some(config.store.reserve);
        let (store, found) = Store::open(&StoreOptions {
            data_dir: data_dir.clone(),
            reserve,
            limits: accepted_limits(config),
            weights: weights(config),
            retention: config.store.retention,
            metrics,
        })?;
        let orphans = found.orphans.iter();
        let keys = orphans.map(|orphan| orphan.origin.to_string());
        let ended = end_orphans(&keys.collect());
        if ended > 0 {
            tracing::info!(process_groups = ended, "ended orphaned handlers");
        }
        // Of two batches both or neither: their items would run with one command.
        let is_foreign = match purpose {
            Purpose::Serve => false,
            Purpose::Run { resumed } => resumed.is_none() || *resumed != found.unfinished_batch,
        };
        if is_foreign && found.unfinished_items > 0 {
            store.close();
            return Err(StartError::Unfinished(
                data_dir.clone(),
                found.unfinished_items,
            ));
        }
        for (queue, items) in &found.waiting {
            if *items > 0 && !config.queues.contains_key(queue) {
                tracing::warn!(%queue, items, "items wait in a queue that is not configured any more");
            }
        }
        let queues = config.queues.iter().map(|(name, queue)| {
            let settings = QueueSettings {
                handler: handlers.remove(name),
                slots: queue.slots,
                item_timeout: queue.item_timeout,
                retry: queue.retry.clone(),
                rate: queue.rate,
            };
            (name.clone(), settings)
        });
        let options = EngineOptions {
            queues: queues.collect(),
            disconnect_grace: config.server.disconnect_grace,
            // The journal of a run goes as a whole.
            trims: *purpose == Purpose::Serve,
            item_log: config.log.items,
            input_bytes_max: config.limits.input_bytes,
            output_bytes_max: config.limits.output_bytes,
        };
        let engine = Engine::start(store.clone(), options, &runtimes.io, &runtimes.handlers);
        Ok(Self {
            store,
            engine,
            found,
            readers: runtimes.io.sibling(),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What opening the store found.
    pub fn found(&self) -> &Recovered {
        &self.found
    }

    /// Counts a reader in this process, for whom a close waits a little.
    pub fn reader(&self) -> TaskTrackerToken {
        self.readers.token()
    }

    /// Waits until no reader in this process is left, but no longer than `patience`.
    pub async fn readers_end_within(&self, patience: Duration) {
        drop(tokio::time::timeout(patience, self.readers.all_ended()).await);
    }

    /// Fires when the store cannot go on.
    pub fn store_failed(&self) -> CancellationToken {
        self.store.fatal()
    }

    /// Closes the store, after a drain. Blocks.
    pub fn close(&self) {
        self.excuse_running();
        self.store.close();
    }

    /// Call it before an end that does not wait: what still runs is not to blame for it.
    pub fn excuse_running(&self) {
        self.store.excuse_running();
    }
}
