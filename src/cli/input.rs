//! Where a run's items come from: lines, NUL-separated pieces or whole files, one at a time.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::exit::{Exit, Failure};
use crate::domain::ids::check_item_id;
use crate::domain::item::ItemSpec;
use crate::domain::payload::Payload;

/// How items are found in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Each line is one, without its end.
    Lines,
    /// Each piece before a NUL is one.
    Null,
    /// Each named file is one; its path is the item's id.
    Files,
}

/// An input whose names were checked.
#[derive(Debug)]
pub(super) struct Input {
    format: Format,
    paths: Vec<PathBuf>,
    /// An item beyond it is cut just behind it, and fails by its size.
    item_bytes_max: usize,
}

impl Input {
    /// Checks that everything named is there, before anything runs. `-` or nothing is standard input.
    pub(super) fn open(
        format: Format,
        paths: Vec<PathBuf>,
        item_bytes_max: usize,
    ) -> Result<Self, Failure> {
        if format == Format::Files {
            check_files(&paths)?;
        }
        for path in paths.iter().filter(|path| !is_stdin(path)) {
            let readable = File::open(path).and_then(|file| file.metadata());
            match readable {
                Ok(file) if file.is_dir() => {
                    return Err(Failure::new(
                        Exit::Usage,
                        format!("{} is a directory", path.display()),
                    ));
                }
                Ok(_) => {}
                Err(error) => {
                    return Err(Failure::new(
                        Exit::NoInput,
                        format!("read {}: {error}", path.display()),
                    ));
                }
            }
        }
        Ok(Self {
            format,
            paths,
            item_bytes_max,
        })
    }

    /// Reads all items into `items`, as fast as they are taken. Blocks.
    ///
    /// Ends early, and well, if nobody takes them any more.
    pub(super) fn read(self, items: &mpsc::Sender<ItemSpec>) -> io::Result<()> {
        let mut send = |item: ItemSpec| items.blocking_send(item).is_ok();
        if self.paths.is_empty() {
            return self.read_pieces(io::stdin().lock(), &mut send).map(|_| ());
        }
        for path in &self.paths {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            let wanted = match self.format {
                Format::Files => self.read_file(path, &mut send).map_err(named)?,
                Format::Lines | Format::Null if is_stdin(path) => {
                    self.read_pieces(io::stdin().lock(), &mut send)?
                }
                Format::Lines | Format::Null => {
                    let file = File::open(path).map_err(named)?;
                    self.read_pieces(BufReader::with_capacity(64 << 10, file), &mut send)
                        .map_err(named)?
                }
            };
            if !wanted {
                break;
            }
        }
        Ok(())
    }

    fn read_file(
        &self,
        path: &PathBuf,
        send: &mut impl FnMut(ItemSpec) -> bool,
    ) -> io::Result<bool> {
        let mut content = Vec::new();
        File::open(path)?
            .take(self.item_bytes_max as u64 + 1)
            .read_to_end(&mut content)?;
        let id = path.to_str().expect("the names were checked").into();
        Ok(send(ItemSpec {
            id: Some(id),
            input: Payload::sniff(content),
            ..ItemSpec::default()
        }))
    }

    fn read_pieces(
        &self,
        mut from: impl BufRead,
        send: &mut impl FnMut(ItemSpec) -> bool,
    ) -> io::Result<bool> {
        let end = if self.format == Format::Null {
            0
        } else {
            b'\n'
        };
        let mut piece = Vec::new();
        while self.read_piece(&mut from, end, &mut piece)? {
            let input = Payload::sniff(std::mem::take(&mut piece));
            if !send(ItemSpec {
                input,
                ..ItemSpec::default()
            }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads up to the next `end`, keeping one byte more than an item may have. `false` at the input's end.
    fn read_piece(
        &self,
        from: &mut impl BufRead,
        end: u8,
        piece: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut any = false;
        loop {
            let buffer = match from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            if buffer.is_empty() {
                return Ok(any);
            }
            any = true;
            let at = buffer.iter().position(|&byte| byte == end);
            let part = &buffer[..at.unwrap_or(buffer.len())];
            let room = (self.item_bytes_max + 1).saturating_sub(piece.len());
            piece.extend_from_slice(&part[..part.len().min(room)]);
            let used = at.map_or(buffer.len(), |at| at + 1);
            from.consume(used);
            if at.is_some() {
                return Ok(true);
            }
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Paths are item ids: they must be usable as such, and each must stand once.
fn check_files(paths: &[PathBuf]) -> Result<(), Failure> {
    let usage = |path: &PathBuf, problem: &str| {
        Failure::new(
            Exit::Usage,
            format!(
                "{} cannot be an item's id: {problem}",
                path.display().to_string().escape_debug()
            ),
        )
    };
    if paths.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "--files needs the names of the files",
        ));
    }
    let mut seen = HashSet::new();
    for path in paths {
        let id = path
            .to_str()
            .ok_or_else(|| usage(path, "it is not UTF-8"))?;
        check_item_id(id).map_err(|problem| usage(path, &format!("it {problem}")))?;
        if is_stdin(path) {
            return Err(usage(path, "with --files every input is a file"));
        }
        if !seen.insert(path) {
            return Err(usage(path, "it is named twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(format: Format, text: &[u8], item_bytes_max: usize) -> Vec<String> {
        let input = Input {
            format,
            paths: Vec::new(),
            item_bytes_max,
        };
        let mut read = Vec::new();
        // A tiny buffer, so that items span several.
        let from = BufReader::with_capacity(3, text);
        input
            .read_pieces(from, &mut |item| {
                read.push(String::from_utf8_lossy(item.input.bytes()).into_owned());
                true
            })
            .unwrap();
        read
    }

    #[test]
    fn lines_and_pieces_are_items_without_their_ends() {
        assert_eq!(
            pieces(Format::Lines, b"one\n\nthree words\nlast", 100),
            ["one", "", "three words", "last"]
        );
        assert_eq!(pieces(Format::Lines, b"one\n", 100), ["one"]);
        assert_eq!(pieces(Format::Lines, b"", 100), Vec::<String>::new());
        assert_eq!(pieces(Format::Null, b"a\nb\0c\0", 100), ["a\nb", "c"]);
    }

    #[test]
    fn a_long_item_is_cut_just_behind_the_limit() {
        assert_eq!(pieces(Format::Lines, b"12345678\nok\n", 4), ["12345", "ok"]);
    }

    #[test]
    fn files_must_be_there_once_and_be_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "content").unwrap();
        let open = |paths: &[&PathBuf]| {
            let paths = paths.iter().map(|path| (*path).clone()).collect();
            Input::open(Format::Files, paths, 100)
                .map(|_| ())
                .map_err(|failure| failure.exit)
        };
        assert_eq!(open(&[&path]), Ok(()));
        assert_eq!(open(&[&path, &path]), Err(Exit::Usage));
        assert_eq!(open(&[&dir.path().join("b")]), Err(Exit::NoInput));
        assert_eq!(open(&[&dir.path().to_owned()]), Err(Exit::Usage));
        assert_eq!(open(&[]), Err(Exit::Usage));
    }
}
