//! The door to logs: one subscriber for the process, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber. A second call changes nothing.
///
/// `filter` is a comma-separated list such as `info,sooner::item=warn`; `RUST_LOG` wins over it.
pub fn install(format: Format, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match format {
        Format::Auto if terminal => lines.try_init(),
        Format::Text => lines.with_ansi(terminal).try_init(),
        Format::Auto | Format::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(already) = installed {
        tracing::debug!(error = %already, "a subscriber is installed already");
    }
}
