//! Bringing an input of any length to a server, over as many connections as it takes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::backlog::Backlog;
use super::connect::{Clients, Patience, Remote};
use super::exit::{Exit, Failure};
use super::following::{Followed, Sink};
use super::input::Source;
use super::refusal::Trouble;
use super::room::Room;
use super::specs;
use crate::wire::stream_batch_request::Message as Asked;
use crate::wire::stream_batch_response::Message as Said;
use crate::wire::{
    StreamAccepted, StreamBatchRequest, StreamBatchResponse, StreamFinish, StreamStart,
};

/// How far an upload is, for whoever must tell when it is cut short.
#[derive(Debug, Default)]
pub(super) struct Stage {
    accepted: AtomicBool,
    durable: AtomicU64,
    sealed: AtomicBool,
    was_sealed: AtomicBool,
}

impl Stage {
    /// Whether the server has said that it has the batch.
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    /// Items that the server has.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Whether it has all of them and knows.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether it had all its items when this upload began: it takes no more.
    pub(super) fn was_sealed(&self) -> bool {
        self.was_sealed.load(Ordering::Acquire)
    }

    /// Notes how many items the server has. Where more came in there was room.
    fn note(&self, durable: u64, room: &mut Room) {
        let before = self.durable.fetch_max(durable, Ordering::AcqRel);
        if durable > before {
            room.came();
        }
    }
}

/// How far an upload is to be followed on its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Until every item is durable.
    Sealed,
    /// Until the batch has ended.
    Over,
}

/// How an upload ended.
#[derive(Debug)]
pub(super) enum Uploaded {
    /// Every item is durable; the batch of this uid may still be going on.
    Sealed(String),
    /// The batch of that uid takes no more items, as it ends before they do; how, is to be watched.
    EndedEarly(String),
    /// The batch has ended, or a result could not be printed.
    Followed(Followed),
}

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    pub(super) start: StreamStart,
    pub(super) until: Until,
    pub(super) source: Source,
    pub(super) stage: &'a Stage,
    /// Whether the batch is told once the server has it.
    pub(super) announces: bool,
    backlog: Backlog,
    /// The batch, once the server has named it.
    uid: String,
    /// Set once the input has ended.
    input: Option<io::Result<()>>,
    /// Whether the server had items before this upload sent its first.
    was_there: bool,
    /// How far this connection is.
    leg: Leg,
}

/// How far one connection of an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    /// The server has not said yet where to go on; nothing is sent before.
    Opening,
    /// Items are sent.
    Sending,
    /// The end of the input was sent.
    Finished,
}

/// Why a connection is given up.
enum Break {
    /// It is worth another try, or not; patience decides.
    Trouble(Trouble),
    /// Another try would not help.
    Failure(Failure),
}

impl From<Trouble> for Break {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<tonic::Status> for Break {
    fn from(status: tonic::Status) -> Self {
        Self::Trouble(status.into())
    }
}

impl<'a> Upload<'a> {
    pub(super) fn new(start: StreamStart, until: Until, source: Source, stage: &'a Stage) -> Self {
        Self {
            start,
            until,
            source,
            stage,
            announces: true,
            backlog: Backlog::default(),
            uid: String::new(),
            input: None,
            was_there: false,
            leg: Leg::Opening,
        }
    }

    /// Reads the first items. Answers whether there are any: a batch needs one.
    pub(super) async fn begin(&mut self) -> Result<bool, Failure> {
        self.take_in().await;
        match self.input.take() {
            Some(Err(error)) => Err(Failure::of_input(&error)),
            Some(Ok(())) => Ok(false),
            None => Ok(true),
        }
    }

    /// Uploads to the end of the input, and follows as far as is asked.
    pub(super) async fn run(
        &mut self,
        remote: &Remote,
        sink: &mut Sink,
    ) -> Result<Uploaded, Failure> {
        let mut patience = remote.patience();
        loop {
            let trouble = match self.run_once(remote, sink, &mut patience).await {
                Ok(uploaded) => return Ok(uploaded),
                Err(Break::Failure(failure)) => return Err(failure),
                Err(Break::Trouble(trouble)) => trouble,
            };
            if self.stage.is_sealed() && trouble.may_pass() {
                // What is left is to watch.
                return Ok(Uploaded::Sealed(std::mem::take(&mut self.uid)));
            }
            if let Some(durable) = trouble.durable_items() {
                self.backlog.confirm(durable);
                self.stage.note(durable, &mut patience.room);
            }
            if trouble.is_of_sealed_batch() && !self.uid.is_empty() && !self.stage.was_sealed() {
                // It was open when we came, and nobody seals it but us: it has ended early.
                if self.input_is_whole() && self.backlog.is_durable() {
                    self.stage.sealed.store(true, Ordering::Release);
                }
                return Ok(Uploaded::EndedEarly(std::mem::take(&mut self.uid)));
            }
            if trouble.is_too_much_at_once() && self.backlog.cut() {
                continue;
            }
            // Only then is it the first message that is not durable that was refused.
            let at_fault = trouble.place_in_message().filter(|_| !self.was_there);
            let at_fault = at_fault.or(trouble.is_too_much_at_once().then_some(0));
            patience.bear(trouble).await.map_err(|failure| {
                match at_fault.and_then(|place| self.backlog.index_of(place)) {
                    Some(index) => failure.and(&format!("  in item {index} of the input, from 0")),
                    None => failure,
                }
            })?;
        }
    }

    async fn run_once(
        &mut self,
        remote: &Remote,
        sink: &mut Sink,
        patience: &mut Patience,
    ) -> Result<Uploaded, Break> {
        let clients = remote.connect().await?;
        let mut stub = clients.batches.clone();
        // One message under way and one ready: the rest stays in the backlog.
        let (requests, outgoing) = mpsc::channel(1);
        let mut requests = Some(requests);
        self.leg = Leg::Opening;
        self.start.after_sequence = sink.cursor.after();
        let start = asked(Asked::Start(self.start.clone()));
        if let Some(requests) = &requests {
            requests.send(start).await.expect("the other end is here");
        }
        let answers = stub.stream_batch(ReceiverStream::new(outgoing)).await?;
        let mut answers = answers.into_inner();
        loop {
            let may_send = !self.backlog.is_sent() || self.input_is_whole();
            tokio::select! {
                answer = answers.message() => {
                    let answer = answer?.ok_or_else(Trouble::cut_short)?;
                    patience.answered();
                    if let Some(uploaded) = self.take(answer, sink, patience, &clients).await? {
                        return Ok(uploaded);
                    }
                }
                permit = reserve(requests.clone()), if may_send && self.leg == Leg::Sending => {
                    // A connection that takes nothing more says why among its answers.
                    let Some(permit) = permit else { requests = None; continue };
                    let message = if let Some(items) = self.backlog.next() {
                        Asked::Items(items)
                    } else {
                        // Nothing follows, but the connection is still needed for its answers.
                        (requests, self.leg) = (None, Leg::Finished);
                        let total_items = self.backlog.read();
                        Asked::Finish(StreamFinish { total_items })
                    };
                    permit.send(asked(message));
                }
                line = patience.room.lasts() => {
                    sink.progress.say(&line.map_err(Break::Failure)?);
                }
                () = self.take_in(), if self.input.is_none() && self.backlog.has_room() => {}
            }
            self.give_up_if_cut()?;
        }
    }

    /// Whether the input has come to its end, and well.
    fn input_is_whole(&self) -> bool {
        matches!(self.input, Some(Ok(())))
    }

    /// Reads more of the input. Cancel safe.
    async fn take_in(&mut self) {
        match self.source.next().await {
            Ok(Some(items)) => self
                .backlog
                .push(items.into_iter().map(specs::item).collect()),
            Ok(None) => self.input = Some(Ok(())),
            Err(error) => self.input = Some(Err(error)),
        }
    }

    /// An input that cannot be read on leaves the batch open, with all items before the fault.
    fn give_up_if_cut(&mut self) -> Result<(), Break> {
        if self.backlog.is_durable()
            && let Some(Err(error)) = &self.input
        {
            return Err(Break::Failure(Failure::of_input(error)));
        }
        Ok(())
    }

    async fn take(
        &mut self,
        answer: StreamBatchResponse,
        sink: &mut Sink,
        patience: &mut Patience,
        clients: &Clients,
    ) -> Result<Option<Uploaded>, Break> {
        match answer.message {
            Some(Said::Accepted(accepted)) => self.accepted(accepted, sink, patience)?,
            Some(Said::Ack(durable)) => {
                self.stage.note(durable.accepted_items, &mut patience.room);
                if durable.sealed {
                    patience.room.came();
                }
                if let Some(wait) = &durable.waiting
                    && let Some(line) = patience.room.none(&wait.reason, &wait.message)
                {
                    sink.progress.say(&line);
                }
                self.backlog.confirm(durable.accepted_items);
                if durable.sealed && self.leg == Leg::Finished {
                    self.stage.sealed.store(true, Ordering::Release);
                    if self.until == Until::Sealed {
                        return Ok(Some(Uploaded::Sealed(std::mem::take(&mut self.uid))));
                    }
                }
            }
            Some(Said::Result(result)) => {
                if let Err(error) = sink.take(&result) {
                    return Ok(Some(Uploaded::Followed(Followed::OutputFailed(error))));
                }
            }
            Some(Said::Progress(progress)) => {
                let batch = (&*self.start.batch_id, &*self.uid);
                sink.hear_nothing(&progress, clients, batch).await;
            }
            Some(Said::Ended(ended)) => {
                let batch = ended.batch.unwrap_or_default();
                if self.stage.was_sealed() {
                    // It was over before it could be compared with all of our input.
                    while self.input.is_none() {
                        self.take_in().await;
                        self.backlog.forget_all();
                    }
                    if let Some(Err(error)) = &self.input {
                        return Err(Break::Failure(Failure::of_input(error)));
                    }
                    self.check_count(batch.counts.unwrap_or_default().total)?;
                }
                let has = batch.counts.unwrap_or_default().total;
                if self.input_is_whole() && has == self.backlog.read() {
                    self.stage.sealed.store(true, Ordering::Release);
                }
                return Ok(Some(Uploaded::Followed(Followed::Over(Box::new(batch)))));
            }
            // Of a later version of the server.
            None => {}
        }
        Ok(None)
    }

    fn accepted(
        &mut self,
        accepted: StreamAccepted,
        sink: &Sink,
        patience: &mut Patience,
    ) -> Result<(), Break> {
        let is_first = self.uid.is_empty();
        self.stage.accepted.store(true, Ordering::Release);
        if is_first && self.announces {
            sink.progress.say(&format!("batch {}", accepted.batch_id));
        }
        let lost = |what: &str| {
            let id = &accepted.batch_id;
            let message = format!("the server has lost {what} of batch {id}; was it restored?");
            Break::Failure(Failure::new(Exit::Damaged, message))
        };
        if !is_first && self.uid != accepted.batch_uid {
            return Err(lost("all"));
        }
        if !self.backlog.begin_again(accepted.accepted_items) {
            return Err(lost("confirmed items"));
        }
        self.stage.note(accepted.accepted_items, &mut patience.room);
        if accepted.created {
            // Room for the batch; its items may have to wait for theirs as long again.
            patience.room.came();
        }
        if is_first {
            self.was_there = accepted.accepted_items > 0;
            let was_sealed = &self.stage.was_sealed;
            was_sealed.store(accepted.sealed, Ordering::Release);
            self.uid = accepted.batch_uid;
        }
        self.leg = Leg::Sending;
        // From now on no new batch of this id will do.
        self.start.resume = true;
        Ok(())
    }

    /// Whether the batch has as many items as the input.
    fn check_count(&self, has: u64) -> Result<(), Break> {
        let read = self.backlog.read();
        if has == read {
            return Ok(());
        }
        let message = format!(
            "batch {} has {has} items already, and the input {read}; choose another --batch-id",
            self.start.batch_id
        );
        Err(Break::Failure(Failure::new(Exit::Conflict, message)))
    }
}

fn asked(message: Asked) -> StreamBatchRequest {
    StreamBatchRequest {
        message: Some(message),
    }
}

/// Room for a message; `None` if the connection takes no more. For ever without a sender.
async fn reserve(
    requests: Option<mpsc::Sender<StreamBatchRequest>>,
) -> Option<mpsc::OwnedPermit<StreamBatchRequest>> {
    match requests {
        Some(requests) => requests.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Items that came in while the connection was lost left the wait for their room standing, and the
    /// next one short of time.
    #[test]
    fn a_wait_for_room_is_over_once_the_server_has_more_however_that_is_learnt() {
        let stage = Stage::default();
        let mut room = Room::waited_for(Duration::from_secs(60));
        let lasts_too_long = |room: &Room| room.check(Duration::from_secs(61)).is_err();
        for items in [5, 6] {
            room.none("QUEUE_FULL", "too much");
            stage.note(5 * u64::from(items == 6), &mut room);
            assert!(lasts_too_long(&room), "nothing more came in");
            stage.note(items, &mut room);
            assert!(!lasts_too_long(&room));
            assert_eq!(stage.durable(), items);
        }
    }
}
