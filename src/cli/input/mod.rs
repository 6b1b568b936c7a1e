//! Where items come from: lines, NUL-separated pieces, JSON lines, CSV rows or whole files, one at a
//! time. The input is never held as a whole.

mod csv_rows;
mod json_lines;
mod pieces;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use super::exit::{Exit, Failure};
use crate::base::{clock, limits, tasks};
use crate::domain::bounds::check_timeout;
use crate::domain::ids::{self, check_item_id};
use crate::domain::item::ItemSpec;
use crate::domain::payload::Payload;

/// Items appended in one transaction at most.
const CHUNK_ITEMS_MAX: usize = 1000;

/// Bytes appended in one transaction, about.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Bytes read from a file at once.
const READ_BYTES: usize = 64 << 10;

/// The input and how items are found in it.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct InputArguments {
    /// Each line is an item; the default
    #[arg(long, group = "format", help_heading = "Input")]
    lines: bool,

    /// Items are separated by NUL instead of line ends
    #[arg(short = '0', long, group = "format", help_heading = "Input")]
    null: bool,

    #[arg(
        long,
        group = "format",
        help_heading = "Input",
        help = "Each line is a JSON object that describes an item: input (JSON), input_text or \
                input_base64; and item_id, content_type, attributes, timeout, start_by, finish_by, \
                retry_policy if wanted"
    )]
    jsonl: bool,

    /// Each row is an item, as a JSON object by the names in the first row
    #[arg(long, group = "format", help_heading = "Input")]
    csv: bool,

    /// Each named file's content is an item, its path the item's id
    #[arg(long, group = "format", help_heading = "Input")]
    files: bool,

    #[arg(long, value_name = "NAME", help_heading = "Input",
          help = "With --jsonl or --csv: the field that is the input, text as it is and anything else \
                  as JSON; a field item_id names the item, others are left out",
          conflicts_with_all = ["lines", "null", "files"])]
    field: Option<String>,

    /// The input: files, or - for standard input, which is the default
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
}

/// How items are found in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    /// Each line is one, without its end.
    Lines,
    /// Each piece before a NUL is one.
    Null,
    /// Each line describes one, or holds it in this field.
    JsonLines { field: Option<String> },
    /// Each row is one, or holds it in this field.
    Csv { field: Option<String> },
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

impl InputArguments {
    /// What was named on the command line.
    pub(super) fn names(&self) -> impl Iterator<Item = &Path> {
        self.inputs.iter().map(PathBuf::as_path)
    }

    fn format(&self) -> Result<Format, Failure> {
        let field = self.field.clone();
        Ok(match (self.files, self.null, self.jsonl, self.csv) {
            (true, ..) => Format::Files,
            (_, true, ..) => Format::Null,
            (_, _, true, _) => Format::JsonLines { field },
            (.., true) => Format::Csv { field },
            (false, false, false, false) if field.is_some() => {
                return Err(Failure::new(Exit::Usage, "--field needs --jsonl or --csv"));
            }
            (false, false, false, false) => Format::Lines,
        })
    }

    /// Checks that everything named is there, before anything runs. `-` or nothing is standard input.
    pub(super) fn open(&self, item_bytes_max: usize) -> Result<Input, Failure> {
        let format = self.format()?;
        if self.inputs.is_empty() && io::stdin().is_terminal() && format != Format::Files {
            return Err(Failure::new(
                Exit::Usage,
                "there is no input: name files or pipe items in; see --help",
            ));
        }
        Input::open(format, self.inputs.clone(), item_bytes_max)
    }
}

impl Input {
    fn open(format: Format, paths: Vec<PathBuf>, item_bytes_max: usize) -> Result<Self, Failure> {
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
    /// Ends early, and well, if nobody takes them any more. An error of the kind `InvalidData` is a
    /// fault in the input, told with its file and line.
    pub(super) fn read(self, chunks: mpsc::Sender<Vec<ItemSpec>>) -> io::Result<()> {
        let mut chunks = Chunks::to(chunks);
        let read = self.read_into(&mut chunks);
        chunks.flush();
        read
    }

    /// Begins to read. One chunk is ready and one being filled: the input waits for whoever takes it.
    pub(super) fn start(self) -> Source {
        let (sender, chunks) = mpsc::channel(1);
        let (ended, end) = oneshot::channel();
        tasks::thread("sooner-input", move || {
            // Nobody is told if the items are not wanted any more.
            ended.send(self.read(sender)).ok();
        });
        Source { chunks, end }
    }

    fn read_into(&self, chunks: &mut Chunks) -> io::Result<()> {
        if self.paths.is_empty() {
            return self.read_stream("stdin", stdin(), chunks);
        }
        for path in &self.paths {
            let name = path.display().to_string();
            let named = |error: io::Error| {
                // A fault in the input knows its place, down to the line.
                if error.kind() == io::ErrorKind::InvalidData {
                    return error;
                }
                io::Error::new(error.kind(), format!("{name}: {error}"))
            };
            if self.format == Format::Files {
                self.read_file(path, chunks).map_err(named)?;
            } else if is_stdin(path) {
                self.read_stream("stdin", stdin(), chunks)?;
            } else {
                let file = File::open(path).map_err(named)?;
                let file = BufReader::with_capacity(READ_BYTES, file);
                self.read_stream(&name, file, chunks).map_err(named)?;
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

    fn read_stream(&self, name: &str, from: impl BufRead, chunks: &mut Chunks) -> io::Result<()> {
        let max = self.item_bytes_max;
        match &self.format {
            Format::Lines | Format::Files => pieces::read(b'\n', from, chunks, max),
            Format::Null => pieces::read(0, from, chunks, max),
            Format::JsonLines { field } => {
                json_lines::read(field.as_deref(), name, from, chunks, max)
            }
            Format::Csv { field } => csv_rows::read(field.as_deref(), name, from, chunks, max),
        }
    }
}

/// An input that is read on a thread of its own, as fast as its items are taken.
#[derive(Debug)]
pub(super) struct Source {
    chunks: mpsc::Receiver<Vec<ItemSpec>>,
    end: oneshot::Receiver<io::Result<()>>,
}

impl Source {
    /// The next items, or `None` once, at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<ItemSpec>>> {
        if let Some(chunk) = self.chunks.recv().await {
            return Ok(Some(chunk));
        }
        let end = (&mut self.end).await;
        let end = end.unwrap_or_else(|_| Err(io::Error::other("the reading thread died")));
        end.map(|()| None)
    }
}

/// Gathers items into chunks while whoever takes them is busy, and only then: an item must not wait
/// for the ones behind it.
struct Chunks {
    sender: mpsc::Sender<Vec<ItemSpec>>,
    chunk: Vec<ItemSpec>,
    bytes: usize,
    /// Whether somebody still takes them.
    is_wanted: bool,
    /// Whether the items so far have ids.
    named: Option<bool>,
}

impl Chunks {
    fn to(sender: mpsc::Sender<Vec<ItemSpec>>) -> Self {
        Self {
            sender,
            chunk: Vec::new(),
            bytes: 0,
            is_wanted: true,
            named: None,
        }
    }

    /// Adds an item that somebody has described, after a look at all that can be wrong with it alone.
    fn push_described(&mut self, item: ItemSpec, item_bytes_max: usize) -> Result<(), String> {
        check(&item, item_bytes_max)?;
        let named = item.id.is_some();
        match (*self.named.get_or_insert(named), named) {
            (true, false) => {
                return Err("has no item_id although earlier items have one".to_owned());
            }
            (false, true) => {
                return Err("has an item_id although earlier items have none".to_owned());
            }
            (true, true) | (false, false) => {}
        }
        self.push(item);
        Ok(())
    }

    fn push(&mut self, item: ItemSpec) {
        self.bytes += size(&item);
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

/// How many bytes an item has, about.
fn size(item: &ItemSpec) -> usize {
    let attributes = item.attributes.iter();
    let attributes: usize = attributes
        .map(|(name, value)| name.len() + value.len())
        .sum();
    item.input.bytes().len() + item.id.as_ref().map_or(0, |id| id.len()) + attributes
}

/// What is wrong with an item, if anything is. What only its batch can tell is not looked at.
fn check(item: &ItemSpec, item_bytes_max: usize) -> Result<(), String> {
    if let Some(id) = &item.id {
        if id.is_empty() {
            return Err("item_id is empty".to_owned());
        }
        check_item_id(id).map_err(|problem| format!("item_id {problem}"))?;
    }
    // One that is too large fails by its size, whatever it holds.
    if item.input.bytes().len() <= item_bytes_max {
        item.input
            .check()
            .map_err(|problem| format!("input: {problem}"))?;
    }
    if item.attributes.len() > limits::ATTRIBUTES_MAX {
        let (has, max) = (item.attributes.len(), limits::ATTRIBUTES_MAX);
        return Err(format!("attributes: {has} are more than the limit {max}"));
    }
    for (name, value) in &item.attributes {
        ids::name(name, limits::NAME_CHARS_MAX)
            .map_err(|problem| format!("attributes: the name {name:?} {problem}"))?;
        if value.len() > limits::ATTRIBUTE_BYTES_MAX {
            let (has, max) = (value.len(), limits::ATTRIBUTE_BYTES_MAX);
            return Err(format!(
                "attributes: {name} has {has} bytes, more than the limit {max}"
            ));
        }
    }
    if let Some(timeout) = item.timeout {
        check_timeout(timeout).map_err(|problem| format!("timeout: {problem}"))?;
    }
    if let Some(wrong) = item.check_times(clock::now()).first() {
        return Err(wrong.to_string());
    }
    let wrong = item.retry.check().into_iter().next();
    wrong.map_or(Ok(()), |wrong| Err(format!("retry_policy.{wrong}")))
}

/// A fault in the input and where it is.
fn wrong(name: &str, line: u64, problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{name}:{line}: {problem}"),
    )
}

fn stdin() -> impl BufRead {
    BufReader::with_capacity(READ_BYTES, io::stdin())
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

    /// The items that are read from a text in tiny pieces, and how reading ended.
    pub(super) fn read(format: Format, text: &[u8], max: usize) -> (Vec<ItemSpec>, io::Result<()>) {
        let input = Input {
            format,
            paths: Vec::new(),
            item_bytes_max: max,
        };
        let (sender, mut read) = mpsc::channel(1000);
        let mut chunks = Chunks::to(sender);
        // A tiny buffer, so that items span several.
        let from = BufReader::with_capacity(3, text);
        let end = input.read_stream("list", from, &mut chunks);
        chunks.flush();
        drop(chunks);
        let items = std::iter::from_fn(|| read.blocking_recv()).flatten();
        (items.collect(), end)
    }

    fn pieces(format: Format, text: &[u8], item_bytes_max: usize) -> Vec<String> {
        let (items, end) = read(format, text, item_bytes_max);
        end.unwrap();
        let text = |item: &ItemSpec| String::from_utf8_lossy(item.input.bytes()).into_owned();
        items.iter().map(text).collect()
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
