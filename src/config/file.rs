//! The shape of `sooner.toml`, before its values are checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::quantity::Size;

/// The whole file; every key may be missing.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) queues: BTreeMap<String, Queue>,
    pub(crate) tenants: BTreeMap<String, Tenant>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    pub(crate) listen: Option<String>,
    pub(crate) ops_listen: Option<String>,
    pub(crate) insecure: Option<bool>,
    pub(crate) trust_tenant_header: Option<bool>,
    pub(crate) drain_delay: Option<String>,
    pub(crate) drain_grace: Option<String>,
    pub(crate) disconnect_grace: Option<String>,
    pub(crate) io_threads: Option<usize>,
    pub(crate) handshake_timeout: Option<String>,
    pub(crate) keepalive_interval: Option<String>,
    pub(crate) keepalive_timeout: Option<String>,
    pub(crate) message_timeout: Option<String>,
    pub(crate) max_connection_age: Option<String>,
    pub(crate) max_connection_age_grace: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    pub(crate) url: Option<String>,
    pub(crate) reserve: Option<Size>,
    pub(crate) retention: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) submit_items: Option<usize>,
    pub(crate) input_bytes: Option<Size>,
    pub(crate) output_bytes: Option<Size>,
    pub(crate) message_bytes: Option<Size>,
    pub(crate) request_bytes: Option<Size>,
    pub(crate) connections: Option<usize>,
    pub(crate) connections_per_address: Option<usize>,
    pub(crate) watchers: Option<usize>,
    pub(crate) open_batches: Option<usize>,
    pub(crate) queued_items: Option<usize>,
    pub(crate) queued_bytes: Option<Size>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tenant {
    pub(crate) weight: Option<usize>,
    pub(crate) open_batches: Option<usize>,
    pub(crate) queued_items: Option<usize>,
    pub(crate) queued_bytes: Option<Size>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) format: Option<String>,
    pub(crate) filter: Option<String>,
    pub(crate) items: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Queue {
    pub(crate) handler: Option<Handler>,
    pub(crate) slots: Option<usize>,
    pub(crate) item_timeout: Option<String>,
    pub(crate) retry: Retry,
    pub(crate) rate: Option<Rate>,
    pub(crate) max_crashes: Option<u32>,
    pub(crate) kill_grace: Option<String>,
    pub(crate) output_max: Option<Size>,
    pub(crate) stderr_max: Option<Size>,
    pub(crate) content_type: Option<String>,
    pub(crate) env_pass: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Handler {
    pub(crate) exec: Option<Vec<String>>,
    pub(crate) echo: Option<Echo>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Echo {
    pub(crate) delay: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: Option<u32>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retry {
    pub(crate) max_attempts: Option<u32>,
    pub(crate) initial_backoff: Option<String>,
    pub(crate) max_backoff: Option<String>,
    pub(crate) multiplier: Option<f64>,
    pub(crate) jitter: Option<f64>,
    pub(crate) non_retryable_reasons: Vec<String>,
}
