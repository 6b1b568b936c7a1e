//! A server under a fault: the preloaded shim of `tests/shim` kills it or fails its I/O at a point.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use super::history::{Guarantees, Violation};
use super::load::{Load, Volume, setup};
use super::{Server, ServerSetup};

/// The shim, built.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
    undo: PathBuf,
}

/// In the middle of a load: there is much to recover then.
const KILL_BEFORE_RESTART: u64 = 1000;

/// What goes wrong, and where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fault {
    /// `kind:suffix` of the points that count; empty for all.
    pub(crate) points: String,
    /// What happens, as the shim calls it; nothing if empty.
    pub(crate) action: &'static str,
    /// At which of these points.
    pub(crate) at: u64,
    /// Only while this file of the data directory exists.
    pub(crate) only_while: &'static str,
    /// Syncs of files that end so are swallowed.
    pub(crate) swallow: &'static str,
    /// Whether a power cut is to follow.
    pub(crate) power_cut: bool,
    /// Whether it meets the start after a kill instead of the first life.
    pub(crate) at_restart: bool,
}

/// A load whose server is gone.
#[derive(Debug)]
pub(crate) struct Struck {
    fault: Fault,
    setup: ServerSetup,
    pub(crate) load: Load,
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Whether the fault happened.
    pub(crate) hit: bool,
}

/// A load whose server lives on under a fault.
#[derive(Debug)]
pub(crate) struct Stuck {
    fault: Fault,
    setup: ServerSetup,
    pub(crate) load: Load,
    server: Server,
}

/// What a restart after a fault came to.
#[derive(Debug)]
pub(crate) struct Recovery {
    fault: Fault,
    setup: ServerSetup,
    pub(crate) load: Load,
    /// What breaks the promises, or how it ended if it would not serve.
    pub(crate) served: Result<Vec<Violation>, ExitStatus>,
}

impl Shim {
    /// The shim, built once per run. `None` without a C compiler, which is said aloud and fails in CI.
    pub(crate) fn built() -> Option<&'static Self> {
        static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
        SHIM.get_or_init(Self::build).as_ref()
    }

    fn build() -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let shim = Self {
            library: dir.join("fault.so"),
            undo: dir.join("shim-undo"),
        };
        let built = compile(&["-shared", "-fPIC"], &shim.library, &["-ldl", "-lpthread"])
            .and_then(|()| compile(&["-DSHIM_TOOL"], &shim.undo, &[]));
        match built {
            Ok(()) => Some(shim),
            Err(error) => {
                eprintln!("NOT TESTED: the faults need a C compiler called cc: {error}");
                assert!(std::env::var_os("CI").is_none(), "in CI there must be one");
                None
            }
        }
    }

    /// Arms a command that is not a server. Its undo log is the file `undo`.
    pub(crate) fn arm(&self, command: &mut Command, dir: &Path, (action, at): (&str, u64)) {
        let undo = dir.with_extension("undo");
        command
            .env("SHIM_DIR", dir)
            .env("SHIM_UNDO", undo)
            .env("SHIM_DO", action)
            .env("SHIM_AT", at.to_string())
            .env("LD_PRELOAD", &self.library);
    }

    /// Has a server write down what it has not synced yet; syncs of files that end in `swallow` are
    /// none. Its data directory must be there.
    pub(crate) fn recorded(&self, setup: ServerSetup, swallow: &str) -> ServerSetup {
        let dir = setup.data_dir();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        setup
            .with_environment("SHIM_UNDO", path(&dir.with_extension("undo")))
            .with_environment("SHIM_DIR", path(&dir))
            .with_environment("SHIM_SWALLOW", swallow)
            .with_environment("LD_PRELOAD", path(&self.library))
    }

    /// The power cut: takes back a part of what was not synced below `dir`.
    pub(crate) fn cut_power(&self, dir: &Path, seed: u64) {
        self.undo(&dir.with_extension("undo"), seed);
    }

    fn undo(&self, log: &Path, seed: u64) {
        let mut command = Command::new(&self.undo);
        let cut = command.arg(log).arg(seed.to_string()).output().unwrap();
        assert!(cut.status.success(), "{cut:?}");
    }
}

fn compile(first: &[&str], to: &Path, last: &[&str]) -> std::io::Result<()> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shim/fault.c");
    // Another run may be using the old one.
    let new = to.with_extension(std::process::id().to_string());
    let mut command = Command::new("cc");
    command.args(first).args(["-O1", "-Wall", "-Wextra", "-o"]);
    let compiled = command.arg(&new).arg(source).args(last).output()?;
    assert!(compiled.status.success(), "{compiled:?}");
    std::fs::rename(new, to)
}

impl ServerSetup {
    /// The same with a fault to come. Its points are noted in the file `points`.
    fn armed(self, shim: &Shim, fault: &Fault) -> Self {
        let data = self.data_dir();
        std::fs::create_dir_all(&data).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let only_while = match fault.only_while {
            "" => String::new(),
            name => text(data.join(name)),
        };
        let undo = if fault.power_cut {
            text(self.path("undo"))
        } else {
            String::new()
        };
        let at = if fault.action.is_empty() {
            String::new()
        } else {
            fault.at.to_string()
        };
        let points = text(self.path("points"));
        self.with_environment("SHIM_DIR", text(data))
            .with_environment("SHIM_LOG", points)
            .with_environment("SHIM_MATCH", &fault.points)
            .with_environment("SHIM_DO", fault.action)
            .with_environment("SHIM_AT", at)
            .with_environment("SHIM_WHILE", only_while)
            .with_environment("SHIM_SWALLOW", fault.swallow)
            .with_environment("SHIM_UNDO", undo)
            .with_environment("LD_PRELOAD", text(shim.library.clone()))
    }

    /// The same without the shim.
    fn disarmed(self) -> Self {
        self.with_environment("LD_PRELOAD", "")
    }

    /// How many points of each kind there were: `write sooner.db` and the like.
    fn points(&self) -> BTreeMap<String, u64> {
        let log = std::fs::read_to_string(self.path("points")).unwrap_or_default();
        let mut points = BTreeMap::new();
        for line in log.lines() {
            let (_, point) = line.split_once(' ').unwrap();
            *points.entry(point.to_owned()).or_default() += 1;
        }
        points
    }
}

impl Fault {
    /// Runs a load until the fault ends the server, or the load is through and the server is killed.
    pub(crate) async fn strike(&self, shim: &Shim, seed: u64, volume: Volume) -> Struck {
        let mut setup = setup();
        let mut load = Load::start(&setup, seed, volume);
        if self.at_restart {
            let kill = Self {
                action: "kill",
                at: KILL_BEFORE_RESTART,
                ..Self::default()
            };
            setup = setup.armed(shim, &kill);
            live(setup.start(), &mut load).await;
            load.stop().await;
            std::fs::remove_file(setup.path("points")).unwrap();
        }
        setup = setup.armed(shim, self);
        let code = match setup.try_start() {
            Ok(server) => live(server, &mut load).await,
            Err(status) => status.code(),
        };
        load.stop().await;
        let reached: u64 = setup.points().values().sum();
        let hit = !self.action.is_empty() && reached >= self.at;
        Struck {
            fault: self.clone(),
            setup,
            load,
            code,
            hit,
        }
    }

    /// How many points there are without a fault, by kind, in a first life or at a restart.
    pub(crate) async fn points(
        shim: &Shim,
        seed: u64,
        volume: Volume,
        at_restart: bool,
    ) -> BTreeMap<String, u64> {
        let none = Self {
            at_restart,
            ..Self::default()
        };
        none.strike(shim, seed, volume).await.setup.points()
    }

    /// Starts a load on a server that this fault will not end.
    pub(crate) fn befall(&self, shim: &Shim, seed: u64, volume: Volume) -> Stuck {
        let setup = setup().armed(shim, self);
        let load = Load::start(&setup, seed, volume);
        let server = setup.start();
        load.serve(&server);
        Stuck {
            fault: self.clone(),
            setup,
            load,
            server,
        }
    }
}

impl Stuck {
    /// kill -9.
    pub(crate) async fn kill(self) -> Struck {
        let Self {
            fault,
            setup,
            mut load,
            server,
        } = self;
        load.stop().await;
        server.kill();
        load.died();
        Struck {
            fault,
            setup,
            load,
            code: None,
            hit: true,
        }
    }
}

/// Lets a load have its server until one of them is through.
async fn live(mut server: Server, load: &mut Load) -> Option<i32> {
    load.serve(&server);
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let mut end = tokio::task::spawn_blocking(move || server.wait());
    let code = tokio::select! {
        code = &mut end => code.unwrap(),
        () = load.finish() => {
            // It may be gone by now; it is not reaped before `end` says so.
            kill_process(pid, Signal::KILL).ok();
            end.await.unwrap()
        }
    };
    load.died();
    code
}

impl Struck {
    /// Cuts the power: a part of what was not synced goes.
    pub(crate) fn cut_power(&self, shim: &Shim, seed: u64) {
        shim.undo(&self.setup.path("undo"), seed);
    }

    /// What the server said on standard error.
    pub(crate) fn log(&self) -> String {
        self.setup.log()
    }

    /// Restarts without the fault, reads everything and checks it.
    pub(crate) async fn recover(self, guarantees: Guarantees) -> Recovery {
        let Self {
            fault, setup, load, ..
        } = self;
        let setup = setup.disarmed();
        let served = match setup.try_start() {
            Ok(server) => {
                load.serve(&server);
                load.settle().await;
                Ok(load.history().check(&load.executions(), guarantees))
            }
            Err(status) => Err(status),
        };
        Recovery {
            fault,
            setup,
            load,
            served,
        }
    }
}

impl Recovery {
    /// Fails the test if the server would not serve, or a promise is broken. Its files are left then.
    pub(crate) fn assert_sound(self) {
        let Self {
            fault,
            setup,
            served,
            ..
        } = self;
        if matches!(&served, Ok(violations) if violations.is_empty()) {
            return;
        }
        let place = setup.path("");
        let log = setup.log();
        std::mem::forget(setup);
        let last = log.lines().next_back().unwrap_or_default();
        let found = match served {
            Ok(violations) => {
                let lines: Vec<_> = violations.iter().take(5).map(ToString::to_string).collect();
                format!("{} violations\n{}", violations.len(), lines.join("\n"))
            }
            Err(status) => format!("it would not serve: {status}, {last}"),
        };
        panic!("{fault:?}, left in {}: {found}", place.display());
    }
}
