//! Where `sooner run` keeps its journals.
//!
//! One folder per run under the user's state directory, named after the working directory, the
//! command and the input, so that runs of the same thing are found together. It is removed after
//! success and kept for seven days otherwise.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::exit::{Exit, Failure};
use super::run::Identity;
use crate::base::{clock, entropy};

/// How long the journal of a run that did not succeed is kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The folders of all runs, and the name that those of one command begin with.
#[derive(Debug)]
pub(super) struct StateDir {
    root: PathBuf,
    prefix: String,
}

impl StateDir {
    /// Where the journals of `identity` are.
    pub(super) fn of(identity: &Identity) -> Result<Self, Failure> {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state =
            absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        let Some(state) = state else {
            let message = "neither XDG_STATE_HOME nor HOME is set; choose a --data-dir";
            return Err(Failure::new(Exit::CannotCreate, message));
        };
        Ok(Self {
            root: state.join("sooner/runs"),
            prefix: prefix(identity),
        })
    }

    /// The name of a new folder. It is not there yet.
    pub(super) fn new_path(&self) -> PathBuf {
        self.root
            .join(format!("{}-{}", self.prefix, entropy::uuid()))
    }

    /// Removes what was kept long enough, of whatever command.
    pub(super) fn trim(&self) {
        for path in self.folders() {
            if age(&path).is_some_and(|age| age > KEPT) {
                remove_unused(&path);
            }
        }
    }

    /// The folders of this command that no process is at.
    pub(super) fn unused(&self) -> Vec<PathBuf> {
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&self.prefix)
        };
        let ours = self.folders().filter(is_ours);
        ours.filter(|path| !is_in_use(path)).collect()
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    }
}

fn prefix(identity: &Identity) -> String {
    let mut hash = Sha256::new();
    let Identity {
        directory,
        command,
        inputs,
    } = identity;
    let parts = std::iter::once(directory).chain(command);
    // A mark between the two lists, which cannot be told apart otherwise.
    for part in parts.chain([&"--".to_owned()]).chain(inputs) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    format!(
        "{:016x}",
        u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
    )
}

/// How long ago anything in a folder was written.
fn age(path: &Path) -> Option<Duration> {
    let entries = std::fs::read_dir(path).ok()?.flatten();
    let written = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    // One that is empty was made just now, or its process died at once.
    let written = written
        .max()
        .or_else(|| path.metadata().ok()?.modified().ok())?;
    let written = written.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(clock::now().since(clock::Timestamp(0).plus(written)))
}

/// Removes a folder unless a process is at it, and while none can come to be.
fn remove_unused(path: &Path) {
    let lock = File::open(path.join("LOCK"));
    if lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
        return;
    }
    // Another run may be at it too; whoever is second finds nothing.
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "an old journal could not be removed");
    }
}

fn is_in_use(path: &Path) -> bool {
    let lock = File::open(path.join("LOCK"));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
