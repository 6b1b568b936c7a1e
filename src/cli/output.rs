//! How results look on standard output, or in files.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use super::exit::Failure;
use super::json::ResultJson;
use super::out_dir::OutDir;
use super::shown::{Content, Shown};

/// What is printed of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// A line in columns, for people
    Table,
    /// A JSON object each, over several lines
    Json,
    /// A JSON object each, on a line of its own
    Jsonl,
    /// The id alone
    Name,
    /// The output alone
    Output,
}

/// Where results go and how they look.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ResultArguments {
    /// What is printed of each result [default: see above]
    #[arg(short, long, value_name = "FORM")]
    output: Option<Form>,

    /// Put the item's id and a tab before each line of output
    #[arg(long)]
    tag: bool,

    /// Write each output to a file of its own there, named after its item, and not to standard output
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
}

/// Prints results.
#[derive(Debug)]
pub(super) struct Printer<W> {
    out: W,
    /// `None` if files are all that is wanted.
    form: Option<Form>,
    tag: bool,
    files: Option<OutDir>,
    any_printed: bool,
}

impl ResultArguments {
    /// Whether anything is said about results.
    pub(super) fn is_set(&self) -> bool {
        self.output.is_some() || self.tag || self.out_dir.is_some()
    }

    /// What was said that is printed, if anything was.
    pub(super) fn form(&self) -> Option<Form> {
        self.output
    }

    /// Whether something is said that only outputs can have.
    pub(super) fn is_for_outputs(&self) -> bool {
        self.tag || self.out_dir.is_some()
    }

    /// A printer to standard output.
    pub(super) fn printer(&self, default: Form) -> Result<Printer<io::Stdout>, Failure> {
        let files = self.out_dir.as_deref().map(OutDir::create).transpose()?;
        let form = match (self.output, &files) {
            // Outputs go to their files.
            (None | Some(Form::Output), Some(_)) => None,
            (form, _) => Some(form.unwrap_or(default)),
        };
        Ok(Printer {
            out: io::stdout(),
            form,
            tag: self.tag,
            files,
            any_printed: false,
        })
    }
}

/// The form of a stream of results: for eyes on a terminal, for programs elsewhere.
pub(super) fn streamed() -> Form {
    if io::stdout().is_terminal() {
        Form::Table
    } else {
        Form::Jsonl
    }
}

impl<W: Write> Printer<W> {
    /// Whether a failed item leaves no trace on standard output, so that it is to be told elsewhere.
    pub(super) fn hides_failures(&self) -> bool {
        match self.form {
            None | Some(Form::Output | Form::Name) => true,
            Some(Form::Table | Form::Json | Form::Jsonl) => false,
        }
    }

    /// Whether outputs are wanted at all.
    pub(super) fn wants_outputs(&self) -> bool {
        self.files.is_some() || self.form != Some(Form::Name)
    }

    /// Prints one result and sees that it is out.
    pub(super) fn print(&mut self, shown: &Shown<'_>) -> io::Result<()> {
        if let (Some(files), Some(output)) = (&self.files, &shown.output) {
            files.write(&shown.item_id, output.bytes())?;
        }
        match self.form {
            None => return Ok(()),
            Some(Form::Table) => self.print_row(shown)?,
            Some(Form::Json) => {
                serde_json::to_writer_pretty(&mut self.out, &ResultJson::of(shown))?;
                self.out.write_all(b"\n")?;
            }
            Some(Form::Jsonl) => {
                serde_json::to_writer(&mut self.out, &ResultJson::of(shown))?;
                self.out.write_all(b"\n")?;
            }
            Some(Form::Name) => writeln!(self.out, "{}", shown.item_id)?,
            Some(Form::Output) => {
                if let Some(output) = &shown.output {
                    self.print_output(&shown.item_id, output)?;
                }
            }
        }
        self.out.flush()
    }

    fn print_row(&mut self, shown: &Shown<'_>) -> io::Result<()> {
        if !self.any_printed {
            self.any_printed = true;
            writeln!(
                self.out,
                "{:>7}  {:<20}  {:<9}  {:>5}  {:>9}  OUTPUT OR ERROR",
                "SEQ", "ITEM", "STATE", "TRIES", "RUN"
            )?;
        }
        writeln!(
            self.out,
            "{:>7}  {:<20}  {:<9}  {:>5}  {:>9}  {}",
            shown.sequence,
            preview(&shown.item_id, 40),
            shown.state,
            shown.attempt_count,
            shown
                .run_duration
                .map_or("-".to_owned(), |ran| format!("{:.3}s", ran.as_secs_f64())),
            gist(shown)
        )
    }

    fn print_output(&mut self, id: &str, output: &Content<'_>) -> io::Result<()> {
        let bytes = output.bytes();
        if !self.tag {
            self.out.write_all(bytes)?;
            // Text that does not end its last line would run into the next item's.
            let unended = output
                .as_text()
                .is_some_and(|text| !text.is_empty() && !text.ends_with('\n'));
            return if unended {
                self.out.write_all(b"\n")
            } else {
                Ok(())
            };
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            write!(self.out, "{id}\t")?;
            self.out.write_all(line)?;
            if !line.ends_with(b"\n") {
                self.out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

/// A result's output or error in a few words.
pub(super) fn gist(shown: &Shown<'_>) -> String {
    match (&shown.error, &shown.output) {
        (Some(error), _) => {
            let message = preview(error.message.trim(), 60);
            format!("{}: {message}", error.reason)
        }
        (None, Some(output)) => match output.as_text() {
            Some(text) => preview(text.trim_end(), 60),
            None => format!("{} bytes of data", output.bytes().len()),
        },
        (None, None) => String::new(),
    }
}

/// The beginning of a text, on one line and harmless to a terminal.
pub(super) fn preview(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    for (i, char) in text.chars().enumerate() {
        if i == chars_max {
            shown.push('…');
            break;
        }
        match char {
            '\n' | '\r' | '\t' => shown.push(' '),
            char if char.is_control() => shown.push('\u{fffd}'),
            char => shown.push(char),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::attempt::ItemError;
    use crate::domain::batch::BatchHead;
    use crate::domain::ids::{BatchId, BatchNo, BatchUid, QueueName, Sequence, Tenant};
    use crate::domain::item::{Ending, Record};
    use crate::domain::payload::{Body, JSON, Payload};

    fn printed(form: Form, tag: bool, ending: Ending) -> String {
        let record = Record {
            sequence: Sequence(2),
            index: 7,
            id: Some("a".into()),
            ending,
            attempts: 1,
            worker: "local".into(),
            queued: Duration::ZERO,
            ran: Duration::from_millis(1500),
            finished: Timestamp(0),
        };
        let head = BatchHead {
            no: BatchNo(1),
            tenant: Tenant::default(),
            id: BatchId::parse("b").unwrap(),
            uid: BatchUid(uuid::Uuid::nil()),
            queue: QueueName::default(),
            options: crate::domain::settings::BatchOptions::default(),
            on_disconnect: crate::domain::settings::OnDisconnect::Continue,
            upload: None,
            source: None,
            created: Timestamp(0),
        };
        let mut printer = Printer {
            out: Vec::new(),
            form: Some(form),
            tag,
            files: None,
            any_printed: false,
        };
        printer.print(&Shown::of_record(&record, &head)).unwrap();
        String::from_utf8(printer.out).unwrap()
    }

    fn failed() -> Ending {
        Ending::Failed(ItemError::handler("EXIT_1", "n\x1bo\n", true))
    }

    #[test]
    fn outputs_keep_their_lines_apart() {
        let text = |text: &str| Ending::Succeeded(Payload::text(text));
        assert_eq!(printed(Form::Output, false, text("x\ny")), "x\ny\n");
        assert_eq!(printed(Form::Output, false, text("x\n")), "x\n");
        assert_eq!(printed(Form::Output, false, text("")), "");
        assert_eq!(printed(Form::Output, true, text("x\ny")), "a\tx\na\ty\n");
        assert_eq!(printed(Form::Output, false, failed()), "");
    }

    #[test]
    fn json_lines_have_the_names_of_the_api() {
        let json = Payload {
            body: Body::Text("{\"n\":\n1.10}\n".into()),
            content_type: JSON.into(),
        };
        assert_eq!(
            printed(Form::Jsonl, false, Ending::Succeeded(json)),
            "{\"item_id\":\"a\",\"index\":7,\"batch_id\":\"b\",\"sequence\":2,\"state\":\"succeeded\",\
             \"output\":{\"n\": 1.10},\"attempt_count\":1,\"worker_id\":\"local\",\
             \"queue_duration\":\"0.0s\",\"run_duration\":\"1.5s\",\
             \"finish_time\":\"1970-01-01T00:00:00Z\"}\n"
        );
        let data = |content_type: &str| {
            let mut data = Payload::data(&b"fo\xff"[..]);
            data.content_type = content_type.into();
            printed(Form::Jsonl, false, Ending::Succeeded(data))
        };
        assert!(data("").contains("\"output_base64\":\"Zm//\",\"attempt"));
        assert!(data("image/png").contains("\"Zm//\",\"content_type\":\"image/png\""));
        assert!(printed(Form::Jsonl, false, failed()).contains(
            "\"error\":{\"code\":10,\"reason\":\"EXIT_1\",\"message\":\"n\\u001bo\\n\",\"retryable\":true}"
        ));
        assert!(printed(Form::Json, false, failed()).starts_with("{\n  \"item_id\": \"a\",\n"));
    }

    #[test]
    fn a_table_is_safe_to_look_at() {
        let table = printed(Form::Table, false, failed());
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].contains("SEQ  ITEM "), "{table}");
        assert!(
            lines[1].ends_with("failed         1     1.500s  EXIT_1: n\u{fffd}o"),
            "{table}"
        );
        assert_eq!(printed(Form::Name, false, failed()), "a\n");
    }
}
