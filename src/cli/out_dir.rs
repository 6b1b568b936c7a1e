//! A directory with one file per item's output.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::exit::{Exit, Failure};

/// Characters of a file's name; file systems take 255 bytes, and some of it is for half-written ones.
const NAME_CHARS_MAX: usize = 200;

/// The directory.
#[derive(Debug)]
pub(super) struct OutDir(PathBuf);

impl OutDir {
    /// Makes it, unless it is there.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| {
            let path = path.display();
            Failure::new(Exit::CannotCreate, format!("create {path}: {error}"))
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Writes an item's output, under another name first: whoever sees the file sees all of it.
    pub(super) fn write(&self, item_id: &str, output: &[u8]) -> io::Result<()> {
        let name = file_name(item_id);
        let path = self.0.join(&name);
        // No item has a name that begins with a dot.
        let half = self.0.join(format!(".{name}.half-written"));
        fs::write(&half, output)
            .and_then(|()| fs::rename(&half, &path))
            .map_err(|error| {
                // Of a kind of its own: a broken pipe here would be taken for a reader that left.
                io::Error::other(format!("{}: {error}", path.display()))
            })
    }
}

/// The name of an item's file: its id, with everything but letters, digits, dots, dashes and
/// underscores written as in a URL, so that it names no other directory and no two ids meet. A very
/// long one is cut and told apart by a digest.
fn file_name(item_id: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for (i, byte) in item_id.bytes().enumerate() {
        let is_plain =
            byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || (byte == b'.' && i > 0);
        if is_plain {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02X}").expect("a string takes everything");
        }
    }
    if name.len() > NAME_CHARS_MAX {
        let digest: [u8; 32] = Sha256::digest(item_id).into();
        let first = u128::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"));
        name.truncate(NAME_CHARS_MAX - 33);
        // `%%` stands in no name that was not cut.
        write!(name, "%%{first:032x}").expect("a string takes everything");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_item_id_leaves_the_directory_or_meets_another() {
        assert_eq!(file_name("report-7_final.txt"), "report-7_final.txt");
        assert_eq!(file_name("../../etc/passwd"), "%2E.%2F..%2Fetc%2Fpasswd");
        assert_eq!(file_name("src/a b%.rs"), "src%2Fa%20b%25.rs");
        assert_eq!(file_name("ä"), "%C3%A4");
        let long = |end: &str| file_name(&format!("{}{end}", "ä".repeat(120)));
        assert!(long("a").len() <= NAME_CHARS_MAX + 1);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn an_output_is_a_file_and_replaces_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = OutDir::create(&dir.path().join("new/out")).unwrap();
        out.write(".", b"one").unwrap();
        out.write(".", b"two").unwrap();
        let names: Vec<_> = fs::read_dir(&out.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["%2E"]);
        assert_eq!(fs::read(out.0.join("%2E")).unwrap(), b"two");
    }
}
