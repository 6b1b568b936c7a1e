//! How results look on standard output.

use std::io::{self, Write};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::batch::BatchHead;
use crate::domain::ids::item_id_text;
use crate::domain::item::{Ending, Record};
use crate::domain::payload::{Body, Payload, is_json};

/// What is printed of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// The output alone.
    Output,
    /// One JSON object a line.
    Jsonl,
}

/// Prints results.
#[derive(Debug)]
pub(super) struct Printer<W> {
    out: W,
    form: Form,
    tag: bool,
}

/// One result as a JSON line; the names are those of the API.
#[derive(Serialize)]
struct Line<'a> {
    item_id: String,
    index: u32,
    batch_id: &'a str,
    sequence: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorLine<'a>>,
    attempt_count: u32,
    queue_duration: String,
    run_duration: String,
    finish_time: String,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    code: i32,
    reason: &'a str,
    message: &'a str,
    retryable: bool,
}

impl<W: Write> Printer<W> {
    /// A printer to `out`; `tag` puts the item's id before each line of output.
    pub(super) fn new(out: W, form: Form, tag: bool) -> Self {
        Self { out, form, tag }
    }

    /// Prints one result and sees that it is out.
    pub(super) fn print(&mut self, record: &Record, head: &BatchHead) -> io::Result<()> {
        match self.form {
            Form::Jsonl => {
                serde_json::to_writer(&mut self.out, &line(record, head))?;
                self.out.write_all(b"\n")?;
            }
            Form::Output => {
                if let Ending::Succeeded(output) = &record.ending {
                    self.print_output(&item_id_text(record.id.as_deref(), record.index), output)?;
                }
            }
        }
        self.out.flush()
    }

    fn print_output(&mut self, id: &str, output: &Payload) -> io::Result<()> {
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

fn line<'a>(record: &'a Record, head: &'a BatchHead) -> Line<'a> {
    let output = match &record.ending {
        Ending::Succeeded(output) => Some(output),
        Ending::Failed(_) | Ending::Cancelled(_) | Ending::Expired(_) => None,
    };
    let json = output
        .filter(|output| is_json(&output.content_type))
        .and_then(one_line_json);
    let text = output.and_then(|output| match &output.body {
        Body::Text(text) if json.is_none() => Some(&**text),
        Body::Text(_) | Body::Data(_) => None,
    });
    let data = output.filter(|output| matches!(output.body, Body::Data(_)));
    Line {
        item_id: item_id_text(record.id.as_deref(), record.index),
        index: record.index,
        batch_id: head.id.as_str(),
        sequence: record.sequence.0,
        state: record.ending.state().name(),
        output: json,
        output_text: text,
        output_base64: data.map(|output| BASE64_STANDARD.encode(output.bytes())),
        error: record.ending.error().map(|error| ErrorLine {
            code: error.code.0,
            reason: &error.reason,
            message: &error.message,
            retryable: error.retryable,
        }),
        attempt_count: record.attempts,
        queue_duration: format!("{:?}s", record.queued.as_secs_f64()),
        run_duration: format!("{:?}s", record.ran.as_secs_f64()),
        finish_time: jiff::Timestamp::from_millisecond(record.finished.0)
            .map_or_else(|_| String::new(), |time| time.to_string()),
    }
}

/// JSON on one line: a raw line break may stand between its tokens, where a space means the same.
fn one_line_json(output: &Payload) -> Option<Box<RawValue>> {
    let text = output.as_text()?.replace(['\n', '\r'], " ");
    serde_json::from_str(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::attempt::ItemError;
    use crate::domain::ids::{BatchId, BatchNo, BatchUid, QueueName, Sequence};

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
            id: BatchId::parse("b").unwrap(),
            uid: BatchUid(uuid::Uuid::nil()),
            queue: QueueName::default(),
            options: crate::domain::settings::BatchOptions::default(),
            on_disconnect: crate::domain::settings::OnDisconnect::Continue,
            upload: None,
            created: Timestamp(0),
        };
        let mut out = Vec::new();
        Printer::new(&mut out, form, tag)
            .print(&record, &head)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn outputs_keep_their_lines_apart() {
        let text = |text: &str| Ending::Succeeded(Payload::text(text));
        assert_eq!(printed(Form::Output, false, text("x\ny")), "x\ny\n");
        assert_eq!(printed(Form::Output, false, text("x\n")), "x\n");
        assert_eq!(printed(Form::Output, false, text("")), "");
        assert_eq!(printed(Form::Output, true, text("x\ny")), "a\tx\na\ty\n");
        let failed = Ending::Failed(ItemError::handler("EXIT_1", "no", true));
        assert_eq!(printed(Form::Output, false, failed), "");
    }

    #[test]
    fn json_lines_have_the_names_of_the_api() {
        let json = Payload {
            body: Body::Text("{\"n\":\n1.10}\n".into()),
            content_type: crate::domain::payload::JSON.into(),
        };
        assert_eq!(
            printed(Form::Jsonl, false, Ending::Succeeded(json)),
            "{\"item_id\":\"a\",\"index\":7,\"batch_id\":\"b\",\"sequence\":2,\"state\":\"succeeded\",\
             \"output\":{\"n\": 1.10},\"attempt_count\":1,\"queue_duration\":\"0.0s\",\
             \"run_duration\":\"1.5s\",\"finish_time\":\"1970-01-01T00:00:00Z\"}\n"
        );
        let data = Ending::Succeeded(Payload::data(&b"fo\xff"[..]));
        assert!(printed(Form::Jsonl, false, data).contains("\"output_base64\":\"Zm//\""));
        let failed = Ending::Failed(ItemError::handler("EXIT_1", "no", true));
        assert!(printed(Form::Jsonl, false, failed).contains(
            "\"error\":{\"code\":10,\"reason\":\"EXIT_1\",\"message\":\"no\",\"retryable\":true}"
        ));
    }
}
