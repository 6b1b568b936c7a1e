//! A client of a load that uploads: call by call, each cut at some point or not at all.

use std::sync::Arc;

use sooner::wire::stream_batch_request::Message as Says;
use sooner::wire::stream_batch_response::Message;
use sooner::wire::{
    StreamBatchRequest, StreamBatchResponse, StreamFinish, StreamItems, StreamStart,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::super::history::{Answer, Asked, Call, Opened, Opening, Piece, Seen, Submit};
use super::super::within;
use super::client::LoadClient;

/// Calls that an upload may take when nobody else goes on with it and the server lives.
const CALLS_MAX: usize = 10;

/// Messages that a client has ready before the server has taken them.
const AHEAD: usize = 4;

/// Whether a call ends where chance has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeal {
    Cut,
    /// It goes on to the batch's end.
    Whole,
}

/// A call under way. Dropping it is what a lost client looks like.
struct Open<'a> {
    call: Call,
    submit: &'a Submit,
    /// `None` once it is half-closed.
    requests: Option<mpsc::Sender<StreamBatchRequest>>,
    answers: Streaming<StreamBatchResponse>,
    durable: u64,
    sealed: bool,
    /// How many items the batch had at its end.
    ended: Option<u64>,
}

impl LoadClient {
    /// Goes on with an upload until it has seen its end; answers how many items that had.
    pub(super) async fn upload_whole(&mut self, submit: &Arc<Submit>) -> usize {
        for _ in 0..CALLS_MAX {
            if let Some(items) = self.upload(submit, Zeal::Whole).await {
                return usize::try_from(items).unwrap();
            }
        }
        0
    }

    /// One call of an upload. Answers how many items the batch has if it saw its end.
    pub(super) async fn upload(&mut self, submit: &Arc<Submit>, zeal: Zeal) -> Option<u64> {
        self.shared.note(submit);
        let mut accepted = self.shared.accepted().into_iter();
        let is_known = accepted.any(|known| known.submit == *submit);
        let resume = is_known && self.dice.hits(50);
        let cursor = self.cursors.get(&submit.key).copied().unwrap_or_default();
        let after = if self.dice.hits(40) { 0 } else { cursor };
        let opening = Opening { resume, after };
        let asked = Asked::Upload(Arc::clone(submit), opening);
        let (call, mut stub) = self.ask(asked).await;
        let (requests, sent) = mpsc::channel(AHEAD);
        let start = Says::Start(submit.start(opening));
        requests.send(request(start)).await.unwrap();
        let answers = match within(stub.stream_batch(ReceiverStream::new(sent))).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.failed(call, &status);
                return None;
            }
        };
        let mut open = Open {
            call,
            submit,
            requests: Some(requests),
            answers,
            durable: 0,
            sealed: false,
            ended: None,
        };
        let goes_on = self.hear(&mut open).await && self.talk(&mut open, zeal).await;
        let cut = zeal == Zeal::Cut && self.dice.hits(50);
        if goes_on {
            let most = if cut {
                self.dice.within(0, 9)
            } else {
                u64::MAX
            };
            for _ in 0..most {
                if !self.hear(&mut open).await {
                    break;
                }
            }
        }
        open.ended
    }

    /// Sends what is left. Answers whether the call goes on.
    async fn talk(&mut self, open: &mut Open<'_>, zeal: Zeal) -> bool {
        if open.sealed {
            return true;
        }
        let cuts = zeal == Zeal::Cut;
        let total = open.submit.items.len() as u64;
        let mut next = open.durable;
        if self.dice.hits(30) {
            // What is there already is compared and dropped.
            next -= self.dice.within(0, next.min(5));
        }
        if cuts && self.dice.hits(8) {
            self.say_wrong(open, next).await;
            while self.hear(open).await {}
            return false;
        }
        let specs = open.submit.specs();
        while next < total {
            if cuts && self.dice.hits(8) {
                return false;
            }
            let count = self.dice.within(1, 12).min(total - next);
            let chunk = range(next, count);
            let items = specs[chunk].to_vec();
            self.say(open, Piece::Items(next, count), items_from(next, items))
                .await;
            next += count;
            let half_closes = cuts && self.dice.hits(4);
            if half_closes {
                open.requests = None;
            }
            if (half_closes || self.dice.hits(50)) && !self.hear_until(open, next).await {
                return false;
            }
            if half_closes {
                return false;
            }
        }
        if cuts && self.dice.hits(15) {
            return false;
        }
        let finish = Says::Finish(StreamFinish { total_items: total });
        self.say(open, Piece::Finish(total), finish).await;
        if cuts && self.dice.hits(30) {
            return false;
        }
        while !open.sealed {
            if !self.hear(open).await {
                return false;
            }
        }
        true
    }

    /// Says what the server must refuse.
    async fn say_wrong(&mut self, open: &mut Open<'_>, next: u64) {
        let mut item = open.submit.specs()[0].clone();
        let (what, message) = match self.dice.within(1, 3) {
            1 if open.durable > 0 => {
                item.input = super::super::item("altered").input;
                ("an altered item", items_from(0, vec![item]))
            }
            2 => {
                let gap = open.submit.items.len() as u64 + next + 1;
                ("a gap", items_from(gap, vec![item]))
            }
            _ => {
                let total_items = open.submit.items.len() as u64 + 1;
                ("a wrong total", Says::Finish(StreamFinish { total_items }))
            }
        };
        self.say(open, Piece::Wrong(what), message).await;
    }

    async fn say(&self, open: &mut Open<'_>, piece: Piece, message: Says) {
        self.shared.history.said(open.call, piece);
        let requests = open.requests.as_ref().expect("it was not half-closed");
        // Nobody may be listening any more: the answers tell.
        drop(within(requests.send(request(message))).await);
    }

    /// Reads until that many items are durable. Answers whether the call goes on.
    async fn hear_until(&mut self, open: &mut Open<'_>, items: u64) -> bool {
        while open.durable < items {
            if !self.hear(open).await {
                return false;
            }
        }
        true
    }

    /// Reads one message. Answers whether the call goes on.
    async fn hear(&mut self, open: &mut Open<'_>) -> bool {
        let message = match within(open.answers.message()).await {
            Ok(Some(response)) => response.message.unwrap(),
            Ok(None) => {
                self.came(open.call, Answer::Over);
                return false;
            }
            Err(status) => {
                self.failed(open.call, &status);
                return false;
            }
        };
        let answer = match message {
            Message::Accepted(it) => {
                self.note_durable(open, it.accepted_items, it.sealed);
                Answer::Opened(Box::new(Opened {
                    id: it.batch_id,
                    uid: it.batch_uid,
                    created: it.created,
                    accepted: it.accepted_items,
                    sealed: it.sealed,
                }))
            }
            Message::Ack(it) => {
                self.note_durable(open, it.accepted_items, it.sealed);
                Answer::Durable(it.accepted_items, it.sealed)
            }
            Message::Result(result) => {
                let key = result.batch_id.clone();
                self.cursors.insert(key, result.sequence);
                Answer::Result(Seen::of(result))
            }
            Message::Progress(it) => Answer::Progress(it.last_sequence, it.counts.unwrap()),
            Message::Ended(ended) => {
                let batch = ended.batch.unwrap();
                open.ended = batch.counts.map(|counts| counts.total);
                // Whoever reads it from here on reads it to its end.
                open.sealed = true;
                self.shared.update(open.submit, |it| {
                    (it.sealed, it.ended) = (true, true);
                });
                Answer::Ended(Box::new(batch))
            }
        };
        self.came(open.call, answer);
        true
    }

    fn note_durable(&self, open: &mut Open<'_>, items: u64, sealed: bool) {
        (open.durable, open.sealed) = (items, sealed);
        self.shared.update(open.submit, |it| {
            it.batch_id = Some(it.submit.key.clone());
            it.durable = it.durable.max(items);
            it.sealed |= sealed;
        });
    }
}

impl Submit {
    fn start(&self, Opening { resume, after }: Opening) -> StreamStart {
        StreamStart {
            batch_id: self.key.clone(),
            queue: self.queue.to_owned(),
            resume,
            after_sequence: after,
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..StreamStart::default()
        }
    }
}

fn range(first: u64, count: u64) -> std::ops::Range<usize> {
    usize::try_from(first).unwrap()..usize::try_from(first + count).unwrap()
}

fn items_from(first_index: u64, items: Vec<sooner::wire::ItemSpec>) -> Says {
    Says::Items(StreamItems { first_index, items })
}

fn request(message: Says) -> StreamBatchRequest {
    StreamBatchRequest {
        message: Some(message),
    }
}
