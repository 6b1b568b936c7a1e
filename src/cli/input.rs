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

/// Items appended in one transaction at most.
const CHUNK_ITEMS_MAX: usize = 1000;

/// Bytes appended in one transaction, about.
const CHUNK_BYTES_MAX: usize = 1 << 20;

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

    /// Reads all items into `chunks`, as fast as they are taken. Blocks.
    ///
    /// Ends early, and well, if nobody takes them any more.
    pub(super) fn read(self, chunks: mpsc::Sender<Vec<ItemSpec>>) -> io::Result<()> {
        let mut chunks = Chunks {
            sender: chunks,
            chunk: Vec::new(),
            bytes: 0,
            is_wanted: true,
        };
        let read = self.read_into(&mut chunks);
        chunks.flush();
        read
    }

    fn read_into(&self, chunks: &mut Chunks) -> io::Result<()> {
        if self.paths.is_empty() {
            return self.read_pieces(stdin(), chunks);
        }
        for path in &self.paths {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            match self.format {
                Format::Files => self.read_file(path, chunks).map_err(named)?,
                Format::Lines | Format::Null if is_stdin(path) => {
                    self.read_pieces(stdin(), chunks)?;
                }
                Format::Lines | Format::Null => {
                    let file = File::open(path).map_err(named)?;
                    let file = BufReader::with_capacity(64 << 10, file);
                    self.read_pieces(file, chunks).map_err(named)?;
                }
            }
            if !chunks.is_wanted {
                break;
            }
        }
        Ok(())
    }

    fn read_file(&self, path: &Path, chunks: &mut Chunks) -> io::Result<()> {
        let mut content = Vec::new();
        File::open(path)?
            .take(self.item_bytes_max as u64 + 1)
            .read_to_end(&mut content)?;
        let id = Some(path.to_str().expect("the names were checked").into());
        chunks.push(ItemSpec {
            id,
            input: Payload::sniff(content),
            ..ItemSpec::default()
        });
        Ok(())
    }

    fn read_pieces(&self, mut from: impl BufRead, chunks: &mut Chunks) -> io::Result<()> {
        let end = if self.format == Format::Null {
            0
        } else {
            b'\n'
        };
        let mut piece = Vec::new();
        while chunks.is_wanted
            && let Some(next) = self.read_piece(&mut from, end, &mut piece)?
        {
            let input = Payload::sniff(std::mem::take(&mut piece));
            chunks.push(ItemSpec {
                input,
                ..ItemSpec::default()
            });
            if next == Next::MayTakeLong {
                chunks.flush();
            }
        }
        Ok(())
    }

    /// Reads up to the next `end`, keeping one byte more than an item may have. `None` at the
    /// input's end.
    fn read_piece(
        &self,
        from: &mut impl BufRead,
        end: u8,
        piece: &mut Vec<u8>,
    ) -> io::Result<Option<Next>> {
        let mut any = false;
        loop {
            let buffer = match from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            if buffer.is_empty() {
                return Ok(any.then_some(Next::MayTakeLong));
            }
            any = true;
            let at = buffer.iter().position(|&byte| byte == end);
            let part = &buffer[..at.unwrap_or(buffer.len())];
            let room = (self.item_bytes_max + 1).saturating_sub(piece.len());
            piece.extend_from_slice(&part[..part.len().min(room)]);
            let used = at.map_or(buffer.len(), |at| at + 1);
            let next = if used < buffer.len() {
                Next::IsThere
            } else {
                Next::MayTakeLong
            };
            from.consume(used);
            if at.is_some() {
                return Ok(Some(next));
            }
        }
    }
}

/// Whether more of the input has been read already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    IsThere,
    MayTakeLong,
}

/// Gathers items into chunks while the journal is busy, and only then: an item must not wait for
/// the ones behind it.
struct Chunks {
    sender: mpsc::Sender<Vec<ItemSpec>>,
    chunk: Vec<ItemSpec>,
    bytes: usize,
    /// Whether somebody still takes them.
    is_wanted: bool,
}

impl Chunks {
    fn push(&mut self, item: ItemSpec) {
        self.bytes += item.input.bytes().len();
        self.chunk.push(item);
        let is_full = self.chunk.len() >= CHUNK_ITEMS_MAX || self.bytes >= CHUNK_BYTES_MAX;
        if is_full || self.sender.capacity() > 0 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        self.bytes = 0;
        if !chunk.is_empty() && self.sender.blocking_send(chunk).is_err() {
            self.is_wanted = false;
        }
    }
}

fn stdin() -> impl BufRead {
    BufReader::with_capacity(64 << 10, io::stdin())
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
        let (sender, mut read) = mpsc::channel(1000);
        let mut chunks = Chunks {
            sender,
            chunk: Vec::new(),
            bytes: 0,
            is_wanted: true,
        };
        // A tiny buffer, so that items span several.
        input
            .read_pieces(BufReader::with_capacity(3, text), &mut chunks)
            .unwrap();
        chunks.flush();
        drop(chunks);
        let text = |item: &ItemSpec| String::from_utf8_lossy(item.input.bytes()).into_owned();
        std::iter::from_fn(|| read.blocking_recv())
            .flatten()
            .map(|item| text(&item))
            .collect()
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
