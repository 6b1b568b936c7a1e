//! From flags, environment and file to checked settings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Config, ConfigError, HandlerConfig, LimitsConfig, LogConfig, QueueConfig, ServerConfig,
    StoreConfig, file, parse_duration, parse_size, processors,
};
use crate::base::{limits, telemetry};
use crate::domain::ids::QueueName;
use crate::domain::retry::RetrySettings;
use crate::engine::ItemLog;
use crate::handler::{Environment, ExecSettings};

/// Where the settings come from, apart from the defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file that was named; without one `./sooner.toml` is read if it is there.
    pub file: Option<PathBuf>,
    /// The environment; names that do not begin with `SOONER_` or have no `__` are not ours.
    pub environment: Vec<(String, String)>,
    /// The flag `--listen`.
    pub listen: Option<String>,
    /// The flag `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// The flag `--insecure`.
    pub insecure: bool,
    /// The flag `-j`: slots of the default queue.
    pub slots: Option<usize>,
    /// The trailing command: the default queue's handler.
    pub command: Option<ExecSettings>,
}

/// The file that is read if none is named.
const DEFAULT_FILE: &str = "sooner.toml";

const ENVIRONMENT_PREFIX: &str = "SOONER_";

type Checked<T> = Result<T, ConfigError>;

/// Reads and checks all settings.
pub fn load(layers: &Layers) -> Checked<Config> {
    let (place, table) = read_file(layers.file.as_deref())?;
    let table = with_environment(table, &layers.environment)?;
    let file: file::File = table
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::new(&place, error.message().to_owned()))?;
    let check = Check { place };
    let queues = file
        .queues
        .iter()
        .map(|(name, queue)| check.queue(name, queue));
    let mut queues: HashMap<_, _> = queues.collect::<Checked<_>>()?;
    let default = queues
        .entry(QueueName::default())
        .or_insert_with(Config::default_queue);
    default.slots = Check { place: "-j".into() }.count(
        "slots",
        layers.slots,
        default.slots,
        limits::SLOTS_MAX,
    )?;
    if let Some(command) = &layers.command {
        default.handler = Some(HandlerConfig::Exec(command.clone()));
    }
    Ok(Config {
        server: check.server(&file.server, layers)?,
        store: check.store(&file.store, layers)?,
        limits: check.limits(&file.limits)?,
        log: check.log(&file.log)?,
        queues,
    })
}

/// The file's table and how to speak of it.
fn read_file(named: Option<&Path>) -> Checked<(String, toml::Table)> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let place = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            String::new()
        }
        Err(error) => return Err(ConfigError::new(place, format!("cannot be read: {error}"))),
    };
    // Once for the shape, because only this knows lines; once for the table that the environment joins.
    let at_line = |error: toml::de::Error| {
        let line = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        ConfigError::new(
            format!("{place}:{line}"),
            error.message().replace('\n', " "),
        )
    };
    toml::from_str::<file::File>(&text).map_err(at_line)?;
    let table = text.parse::<toml::Table>().map_err(at_line)?;
    Ok((place, table))
}

/// The table with `SOONER_SECTION__KEY` in place of what the file says.
fn with_environment(
    mut table: toml::Table,
    environment: &[(String, String)],
) -> Checked<toml::Table> {
    for (name, text) in environment {
        let Some(path) = name
            .strip_prefix(ENVIRONMENT_PREFIX)
            .filter(|path| path.contains("__"))
        else {
            continue;
        };
        let keys: Vec<_> = path.split("__").map(str::to_lowercase).collect();
        // `8`, `true` and `["a"]` are what they are in the file; anything else is text.
        let value = format!("x = {text}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut table| table.remove("x"));
        let value = value.unwrap_or_else(|| toml::Value::String(text.clone()));
        let alone = keys.iter().rev().fold(value.clone(), |inner, key| {
            toml::Value::Table(toml::Table::from_iter([(key.clone(), inner)]))
        });
        alone
            .try_into::<file::File>()
            .map_err(|error| ConfigError::new(name, error.message().replace('\n', " ")))?;
        put(&mut table, &keys, value);
    }
    Ok(table)
}

fn put(table: &mut toml::Table, keys: &[String], value: toml::Value) {
    match keys {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table
                .entry(first.clone())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Checks values and says where a wrong one stands.
struct Check {
    place: String,
}

impl Check {
    fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> ConfigError {
        ConfigError::new(&self.place, format!("{key}: {problem}"))
    }

    fn duration(&self, key: &str, text: Option<&String>, default: Duration) -> Checked<Duration> {
        text.map_or(Ok(default), |text| {
            parse_duration(text).map_err(|problem| self.wrong(key, problem))
        })
    }

    fn size(
        &self,
        key: &str,
        text: Option<&String>,
        default: usize,
        most: usize,
    ) -> Checked<usize> {
        let Some(text) = text else { return Ok(default) };
        let bytes = parse_size(text).map_err(|problem| self.wrong(key, problem))?;
        if bytes == 0 || bytes > most {
            return Err(self.wrong(key, format!("{text:?} is not between 1 and {most} bytes")));
        }
        Ok(bytes)
    }

    fn count(
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

    fn server(&self, server: &file::Server, layers: &Layers) -> Checked<ServerConfig> {
        let insecure = layers.insecure || server.insecure.unwrap_or(false);
        let (place, text) = match (&layers.listen, &server.listen) {
            (Some(flag), _) => ("--listen".to_owned(), flag.as_str()),
            (None, Some(key)) => (format!("{}: server.listen", self.place), key.as_str()),
            (None, None) => (String::new(), "127.0.0.1:50051"),
        };
        let listen: SocketAddr = text.parse().map_err(|_| {
            ConfigError::new(
                &place,
                format!("{text:?} is not an address such as \"127.0.0.1:50051\""),
            )
        })?;
        if !listen.ip().is_loopback() && !insecure {
            return Err(ConfigError::new(
                place,
                format!(
                    "{listen} can be reached from other machines, and nothing guards it; if something in front of it does, say --insecure"
                ),
            ));
        }
        let threads = (processors() / 2).clamp(1, 4);
        Ok(ServerConfig {
            listen,
            insecure,
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
        })
    }

    fn store(&self, store: &file::Store, layers: &Layers) -> Checked<StoreConfig> {
        if let Some(data_dir) = &layers.data_dir {
            return Ok(StoreConfig {
                data_dir: data_dir.clone(),
            });
        }
        let url = store.url.as_deref().unwrap_or("sqlite:sooner-data");
        match url.strip_prefix("sqlite:").filter(|path| !path.is_empty()) {
            Some(path) => Ok(StoreConfig {
                data_dir: path.into(),
            }),
            None => Err(self.wrong(
                "store.url",
                format!("{url:?} is not of the form \"sqlite:DIRECTORY\""),
            )),
        }
    }

    fn limits(&self, wire: &file::Limits) -> Checked<LimitsConfig> {
        let input = wire.input_bytes.as_ref();
        let input_bytes = self.size(
            "limits.input_bytes",
            input,
            limits::INPUT_BYTES_MAX,
            limits::INPUT_BYTES_CEILING,
        )?;
        let needed = limits::message_bytes_max(input_bytes);
        let message = wire.message_bytes.as_ref();
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
            message_bytes: self.size("limits.message_bytes", message, needed, 1 << 30)?,
        })
    }

    fn log(&self, log: &file::Log) -> Checked<LogConfig> {
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
        Ok(LogConfig {
            format,
            filter: log.filter.clone().unwrap_or_else(|| "info".to_owned()),
            items,
        })
    }

    fn queue(&self, name: &str, queue: &file::Queue) -> Checked<(QueueName, QueueConfig)> {
        let key = |field: &str| format!("queues.{name}.{field}");
        let queue_name = QueueName::parse(name)
            .map_err(|problem| self.wrong(&format!("queues.{name}"), problem))?;
        let default = Config::default_queue();
        let config = QueueConfig {
            handler: self.handler(name, queue)?,
            slots: self.count(&key("slots"), queue.slots, default.slots, limits::SLOTS_MAX)?,
            item_timeout: self.duration(
                &key("item_timeout"),
                queue.item_timeout.as_ref(),
                default.item_timeout,
            )?,
            retry: self.retry(name, queue)?,
        };
        if config.item_timeout < Duration::from_millis(1) {
            return Err(self.wrong(&key("item_timeout"), "is below the minimum 1ms"));
        }
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

    fn retry(&self, name: &str, queue: &file::Queue) -> Checked<RetrySettings> {
        let retry = &queue.retry;
        let key = |field: &str| format!("queues.{name}.retry.{field}");
        let bounded = |field: &str, value: Option<f64>, low: f64, high: f64| match value {
            Some(value) if !(low..=high).contains(&value) => Err(self.wrong(
                &key(field),
                format!("{value} is not between {low} and {high}"),
            )),
            Some(_) | None => Ok(()),
        };
        bounded(
            "max_attempts",
            retry.max_attempts.map(f64::from),
            1.0,
            1000.0,
        )?;
        bounded("multiplier", retry.multiplier, 1.0, 100.0)?;
        bounded("jitter", retry.jitter, 0.0, 1.0)?;
        bounded("max_crashes", queue.max_crashes.map(f64::from), 1.0, 100.0)?;
        let optional = |field: &str, text: &Option<String>| {
            text.as_ref()
                .map(|text| {
                    parse_duration(text).map_err(|problem| self.wrong(&key(field), problem))
                })
                .transpose()
        };
        Ok(RetrySettings {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn from_file(text: &str, environment: &[(&str, &str)]) -> Checked<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sooner.toml");
        std::fs::write(&path, text).unwrap();
        let environment = environment
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let loaded = load(&Layers {
            file: Some(path),
            environment,
            ..Layers::default()
        });
        let dir = format!("{}/", dir.path().display());
        loaded.map_err(|error| {
            ConfigError::new(
                error.place.replace(&dir, ""),
                error.problem.replace(&dir, ""),
            )
        })
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let text = "[server]\nlisten = \"127.0.0.1:1\"\n[queues.a]\nslots = 3\n";
        let config = from_file(
            text,
            &[
                ("SOONER_SERVER__LISTEN", "127.0.0.1:2"),
                ("SOONER_QUEUES__A__SLOTS", "5"),
                ("SOONER_SERVER", "x"),
            ],
        )
        .unwrap();
        assert_eq!(config.server.listen.port(), 2);
        assert_eq!(config.queues[&QueueName::parse("a").unwrap()].slots, 5);
        assert!(
            config.queues.contains_key(&QueueName::default()),
            "there is always a default queue"
        );
    }

    #[test]
    fn a_wrong_setting_is_told_with_its_place_its_value_and_its_bound() {
        let cases: [(&str, &str); 9] = [
            (
                "[server]\nlisten = \"x\"\n",
                "sooner.toml: server.listen: \"x\" is not an address",
            ),
            ("[server]\nlisten = \"0.0.0.0:1\"\n", "nothing guards it"),
            (
                "\n[server]\nlissten = 1\n",
                "sooner.toml:3: unknown field `lissten`",
            ),
            (
                "[server]\nlisten = 1\n",
                "sooner.toml:2: invalid type: integer `1`",
            ),
            (
                "[queues.a]\nslots = 0\n",
                "queues.a.slots: 0 is not between 1 and 65536",
            ),
            (
                "[queues.a]\nitem_timeout = \"5\"\n",
                "queues.a.item_timeout: \"5\" is not a duration",
            ),
            ("[queues.\"a b\"]\n", "queues.a b: holds ' '"),
            (
                "[store]\nurl = \"mysql:x\"\n",
                "store.url: \"mysql:x\" is not of the form",
            ),
            ("[queues.a.handler]\n", "queues.a.handler: names one of"),
        ];
        for (text, says) in cases {
            let error = from_file(text, &[]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}\n  does not say {says}");
        }
        let error = from_file("", &[("SOONER_SERVER__LISSTEN", "1")])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("SOONER_SERVER__LISSTEN: unknown field"),
            "{error}"
        );
    }

    #[test]
    fn a_queue_has_what_its_table_says() {
        let text = "[queues.thumb]\nhandler = { exec = [\"cat\"] }\nkill_grace = \"1s\"\nmax_crashes = 7\n\
                    retry = { max_attempts = 9, jitter = 0.0 }\nenv = { A = \"b\" }\n";
        let config = from_file(text, &[]).unwrap();
        let queue: BTreeMap<_, _> = config.queues.iter().collect();
        let thumb = queue[&QueueName::parse("thumb").unwrap()];
        assert_eq!(
            (thumb.retry.max_attempts, thumb.retry.max_crashes),
            (Some(9), Some(7))
        );
        let Some(HandlerConfig::Exec(exec)) = &thumb.handler else {
            panic!("{thumb:?}")
        };
        assert_eq!(exec.kill_grace, Duration::from_secs(1));
    }
}
