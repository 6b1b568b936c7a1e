//! Checked settings back in the shape of the file, with every value written out.
//!
//! Every structure is taken apart and put together in full, so that a new setting does not compile
//! until it is told here too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::quantity::Size;
use super::{
    Config, ConnectionTimes, HandlerConfig, LimitsConfig, LogConfig, QueueConfig, ServerConfig,
    StoreConfig, file, tenants,
};
use crate::base::telemetry::Format;
use crate::domain::retry::{MAX_CRASHES_DEFAULT, RetryPolicy, RetrySettings};
use crate::engine::{ItemLog, Reserve};
use crate::handler::{Environment, ExecSettings};

/// All settings as a file that says each of them would have them.
pub(super) fn described(config: &Config) -> file::File {
    let Config {
        server: of_server,
        store: of_store,
        limits: of_limits,
        log: of_log,
        queues,
        tenants: of_tenants,
    } = config;
    file::File {
        server: server(of_server),
        store: store(of_store),
        limits: limits(of_limits),
        log: log(of_log),
        queues: queues
            .iter()
            .map(|(name, config)| (name.to_string(), queue(config)))
            .collect(),
        tenants: of_tenants
            .iter()
            .map(|(name, config)| (name.to_string(), tenants::described(config)))
            .collect(),
    }
}

fn server(config: &ServerConfig) -> file::Server {
    let ServerConfig {
        listen,
        ops_listen,
        insecure,
        trust_tenant_header,
        drain_delay,
        drain_grace,
        disconnect_grace,
        io_threads,
        connections,
        message_timeout,
    } = config;
    let ConnectionTimes {
        handshake_timeout,
        keepalive_interval,
        keepalive_timeout,
        age_max,
        age_grace,
    } = connections;
    file::Server {
        listen: Some(listen.to_string()),
        ops_listen: Some(ops_listen.to_string()),
        insecure: Some(*insecure),
        trust_tenant_header: Some(*trust_tenant_header),
        drain_delay: Some(duration(*drain_delay)),
        drain_grace: Some(duration(*drain_grace)),
        disconnect_grace: Some(duration(*disconnect_grace)),
        io_threads: Some(*io_threads),
        handshake_timeout: Some(duration(*handshake_timeout)),
        keepalive_interval: Some(duration(*keepalive_interval)),
        keepalive_timeout: Some(duration(*keepalive_timeout)),
        message_timeout: Some(duration(*message_timeout)),
        max_connection_age: age_max.map(duration),
        max_connection_age_grace: Some(duration(*age_grace)),
    }
}

fn store(config: &StoreConfig) -> file::Store {
    let StoreConfig {
        data_dir,
        reserve,
        retention,
    } = config;
    let reserve = match reserve {
        Reserve::Usual => None,
        Reserve::Bytes(bytes) => Some(size(usize::try_from(*bytes).unwrap_or(usize::MAX))),
    };
    file::Store {
        url: Some(format!("sqlite:{}", data_dir.display())),
        reserve,
        retention: Some(duration(*retention)),
    }
}

fn limits(config: &LimitsConfig) -> file::Limits {
    let LimitsConfig {
        submit_items,
        input_bytes,
        output_bytes,
        message_bytes,
        request_bytes,
        connections,
        connections_per_address,
        watchers,
        open_batches,
        queued_items,
        queued_bytes,
    } = config;
    file::Limits {
        submit_items: Some(*submit_items),
        input_bytes: Some(size(*input_bytes)),
        output_bytes: Some(size(*output_bytes)),
        message_bytes: Some(size(*message_bytes)),
        request_bytes: Some(size(*request_bytes)),
        connections: Some(*connections),
        connections_per_address: Some(*connections_per_address),
        watchers: Some(*watchers),
        open_batches: Some(*open_batches),
        queued_items: Some(*queued_items),
        queued_bytes: Some(size(*queued_bytes)),
    }
}

fn log(config: &LogConfig) -> file::Log {
    let LogConfig {
        format,
        filter,
        items,
    } = config;
    let format = match format {
        Format::Auto => "auto",
        Format::Text => "text",
        Format::Json => "json",
    };
    let items = match items {
        ItemLog::All => "all",
        ItemLog::Failed => "failed",
        ItemLog::None => "none",
    };
    file::Log {
        format: Some(format.to_owned()),
        filter: Some(filter.clone()),
        items: Some(items.to_owned()),
    }
}

fn queue(config: &QueueConfig) -> file::Queue {
    let QueueConfig {
        handler,
        slots,
        item_timeout,
        retry,
        rate,
    } = config;
    let exec = match handler {
        Some(HandlerConfig::Exec(exec)) => Some(exec),
        Some(HandlerConfig::Echo { .. }) | None => None,
    };
    let (env_pass, env) = exec.map_or_else(Default::default, |exec| environment(&exec.environment));
    let max_crashes = retry.max_crashes.unwrap_or(MAX_CRASHES_DEFAULT);
    let one = |handler: &HandlerConfig| match handler {
        HandlerConfig::Exec(ExecSettings { command, .. }) => file::Handler {
            exec: Some(command.clone()),
            echo: None,
        },
        HandlerConfig::Echo { delay } => file::Handler {
            exec: None,
            echo: Some(file::Echo {
                delay: Some(duration(*delay)),
            }),
        },
    };
    file::Queue {
        handler: handler.as_ref().map(one),
        slots: Some(*slots),
        item_timeout: Some(duration(*item_timeout)),
        retry: self::retry(retry),
        rate: rate.map(|rate| file::Rate {
            per_second: rate.per_second,
            burst: Some(rate.burst()),
        }),
        max_crashes: Some(max_crashes),
        kill_grace: exec.map(|exec| duration(exec.kill_grace)),
        output_max: exec.map(|exec| size(exec.output_bytes_max)),
        stderr_max: exec.map(|exec| size(exec.stderr_bytes_max)),
        content_type: exec.map(|exec| exec.content_type.clone()),
        env_pass,
        env,
    }
}

fn environment(environment: &Environment) -> (Vec<String>, BTreeMap<String, String>) {
    match environment {
        Environment::Clean { pass, set } => (pass.clone(), set.clone()),
        Environment::Inherit => Default::default(),
    }
}

fn retry(settings: &RetrySettings) -> file::Retry {
    let RetryPolicy {
        max_attempts,
        initial_backoff,
        max_backoff,
        multiplier,
        jitter,
        non_retryable_reasons,
    } = settings.policy();
    file::Retry {
        max_attempts: Some(max_attempts),
        initial_backoff: Some(duration(initial_backoff)),
        max_backoff: Some(duration(max_backoff)),
        multiplier: Some(multiplier),
        jitter: Some(jitter),
        non_retryable_reasons: non_retryable_reasons.into_iter().map(Into::into).collect(),
    }
}

fn duration(duration: Duration) -> String {
    let span = jiff::SignedDuration::try_from(duration).expect("no setting is that long");
    format!("{span:#}")
}

pub(super) fn size(bytes: usize) -> Size {
    for (factor, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(factor) {
            return Size(format!("{}{unit}", bytes / factor));
        }
    }
    Size(bytes.to_string())
}
