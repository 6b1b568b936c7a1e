//! From flags, environment and file to checked settings.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::check::Check;
use super::{Config, ConfigError, HandlerConfig, file};
use crate::base::limits;
use crate::domain::ids::QueueName;
use crate::handler::ExecSettings;

/// Where the settings come from, apart from the defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file that was named; without one `./sooner.toml` is read if it is there.
    pub file: Option<PathBuf>,
    /// The environment; names that do not begin with `SOONER_` or have no `__` are not ours.
    pub environment: Vec<(String, String)>,
    /// The flag `--listen`.
    pub listen: Option<String>,
    /// The flag `--ops-listen`.
    pub ops_listen: Option<String>,
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

pub(super) type Checked<T> = Result<T, ConfigError>;

/// Reads and checks all settings.
pub fn load(layers: &Layers) -> Checked<Config> {
    let (place, table) = read_file(layers.file.as_deref())?;
    let table = with_environment(table, &layers.environment)?;
    let file: file::File = table
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::new(&place, error.message().to_owned()))?;
    settle(&file, &Check { place }, layers)
}

impl Default for Config {
    /// Every setting at its default, whatever files and the environment say.
    fn default() -> Self {
        let place = String::new();
        settle(&file::File::default(), &Check { place }, &Layers::default())
            .expect("the defaults are within their bounds")
    }
}

fn settle(file: &file::File, check: &Check, layers: &Layers) -> Checked<Config> {
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
        tenants: check.tenants(file)?,
        log: check.log(&file.log)?,
        queues,
    })
}

/// The file's table and how to speak of it.
fn read_file(named: Option<&Path>) -> Checked<(String, toml::Table)> {
    let (place, text) = read_text(named)?;
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

/// The file's text, empty if none is named and none is there, and how to speak of it.
pub(super) fn read_text(named: Option<&Path>) -> Checked<(String, String)> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let place = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            String::new()
        }
        Err(error) => return Err(ConfigError::new(place, format!("cannot be read: {error}"))),
    };
    Ok((place, text))
}

/// The table with `SOONER_SECTION__KEY` in place of what the file says.
fn with_environment(
    mut table: toml::Table,
    environment: &[(String, String)],
) -> Checked<toml::Table> {
    let texts: HashMap<_, _> = environment
        .iter()
        .map(|(name, text)| (name.as_str(), text))
        .collect();
    for (name, keys) in environment_keys(environment) {
        let text = texts[name];
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

/// The variables that are settings, with their paths.
pub(super) fn environment_keys(
    environment: &[(String, String)],
) -> impl Iterator<Item = (&str, Vec<String>)> {
    environment.iter().filter_map(|(name, _)| {
        let path = name.strip_prefix(ENVIRONMENT_PREFIX)?;
        let keys = path.split("__").map(str::to_lowercase).collect();
        path.contains("__").then_some((name.as_str(), keys))
    })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

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
        let cases: [(&str, &str); 18] = [
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
            (
                "[queues.a]\nrate = { per_second = 0 }\n",
                "queues.a.rate.per_second: 0 is not between 0.0001 and 1000000",
            ),
            (
                "[queues.a]\nrate = { per_second = 0.5, burst = 0 }\n",
                "queues.a.rate.burst: 0 is not between 1 and 1000000",
            ),
            (
                "[queues.a]\nrate = { burst = 1 }\n",
                "sooner.toml:2: missing field `per_second`",
            ),
            (
                "[tenants.a]\nweight = 0\n",
                "tenants.a.weight: 0 is not between 1 and 1000",
            ),
            (
                "[tenants.a]\nweigth = 2\n",
                "sooner.toml:2: unknown field `weigth`",
            ),
            ("[tenants.\"-a\"]\n", "tenants.-a: \"-a\" does not start"),
            ("[queues.\"a b\"]\n", "queues.a b: holds ' '"),
            (
                "[store]\nurl = \"mysql:x\"\n",
                "store.url: \"mysql:x\" is not of the form",
            ),
            ("[queues.a.handler]\n", "queues.a.handler: names one of"),
            (
                "[limits]\nopen_batches = 0\n",
                "limits.open_batches: 0 is not between 1 and",
            ),
            (
                "[tenants.a]\nqueued_bytes = \"x\"\n",
                "tenants.a.queued_bytes: \"x\" is not a size",
            ),
            ("[tenants.\"a b\"]\n", "tenants.a b: "),
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
