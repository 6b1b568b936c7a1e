//! Which journal a run writes: a new one, or that of a run that was interrupted.

use std::io;
use std::path::{Path, PathBuf};

use super::notes::{Mark, Notes, RunHead};
use super::{Arguments, Identity};
use crate::base::entropy;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state_dir::StateDir;
use crate::cli::tell;
use crate::domain::ids::{BatchId, BatchName, BatchUid, Sequence};
use crate::engine::Order;
use crate::server::{Node, Purpose};

/// The journal of a run.
#[derive(Debug)]
pub(super) struct Journal {
    /// Its folder.
    pub(super) path: PathBuf,
    /// The name of its batch.
    pub(super) batch_id: BatchId,
    head: RunHead,
    /// The run's state when it was interrupted, if this goes on with it.
    resumed: Option<Mark>,
    /// Whether the folder is ours to remove.
    is_own: bool,
}

impl Journal {
    /// Chooses the journal that the arguments ask for. Nothing is written yet.
    pub(super) fn choose(arguments: &Arguments, identity: Identity) -> Result<Self, Failure> {
        let state_dir = match &arguments.data_dir {
            Some(_) => None,
            None => Some(StateDir::of(&identity)?),
        };
        if let Some(state_dir) = &state_dir {
            state_dir.trim();
        }
        match (&arguments.data_dir, state_dir) {
            (Some(path), _) if arguments.resume => Self::of_data_dir(path, &identity),
            (Some(path), _) => Ok(Self::new(path.clone(), identity, false)),
            (None, Some(state_dir)) if arguments.resume => {
                Self::newest_interrupted(&state_dir, &identity)
            }
            (None, state_dir) => {
                let state_dir = state_dir.expect("one of the two is there");
                let interrupted = interrupted(&state_dir, &identity).len();
                if interrupted > 0 && !arguments.quiet {
                    tell(&match interrupted {
                        1 => "an interrupted run of this command can be resumed with --resume"
                            .to_owned(),
                        more => format!(
                            "{more} interrupted runs of this command can be resumed with --resume, the newest first"
                        ),
                    });
                }
                Ok(Self::new(state_dir.new_path(), identity, true))
            }
        }
    }

    fn new(path: PathBuf, identity: Identity, is_own: bool) -> Self {
        let batch_id = BatchId::from(BatchUid(entropy::uuid()));
        let head = RunHead::new(&batch_id, identity);
        let resumed = None;
        Self {
            path,
            batch_id,
            head,
            resumed,
            is_own,
        }
    }

    fn newest_interrupted(state_dir: &StateDir, identity: &Identity) -> Result<Self, Failure> {
        let runs = interrupted(state_dir, identity).into_iter();
        let newest = runs.max_by_key(|journal| journal.head.began_millis);
        newest.ok_or_else(|| {
            let message = "there is nothing to resume: no run of this command on this input in this directory was interrupted, or it is still under way";
            Failure::new(Exit::Usage, message)
        })
    }

    fn of_data_dir(path: &Path, identity: &Identity) -> Result<Self, Failure> {
        let journal = Self::read(path, false).map_err(|error| unreadable(path, &error))?;
        let dir = path.display();
        let refused = match &journal {
            None => format!("there is nothing to resume in {dir}"),
            Some(journal) if journal.is_over() => {
                format!("there is nothing to resume in {dir}: its run is over")
            }
            Some(journal) => match journal.head.identity.difference(identity) {
                None => String::new(),
                Some(difference) => format!("the run in {dir} is another one: {difference}"),
            },
        };
        match journal {
            Some(journal) if refused.is_empty() => Ok(journal),
            Some(_) | None => Err(Failure::new(Exit::Usage, refused)),
        }
    }

    /// The run in a folder, if there is one.
    fn read(path: &Path, is_own: bool) -> io::Result<Option<Self>> {
        let Some(head) = RunHead::read(path)? else {
            return Ok(None);
        };
        let batch_id = BatchId::parse(&head.batch_id)
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
        // Slots are written before the head; if neither can be trusted, nothing is known printed.
        let mark = Mark::read(path)?.unwrap_or(Mark {
            printed: Order::Completion(Sequence(0)),
            is_read: false,
            is_over: false,
        });
        Ok(Some(Self {
            path: path.to_owned(),
            batch_id,
            head,
            resumed: Some(mark),
            is_own,
        }))
    }

    fn is_over(&self) -> bool {
        self.resumed.is_some_and(|mark| mark.is_over)
    }

    /// The run's state when it was interrupted, if this goes on with it.
    pub(super) fn resumed(&self) -> Option<Mark> {
        self.resumed
    }

    /// What the store is opened for.
    pub(super) fn purpose(&self) -> Purpose {
        Purpose::Run {
            resumed: self.resumed.map(|_| BatchName::from(&self.batch_id)),
        }
    }

    /// Notes that the run begins or goes on, with so much printed. The store must be open: its lock
    /// is that of the notes too.
    pub(super) async fn note(&self, node: &Node, printed: Order) -> Result<Notes, Failure> {
        let dir = &self.path;
        let notes = if self.resumed.is_some() {
            // Another process may have been faster since this one looked.
            let now = Self::read(dir, self.is_own).map_err(|error| unreadable(dir, &error))?;
            if now.is_none_or(|now| now.head != self.head || now.resumed != self.resumed) {
                let message = "another process went on with the run just now";
                return Err(Failure::new(Exit::InUse, message));
            }
            Notes::resume(dir, printed)
        } else {
            self.check_no_other(node).await?;
            Notes::begin(dir, &self.head, printed)
        };
        notes.map_err(|error| {
            let message = format!("write {}: {error}", dir.display());
            Failure::new(Exit::CannotCreate, message)
        })
    }

    /// A data directory keeps one run at a time: that of an interrupted one is not written over.
    async fn check_no_other(&self, node: &Node) -> Result<(), Failure> {
        let dir = &self.path;
        let other = Self::read(dir, false).map_err(|error| unreadable(dir, &error))?;
        let Some(other) = other.filter(|other| !other.is_over()) else {
            return Ok(());
        };
        let has_items = match node.engine().batch(&BatchName::from(&other.batch_id)).await {
            Err(error) if error.kind() == crate::error::ErrorKind::NotFound => false,
            batch => batch?.total > 0,
        };
        if !has_items {
            return Ok(());
        }
        let way_out = match other.head.identity.difference(&self.head.identity) {
            None => {
                "--resume goes on with it; to start afresh choose another --data-dir".to_owned()
            }
            Some(difference) => {
                format!("it is another one: {difference}; choose another --data-dir")
            }
        };
        let message = format!("{} holds an interrupted run; {way_out}", dir.display());
        Err(Failure::new(Exit::Usage, message))
    }

    /// The run has succeeded: nothing needs the journal any more, unless it was asked for.
    pub(super) fn remove(self) {
        if self.is_own
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the journal could not be removed");
        }
    }

    /// The run cannot start: what was made for it goes again.
    pub(super) fn forget(self) {
        if self.resumed.is_none() && self.is_own {
            std::fs::remove_dir_all(&self.path).ok();
        }
    }

    /// Where the journal stays and for how long, for people.
    pub(super) fn whereabouts(&self) -> String {
        let dir = self.path.display();
        if self.is_own {
            format!("journal kept for 7 days in {dir}")
        } else {
            format!("journal kept in {dir}")
        }
    }

    /// Whether it is one of those that are found by their command.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }
}

/// The runs of this command that can be resumed.
fn interrupted(state_dir: &StateDir, identity: &Identity) -> Vec<Journal> {
    let read = |path: PathBuf| match Journal::read(&path, true) {
        Ok(journal) => journal,
        Err(error) => {
            // Of another version, perhaps; the others are as good as ever.
            tracing::warn!(%error, path = %path.display(), "a journal is passed over: its notes cannot be read");
            None
        }
    };
    let journals = state_dir.unused().into_iter().filter_map(read);
    let is_it = |journal: &Journal| !journal.is_over() && journal.head.identity == *identity;
    journals.filter(is_it).collect()
}

fn unreadable(dir: &Path, error: &io::Error) -> Failure {
    let message = format!("read the notes in {}: {error}", dir.display());
    Failure::new(Exit::Io, message)
}
