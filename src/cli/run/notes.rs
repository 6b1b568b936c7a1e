//! What a run notes beside its journal, so that it can be resumed.
//!
//! ```text
//! run.json   which run this is: command, inputs, directory, the batch in the journal; written once
//! printed    how far its results were printed, in two slots that are written in turn
//! ```
//!
//! A slot is written when a page of results has been handed to standard output, never before, with
//! a plain write: it survives the death of the process. A machine that dies also takes what it had
//! not yet put on its disk, of the output as well as of the slots. So the output, if it is a file,
//! is synced about once a second, and a slot tells two cursors: the one printed, which holds while
//! the machine is up, and the one known to be on the disk, which holds after another boot.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::base::{clock, tasks};
use crate::domain::ids::{BatchId, Sequence};
use crate::engine::Order;

/// The format of both files. Another one is of another version of Sooner.
const VERSION: u32 = 1;

/// Bytes of a slot that mean something.
const SLOT_BYTES: usize = 48;

/// Where the second slot begins: in another sector, so that a torn write leaves one of them whole.
const SLOT_DISTANCE: usize = 512;

/// Time between two syncs of the output: what a dead machine may make us print again.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Which run a journal is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunHead {
    version: u32,
    /// The name of its batch.
    pub(super) batch_id: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub(super) began_millis: i64,
    /// What it runs, on what and where.
    pub(super) identity: Identity,
}

/// What makes two runs runs of the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Identity {
    /// The working directory.
    pub(in crate::cli) directory: String,
    /// The program and its arguments.
    pub(in crate::cli) command: Vec<String>,
    /// The names of the inputs.
    pub(in crate::cli) inputs: Vec<String>,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The order of its output, and behind which result it stands.
    pub(super) printed: Order,
    /// Whether its input was read to its end, so that it need not be read again.
    pub(super) is_read: bool,
    /// Whether there is nothing left to do or to print.
    pub(super) is_over: bool,
}

/// The notes of a run under way. Clones are handles to the same ones.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    marks: Arc<Mutex<Marks>>,
    /// Tells the thread that syncs that there is something to sync.
    printed: mpsc::SyncSender<()>,
}

#[derive(Debug)]
struct Marks {
    file: File,
    /// Counts the writes; the slot with the higher count is the newer.
    count: u64,
    mark: Mark,
    /// How much of what was printed survives the machine.
    synced: u32,
    /// Whether a failure to write was told.
    is_told: bool,
}

impl RunHead {
    /// The head of a run that begins.
    pub(super) fn new(batch_id: &BatchId, identity: Identity) -> Self {
        Self {
            version: VERSION,
            batch_id: batch_id.as_str().to_owned(),
            began_millis: clock::now().0,
            identity,
        }
    }

    /// Reads that of a journal. `None` if it has none, as a server's has not.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read(head_path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let head: Self = serde_json::from_slice(&text)?;
        if head.version != VERSION {
            let version = head.version;
            let message = format!("it has version {version}, this sooner reads {VERSION}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some(head))
    }

    /// Writes it, durably, and whole or not at all.
    fn write(&self, dir: &Path) -> io::Result<()> {
        let half = dir.join("run.json.half-written");
        let mut file = File::create(&half)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&half, head_path(dir))?;
        File::open(dir)?.sync_all()
    }
}

impl Identity {
    /// In what `other` is another run than this one, for people.
    pub(in crate::cli) fn difference(&self, other: &Self) -> Option<String> {
        if self.command != other.command {
            Some(format!("its command is {}", self.command.join(" ")))
        } else if self.directory != other.directory {
            Some(format!("it was begun in {}", self.directory))
        } else if self.inputs != other.inputs {
            let inputs = self.inputs.join(" ");
            let inputs = if inputs.is_empty() { "-" } else { &inputs };
            Some(format!("its input is {inputs}"))
        } else {
            None
        }
    }
}

impl Mark {
    /// Reads that of a journal. `None` if it has none, or none that can be trusted.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        Ok(read_slots(dir)?.map(|slot| slot.mark))
    }
}

impl Notes {
    /// The notes of a run that begins with nothing printed, in place of an earlier one's.
    pub(super) fn begin(dir: &Path, head: &RunHead, printed: Order) -> io::Result<Self> {
        // An earlier run's cursor must not be taken for this one's, whatever happens in between.
        match std::fs::remove_file(head_path(dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mark = Mark {
            printed,
            is_read: false,
            is_over: false,
        };
        let notes = Self::with(dir, 0, mark, number(printed))?;
        head.write(dir)?;
        Ok(notes)
    }

    /// The notes of a run that is resumed, with so much printed.
    pub(super) fn resume(dir: &Path, printed: Order) -> io::Result<Self> {
        let slot = read_slots(dir)?;
        let is_read = slot.is_some_and(|slot| slot.mark.is_read);
        let mark = Mark {
            printed,
            is_read,
            is_over: false,
        };
        // The output of before is not ours to sync.
        let synced = slot.map_or(0, |slot| slot.synced.min(number(printed)));
        Self::with(dir, slot.map_or(0, |slot| slot.count), mark, synced)
    }

    fn with(dir: &Path, count: u64, mark: Mark, synced: u32) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let mut marks = Marks {
            file: options.open(slots_path(dir))?,
            count,
            mark,
            synced,
            is_told: false,
        };
        // Both, so that neither needs room later, nor tells of an earlier run.
        marks.write()?;
        marks.write()?;
        marks.file.sync_all()?;
        let marks = Arc::new(Mutex::new(marks));
        let (printed, more) = mpsc::sync_channel(1);
        let synced = Arc::clone(&marks);
        // It ends with the last handle.
        tasks::thread("sooner-sync", move || {
            while more.recv().is_ok() {
                sync(&synced);
                std::thread::park_timeout(SYNC_INTERVAL);
            }
        });
        Ok(Self { marks, printed })
    }

    /// Results up to there have been handed over.
    pub(super) fn printed(&self, cursor: Order) {
        self.change(|mark| mark.printed = cursor);
        // If one is waiting already, it is told of this too.
        self.printed.try_send(()).ok();
    }

    /// The input has been read to its end, and is in the journal.
    pub(super) fn input_is_read(&self) {
        self.change(|mark| mark.is_read = true);
    }

    /// Nothing is left to do or to print.
    pub(super) fn over(&self) {
        self.change(|mark| mark.is_over = true);
    }

    /// Sees that what was printed survives the machine, as far as that is in our hands. Blocks.
    pub(super) fn sync(&self) {
        sync(&self.marks);
    }

    fn change(&self, change: impl FnOnce(&mut Mark)) {
        let mut marks = lock(&self.marks);
        change(&mut marks.mark);
        marks.save();
    }
}

fn lock(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Syncs the output, and only then says so.
fn sync(marks: &Mutex<Marks>) {
    let printed = number(lock(marks).mark.printed);
    // A pipe or a terminal cannot be synced: what was handed to it is its reader's.
    let synced = rustix::fs::fsync(io::stdout());
    let is_lost = matches!(synced, Err(Errno::IO | Errno::NOSPC | Errno::DQUOT));
    let mut marks = lock(marks);
    if !is_lost {
        marks.synced = printed;
    }
    marks.save();
    if let Err(error) = marks.file.sync_data() {
        marks.tell(&error);
    }
}

impl Marks {
    /// A cursor that cannot be saved costs repeated output at worst, not the run.
    fn save(&mut self) {
        if let Err(error) = self.write() {
            self.tell(&error);
        }
    }

    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(%error, "how far results were printed could not be noted: --resume would print some again");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.count += 1;
        let slot = Slot {
            count: self.count,
            mark: self.mark,
            synced: self.synced,
            boot: boot(),
        };
        let at = (self.count % 2) * SLOT_DISTANCE as u64;
        self.file.write_all_at(&slot.encode(), at)
    }
}

/// A slot as it is on disk.
#[derive(Clone, Copy, Debug)]
struct Slot {
    count: u64,
    mark: Mark,
    synced: u32,
    /// The boot of the machine under which `mark.printed` holds.
    boot: [u8; 16],
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let kind: u32 = match self.mark.printed {
            Order::Completion(_) => 1,
            Order::Index(_) => 2,
        };
        let flags = u32::from(self.mark.is_read) | u32::from(self.mark.is_over) << 1;
        let mut slot = [0; SLOT_BYTES];
        slot[8..16].copy_from_slice(&self.count.to_le_bytes());
        let words = [kind, flags, number(self.mark.printed), self.synced];
        for (at, word) in words.into_iter().enumerate() {
            slot[16 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
        }
        slot[32..].copy_from_slice(&self.boot);
        slot[4..8].copy_from_slice(&VERSION.to_le_bytes());
        let crc = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// `None` if it is torn, or was never written.
    fn decode(slot: &[u8]) -> Option<Self> {
        let word =
            |at: usize| u32::from_le_bytes(slot[4 * at..][..4].try_into().expect("four bytes"));
        if word(0) != crc32fast::hash(&slot[4..]) || word(1) != VERSION {
            return None;
        }
        let (flags, printed) = (word(5), word(6));
        let printed = match word(4) {
            1 => Order::Completion(Sequence(printed)),
            2 => Order::Index(printed),
            _ => return None,
        };
        Some(Self {
            count: u64::from_le_bytes(slot[8..16].try_into().expect("eight bytes")),
            mark: Mark {
                printed,
                is_read: flags & 1 != 0,
                is_over: flags & 2 != 0,
            },
            synced: word(7),
            boot: slot[32..48].try_into().expect("sixteen bytes"),
        })
    }
}

/// The newer of the slots, and of its cursors the one that holds.
fn read_slots(dir: &Path) -> io::Result<Option<Slot>> {
    let bytes = match std::fs::read(slots_path(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let places = [0, SLOT_DISTANCE];
    let slots = places
        .iter()
        .filter_map(|&at| bytes.get(at..at + SLOT_BYTES));
    let newest = slots.filter_map(Slot::decode).max_by_key(|slot| slot.count);
    Ok(newest.map(|mut slot| {
        if slot.boot != boot() {
            slot.mark.printed = match slot.mark.printed {
                Order::Completion(_) => Order::Completion(Sequence(slot.synced)),
                Order::Index(_) => Order::Index(slot.synced),
            };
        }
        slot
    }))
}

fn number(cursor: Order) -> u32 {
    match cursor {
        Order::Completion(sequence) => sequence.0,
        Order::Index(index) => index,
    }
}

/// What names the time since the machine was started. Only Linux tells; elsewhere it is all one.
fn boot() -> [u8; 16] {
    static BOOT: std::sync::LazyLock<[u8; 16]> = std::sync::LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        uuid::Uuid::parse_str(id.trim()).map_or([0; 16], uuid::Uuid::into_bytes)
    });
    *BOOT
}

fn head_path(dir: &Path) -> PathBuf {
    dir.join("run.json")
}

fn slots_path(dir: &Path) -> PathBuf {
    dir.join("printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(dir: &Path) -> Vec<u8> {
        std::fs::read(slots_path(dir)).unwrap()
    }

    fn mark(printed: Order) -> Mark {
        let (is_read, is_over) = (false, false);
        Mark {
            printed,
            is_read,
            is_over,
        }
    }

    fn identity(command: &str) -> Identity {
        Identity {
            directory: "/here".into(),
            command: vec![command.into()],
            inputs: Vec::new(),
        }
    }

    #[test]
    fn notes_are_read_back_and_a_torn_slot_costs_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(
            (RunHead::read(dir).unwrap(), Mark::read(dir).unwrap()),
            (None, None)
        );
        let head = RunHead::new(&BatchId::parse("b").unwrap(), identity("cat"));
        let notes = Notes::begin(dir, &head, Order::Index(0)).unwrap();
        assert_eq!(RunHead::read(dir).unwrap(), Some(head));
        assert_eq!(Mark::read(dir).unwrap(), Some(mark(Order::Index(0))));
        for printed in 1..8 {
            notes.printed(Order::Index(printed));
            assert_eq!(Mark::read(dir).unwrap(), Some(mark(Order::Index(printed))));
        }
        let before = slots(dir);
        notes.printed(Order::Index(9));
        let after = slots(dir);
        let torn = (0..after.len())
            .find(|&at| before[at] != after[at])
            .unwrap();
        let mut bytes = after;
        bytes[torn] ^= 1;
        std::fs::write(slots_path(dir), bytes).unwrap();
        // The thread that syncs may have written the cursor once more meanwhile.
        let printed = Mark::read(dir).unwrap().unwrap().printed;
        assert!(
            [Order::Index(7), Order::Index(9)].contains(&printed),
            "{printed:?}"
        );
    }

    #[test]
    fn after_another_boot_only_what_was_synced_counts_as_printed() {
        let dir = tempfile::tempdir().unwrap();
        let after = |boot: [u8; 16]| {
            let slot = Slot {
                count: 4,
                mark: mark(Order::Completion(Sequence(9))),
                synced: 5,
                boot,
            };
            std::fs::write(slots_path(dir.path()), slot.encode()).unwrap();
            Mark::read(dir.path()).unwrap().unwrap().printed
        };
        assert_eq!(after(boot()), Order::Completion(Sequence(9)));
        assert_eq!(after([7; 16]), Order::Completion(Sequence(5)));
    }

    #[test]
    fn a_difference_names_what_differs() {
        let mut other = identity("cat");
        assert_eq!(identity("cat").difference(&other), None);
        other.inputs.push("list".into());
        let told = identity("cat").difference(&other);
        assert_eq!(told.as_deref(), Some("its input is -"));
        other.directory = "/there".into();
        let told = identity("cat").difference(&other);
        assert_eq!(told.as_deref(), Some("it was begun in /here"));
        let told = identity("tac").difference(&other);
        assert_eq!(told.as_deref(), Some("its command is tac"));
    }
}
