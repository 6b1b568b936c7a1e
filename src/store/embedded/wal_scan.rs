//! Looks through the write-ahead log before SQLite opens it.
//!
//! SQLite reads its log up to the first frame whose checksum is wrong and drops the rest in
//! silence. That is right for a torn tail: what was being written when the power went was not
//! acknowledged. It is wrong for a flipped bit in the middle: everything acknowledged behind it
//! would vanish. Each commit is synced before the next one starts, so a frame of the current
//! generation that follows a commit frame *behind* the first bad frame proves damage.
//!
//! The log's format: sqlite.org/fileformat2.html#walformat.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC_LITTLE_ENDIAN: u32 = 0x377f_0682;
const MAGIC_BIG_ENDIAN: u32 = 0x377f_0683;

/// What the scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalState {
    /// There is no log, or all that was acknowledged is readable.
    Sound,
    /// Frame number `frame`, from 0, is damaged and acknowledged ones follow it.
    Damaged {
        /// The first bad frame.
        frame: u64,
    },
}

/// Scans the log at `path`.
pub(crate) fn scan(path: &Path) -> io::Result<WalState> {
    match File::open(path) {
        Ok(file) => scan_reader(BufReader::with_capacity(1 << 20, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(WalState::Sound),
        Err(error) => Err(error),
    }
}

fn scan_reader(mut wal: impl io::Read) -> io::Result<WalState> {
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut wal, &mut header)? {
        return Ok(WalState::Sound);
    }
    let page_bytes = match word(&header, 8) {
        1 => 1 << 16,
        bytes => bytes as usize,
    };
    let sum_of: fn(Sum, &[u8]) -> Sum = match word(&header, 0) {
        MAGIC_LITTLE_ENDIAN => |sum, bytes| add(sum, bytes, u32::from_le_bytes),
        MAGIC_BIG_ENDIAN => |sum, bytes| add(sum, bytes, u32::from_be_bytes),
        _ => |_, _| (0, 0),
    };
    let mut sum = sum_of((0, 0), &header[..24]);
    let header_is_sound =
        sum == (word(&header, 24), word(&header, 28)) && page_bytes.is_power_of_two();
    let page_bytes = page_bytes.clamp(512, 1 << 16);
    let salts = &header[16..24];

    let mut bad = (!header_is_sound).then_some(0);
    let mut committed_behind_bad = false;
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    for number in 0.. {
        if !read_whole(&mut wal, &mut frame)? {
            break;
        }
        let current = &frame[8..16] == salts;
        if let Some(bad) = bad {
            // Behind the first bad frame only salts can tell old from new.
            if current && (committed_behind_bad || !header_is_sound) {
                return Ok(WalState::Damaged { frame: bad });
            }
            committed_behind_bad |= current && word(&frame, 4) != 0;
            continue;
        }
        let sum_here = sum_of(sum_of(sum, &frame[..8]), &frame[FRAME_HEADER_BYTES..]);
        if current && sum_here == (word(&frame, 16), word(&frame, 20)) {
            sum = sum_here;
        } else {
            bad = Some(number);
            // The bad frame itself may be the commit that others follow.
            committed_behind_bad = current && word(&frame, 4) != 0;
        }
    }
    Ok(WalState::Sound)
}

type Sum = (u32, u32);

/// SQLite's running checksum over pairs of words.
fn add((mut a, mut b): Sum, bytes: &[u8], word: fn([u8; 4]) -> u32) -> Sum {
    for pair in bytes.chunks_exact(8) {
        let (first, second) = (pair[..4].try_into(), pair[4..].try_into());
        a = a
            .wrapping_add(word(first.expect("four bytes")))
            .wrapping_add(b);
        b = b
            .wrapping_add(word(second.expect("four bytes")))
            .wrapping_add(a);
    }
    (a, b)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Fills `buffer`; `false` if the end comes first.
fn read_whole(from: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of five commits, taken while the database was open.
    fn wal() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x);",
        )
        .unwrap();
        for i in 0..5 {
            db.execute("INSERT INTO t VALUES (?)", [i]).unwrap();
        }
        std::fs::read(dir.path().join("a.db-wal")).unwrap()
    }

    const FRAME: usize = FRAME_HEADER_BYTES + 4096;

    #[test]
    fn a_whole_log_and_a_torn_tail_are_sound() {
        let wal = wal();
        assert_eq!(scan_reader(&wal[..]).unwrap(), WalState::Sound);
        for cut in [0, 10, 32, 40, wal.len() - 1, wal.len() - FRAME] {
            assert_eq!(
                scan_reader(&wal[..cut]).unwrap(),
                WalState::Sound,
                "cut at {cut}"
            );
        }
        let mut torn = wal.clone();
        *torn.last_mut().unwrap() ^= 1;
        assert_eq!(scan_reader(&torn[..]).unwrap(), WalState::Sound);
    }

    #[test]
    fn a_flipped_bit_before_a_later_commit_is_damage() {
        let wal = wal();
        let frames = (wal.len() - HEADER_BYTES) / FRAME;
        for frame in 0..frames - 1 {
            for at in [4 + 3, 20, 100, 4000] {
                let mut flipped = wal.clone();
                flipped[HEADER_BYTES + frame * FRAME + at] ^= 1;
                let found = scan_reader(&flipped[..]).unwrap();
                assert!(
                    matches!(found, WalState::Damaged { .. }),
                    "frame {frame} byte {at}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn a_damaged_header_over_frames_of_its_generation_is_damage() {
        let mut wal = wal();
        wal[14] ^= 1;
        assert!(matches!(
            scan_reader(&wal[..]).unwrap(),
            WalState::Damaged { .. }
        ));
    }
}
