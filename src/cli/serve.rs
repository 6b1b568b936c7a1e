//! `sooner serve`: the server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::signals::Signals;
use super::{Shared, tell};
use crate::base::telemetry;
use crate::config::{self, Layers, command_line_handler};
use crate::handler::Environment;
use crate::server::{End, Runtimes, Server};

/// Serve batches over gRPC until asked to stop
///
/// Once the ports accept, one line on standard error says where: `listening on ADDR (ops ADDR), data
/// in DIR`. SIGTERM or Ctrl-C drains: health says no, nothing new starts, what runs may finish within
/// the grace, results are recorded and sent. Accepted batches go on at the next start.
///
/// Exit codes: 0 drained; 2 bad usage or configuration, or a handler command that does not exist;
/// 65 a damaged store or one of a newer format; 69 a port or data directory in use; 73 a data
/// directory that cannot be written; 74 reading or writing failed.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    shared: Shared,

    /// Address of the gRPC port; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,

    /// Address of the ops port: health, /livez, /readyz, /metrics; port 0 takes a free one [default:
    /// 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    ops_listen: Option<String>,

    /// Allow addresses that other machines can reach: something in front guards it
    #[arg(long)]
    insecure: bool,

    /// Where batches are kept [default: ./sooner-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Write a JSON object with `listen`, `ops_listen` and `pid` there once the ports accept
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,

    /// Handler of the default queue: one process per attempt, input on stdin or in place of {}
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// What `--ready-file` says.
#[derive(Serialize)]
struct Ready {
    listen: String,
    ops_listen: String,
    pid: u32,
}

impl Arguments {
    /// Where the settings come from.
    pub(super) fn layers(&self) -> Layers {
        let environment = Environment::Clean {
            pass: Vec::new(),
            set: std::collections::BTreeMap::new(),
        };
        let command = (!self.command.is_empty())
            .then(|| command_line_handler(self.command.clone(), environment));
        Layers {
            file: self.shared.config.clone(),
            environment: super::environment(),
            listen: self.listen.clone(),
            ops_listen: self.ops_listen.clone(),
            data_dir: self.data_dir.clone(),
            insecure: self.insecure,
            slots: self.shared.slots,
            command,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let config = config::load(&arguments.layers())?;
    telemetry::install(config.log.format, &config.log.filter);
    let runtimes = Runtimes::start(config.server.io_threads)?;
    let ended = runtimes.block_on(async {
        // Before the port accepts: whoever sees it may also ask us to stop.
        let mut signals = Signals::listen()?;
        let server = Server::start(&config, &runtimes).await?;
        let data_dir = &config.store.data_dir;
        if let Some(path) = &arguments.ready_file {
            write_ready(path, &server).inspect_err(|_| server.node().excuse_running())?;
        }
        tell(&format!(
            "listening on {} (ops {}), data in {}",
            server.listen(),
            ops_listen(&server),
            data_dir.display()
        ));
        let found = server.node().found();
        if found.unfinished_items > 0 {
            tracing::info!(
                batches = found.live_batches,
                items = found.unfinished_items,
                interrupted = found.interrupted_items,
                "going on with what was accepted"
            );
        }
        let (asked, ask) = tokio::sync::oneshot::channel();
        let serving = server.run(async move {
            // The sender lives until the signal; there is no other end.
            ask.await.ok();
        });
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            end = &mut serving => return Ok(exit_of(end)),
            _ = signals.next() => asked.send(()).ok(),
        };
        tokio::select! {
            end = &mut serving => Ok(exit_of(end)),
            // A second signal: leave at once. What was accepted is safe.
            exit = signals.next() => {
                server.node().excuse_running();
                Ok(exit)
            }
        }
    });
    runtimes.end();
    ended
}

fn exit_of(end: End) -> Exit {
    match end {
        End::Drained => Exit::Success,
        End::StoreFailed => Exit::Io,
    }
}

fn ops_listen(server: &Server) -> SocketAddr {
    server
        .ops_listen()
        .expect("a server of ours has an ops port")
}

/// Writes the file under another name first: whoever sees it sees all of it.
fn write_ready(path: &Path, server: &Server) -> Result<(), Failure> {
    let ready = Ready {
        listen: server.listen().to_string(),
        ops_listen: ops_listen(server).to_string(),
        pid: std::process::id(),
    };
    let json = serde_json::to_string(&ready).expect("plain fields");
    let half = path.with_extension("half-written");
    std::fs::write(&half, json)
        .and_then(|()| std::fs::rename(&half, path))
        .map_err(|error| {
            Failure::new(
                Exit::CannotCreate,
                format!("write {}: {error}", path.display()),
            )
        })
}
