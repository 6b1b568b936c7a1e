//! A request's body that takes a place in the budget for each message it brings.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::fields::Fields;
use super::{Budget, Held, Waiting, hold};
use crate::base::clock;
use crate::error::{Error, ErrorKind, FieldViolation};

/// Bytes before every message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The body of a request, weighed as it comes. It hands on one message at a time.
pub struct Weighed<B> {
    body: B,
    budget: Arc<Budget>,
    held: Held,
    /// Whether it may bring more than one message.
    streams: bool,
    at: At,
    /// Messages that have begun.
    messages: usize,
    /// A look at the message that is coming.
    fields: Fields,
    /// What has come and was not handed on.
    rest: Bytes,
    /// A message's beginning, which is handed on once the message has its place.
    begun: Option<(Waiting, Bytes)>,
    /// By when the message must be here.
    due: Option<Instant>,
    /// Wakes us then; made only when there is something to wait for.
    alarm: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

/// Where between messages a body stands.
#[derive(Clone, Copy, Debug)]
enum At {
    /// In a prefix, of which this much has come.
    Prefix([u8; PREFIX_BYTES], usize),
    /// In a message, of which this much is to come; never nothing.
    Message(usize),
}

const BETWEEN: At = At::Prefix([0; PREFIX_BYTES], 0);

impl<B> std::fmt::Debug for Weighed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Weighed");
        shown
            .field("at", &self.at)
            .field("messages", &self.messages);
        shown.finish_non_exhaustive()
    }
}

impl<B> Weighed<B> {
    pub(super) fn new(body: B, budget: Arc<Budget>, held: Held, streams: bool) -> Self {
        let mut weighed = Self {
            body,
            budget,
            held,
            streams,
            at: BETWEEN,
            messages: 0,
            fields: Fields::new(streams),
            rest: Bytes::new(),
            begun: None,
            due: None,
            alarm: None,
            ended: false,
        };
        // A stream may be silent between messages. A unary call has one to bring and no more to say.
        if !streams {
            weighed.start_clock();
        }
        weighed
    }

    fn start_clock(&mut self) {
        let due = Instant::from_std(clock::instant()) + self.budget.limits.message_timeout;
        self.due = Some(due);
        if let Some(alarm) = &mut self.alarm {
            alarm.as_mut().reset(due);
        }
    }

    /// Whether the message, or the unary call's body, has taken too long. Asks to be woken then.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else {
            return Poll::Pending;
        };
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        alarm.as_mut().poll(cx)
    }

    /// The next piece of what has come that may be handed on; `None` if a message waits for its
    /// place first.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        match self.at {
            At::Message(left) => {
                let piece = self.rest.split_to(left.min(self.rest.len()));
                self.arrived(&piece, left)?;
                Ok(Some(piece))
            }
            At::Prefix(mut prefix, filled) => {
                if filled == 0 {
                    self.message_begins()?;
                }
                let piece = self
                    .rest
                    .split_to((PREFIX_BYTES - filled).min(self.rest.len()));
                let now_filled = filled + piece.len();
                prefix[filled..now_filled].copy_from_slice(&piece);
                if now_filled < PREFIX_BYTES {
                    self.at = At::Prefix(prefix, now_filled);
                    return Ok(Some(piece));
                }
                let [_, length @ ..] = prefix;
                self.enter(piece, u32::from_be_bytes(length))
            }
        }
    }

    fn message_begins(&mut self) -> Result<(), Status> {
        self.messages += 1;
        if self.streams {
            self.start_clock();
        } else if self.messages > 1 {
            // As tonic says it of what cannot be decoded; the answer layer adds the reason.
            let message = "this call takes one request message, and a second one came";
            return Err(Status::internal(message));
        }
        Ok(())
    }

    /// Notes what has come of a message of which `left` bytes were to come.
    fn arrived(&mut self, piece: &[u8], left: usize) -> Result<(), Status> {
        self.fields.read(piece);
        let most = self.budget.limits.message_fields_max;
        if self.fields.count() > most {
            return Err(too_many(most).into());
        }
        self.at = At::Message(left - piece.len());
        if left == piece.len() {
            self.at = BETWEEN;
            self.fields = Fields::new(self.streams);
            if self.streams {
                self.due = None;
            }
        }
        Ok(())
    }

    /// Takes the place of a message whose prefix is complete; answers what can be handed on at once.
    fn enter(&mut self, prefix: Bytes, length: u32) -> Result<Option<Bytes>, Status> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let beginning = self.rest.split_to(bytes.min(self.rest.len()));
        self.arrived(&beginning, bytes)?;
        let mut piece = BytesMut::from(prefix);
        piece.extend_from_slice(&beginning);
        let piece = piece.freeze();
        match self.budget.place(length) {
            Some(waiting) => {
                self.begun = Some((waiting, piece));
                Ok(None)
            }
            None => Ok(Some(piece)),
        }
    }
}

impl<B> Weighed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Asked again at a boundary, the handler of a stream is done with the message before.
        if self.streams && self.begun.is_none() && matches!(self.at, At::Prefix(_, 0)) {
            hold(&self.held, None);
        }
        loop {
            if let Some((waiting, _)) = &mut self.begun {
                let place = ready!(waiting.as_mut().poll(cx))?;
                hold(&self.held, Some(place));
                let begun = self.begun.take();
                return Poll::Ready(begun.map(|(_, piece)| Ok(Frame::data(piece))));
            }
            if !self.rest.is_empty() {
                if let Some(piece) = self.cut()? {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                ready!(self.poll_late(cx));
                return Poll::Ready(Some(Err(late().into())));
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

impl<B> Body for Weighed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.poll_piece(cx));
        self.ended = !matches!(piece, Some(Ok(_)));
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_none() && self.rest.is_empty() && self.body.is_end_stream()
    }
}

fn too_many(most: usize) -> Error {
    let violation = FieldViolation {
        field: "items".into(),
        message: format!("the message has more than {most} fields, more than any call takes"),
    };
    Error::invalid("TOO_MANY_ITEMS", vec![violation])
}

fn late() -> Error {
    let message = "the request's message took too long to arrive";
    Error::new(ErrorKind::Deadline, "MESSAGE_TIMEOUT", message)
        .with("limit", "server.message_timeout")
}
