//! `sooner run` as someone types it, in a place of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Ended, PATIENCE, ended};

/// A place to run in, with a state directory of its own.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("here")).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file beside the run.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path("here").join(name), content).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
        command
            .arg("run")
            .args(arguments)
            .current_dir(self.path("here"));
        command
            .env("XDG_STATE_HOME", self.path("state"))
            .env("HOME", self.path("home"));
        command.env_remove("RUST_LOG");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Ended {
        ended(&mut self.command(arguments), input.as_ref())
    }

    /// The folders of the journals that can be resumed, or could be if they were not over.
    pub(crate) fn noted(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("state/sooner/runs"))
            .into_iter()
            .flatten();
        let folders = entries.map(|entry| entry.unwrap().path());
        folders
            .filter(|path| path.join("run.json").exists())
            .collect()
    }

    /// How many journals are kept.
    pub(crate) fn journals(&self) -> usize {
        fs::read_dir(self.path("state/sooner/runs")).map_or(0, Iterator::count)
    }
}

/// A run under way. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self {
            stdin: child.stdin.take(),
            stdout,
            stderr,
            child,
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// The next line of the output.
    #[track_caller]
    pub(crate) fn next_line(&self) -> String {
        self.stdout
            .recv_timeout(PATIENCE)
            .expect("a line of output")
    }

    /// The next line on standard error.
    #[track_caller]
    pub(crate) fn next_remark(&self) -> String {
        self.stderr
            .recv_timeout(PATIENCE)
            .expect("a line on standard error")
    }

    /// kill -9. What it had said is still there.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Closes the input and waits for the end; answers the exit code and the rest of what it said.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        self.stdin.take();
        self.end()
    }

    /// Closes the input.
    pub(crate) fn close(&mut self) {
        self.stdin.take();
    }

    /// Waits for the end and answers what it said that was not looked at before.
    pub(crate) fn rest(mut self) -> Ended {
        self.stdin.take();
        let code = wait(&mut self.child).code();
        let rest = |lines: &Receiver<String>| -> String {
            let lines = std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok());
            lines.map(|line| line + "\n").collect()
        };
        Ended {
            code,
            stdout: rest(&self.stdout),
            stderr: rest(&self.stderr),
        }
    }

    /// Waits for the end, with the input still open.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = wait(&mut self.child).code();
        let rest = std::iter::from_fn(|| self.stderr.recv_timeout(PATIENCE).ok());
        (code, rest.collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a run notes beside its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How far it printed: a sequence, or an index with `--keep-order`.
    pub(crate) printed: u32,
    /// Whether its input was read to its end.
    pub(crate) is_read: bool,
}

impl Mark {
    /// That of a journal, of which nothing else is asked than to be there.
    pub(crate) fn of(journal: &Path) -> Self {
        let bytes = fs::read(journal.join("printed")).unwrap_or_default();
        let slots = [0, 512].into_iter().filter_map(|at| bytes.get(at..at + 48));
        let whole = slots.filter(|slot| slot[..4] == crc32fast::hash(&slot[4..]).to_le_bytes());
        let newest = whole.max_by_key(|slot| u64::from_le_bytes(slot[8..16].try_into().unwrap()));
        newest.map_or(Self::default(), |slot| Self {
            printed: u32::from_le_bytes(slot[24..28].try_into().unwrap()),
            is_read: slot[20] & 1 != 0,
        })
    }
}

/// Waits for what nothing tells of.
#[track_caller]
pub(crate) fn patiently(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it does not come to be");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The lines of a pipe as they come.
pub(crate) fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for read in BufReader::new(pipe).lines() {
            line.send(read.unwrap()).ok();
        }
    });
    lines
}

pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    patiently(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.expect("it has ended")
}

/// Waits until something is so.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it does not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}
