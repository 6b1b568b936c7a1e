//! All settings with where each comes from, for people.

use std::collections::HashMap;
use std::fmt;

use serde_json::json;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::describe::described;
use super::layers::{Checked, Layers, environment_keys, load, read_text};
use crate::base::telemetry;

/// A value that may be a secret is shown as this.
const HIDDEN: &str = "(hidden)";

/// The variable that goes before `log.filter`, if it can be read.
const LOG_FILTER_VARIABLE: &str = "RUST_LOG";

/// A setting as it is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path as TOML writes it, such as `queues.default.slots`.
    pub key: String,
    /// Its value as TOML writes it. Variables set for handlers are not shown: some are secrets.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A file and a line in it.
    File(String),
    /// A variable of the environment.
    Environment(String),
    /// A flag, or the command behind `--`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => f.write_str(place),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// What a command on the command line replaces.
const OF_COMMAND: [&str; 7] = [
    "queues.default.handler",
    "queues.default.kill_grace",
    "queues.default.output_max",
    "queues.default.stderr_max",
    "queues.default.content_type",
    "queues.default.env_pass",
    "queues.default.env",
];

type Path = Vec<String>;

/// Every setting in effect, by key. The settings are checked as [`load`] checks them.
pub fn show(layers: &Layers) -> Checked<Vec<Setting>> {
    let config = load(layers)?;
    let mut origins = Origins::of(layers)?;
    let described = toml::Table::try_from(described(&config))
        .map_err(|error| ConfigError::new("config", error.to_string()))?;
    let mut values = Vec::new();
    flatten(&mut Vec::new(), described, &mut values);
    let counts = |value: &str| !value.is_empty() && telemetry::check_filter(value).is_ok();
    let filter = layers
        .environment
        .iter()
        .find(|(name, value)| name == LOG_FILTER_VARIABLE && counts(value));
    if let Some((name, filter)) = filter {
        let path = ["log", "filter"].map(str::to_owned).to_vec();
        for (_, value) in values.iter_mut().filter(|(key, _)| *key == path) {
            *value = filter.clone().into();
        }
        origins.put(path, Origin::Environment(name.clone()));
    }
    let settings = values.into_iter().map(|(path, value)| Setting {
        key: key(&path),
        value: if is_secret(&path) {
            json!(HIDDEN).to_string()
        } else {
            text(&value)
        },
        origin: origins.of_path(&path),
    });
    Ok(settings.collect())
}

/// What was said and by whom; a later word goes before an earlier one.
struct Origins(HashMap<Path, Origin>);

impl Origins {
    fn of(layers: &Layers) -> Checked<Self> {
        let mut origins = Self(HashMap::new());
        let (place, file) = read_text(layers.file.as_deref())?;
        // It was checked when the settings were loaded.
        if let Ok(table) = DeTable::parse(&file) {
            origins.of_file((&place, &file), &mut Vec::new(), table.get_ref());
        }
        for (name, keys) in environment_keys(&layers.environment) {
            origins.put(keys, Origin::Environment(name.to_owned()));
        }
        let flags = [
            ("--listen", layers.listen.is_some(), "server.listen"),
            (
                "--ops-listen",
                layers.ops_listen.is_some(),
                "server.ops_listen",
            ),
            ("--insecure", layers.insecure, "server.insecure"),
            ("--data-dir", layers.data_dir.is_some(), "store.url"),
            ("-j", layers.slots.is_some(), "queues.default.slots"),
        ];
        // A command behind `--` brings everything that concerns it.
        let of_command = OF_COMMAND.map(|path| ("-- CMD", layers.command.is_some(), path));
        for (flag, is_given, path) in flags.into_iter().chain(of_command) {
            if is_given {
                let path: Path = path.split('.').map(str::to_owned).collect();
                origins.put(path, Origin::Flag(flag));
            }
        }
        Ok(origins)
    }

    /// Puts an origin in place of those of everything under its path.
    fn put(&mut self, path: Path, origin: Origin) {
        self.0.retain(|earlier, _| !earlier.starts_with(&path));
        self.0.insert(path, origin);
    }

    fn of_file(&mut self, (place, file): (&str, &str), path: &mut Path, table: &DeTable<'_>) {
        for (name, value) in table {
            path.push(name.get_ref().to_string());
            if let DeValue::Table(inner) = value.get_ref() {
                self.of_file((place, file), path, inner);
            } else {
                let line = file[..value.span().start].matches('\n').count() + 1;
                let origin = Origin::File(format!("{place}:{line}"));
                self.0.insert(path.clone(), origin);
            }
            path.pop();
        }
    }

    /// The origin of a setting, or of the table that it was given in.
    fn of_path(&self, path: &[String]) -> Origin {
        let given = (1..=path.len())
            .rev()
            .find_map(|end| self.0.get(&path[..end]));
        given.cloned().unwrap_or(Origin::Default)
    }
}

fn flatten(path: &mut Path, table: toml::Table, values: &mut Vec<(Path, toml::Value)>) {
    for (name, value) in table {
        path.push(name);
        match value {
            toml::Value::Table(inner) => flatten(path, inner, values),
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => values.push((path.clone(), value)),
        }
        path.pop();
    }
}

/// What handlers find in their environment may be anything, and is nobody else's business.
fn is_secret(path: &[String]) -> bool {
    matches!(path, [queues, _, env, _] if queues == "queues" && env == "env")
}

fn key(path: &[String]) -> String {
    let is_bare = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !name.is_empty() && name.chars().all(plain)
    };
    let names: Vec<_> = path
        .iter()
        .map(|name| {
            if is_bare(name) {
                name.clone()
            } else {
                json!(name).to_string()
            }
        })
        .collect();
    names.join(".")
}

/// A value in TOML. Strings are written as JSON writes them, which TOML reads.
fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => json!(text).to_string(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => format!("{number:?}"),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::Array(values) => {
            let values: Vec<_> = values.iter().map(text).collect();
            format!("[{}]", values.join(", "))
        }
        toml::Value::Table(_) => unreachable!("tables were flattened"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[server]\nlisten = \"127.0.0.1:1\"\n[limits]\ninput_bytes = \"5KiB\"\n\
        [queues.\"a.b\"]\nhandler = { exec = [\"cat\", \"say \\\"x\\\"\"] }\nkill_grace = \"1m30s\"\n\
        retry = { jitter = 0.5 }\nenv = { KEY = \"s3cret\" }\n[queues.e]\nhandler.echo = {}\n\
        [tenants.acme]\nweight = 7\n";

    fn shown(layers: impl FnOnce(&mut Layers), text: &str) -> Vec<Setting> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sooner.toml");
        std::fs::write(&path, text).unwrap();
        let mut all = Layers {
            file: Some(path),
            ..Layers::default()
        };
        layers(&mut all);
        let mut settings = show(&all).unwrap();
        let dir = format!("{}/", dir.path().display());
        for setting in &mut settings {
            if let Origin::File(place) = &mut setting.origin {
                *place = place.replace(&dir, "");
            }
        }
        settings
    }

    fn find(settings: &[Setting], key: &str) -> (String, String) {
        let setting = settings.iter().find(|setting| setting.key == key);
        let setting = setting.unwrap_or_else(|| panic!("no {key} in {settings:#?}"));
        (setting.value.clone(), setting.origin.to_string())
    }

    #[test]
    fn each_setting_is_told_with_its_origin() {
        let layers = |layers: &mut Layers| {
            layers.slots = Some(3);
            layers.data_dir = Some("there".into());
            layers.environment = vec![
                (
                    "SOONER_QUEUES__E__HANDLER__ECHO__DELAY".into(),
                    "20ms".into(),
                ),
                ("SOONER_SERVER__LISTEN".into(), "127.0.0.1:2".into()),
                ("RUST_LOG".into(), "debug".into()),
            ];
        };
        let settings = shown(layers, FILE);
        for (key, value, origin) in [
            ("server.listen", "\"127.0.0.1:2\"", "SOONER_SERVER__LISTEN"),
            ("server.drain_grace", "\"30s\"", "default"),
            ("limits.input_bytes", "\"5KiB\"", "sooner.toml:4"),
            ("store.url", "\"sqlite:there\"", "--data-dir"),
            ("queues.default.slots", "3", "-j"),
            (
                "queues.e.handler.echo.delay",
                "\"20ms\"",
                "SOONER_QUEUES__E__HANDLER__ECHO__DELAY",
            ),
            (
                "queues.\"a.b\".handler.exec",
                "[\"cat\", \"say \\\"x\\\"\"]",
                "sooner.toml:6",
            ),
            ("queues.\"a.b\".retry.jitter", "0.5", "sooner.toml:8"),
            ("queues.\"a.b\".retry.max_attempts", "3", "default"),
            ("queues.\"a.b\".env.KEY", "\"(hidden)\"", "sooner.toml:9"),
            ("tenants.acme.weight", "7", "sooner.toml:13"),
            ("log.filter", "\"debug\"", "RUST_LOG"),
        ] {
            assert_eq!(
                find(&settings, key),
                (value.to_owned(), origin.to_owned()),
                "{key}"
            );
        }
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_shown_is_a_file_that_says_the_same() {
        let once = shown(|_| {}, FILE);
        let lines: Vec<_> = once
            .iter()
            .map(|setting| format!("{} = {}\n", setting.key, setting.value))
            .collect();
        let twice = shown(|_| {}, &lines.concat());
        let values = |settings: &[Setting]| -> Vec<_> {
            settings
                .iter()
                .map(|it| (it.key.clone(), it.value.clone()))
                .collect()
        };
        assert_eq!(values(&once), values(&twice));
        assert!(
            once.len() > 40,
            "every setting of three queues: {}",
            once.len()
        );
    }
}
