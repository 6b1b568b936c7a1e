//! Where `sooner run` keeps its journals.
//!
//! One folder per run under the user's state directory, named after the working directory, the
//! command and the input, so that runs of the same thing are found together. It is removed after
//! success and kept for seven days otherwise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::exit::{Exit, Failure};
use crate::base::{clock, entropy};

/// How long the journal of a run that did not succeed is kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The journal of one run.
#[derive(Debug)]
pub(super) struct Journal {
    /// Its folder.
    pub(super) path: PathBuf,
    /// Earlier journals of the same command that were kept.
    pub(super) earlier: usize,
}

impl Journal {
    /// A new journal for the run that `parts` (command, input names) describe.
    pub(super) fn create(parts: &[String]) -> Result<Self, Failure> {
        let root = root()?;
        let prefix = prefix(parts);
        let earlier = remove_old(&root, &prefix);
        let path = root.join(format!("{prefix}-{}", entropy::uuid()));
        std::fs::create_dir_all(&path).map_err(|error| {
            Failure::new(
                Exit::CannotCreate,
                format!("create {}: {error}; choose a --data-dir", path.display()),
            )
        })?;
        Ok(Self { path, earlier })
    }

    /// The run has succeeded: nothing needs the journal any more.
    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the journal could not be removed");
        }
    }
}

fn root() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("sooner/runs"))
        .ok_or_else(|| {
            Failure::new(
                Exit::CannotCreate,
                "neither XDG_STATE_HOME nor HOME is set; choose a --data-dir",
            )
        })
}

fn prefix(parts: &[String]) -> String {
    let mut hash = Sha256::new();
    let here = std::env::current_dir().unwrap_or_default();
    for part in std::iter::once(&here.to_string_lossy().into_owned()).chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    format!(
        "{:016x}",
        u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
    )
}

/// Removes what was kept long enough; answers how many younger ones there are of this command.
fn remove_old(root: &Path, prefix: &str) -> usize {
    let mut earlier = 0;
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if age(&path).is_some_and(|age| age > KEPT) && !is_in_use(&path) {
            // Another run may be at it too; whoever is second finds nothing.
            std::fs::remove_dir_all(&path).ok();
        } else if entry.file_name().to_string_lossy().starts_with(prefix) && !is_in_use(&path) {
            earlier += 1;
        }
    }
    earlier
}

fn age(path: &Path) -> Option<Duration> {
    let written = path
        .join("in-flight")
        .metadata()
        .or_else(|_| path.metadata())
        .ok()?
        .modified()
        .ok()?;
    let written = written.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(clock::now().since(clock::Timestamp(0).plus(written)))
}

fn is_in_use(path: &Path) -> bool {
    let lock = std::fs::File::open(path.join("LOCK"));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
