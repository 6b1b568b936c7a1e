//! How a program says what it wants, and gets it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Front, Inner, Sooner};
use crate::base::limits;
use crate::config::{Config, ConfigError, QueueConfig};
use crate::domain::ids::{QueueName, Tenant};
use crate::domain::rate::Rate;
use crate::domain::retry::RetrySettings;
use crate::engine::{Handler, ItemLog, apart};
use crate::server::{Handlers, Node, Ports, Purpose, Runtimes, Server, StartError};

/// Why a [`Sooner`] cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of its bounds.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The operating system has no threads to give.
    #[error("start threads: {0}")]
    Threads(std::io::Error),
    /// The port or the data directory cannot be taken.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What [`Sooner`] is opened with. What is not said has the defaults of `sooner serve`.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    queues: BTreeMap<String, Queue>,
    listen: Option<SocketAddr>,
    ops_listen: Option<SocketAddr>,
    weights: Vec<(Tenant, u32)>,
}

/// How a queue computes its items.
#[derive(Debug)]
pub struct Queue {
    handler: Option<Arc<dyn Handler>>,
    threads: usize,
    config: QueueConfig,
}

impl Queue {
    /// A queue whose items this handler computes.
    pub fn new(handler: impl Handler) -> Self {
        Self {
            handler: Some(Arc::new(handler)),
            ..Self::waiting()
        }
    }

    /// A queue whose items wait: for another process, or until it is opened with a handler.
    pub fn waiting() -> Self {
        let config = Config::default_queue();
        Self {
            handler: None,
            threads: config.slots,
            config,
        }
    }

    /// Attempts at once, 1 to 65,536. Default: the processors. Raise it for handlers that wait.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Self {
        self.config.slots = slots;
        self
    }

    /// Threads that poll a handler which [may block](Handler::may_block), 1 to 1,024. Default: the
    /// processors. If it blocks all of them, this queue waits, and no other.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Limit of each attempt, at least 1 ms, where neither item nor batch sets one. Default 10 min.
    #[must_use]
    pub fn item_timeout(mut self, item_timeout: Duration) -> Self {
        self.config.item_timeout = item_timeout;
        self
    }

    /// Retry settings where neither item nor batch sets them. Default: three attempts, 200 ms apart
    /// and growing.
    #[must_use]
    pub fn retry(mut self, retry: RetrySettings) -> Self {
        self.config.retry = retry;
        self
    }

    /// How many attempts may start per second, retries included. Default: as many as there are slots
    /// for. It concerns this queue alone.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.config.rate = Some(rate);
        self
    }
}

impl Builder {
    pub(super) fn new(data_dir: &Path) -> Self {
        let mut config = Config::default();
        data_dir.clone_into(&mut config.store.data_dir);
        config.queues.clear();
        Self {
            config,
            queues: BTreeMap::new(),
            listen: None,
            ops_listen: None,
            weights: Vec::new(),
        }
    }

    /// Adds a queue. Submissions that name none go to the queue `default`. A queue of that name that
    /// was added before is replaced.
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>, queue: Queue) -> Self {
        self.queues.insert(name.into(), queue);
        self
    }

    /// Serves the gRPC API on this address too; port 0 takes a free one, see [`Sooner::listen`].
    ///
    /// There is neither TLS nor authentication: an address that other machines can reach needs
    /// something in front that guards it.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Answers probes and scrapers on this address too: health, `/livez`, `/readyz`, `/metrics`; port
    /// 0 takes a free one, see [`Sooner::ops_listen`]. Only beside [`Builder::listen`].
    #[must_use]
    pub fn ops_listen(mut self, address: SocketAddr) -> Self {
        self.ops_listen = Some(address);
        self
    }

    /// Lets the header `sooner-tenant` of calls to [`Builder::listen`] name their tenant. Only where
    /// something in front of the port sees to it that the header is true; else every call acts for
    /// tenant `default`.
    #[must_use]
    pub fn trust_tenant_header(mut self) -> Self {
        self.config.server.trust_tenant_header = true;
        self
    }

    /// What a tenant weighs against others in each queue, 1 to 1,000; who is not named weighs 1. While
    /// both have due items, one that weighs three gets three attempts for each of one that weighs one.
    #[must_use]
    pub fn tenant_weight(mut self, tenant: Tenant, weight: u32) -> Self {
        self.weights.push((tenant, weight));
        self
    }

    /// How long [`Sooner::close`] lets finish what runs. Default 30 s.
    #[must_use]
    pub fn drain_grace(mut self, drain_grace: Duration) -> Self {
        self.config.server.drain_grace = drain_grace;
        self
    }

    /// How long a batch stays once it is over, with all its results, where it says nothing of its own:
    /// 1 s to ten years. Default 7 days. What has ended already keeps the time that it was given.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.config.store.retention = retention;
        self
    }

    /// Threads that serve streams and connections, 1 to 256. Default half the processors, at most 4.
    #[must_use]
    pub fn io_threads(mut self, io_threads: usize) -> Self {
        self.config.server.io_threads = io_threads;
        self
    }

    /// Which items are logged, through `tracing` on target `sooner::item`. Default: those that fail.
    #[must_use]
    pub fn log_items(mut self, items: ItemLog) -> Self {
        self.config.log.items = items;
        self
    }

    /// Opens it: takes the data directory, goes on with what is unfinished in it, and serves.
    pub async fn open(self) -> Result<Sooner, OpenError> {
        let listen = (self.listen, self.ops_listen);
        if listen.0.is_none() && listen.1.is_some() {
            let problem = "is only there beside the gRPC port: set listen too";
            return Err(ConfigError::new("ops_listen", problem).into());
        }
        let (config, handlers) = self.settled()?;
        let threads = config.server.io_threads;
        let runtimes = Runtimes::start(threads).map_err(OpenError::Threads)?;
        // Opening a store blocks: on a thread of ours, which has nothing else to do yet.
        let io = runtimes.io.sibling();
        let opening = io.spawn(open(config, handlers, listen, runtimes));
        match opening.await {
            Ok(opened) => opened,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ended) => Err(OpenError::Threads(std::io::Error::other(ended))),
            },
        }
    }

    /// The settings, checked, and the handlers on their threads.
    fn settled(self) -> Result<(Config, Handlers), OpenError> {
        let Self {
            mut config,
            queues,
            weights,
            ..
        } = self;
        within("io_threads", config.server.io_threads, 256)?;
        for (tenant, weight) in weights {
            let most = limits::WEIGHT_MAX;
            if !(1..=most).contains(&weight) {
                let problem = format!("{weight} is not between 1 and {most}");
                let place = format!("the weight of tenant {tenant}");
                return Err(ConfigError::new(place, problem).into());
            }
            config.tenants.entry(tenant).or_default().weight = weight;
        }
        let times = limits::RETENTION_MIN..=limits::DURATION_MAX;
        if !times.contains(&config.store.retention) {
            let problem = "is not between a second and ten years";
            return Err(ConfigError::new("retention", problem).into());
        }
        let mut handlers = Handlers::new();
        for (name, queue) in queues {
            let at = |key: &str| format!("queue {name:?}: {key}");
            within(&at("slots"), queue.config.slots, limits::SLOTS_MAX)?;
            within(&at("threads"), queue.threads, limits::QUEUE_THREADS_MAX)?;
            if queue.config.item_timeout < Duration::from_millis(1) {
                return Err(
                    ConfigError::new(at("item_timeout"), "is below the minimum 1ms").into(),
                );
            }
            let wrong = |key: &str, problem| ConfigError::new(at(key), problem);
            if let Some(it) = queue.config.retry.check().into_iter().next() {
                return Err(wrong(&format!("retry.{}", it.field), it.problem).into());
            }
            let out_of_bounds = queue
                .config
                .rate
                .and_then(|rate| rate.check().into_iter().next());
            if let Some(it) = out_of_bounds {
                return Err(wrong(&format!("rate.{}", it.field), it.problem).into());
            }
            let id = QueueName::parse(&name).map_err(|problem| wrong("the name", problem))?;
            if let Some(handler) = queue.handler {
                let handler = apart(handler, queue.threads).map_err(OpenError::Threads)?;
                handlers.insert(id.clone(), handler);
            }
            config.queues.insert(id, queue.config);
        }
        if config.queues.is_empty() {
            return Err(ConfigError::new("queues", "there is none; add one").into());
        }
        Ok((config, handlers))
    }
}

async fn open(
    mut config: Config,
    handlers: Handlers,
    (listen, ops_listen): (Option<SocketAddr>, Option<SocketAddr>),
    runtimes: Runtimes,
) -> Result<Sooner, OpenError> {
    let (front, closing) = if let Some(listen) = listen {
        config.server.listen = listen;
        let ports = if let Some(ops_listen) = ops_listen {
            config.server.ops_listen = ops_listen;
            Ports::BatchesAndOps
        } else {
            Ports::Batches
        };
        let server = Server::start_with(&config, handlers, ports, &runtimes).await?;
        let closing = server.closing();
        (Front::Server(Box::new(server)), closing)
    } else {
        let node = Node::open(
            &config,
            handlers,
            &Purpose::Serve,
            Arc::default(),
            &runtimes,
        )?;
        (Front::Engine(Box::new(node)), CancellationToken::new())
    };
    Ok(Sooner(Arc::new(Inner {
        front: Arc::new(front),
        limits: config.limits,
        drain_grace: config.server.drain_grace,
        io: runtimes.io.sibling(),
        closing,
        close_begun: AtomicBool::new(false),
        closed: CancellationToken::new(),
        runtimes: Mutex::new(Some(runtimes)),
    })))
}

fn within(place: &str, number: usize, most: usize) -> Result<(), ConfigError> {
    if (1..=most).contains(&number) {
        return Ok(());
    }
    let problem = format!("{number} is not between 1 and {most}");
    Err(ConfigError::new(place, problem))
}
