//! The real program in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sooner::base::clock;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::arguments::PATIENCE;
use super::process::Usage;

/// A queue that echoes on as many slots as the benches keep items in flight.
pub(crate) const ECHO: &str = "[queues.default]\nhandler = { echo = {} }\nslots = 512\n";

/// How often the ready file is looked for.
const LOOK: Duration = Duration::from_micros(200);

/// A running server and what it has on disk. Dropping it kills it and removes its directory.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: String,
    home: Home,
    /// From its start until it was ready.
    pub(crate) started_in: Duration,
}

/// The directory of a server.
#[derive(Debug)]
pub(crate) struct Home(TempDir);

impl Home {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// Where its batches are.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Server {
    /// A server with this configuration and nothing on disk.
    pub(crate) fn new(config: &str) -> Self {
        Self::at(Home::new(), config)
    }

    /// A server of what is in `home`; answers when it is ready.
    pub(crate) fn at(home: Home, config: &str) -> Self {
        let (file, ready) = (home.path().join("sooner.toml"), home.path().join("ready"));
        std::fs::write(&file, config).expect("the configuration can be written");
        std::fs::remove_file(&ready).ok();
        let log = home.path().join("log");
        let said = std::fs::File::create(&log).expect("the log can be written");
        let began = clock::instant();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sooner"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--ops-listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .arg("--data-dir")
            .arg(home.data_dir())
            .arg("--ready-file")
            .arg(&ready)
            .current_dir(home.path())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("the server can be started");
        let address = loop {
            if let Some(address) = address_in(&ready) {
                break address;
            }
            if let Some(status) = child.try_wait().expect("it is our child") {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("the server ended with {status} before it was ready:\n{said}");
            }
            let waited = clock::instant().duration_since(began);
            assert!(waited < PATIENCE, "the server is not ready");
            std::thread::park_timeout(LOOK);
        };
        Self {
            child,
            address,
            home,
            started_in: clock::instant().duration_since(began),
        }
    }

    /// A connection with windows as wide as the server's own: a narrow one would be what is measured.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("an address makes a URI")
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect()
            .await
            .expect("the server accepts connections")
    }

    /// What it has used.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    /// kill -9; answers what it leaves.
    pub(crate) fn kill(mut self) -> Home {
        self.end();
        std::mem::replace(&mut self.home, Home::new())
    }

    fn end(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn address_in(ready: &Path) -> Option<String> {
    let text = std::fs::read_to_string(ready).ok()?;
    let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(ready["listen"].as_str()?.to_owned())
}
