//! The real binary in a process of its own, on a port of its own.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Client;

/// How long a server may take to be ready or to end before the test gives up. Never asserted on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a server is started with.
#[derive(Debug)]
pub(crate) struct ServerSetup {
    root: TempDir,
    config: String,
    environment: Vec<(String, String)>,
    open_files: Option<u32>,
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: String,
    ops_address: String,
}

impl ServerSetup {
    /// A server with this `sooner.toml`, in a directory of its own.
    pub(crate) fn new(config: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            root,
            config: config.to_owned(),
            environment: Vec::new(),
            open_files: None,
        }
    }

    /// A server whose default queue echoes.
    pub(crate) fn echo() -> Self {
        Self::new("[queues.default]\nhandler = { echo = {} }\n")
    }

    /// Sets a variable of the server's environment.
    pub(crate) fn with_environment(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Takes away again what was set of its environment.
    pub(crate) fn without_environment(mut self) -> Self {
        self.environment.clear();
        self
    }

    /// Lets the server open this many files and connections at once.
    pub(crate) fn with_open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// A path beside the server's files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Where batches are kept.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// The command that starts it, to be changed further.
    pub(crate) fn command(&self) -> Command {
        self.command_with_ops("127.0.0.1:0")
    }

    /// The same with this address for the ops port.
    pub(crate) fn command_with_ops(&self, ops_address: &str) -> Command {
        std::fs::write(self.path("sooner.toml"), &self.config).unwrap();
        let program = env!("CARGO_BIN_EXE_sooner");
        let mut command = Command::new(if self.open_files.is_some() {
            "sh"
        } else {
            program
        });
        if let Some(most) = self.open_files {
            let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
            command.args(["-c", &limited, program]);
        }
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--ops-listen", ops_address, "--config"])
            .arg(self.path("sooner.toml"))
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--ready-file")
            .arg(self.path("ready"))
            .current_dir(self.root.path())
            // No story depends on how full this machine's disk is.
            .env("SOONER_STORE__RESERVE", "1B")
            .stdin(Stdio::null());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// Starts it and waits until it is ready. A second start finds the first one's data.
    pub(crate) fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|status| {
            panic!(
                "the server ended with {status} before it was ready:\n{}",
                self.log()
            )
        })
    }

    /// Starts it; answers how it ended if it was never ready.
    pub(crate) fn try_start(&self) -> Result<Server, ExitStatus> {
        let ready = self.path("ready");
        std::fs::remove_file(&ready).ok();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut child = self
            .command()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        loop {
            if let Some([address, ops_address]) = read_ready(&ready, child.id()) {
                return Ok(Server {
                    child,
                    address,
                    ops_address,
                });
            }
            if let Some(status) = child.try_wait().unwrap() {
                return Err(status);
            }
            assert!(began.elapsed() < PATIENCE, "the server is not ready");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What all servers of this setup have said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Server {
    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address).await
    }

    /// Where it listens, such as `127.0.0.1:4711`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where its ops port listens.
    pub(crate) fn ops_address(&self) -> &str {
        &self.ops_address
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9. Waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM. Waits until it has drained; answers the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it ends by itself; answers the exit code, or `None` if a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.code().is_some() || status.signal().is_some());
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn read_ready(path: &Path, pid: u32) -> Option<[String; 2]> {
    let text = std::fs::read_to_string(path).ok()?;
    let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
    let address = |name: &str| ready[name].as_str().unwrap().to_owned();
    (ready["pid"] == pid).then(|| ["listen", "ops_listen"].map(address))
}
