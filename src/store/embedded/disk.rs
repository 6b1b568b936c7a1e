//! How much room the disk has, and whether what is left is kept for results.
//!
//! Below the reserve new work is refused, so that there is room for the results of what was accepted.
//! It is looked at when new work comes, and then at most once a second or after much was written.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::base::limits;

/// Room of a disk that is kept for results: new work does not get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// A twentieth of the disk, but no more than 256 MiB.
    Usual,
    /// So many bytes.
    Bytes(u64),
}

/// What a file system says of itself, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) total: u64,
    /// What an ordinary user may still write.
    pub(crate) free: u64,
}

/// Whether the disk has room for new work.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    reserve: Option<Reserve>,
    is_low: bool,
    looked: Option<Instant>,
    written: usize,
}

impl Room {
    /// The room of the file system that holds `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let told = rustix::fs::statvfs(path)?;
        Ok(Self {
            total: told.f_blocks * told.f_frsize,
            free: told.f_bavail * told.f_frsize,
        })
    }

    /// The same with room inside the file that is written to.
    pub(crate) fn with(self, reusable: u64) -> Self {
        let free = self.free.saturating_add(reusable);
        Self { free, ..self }
    }
}

impl Reserve {
    fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Usual => limits::DISK_RESERVE_MAX.min(total / limits::DISK_RESERVE_DIVISOR),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Disk {
    /// The disk of the data directory; without a reserve there is always room.
    pub(crate) fn new(path: &Path, reserve: Option<Reserve>) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            is_low: false,
            looked: None,
            written: 0,
        }
    }

    /// Whether what is left is kept for results.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low
    }

    /// Notes that so much was written.
    pub(crate) fn note_written(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes);
    }

    /// Looks how much room there is, unless it has just been looked at.
    pub(crate) fn look(&mut self, now: Instant, room: impl FnOnce(&Path) -> io::Result<Room>) {
        let is_due = self.written >= limits::GROUP_BYTES_MAX
            || self
                .looked
                .is_none_or(|at| now.saturating_duration_since(at) >= limits::DISK_LOOK);
        if self.reserve.is_none() || !is_due {
            return;
        }
        (self.looked, self.written) = (Some(now), 0);
        // Whoever cannot say how much room there is has refused to write before, or will.
        if let Ok(room) = room(&self.path) {
            self.judge(room);
        }
    }

    /// Low below the reserve, and until there is a quarter more than that: the room for one more batch
    /// must not open and shut the door for each.
    fn judge(&mut self, room: Room) {
        let Some(reserve) = self.reserve.map(|reserve| reserve.bytes(room.total)) else {
            return;
        };
        let enough = if self.is_low {
            reserve.saturating_add(reserve / 4)
        } else {
            reserve
        };
        let is_low = room.free < enough;
        if is_low != self.is_low {
            let (free_bytes, reserve_bytes) = (room.free, reserve);
            if is_low {
                tracing::error!(
                    free_bytes,
                    reserve_bytes,
                    "the disk is nearly full: new work is refused until there is room"
                );
            } else {
                tracing::info!(free_bytes, "the disk has room for new work again");
            }
        }
        self.is_low = is_low;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock;

    const MIB: u64 = 1 << 20;

    /// A disk of 100 GiB that says how much of it is free, and how often it was asked.
    struct Fake {
        disk: Disk,
        asked: u32,
    }

    impl Fake {
        fn is_low(&mut self, now: Instant, free: u64) -> bool {
            let total = 100 * 1024 * MIB;
            let asked = &mut self.asked;
            self.disk.look(now, |_| {
                *asked += 1;
                Ok(Room { total, free })
            });
            self.disk.is_low()
        }
    }

    fn fake(reserve: Option<Reserve>) -> Fake {
        let disk = Disk::new(Path::new("/"), reserve);
        Fake { disk, asked: 0 }
    }

    #[test]
    fn the_reserve_is_a_twentieth_of_a_small_disk_and_a_quarter_gibibyte_of_a_large_one() {
        assert_eq!(Reserve::Usual.bytes(100 * MIB), 5 * MIB);
        assert_eq!(Reserve::Usual.bytes(u64::MAX), 256 * MIB);
        assert_eq!(Reserve::Bytes(7).bytes(1), 7);
    }

    #[test]
    fn it_is_low_below_the_reserve_until_there_is_a_quarter_more() {
        let mut fake = fake(Some(Reserve::Usual));
        let mut now = clock::instant();
        let steps = [
            (256, false),
            (255, true),
            (256, true),
            (319, true),
            (320, false),
            (256, false),
            (0, true),
        ];
        for (free, expected) in steps {
            assert_eq!(fake.is_low(now, free * MIB), expected, "{free} MiB");
            now += limits::DISK_LOOK;
        }
    }

    #[test]
    fn it_is_looked_at_once_a_second_or_when_much_was_written() {
        let mut fake = fake(Some(Reserve::Usual));
        let now = clock::instant();
        for millis in [0, 1, 999] {
            assert!(!fake.is_low(now + Duration::from_millis(millis), 256 * MIB));
        }
        assert_eq!(fake.asked, 1);
        fake.disk.note_written(limits::GROUP_BYTES_MAX);
        assert!(fake.is_low(now + Duration::from_millis(999), 0));
        assert!(!fake.is_low(now + Duration::from_secs(5), 1024 * MIB));
        assert_eq!(fake.asked, 3);
    }

    #[test]
    fn a_disk_that_says_nothing_or_of_which_nothing_is_kept_has_room() {
        let mut disk = fake(Some(Reserve::Usual)).disk;
        disk.look(clock::instant(), |_| Err(io::ErrorKind::Other.into()));
        assert!(!disk.is_low());
        let mut fake = fake(None);
        assert!(!fake.is_low(clock::instant(), 0));
        assert_eq!(fake.asked, 0);
        let here = Room::of(Path::new("/")).unwrap();
        assert!(here.total >= here.free);
    }
}
