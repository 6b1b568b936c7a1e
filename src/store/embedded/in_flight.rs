//! Which items run: a small file of checksummed slots, one per live lease.
//!
//! It is written without a sync: it must survive the death of the process, not of the machine. Only
//! leases of items that run at most once are synced before they are handed out, one sync a call: a
//! power cut must not hide that such an item may have run.
//! After a kill -9 it tells which items were running: each gets a crash mark, and its processes are
//! looked for. A slot that is torn or stale is ignored: whether an item has its
//! result is never decided here.
//!
//! ```text
//! slot, 64 bytes: crc32 | version | attempt | batch | index | 0 | excused | began (8 bytes) | 0 … | nonce (16 bytes)
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::domain::ids::{BatchNo, ItemKey, LeaseToken};

const SLOT_BYTES: usize = 64;
const SLOT_VERSION: u32 = 1;

/// The slots, in memory and on disk.
#[derive(Debug)]
pub(crate) struct InFlight {
    file: Arc<File>,
    image: Vec<u8>,
    slots: HashMap<ItemKey, usize>,
    free: BTreeSet<usize>,
}

/// A lease that was live when the process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted {
    pub(crate) token: LeaseToken,
    /// When it began.
    pub(crate) began: Timestamp,
    /// Whether the process ended on purpose, so that its end says nothing about the item.
    pub(crate) excused: bool,
}

impl InFlight {
    /// Reads what the last process left. Nothing is changed.
    pub(crate) fn read(path: &Path) -> io::Result<Vec<Interrupted>> {
        match std::fs::read(path) {
            Ok(image) => Ok(image.chunks_exact(SLOT_BYTES).filter_map(decode).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Starts an empty file.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)?;
        Ok(Self {
            file: Arc::new(file),
            image: Vec::new(),
            slots: HashMap::new(),
            free: BTreeSet::new(),
        })
    }

    /// The file, for whoever syncs it: that takes long, and nobody waits for it.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Notes leases that begin.
    pub(crate) fn begin(
        &mut self,
        leases: impl Iterator<Item = (LeaseToken, Timestamp)>,
    ) -> io::Result<()> {
        let mut touched = Touched::default();
        for (token, began) in leases {
            let slot = self
                .free
                .pop_first()
                .unwrap_or(self.image.len() / SLOT_BYTES);
            if slot * SLOT_BYTES == self.image.len() {
                self.image.resize(self.image.len() + SLOT_BYTES, 0);
            }
            self.slots.insert(token.item, slot);
            self.put(
                slot,
                Some(Interrupted {
                    token,
                    began,
                    excused: false,
                }),
            );
            touched.add(slot);
        }
        self.write(&touched)
    }

    /// Notes leases that have ended.
    pub(crate) fn end(&mut self, items: impl Iterator<Item = ItemKey>) -> io::Result<()> {
        let mut touched = Touched::default();
        for item in items {
            if let Some(slot) = self.slots.remove(&item) {
                self.put(slot, None);
                self.free.insert(slot);
                touched.add(slot);
            }
        }
        self.write(&touched)
    }

    /// Notes that the process is about to end on purpose, whatever still runs.
    pub(crate) fn excuse_all(&mut self) -> io::Result<()> {
        let mut touched = Touched::default();
        for &slot in &self.slots.values().copied().collect::<Vec<_>>() {
            let place = &self.image[slot * SLOT_BYTES..][..SLOT_BYTES];
            if let Some(running) = decode(place) {
                self.put(
                    slot,
                    Some(Interrupted {
                        excused: true,
                        ..running
                    }),
                );
                touched.add(slot);
            }
        }
        self.write(&touched)
    }

    fn put(&mut self, slot: usize, content: Option<Interrupted>) {
        let place = &mut self.image[slot * SLOT_BYTES..][..SLOT_BYTES];
        match content {
            Some(content) => encode(content, place),
            None => place.fill(0),
        }
    }

    /// Writes the stretch of slots that changed. Slots are given out lowest first, so it is short.
    fn write(&self, touched: &Touched) -> io::Result<()> {
        let &Touched(Some((first, last))) = touched else {
            return Ok(());
        };
        let (from, to) = (first * SLOT_BYTES, (last + 1) * SLOT_BYTES);
        self.file.write_all_at(&self.image[from..to], from as u64)
    }
}

/// The first and last slot that changed.
#[derive(Default)]
struct Touched(Option<(usize, usize)>);

impl Touched {
    fn add(&mut self, slot: usize) {
        let (first, last) = self.0.unwrap_or((slot, slot));
        self.0 = Some((first.min(slot), last.max(slot)));
    }
}

fn encode(content: Interrupted, slot: &mut [u8]) {
    let LeaseToken {
        item,
        attempt,
        nonce,
    } = content.token;
    slot.fill(0);
    let words = [
        SLOT_VERSION,
        attempt,
        item.batch.0,
        item.index,
        // Where the format's first writers put a process group.
        0,
        content.excused.into(),
    ];
    for (at, word) in words.into_iter().enumerate() {
        slot[4 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    slot[28..36].copy_from_slice(&content.began.0.to_le_bytes());
    slot[48..].copy_from_slice(&nonce.to_le_bytes());
    let crc = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&crc.to_le_bytes());
}

fn decode(slot: &[u8]) -> Option<Interrupted> {
    let word = |at: usize| u32::from_le_bytes(slot[4 * at..][..4].try_into().expect("four bytes"));
    if word(1) != SLOT_VERSION || word(0) != crc32fast::hash(&slot[4..]) {
        return None;
    }
    let item = ItemKey {
        batch: BatchNo(word(3)),
        index: word(4),
    };
    let nonce = u128::from_le_bytes(slot[48..64].try_into().expect("sixteen bytes"));
    let began = i64::from_le_bytes(slot[28..36].try_into().expect("eight bytes"));
    Some(Interrupted {
        token: LeaseToken {
            item,
            attempt: word(2),
            nonce,
        },
        began: Timestamp(began),
        excused: word(6) != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u32) -> LeaseToken {
        LeaseToken {
            item: ItemKey {
                batch: BatchNo(7),
                index,
            },
            attempt: index + 1,
            nonce: u128::MAX - 5,
        }
    }

    fn lease(index: u32) -> (LeaseToken, Timestamp) {
        let began = i64::from(index) * 1_000_000_000_000;
        (token(index), Timestamp(began))
    }

    #[test]
    fn live_leases_are_read_back_and_ended_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in-flight");
        assert_eq!(InFlight::read(&path).unwrap(), []);
        let mut file = InFlight::create(&path).unwrap();
        file.begin((0..3).map(lease)).unwrap();
        file.end([token(1).item].into_iter()).unwrap();
        file.begin([lease(9)].into_iter()).unwrap();
        let read: Vec<_> = InFlight::read(&path).unwrap();
        let tokens: Vec<_> = read.iter().map(|slot| slot.token).collect();
        assert_eq!(tokens, [token(0), token(9), token(2)]);
        assert_eq!(read[1].began, Timestamp(9_000_000_000_000));
    }

    #[test]
    fn a_torn_slot_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in-flight");
        InFlight::create(&path)
            .unwrap()
            .begin((0..2).map(lease))
            .unwrap();
        let mut image = std::fs::read(&path).unwrap();
        image[SLOT_BYTES + 20] ^= 1;
        std::fs::write(&path, image).unwrap();
        let read: Vec<_> = InFlight::read(&path)
            .unwrap()
            .into_iter()
            .map(|slot| slot.token)
            .collect();
        assert_eq!(read, [token(0)]);
    }
}
