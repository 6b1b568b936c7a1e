//! What real clients of the real server saw on the wire, in the order in which they saw it.
//!
//! Every call is noted before it is sent and every message when it has come, so that "answered
//! before that was sent" is a fact of the log. [`check`] then holds the log against what the server
//! promises. Outputs are kept as a hash, or a long run would not fit into memory.

mod check;
mod item_rules;
mod journal;
mod line;
mod submit_rules;
mod upload_rules;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use sooner::wire::{Batch, CancelBatchResponse, Item, ItemError, ItemResult, Payload, payload};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

pub(crate) use self::check::{Facts, Guarantees, Hits, Rule, Violation};

/// The number of a call.
pub(crate) type Call = usize;

/// A log that many clients write.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Vec<Event>>);

/// One entry of the log.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A server is ready; its process.
    Started(u32),
    /// It is gone; when, in milliseconds since 1970.
    Died(i64),
    /// A client is about to call the server of that life, the first of which is 1.
    Sent(Call, usize, Asked),
    /// A client says the next thing in the call of an upload.
    Said(Call, Piece),
    /// Something came back.
    Came(Call, Answer),
}

/// What a call asks.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Submit(Arc<Submit>),
    Upload(Arc<Submit>, Opening),
    Watch(String, u64),
    GetBatch(String),
    GetItem(String, String),
    /// Of the items named, or of all if none is.
    Cancel(String, Vec<String>),
}

/// How the call of an upload begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Whether the upload must be there already.
    pub(crate) resume: bool,
    /// The sequence behind which results are wanted.
    pub(crate) after: u64,
}

/// What an upload's client says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    /// Items: the index of the first, and how many.
    Items(u64, u64),
    /// That these were all.
    Finish(u64),
    /// Something that must be refused.
    Wrong(&'static str),
}

/// How an upload stands.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) id: String,
    pub(crate) uid: String,
    pub(crate) created: bool,
    pub(crate) accepted: u64,
    pub(crate) sealed: bool,
}

/// What comes back.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The batch is accepted: its id, its uid, and whether this call created it.
    Accepted(String, String, bool),
    /// The same of an upload.
    Opened(Box<Opened>),
    /// So many items of an upload are durable, and whether it is sealed.
    Durable(u64, bool),
    Attached(Box<Batch>),
    Result(Box<Seen>),
    Progress(u64, sooner::wire::Counts),
    Ended(Box<Batch>),
    /// The stream ended with OK.
    Over,
    Batch(Box<Batch>),
    Item(Box<Item>),
    /// The counts, and how many executions had begun by then.
    Cancelled(Box<CancelBatchResponse>, usize),
    /// The server refused and said why.
    Refused(Code, String),
    /// The connection broke, or an error came that the server did not send.
    Broken(String),
}

/// A batch as its client made it up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Submit {
    /// The batch id, or the request id if the server chooses the former.
    pub(crate) key: String,
    pub(crate) by_request_id: bool,
    /// Whether it comes piece by piece.
    pub(crate) uploaded: bool,
    pub(crate) queue: &'static str,
    /// Whether the items have ids of their own.
    pub(crate) named: bool,
    pub(crate) items: Vec<Planned>,
}

/// An item and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) input: String,
    pub(crate) fate: Fate,
}

/// What must come of an item that is neither cancelled nor crashed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The output is the input.
    Echoes,
    /// The output is the input and the number of the attempt.
    Succeeds,
    /// It fails with this reason after so many charged attempts.
    Fails(&'static str, u32),
}

/// A result as a client saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) sequence: u64,
    pub(crate) index: u64,
    pub(crate) item_id: String,
    pub(crate) batch_id: String,
    pub(crate) state: i32,
    pub(crate) output: Option<Output>,
    pub(crate) error: Option<ItemError>,
    pub(crate) attempt_count: u32,
    pub(crate) finish_time: Option<prost_types::Timestamp>,
    pub(crate) remaining_count: Option<u64>,
}

/// An output, abridged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    hash: u64,
    pub(crate) begins: String,
}

/// An attempt as its handler noted it.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) batch_uid: String,
    pub(crate) index: u64,
    pub(crate) attempt: u32,
    /// The process that started it: the server, or another if the server was gone by then.
    pub(crate) parent: u32,
}

impl History {
    /// Notes that a server is ready. Answers the number of its life.
    pub(crate) fn started(&self, pid: u32) -> usize {
        let mut log = self.0.lock().unwrap();
        log.push(Event::Started(pid));
        log.iter()
            .filter(|event| matches!(event, Event::Started(_)))
            .count()
    }

    /// Notes that the server is gone.
    pub(crate) fn died(&self) {
        self.push(Event::Died(now_millis()));
    }

    /// Notes a call that is about to be sent.
    pub(crate) fn sent(&self, life: usize, asked: Asked) -> Call {
        let mut log = self.0.lock().unwrap();
        let call = log.len();
        log.push(Event::Sent(call, life, asked));
        call
    }

    /// Notes what is about to be said in the call of an upload.
    pub(crate) fn said(&self, call: Call, piece: Piece) {
        self.push(Event::Said(call, piece));
    }

    /// Notes what came back.
    pub(crate) fn came(&self, call: Call, answer: Answer) {
        self.push(Event::Came(call, answer));
    }

    /// Notes an entry as it is.
    pub(crate) fn push(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    /// A copy of the log.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// What breaks the promises, given what the handlers noted.
    pub(crate) fn check(&self, executions: &[Execution], guarantees: Guarantees) -> Vec<Violation> {
        Facts::of(&self.events()).check(executions, guarantees)
    }

    /// Fails the test with everything that breaks the promises.
    pub(crate) fn assert_holds(&self, executions: &[Execution], guarantees: Guarantees) {
        let violations = self.check(executions, guarantees);
        let lines: Vec<_> = violations
            .iter()
            .take(10)
            .map(ToString::to_string)
            .collect();
        let count = violations.len();
        assert!(
            violations.is_empty(),
            "{count} violations\n{}",
            lines.join("\n")
        );
    }
}

impl Answer {
    /// What an error says: ours carry our `ErrorInfo`, and clients make up the others.
    pub(crate) fn of(status: &Status) -> Self {
        match status.get_error_details().error_info() {
            Some(info) if info.domain == "sooner.v1" => {
                Self::Refused(status.code(), info.reason.clone())
            }
            _ => Self::Broken(format!("{:?}: {}", status.code(), status.message())),
        }
    }
}

impl Asked {
    /// The batch that is sent.
    fn submit(&self) -> Option<&Arc<Submit>> {
        match self {
            Self::Submit(submit) | Self::Upload(submit, _) => Some(submit),
            Self::Watch(..) | Self::GetBatch(_) | Self::GetItem(..) | Self::Cancel(..) => None,
        }
    }
}

impl Submit {
    /// The id of the item at `index`.
    pub(crate) fn item_id(&self, index: usize) -> String {
        if self.named {
            format!("item-{index}")
        } else {
            index.to_string()
        }
    }
}

impl Seen {
    /// Whether both show one record. What remains is no part of it and is unknown while an upload is open.
    fn is_of_one_record_with(&self, other: &Self) -> bool {
        let remaining_count = self.remaining_count.and(other.remaining_count);
        let own = self.remaining_count.filter(|_| remaining_count.is_some());
        let alike = Self {
            remaining_count: own,
            ..self.clone()
        };
        let other = Self {
            remaining_count,
            ..other.clone()
        };
        alike == other
    }

    /// A result, abridged.
    pub(crate) fn of(result: ItemResult) -> Box<Self> {
        Box::new(Self {
            sequence: result.sequence,
            index: result.index,
            item_id: result.item_id,
            batch_id: result.batch_id,
            state: result.state,
            output: result.output.as_ref().map(Output::of_payload),
            error: result.error,
            attempt_count: result.attempt_count,
            finish_time: result.finish_time,
            remaining_count: result.remaining_count,
        })
    }
}

impl Output {
    /// An output of this text.
    pub(crate) fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            begins: text.chars().take(60).collect(),
        }
    }

    fn of_payload(payload: &Payload) -> Self {
        match &payload.body {
            Some(payload::Body::Text(text)) => Self::of(text),
            other => Self::of(&format!("not text: {other:?}")),
        }
    }
}

impl Execution {
    /// Reads what the handlers noted: `uid/index attempt parent`, a line each.
    pub(crate) fn read(path: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(Self::parse).collect()
    }

    /// How many there are so far.
    pub(crate) fn count(path: &Path) -> usize {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().count()
    }

    fn parse(line: &str) -> Self {
        let parts: Vec<_> = line.split(['/', ' ']).collect();
        let [batch_uid, index, attempt, parent] = parts[..] else {
            panic!("a handler noted {line:?}")
        };
        Self {
            batch_uid: batch_uid.to_owned(),
            index: index.parse().unwrap(),
            attempt: attempt.parse().unwrap(),
            parent: parent.parse().unwrap(),
        }
    }
}

/// The wall clock, as results show it.
fn now_millis() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_millis()).unwrap()
}

/// A time of the wire in milliseconds.
fn millis(time: prost_types::Timestamp) -> i64 {
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}
