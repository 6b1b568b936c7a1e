//! Checks the file's values and says where a wrong one stands.

use std::net::SocketAddr;
use std::time::Duration;

use super::layers::{Checked, Layers};
use super::quantity::Size;
use super::{
    Config, ConfigError, ConnectionTimes, HandlerConfig, LimitsConfig, LogConfig, QueueConfig,
    ServerConfig, StoreConfig, file, parallelism, parse_duration, parse_size,
};
use crate::base::{limits, telemetry};
use crate::domain::bounds::OutOfBounds;
use crate::domain::ids::QueueName;
use crate::domain::rate::Rate;
use crate::domain::retry::RetrySettings;
use crate::engine::{ItemLog, Reserve};
use crate::handler::{Environment, ExecSettings};

/// Checks values and says where a wrong one stands.
pub(super) struct Check {
    /// The file, or the flag.
    pub(super) place: String,
}

/// A port that can be listened on, and how people name it.
struct Port {
    flag: &'static str,
    key: &'static str,
    default: &'static str,
}

impl Check {
    pub(super) fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> ConfigError {
        ConfigError::new(&self.place, format!("{key}: {problem}"))
    }

    fn duration(&self, key: &str, text: Option<&String>, default: Duration) -> Checked<Duration> {
        text.map_or(Ok(default), |text| {
            parse_duration(text).map_err(|problem| self.wrong(key, problem))
        })
    }

    pub(super) fn size(
        &self,
        key: &str,
        size: Option<&Size>,
        default: usize,
        most: usize,
    ) -> Checked<usize> {
        let Some(Size(text)) = size else {
            return Ok(default);
        };
        let bytes = parse_size(text).map_err(|problem| self.wrong(key, problem))?;
        if bytes == 0 || bytes > most {
            return Err(self.wrong(key, format!("{text:?} is not between 1 and {most} bytes")));
        }
        Ok(bytes)
    }

    pub(super) fn count(
        &self,
        key: &str,
        number: Option<usize>,
        default: usize,
        most: usize,
    ) -> Checked<usize> {
        match number {
            Some(number) if number == 0 || number > most => {
                Err(self.wrong(key, format!("{number} is not between 1 and {most}")))
            }
            number => Ok(number.unwrap_or(default)),
        }
    }

    pub(super) fn server(&self, server: &file::Server, layers: &Layers) -> Checked<ServerConfig> {
        let insecure = layers.insecure || server.insecure.unwrap_or(false);
        let listen = Port {
            flag: "--listen",
            key: "server.listen",
            default: "127.0.0.1:50051",
        };
        let listen = self.address(
            &listen,
            [layers.listen.as_ref(), server.listen.as_ref()],
            insecure,
        )?;
        let ops_listen = Port {
            flag: "--ops-listen",
            key: "server.ops_listen",
            default: "127.0.0.1:9464",
        };
        let ops_listen = self.address(
            &ops_listen,
            [layers.ops_listen.as_ref(), server.ops_listen.as_ref()],
            insecure,
        )?;
        let threads = (parallelism() / 2).clamp(1, 4);
        Ok(ServerConfig {
            listen,
            ops_listen,
            insecure,
            trust_tenant_header: server.trust_tenant_header.unwrap_or(false),
            drain_delay: self.duration(
                "server.drain_delay",
                server.drain_delay.as_ref(),
                Duration::ZERO,
            )?,
            drain_grace: self.duration(
                "server.drain_grace",
                server.drain_grace.as_ref(),
                Duration::from_secs(30),
            )?,
            disconnect_grace: self.duration(
                "server.disconnect_grace",
                server.disconnect_grace.as_ref(),
                Duration::from_secs(10),
            )?,
            io_threads: self.count("server.io_threads", server.io_threads, threads, 256)?,
            connections: self.connection_times(server)?,
            message_timeout: self.at_least(
                MILLISECOND,
                "server.message_timeout",
                server.message_timeout.as_ref(),
                limits::MESSAGE_TIMEOUT,
            )?,
        })
    }

    /// The address of a port as the flag, else the file, else the default has it.
    fn address(
        &self,
        port: &Port,
        [flag, key]: [Option<&String>; 2],
        insecure: bool,
    ) -> Checked<SocketAddr> {
        let (place, text) = match (flag, key) {
            (Some(flag), _) => (port.flag.to_owned(), flag.as_str()),
            (None, Some(key)) => (format!("{}: {}", self.place, port.key), key.as_str()),
            (None, None) => (String::new(), port.default),
        };
        let default = port.default;
        let address: SocketAddr = text.parse().map_err(|_| {
            ConfigError::new(
                &place,
                format!("{text:?} is not an address such as {default:?}"),
            )
        })?;
        if !address.ip().is_loopback() && !insecure {
            return Err(ConfigError::new(
                place,
                format!(
                    "{address} can be reached from other machines, and nothing guards it; if something in front of it does, say --insecure"
                ),
            ));
        }
        Ok(address)
    }

    fn connection_times(&self, server: &file::Server) -> Checked<ConnectionTimes> {
        let time = |key, text: &Option<String>, default| {
            self.at_least(MILLISECOND, key, text.as_ref(), default)
        };
        let age = server.max_connection_age.as_ref();
        let age = age.map(|text| {
            let key = "server.max_connection_age";
            self.at_least(AGE_MIN, key, Some(text), AGE_MIN)
        });
        Ok(ConnectionTimes {
            handshake_timeout: time(
                "server.handshake_timeout",
                &server.handshake_timeout,
                limits::HANDSHAKE_TIMEOUT,
            )?,
            keepalive_interval: time(
                "server.keepalive_interval",
                &server.keepalive_interval,
                limits::KEEPALIVE_INTERVAL,
            )?,
            keepalive_timeout: time(
                "server.keepalive_timeout",
                &server.keepalive_timeout,
                limits::KEEPALIVE_TIMEOUT,
            )?,
            age_max: age.transpose()?,
            age_grace: self.duration(
                "server.max_connection_age_grace",
                server.max_connection_age_grace.as_ref(),
                limits::AGE_GRACE,
            )?,
        })
    }

    fn at_least(
        &self,
        least: Duration,
        key: &str,
        text: Option<&String>,
        default: Duration,
    ) -> Checked<Duration> {
        let duration = self.duration(key, text, default)?;
        if duration < least {
            return Err(self.wrong(key, format!("is below the minimum {least:?}")));
        }
        Ok(duration)
    }

    pub(super) fn store(&self, store: &file::Store, layers: &Layers) -> Checked<StoreConfig> {
        let reserve = store.reserve.as_ref().map(|text| {
            let most = limits::DISK_RESERVE_CEILING;
            self.size("store.reserve", Some(text), most, most)
        });
        let reserve = reserve.transpose()?.map_or(Reserve::Usual, |bytes| {
            Reserve::Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
        });
        let url = store.url.as_deref().unwrap_or("sqlite:sooner-data");
        let data_dir = match (&layers.data_dir, url.strip_prefix("sqlite:")) {
            (Some(flag), _) => flag.clone(),
            (None, Some(path)) if !path.is_empty() => path.into(),
            (None, _) => {
                let problem = format!("{url:?} is not of the form \"sqlite:DIRECTORY\"");
                return Err(self.wrong("store.url", problem));
            }
        };
        let retention = self.at_least(
            limits::RETENTION_MIN,
            "store.retention",
            store.retention.as_ref(),
            limits::RETENTION_DEFAULT,
        )?;
        Ok(StoreConfig {
            data_dir,
            reserve,
            retention,
        })
    }

    pub(super) fn limits(&self, wire: &file::Limits) -> Checked<LimitsConfig> {
        let input = wire.input_bytes.as_ref();
        let input_bytes = self.size(
            "limits.input_bytes",
            input,
            limits::INPUT_BYTES_MAX,
            limits::INPUT_BYTES_CEILING,
        )?;
        let needed = limits::message_bytes_max(input_bytes);
        let message = wire.message_bytes.as_ref();
        let message_bytes = self.size("limits.message_bytes", message, needed, MESSAGE_CEILING)?;
        Ok(LimitsConfig {
            submit_items: self.count(
                "limits.submit_items",
                wire.submit_items,
                limits::SUBMIT_ITEMS_MAX,
                1_000_000,
            )?,
            input_bytes,
            output_bytes: self.size(
                "limits.output_bytes",
                wire.output_bytes.as_ref(),
                limits::OUTPUT_BYTES_MAX,
                limits::OUTPUT_BYTES_MAX,
            )?,
            message_bytes,
            request_bytes: self.request_bytes(wire, message_bytes)?,
            connections: self.count(
                "limits.connections",
                wire.connections,
                limits::CONNECTIONS_MAX,
                1_000_000,
            )?,
            connections_per_address: self.count(
                "limits.connections_per_address",
                wire.connections_per_address,
                limits::ADDRESS_CONNECTIONS_MAX,
                1_000_000,
            )?,
            watchers: self.count(
                "limits.watchers",
                wire.watchers,
                limits::WATCHERS_MAX,
                1_000_000,
            )?,
            open_batches: self.count(
                "limits.open_batches",
                wire.open_batches,
                limits::OPEN_BATCHES_MAX,
                QUEUED_CEILING,
            )?,
            queued_items: self.count(
                "limits.queued_items",
                wire.queued_items,
                limits::QUEUED_ITEMS_MAX,
                QUEUED_CEILING,
            )?,
            queued_bytes: self.size(
                "limits.queued_bytes",
                wire.queued_bytes.as_ref(),
                limits::QUEUED_BYTES_MAX,
                QUEUED_CEILING,
            )?,
        })
    }

    fn request_bytes(&self, wire: &file::Limits, message_bytes: usize) -> Checked<usize> {
        let key = "limits.request_bytes";
        let default = limits::REQUEST_BYTES_MAX.max(message_bytes);
        let bytes = self.size(key, wire.request_bytes.as_ref(), default, usize::MAX >> 4)?;
        if bytes < message_bytes {
            return Err(self.wrong(
                key,
                format!("{bytes} bytes have no room for one message of limits.message_bytes, {message_bytes}"),
            ));
        }
        Ok(bytes)
    }

    pub(super) fn log(&self, log: &file::Log) -> Checked<LogConfig> {
        let format = match log.format.as_deref() {
            None | Some("auto") => telemetry::Format::Auto,
            Some("text") => telemetry::Format::Text,
            Some("json") => telemetry::Format::Json,
            Some(other) => {
                return Err(
                    self.wrong("log.format", format!("{other:?} is not auto, text or json"))
                );
            }
        };
        let items = match log.items.as_deref() {
            None | Some("failed") => ItemLog::Failed,
            Some("all") => ItemLog::All,
            Some("none") => ItemLog::None,
            Some(other) => {
                return Err(
                    self.wrong("log.items", format!("{other:?} is not all, failed or none"))
                );
            }
        };
        let filter = log.filter.as_deref().unwrap_or("info");
        telemetry::check_filter(filter).map_err(|problem| self.wrong("log.filter", problem))?;
        Ok(LogConfig {
            format,
            filter: filter.to_owned(),
            items,
        })
    }

    pub(super) fn queue(
        &self,
        name: &str,
        queue: &file::Queue,
    ) -> Checked<(QueueName, QueueConfig)> {
        let key = |field: &str| format!("queues.{name}.{field}");
        let queue_name = QueueName::parse(name)
            .map_err(|problem| self.wrong(&format!("queues.{name}"), problem))?;
        let default = Config::default_queue();
        let config = QueueConfig {
            handler: self.handler(name, queue)?,
            slots: self.count(&key("slots"), queue.slots, default.slots, limits::SLOTS_MAX)?,
            item_timeout: self.at_least(
                MILLISECOND,
                &key("item_timeout"),
                queue.item_timeout.as_ref(),
                default.item_timeout,
            )?,
            retry: self.retry(name, queue)?,
            rate: self.rate(name, queue.rate.as_ref())?,
        };
        Ok((queue_name, config))
    }

    fn handler(&self, name: &str, queue: &file::Queue) -> Checked<Option<HandlerConfig>> {
        let key = |field: &str| format!("queues.{name}.{field}");
        let Some(handler) = &queue.handler else {
            return Ok(None);
        };
        match (&handler.exec, &handler.echo) {
            (Some(command), None) => {
                let most = limits::OUTPUT_BYTES_MAX;
                let environment = Environment::Clean {
                    pass: queue.env_pass.clone(),
                    set: queue.env.clone(),
                };
                Ok(Some(HandlerConfig::Exec(ExecSettings {
                    command: command.clone(),
                    environment,
                    kill_grace: self.duration(
                        &key("kill_grace"),
                        queue.kill_grace.as_ref(),
                        EXEC_KILL_GRACE,
                    )?,
                    output_bytes_max: self.size(
                        &key("output_max"),
                        queue.output_max.as_ref(),
                        most,
                        most,
                    )?,
                    stderr_bytes_max: self.size(
                        &key("stderr_max"),
                        queue.stderr_max.as_ref(),
                        limits::ERROR_MESSAGE_BYTES_MAX,
                        limits::ERROR_MESSAGE_BYTES_MAX,
                    )?,
                    content_type: queue.content_type.clone().unwrap_or_default(),
                })))
            }
            (None, Some(echo)) => {
                let delay = self.duration(
                    &key("handler.echo.delay"),
                    echo.delay.as_ref(),
                    Duration::ZERO,
                )?;
                Ok(Some(HandlerConfig::Echo { delay }))
            }
            _ => Err(self.wrong(&key("handler"), "names one of exec and echo")),
        }
    }

    fn rate(&self, name: &str, rate: Option<&file::Rate>) -> Checked<Option<Rate>> {
        let rate = rate.map(|&file::Rate { per_second, burst }| Rate { per_second, burst });
        let wrong = rate.and_then(|rate| rate.check().into_iter().next());
        wrong.map_or(Ok(rate), |OutOfBounds { field, problem }| {
            Err(self.wrong(&format!("queues.{name}.rate.{field}"), problem))
        })
    }

    fn retry(&self, name: &str, queue: &file::Queue) -> Checked<RetrySettings> {
        let retry = &queue.retry;
        let key = |field: &str| format!("queues.{name}.retry.{field}");
        let optional = |field: &str, text: &Option<String>| {
            text.as_ref()
                .map(|text| {
                    parse_duration(text).map_err(|problem| self.wrong(&key(field), problem))
                })
                .transpose()
        };
        let settings = RetrySettings {
            max_attempts: retry.max_attempts,
            initial_backoff: optional("initial_backoff", &retry.initial_backoff)?,
            max_backoff: optional("max_backoff", &retry.max_backoff)?,
            multiplier: retry.multiplier,
            jitter: retry.jitter,
            non_retryable_reasons: retry
                .non_retryable_reasons
                .iter()
                .map(|reason| reason.as_str().into())
                .collect(),
            max_crashes: queue.max_crashes,
        };
        let wrong = settings.check().into_iter().next();
        wrong.map_or(Ok(settings), |OutOfBounds { field, problem }| {
            // It is about the server, not about attempts, so it stands beside the others.
            let table = if field == "max_crashes" { "" } else { "retry." };
            Err(self.wrong(&format!("queues.{name}.{table}{field}"), problem))
        })
    }
}

/// The settings of a command that stands on the command line.
pub fn command_line_handler(command: Vec<String>, environment: Environment) -> ExecSettings {
    ExecSettings {
        command,
        environment,
        kill_grace: EXEC_KILL_GRACE,
        output_bytes_max: limits::OUTPUT_BYTES_MAX,
        stderr_bytes_max: limits::ERROR_MESSAGE_BYTES_MAX,
        content_type: String::new(),
    }
}

/// How long a program has between TERM and KILL unless its queue says otherwise.
const EXEC_KILL_GRACE: Duration = Duration::from_secs(5);

/// Below this a time limit is a mistake.
const MILLISECOND: Duration = Duration::from_millis(1);

/// Below this clients would do little but connect.
const AGE_MIN: Duration = Duration::from_secs(1);

/// The most work that may be configured to be accepted and not over: beyond it, no limit is meant.
pub(super) const QUEUED_CEILING: usize = 1 << 60;

/// The largest message that may be configured; lengths on the wire have 32 bits.
const MESSAGE_CEILING: usize = 1 << 30;
