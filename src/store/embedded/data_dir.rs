//! The data directory: its files, its lock, and what is checked before anything is opened.
//!
//! ```text
//! LOCK          held while a process serves the directory; the file itself stays
//! sooner.db     the tables, with -wal and -shm beside it while it is open
//! in-flight     which items run; see the module of that name
//! ballast       room that is given up when the disk is full, so that results still land
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::schema::{self, APPLICATION_ID, FORMAT_VERSION};
use super::wal_scan::{self, WalState};

/// Room kept for results when the disk is full.
const BALLAST_BYTES: usize = 16 << 20;

/// Why a data directory cannot be opened. Nothing in it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves it.
    #[error(
        "data directory {0} is in use by another process; stop it or choose another --data-dir"
    )]
    InUse(PathBuf),
    /// It cannot be written.
    #[error(
        "data directory {0} cannot be written: {1}; check its owner and mode, or choose another --data-dir"
    )]
    NotWritable(PathBuf, io::Error),
    /// It is of a later version of Sooner, or not a store of Sooner's at all.
    #[error("{0}")]
    Foreign(String),
    /// It is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Reading or writing it failed.
    #[error("open data directory {0}: {1}")]
    Io(PathBuf, io::Error),
    /// `SQLite` cannot work with it.
    #[error("open {0}: {1}")]
    Sqlite(PathBuf, rusqlite::Error),
}

/// A data directory that this process holds.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held until the store is closed or gone; the system drops it when the process dies.
    lock: File,
}

impl DataDir {
    /// Takes the directory, creating it and an empty store if there is none, and checks what is in it.
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let not_writable = |error| OpenError::NotWritable(path.to_owned(), error);
        create_private(path).map_err(not_writable)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let lock = options.open(path.join("LOCK")).map_err(not_writable)?;
        if !hold(&lock).map_err(not_writable)? {
            return Err(OpenError::InUse(path.to_owned()));
        }
        let dir = Self {
            path: path.to_owned(),
            lock,
        };
        dir.check_format()?;
        dir.check_wal()?;
        dir.check_writable().map_err(not_writable)?;
        if !dir.database().exists() {
            dir.create_database()?;
        }
        Ok(dir)
    }

    /// Lets others take the directory. Nothing in it may be written after.
    pub(crate) fn release(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(dir = %self.path.display(), %error, "the data directory stays locked until the process ends");
        }
    }

    /// The file of the tables.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("sooner.db")
    }

    /// The file of the live leases.
    pub(crate) fn in_flight(&self) -> PathBuf {
        self.path.join("in-flight")
    }

    /// Where the directory is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the names of the files durable. SQLite syncs the directory when it creates its log, but
    /// goes on if that fails: a log whose name is lost with the power takes what was acknowledged
    /// with it.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Sets room aside, as far as there is some. Answers whether it is there.
    pub(crate) fn keep_ballast(&self) -> bool {
        let path = self.ballast();
        if path
            .metadata()
            .is_ok_and(|file| file.len() == BALLAST_BYTES as u64)
        {
            return true;
        }
        let kept = File::create(&path).and_then(|file| reserve(file, BALLAST_BYTES));
        if kept.is_err() {
            self.give_ballast();
        }
        kept.is_ok()
    }

    /// Gives the room up. Answers whether there was some.
    pub(crate) fn give_ballast(&self) -> bool {
        std::fs::remove_file(self.ballast()).is_ok()
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// The write-ahead log beside it.
    pub(crate) fn wal(&self) -> PathBuf {
        self.path.join("sooner.db-wal")
    }

    /// Reads the file's header, because opening it with `SQLite` would already write to it.
    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.database();
        let io = |error| OpenError::Io(path.clone(), error);
        let damaged = |what: &str| OpenError::Damaged(damage(&path, what));
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let orphaned = self.wal().metadata().is_ok_and(|wal| wal.len() > 0);
                return if orphaned {
                    Err(damaged("its log is there, but the file is gone"))
                } else {
                    Ok(())
                };
            }
            Err(error) => return Err(io(error)),
        };
        let mut header = [0; 100];
        file.read_exact(&mut header)
            .map_err(|_| damaged("it is shorter than its header"))?;
        if &header[..16] != b"SQLite format 3\0" {
            return Err(damaged("it does not begin as an SQLite file"));
        }
        let number =
            |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (version, application) = (number(60), number(68));
        if application != APPLICATION_ID {
            let path = path.display();
            return Err(OpenError::Foreign(format!(
                "{path} is a database of another program"
            )));
        }
        if version != FORMAT_VERSION {
            return Err(OpenError::Foreign(format!(
                "{} has format {version}, this sooner reads format {FORMAT_VERSION}; use the version that wrote it",
                path.display()
            )));
        }
        let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 1 << 16,
            bytes => u64::from(bytes),
        };
        let pages = u64::from(number(28).cast_unsigned());
        // A copy of the log writes the header first: until it is through, the end is in the log only.
        let logged = self.wal().metadata().is_ok_and(|wal| wal.len() > 0);
        if !logged && file.seek(SeekFrom::End(0)).map_err(io)? < page_bytes * pages {
            return Err(damaged("its end is missing"));
        }
        Ok(())
    }

    fn check_wal(&self) -> Result<(), OpenError> {
        let path = self.wal();
        match wal_scan::scan(&path).map_err(|error| OpenError::Io(path.clone(), error))? {
            WalState::Sound => Ok(()),
            WalState::Damaged { frame } => Err(OpenError::Damaged(damage(
                &path,
                format_args!("frame {frame} is wrong, and acknowledged writes follow it"),
            ))),
        }
    }

    /// A directory on a read-only file system, or of another user, is found out before `SQLite` is.
    fn check_writable(&self) -> io::Result<()> {
        for path in [self.database(), self.in_flight()] {
            match OpenOptions::new().write(true).open(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Creates the store under another name and moves it into place, so that a half-made one is never met.
    fn create_database(&self) -> Result<(), OpenError> {
        let io = |error| OpenError::Io(self.path.clone(), error);
        let half_made = self.path.join("sooner.db.new");
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", half_made.display());
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
                Ok(()) | Err(_) => {}
            }
        }
        schema::create(&half_made).map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => OpenError::NotWritable(
                self.path.clone(),
                io::Error::from(io::ErrorKind::StorageFull),
            ),
            _ => OpenError::Sqlite(half_made.clone(), error),
        })?;
        std::fs::rename(&half_made, self.database()).map_err(io)?;
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(io)
    }
}

/// Takes the lock, with some patience: a process that was killed while it started another leaves a
/// child that holds the lock until it has become its program. `false` if somebody serves it.
fn hold(lock: &File) -> io::Result<bool> {
    const TRIES: u32 = 20;
    for left in (0..TRIES).rev() {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if left == 0 => {}
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(25)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Creates a directory that only its owner may enter: inputs and outputs are nobody else's business.
/// One that is there is left as it is. The names of new ones are made durable.
fn create_private(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_private(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
        Ok(()) | Err(_) => File::open(parent.unwrap_or(Path::new(".")))?.sync_all(),
    }
}

/// Says that a file is damaged, and what to do.
pub(crate) fn damage(path: &Path, what: impl std::fmt::Display) -> String {
    format!(
        "{} is damaged: {what}; restore a backup or choose another --data-dir",
        path.display()
    )
}

/// Gives a file blocks of its own. Sizing it would not do: a hole reserves nothing.
fn reserve(mut file: File, bytes: usize) -> io::Result<()> {
    let whole = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64);
    match whole.map_err(io::Error::from) {
        // Not every file system can; then it is written.
        Err(error) if error.kind() != io::ErrorKind::StorageFull => {
            let block = vec![0; 1 << 20];
            (0..bytes / block.len()).try_for_each(|_| file.write_all(&block))
        }
        whole => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let held = DataDir::take(&path).unwrap();
        assert!(matches!(DataDir::take(&path), Err(OpenError::InUse(_))));
        drop(held);
        DataDir::take(&path).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        DataDir::take(root.path()).unwrap();
        let database = root.path().join("sooner.db");
        let whole = std::fs::read(&database).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            (changed(63, 9), "format 9"),
            (changed(68, 0), "another program"),
            (changed(0, b'X'), "does not begin"),
            (whole[..40].to_vec(), "shorter than its header"),
            (whole[..whole.len() - 1].to_vec(), "its end is missing"),
        ];
        for (bytes, says) in cases {
            std::fs::write(&database, &bytes).unwrap();
            let error = DataDir::take(root.path()).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(std::fs::read(&database).unwrap(), bytes);
        }
        std::fs::write(&database, &whole).unwrap();
        DataDir::take(root.path()).unwrap();
    }

    #[test]
    fn a_half_made_store_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("sooner.db.new"), "half").unwrap();
        std::fs::write(root.path().join("sooner.db.new-wal"), "half").unwrap();
        DataDir::take(root.path()).unwrap();
    }
}
