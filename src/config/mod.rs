//! Floor 5: settings, read once and checked once.
//!
//! A setting comes from a flag, else the environment (`SOONER_SERVER__LISTEN`), else the file, else
//! its default. Keys that are not known are errors. After this floor no string is parsed any more.

mod check;
mod describe;
mod file;
mod layers;
mod origin;
mod quantity;
mod tenants;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use self::check::command_line_handler;
pub use self::layers::{Layers, load};
pub use self::origin::{Origin, Setting, show};
pub use self::quantity::{parse_duration, parse_size};
use crate::base::limits;
use crate::base::telemetry;
use crate::domain::ids::{QueueName, Tenant};
use crate::domain::rate::Rate;
use crate::domain::retry::RetrySettings;
use crate::engine::{ItemLog, Reserve};
use crate::handler::ExecSettings;

/// A setting that cannot be used: where it stands and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// The file and line, the environment variable or the flag.
    pub place: String,
    /// What is wrong, with the value and the bound.
    pub problem: String,
}

impl ConfigError {
    /// An error at `place`.
    pub fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`
    pub server: ServerConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[queues.NAME]`
    pub queues: HashMap<QueueName, QueueConfig>,
    /// `[tenants.NAME]`
    pub tenants: HashMap<Tenant, TenantConfig>,
}

/// `[server]`: how it is reached and how it stops.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address of the gRPC port. Default 127.0.0.1:50051.
    pub listen: SocketAddr,
    /// Address of the ops port. Default 127.0.0.1:9464.
    pub ops_listen: SocketAddr,
    /// Whether an address beyond loopback is allowed without anything that guards it. Default false.
    pub insecure: bool,
    /// Whether the header `sooner-tenant` names a call's tenant. Default false: it is not looked at.
    pub trust_tenant_header: bool,
    /// How long calls are still taken after health has said no. Default 0 s.
    pub drain_delay: Duration,
    /// How long a drain may take after that in all. Default 30 s.
    pub drain_grace: Duration,
    /// How long a batch with `on_disconnect = CANCEL` may be without a stream. Default 10 s.
    pub disconnect_grace: Duration,
    /// Threads that serve connections. Default half the processors, at least 1, at most 4.
    pub io_threads: usize,
    /// Time limits of connections.
    pub connections: ConnectionTimes,
    /// How long one request message may take to arrive once it has begun. Default 60 s.
    pub message_timeout: Duration,
}

/// `[server]`: how long connections may take and last.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTimes {
    /// Until a new connection has said which protocol it speaks. Default 10 s.
    pub handshake_timeout: Duration,
    /// Between two pings of a silent connection. Default 30 s.
    pub keepalive_interval: Duration,
    /// Until the answer to such a ping. Default 20 s.
    pub keepalive_timeout: Duration,
    /// After which clients are asked to connect anew, plus or minus a tenth; `None` (the default) for never.
    pub age_max: Option<Duration>,
    /// How long calls may go on after that. Default 10 min.
    pub age_grace: Duration,
}

/// `[store]`: where batches are kept.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory. Default `./sooner-data`.
    pub data_dir: PathBuf,
    /// The room of its disk that is kept for results: new work is refused below it. Default a
    /// twentieth of the disk, but no more than 256 MiB.
    pub reserve: Reserve,
    /// How long batches stay once they are over. Default 7 d, at least 1 s.
    pub retention: Duration,
}

/// `[limits]`: what one request may bring, and all of them together.
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// Items of one unary submit. Default 10,000.
    pub submit_items: usize,
    /// Bytes of one input. Default 3 MiB, at most 64 MiB.
    pub input_bytes: usize,
    /// Bytes of one output. Default and most 3 MiB.
    pub output_bytes: usize,
    /// Bytes of one message. Default 16 MiB, or the input cap + 1 MiB if that is more.
    pub message_bytes: usize,
    /// Bytes of all request messages in memory. Default 256 MiB, at least one message.
    pub request_bytes: usize,
    /// Connections in all. Default 10,000; fewer if the process may not open as many files.
    pub connections: usize,
    /// Connections from one address. Default 1,000.
    pub connections_per_address: usize,
    /// Open result streams in all. Default 4,096.
    pub watchers: usize,
    /// Batches that are not over. Default 100,000.
    pub open_batches: usize,
    /// Items without a result. Default 20,000,000.
    pub queued_items: usize,
    /// Bytes of their inputs. Default 64 GiB.
    pub queued_bytes: usize,
}

/// `[tenants.NAME]`: what is said of one tenant.
#[derive(Clone, Debug)]
pub struct TenantConfig {
    /// What it weighs against others in each queue, 1 to 1000. Default 1.
    pub weight: u32,
    /// Its batches that are not over. Default: bounded by those of all tenants alone.
    pub open_batches: Option<usize>,
    /// Its items without a result. Default likewise.
    pub queued_items: Option<usize>,
    /// Bytes of their inputs. Default likewise.
    pub queued_bytes: Option<usize>,
}

impl Default for TenantConfig {
    /// A tenant of which nothing is said.
    fn default() -> Self {
        Self {
            weight: 1,
            open_batches: None,
            queued_items: None,
            queued_bytes: None,
        }
    }
}

/// `[log]`: what is told on standard error.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Text or JSON lines. Default: text on a terminal.
    pub format: telemetry::Format,
    /// Levels by target, such as `info,sooner=debug`. Default `info`.
    pub filter: String,
    /// Which items have a line: all, failed (the default) or none.
    pub items: ItemLog,
}

/// `[queues.NAME]`: what computes the items of a queue.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// The handler; without one the queue's items wait.
    pub handler: Option<HandlerConfig>,
    /// Attempts at once. Default: the processors.
    pub slots: usize,
    /// Limit of an attempt. Default 10 min.
    pub item_timeout: Duration,
    /// Retry settings; what is unset has the server's defaults.
    pub retry: RetrySettings,
    /// How many attempts may start per second. Default: as many as there are slots for.
    pub rate: Option<Rate>,
}

/// Which handler a queue has.
#[derive(Clone, Debug)]
pub enum HandlerConfig {
    /// A program, started once per attempt.
    Exec(ExecSettings),
    /// The input comes back.
    Echo {
        /// After this time.
        delay: Duration,
    },
}

impl Config {
    /// The settings of a queue that is not in the file.
    pub fn default_queue() -> QueueConfig {
        QueueConfig {
            handler: None,
            slots: parallelism(),
            item_timeout: Duration::from_secs(600),
            retry: RetrySettings::default(),
            rate: None,
        }
    }
}

/// How many processors this process may use.
fn parallelism() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(limits::SLOTS_MAX)
}
