//! `StreamBatch`: items in, durable counts and results out, each at its own pace.
//!
//! Two tasks: one takes the items in, the other is the answer's stream. A reader that is slow, or
//! does not read at all, never holds up the upload, and the upload never holds up results; each is
//! slowed by its own direction of the connection alone.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::{oneshot, watch};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use super::answer_layer;
use super::batch_service::{BatchApi, Messages, batch_headers, messages};
use super::call::opened;
use super::convert;
use super::deadline::{self, Deadline};
use super::reader::{Event, Reader};
use super::render;
use super::violations::INVALID_FIELD;
use crate::base::limits;
use crate::domain::batch::BatchState;
use crate::engine::{AppendError, Order, Upload, UploadStart};
use crate::error::{Error, ErrorKind, FieldViolation, Result};
use crate::wire::stream_batch_request::Message as Asked;
use crate::wire::stream_batch_response::Message as Said;
use crate::wire::{
    StreamAccepted, StreamAck, StreamBatchRequest, StreamBatchResponse, StreamFinish, StreamItems,
    StreamStart, WatchEnded,
};

/// A checked start.
pub(super) struct Start {
    pub(super) upload: UploadStart,
    pub(super) omit_output: bool,
    pub(super) progress: Duration,
}

/// How far an upload is durable: its items, and whether this call has sealed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Durable {
    items: u32,
    sealed: bool,
}

/// The task that takes items in.
struct Intake {
    api: BatchApi,
    requests: Streaming<StreamBatchRequest>,
    upload: Upload,
    durable: watch::Sender<Durable>,
    /// Fires once everything that the caller sends has been compared with the batch, or stored.
    compared: CancellationToken,
    /// Fires when nobody reads the answer any more.
    gone: CancellationToken,
}

impl BatchApi {
    /// Opens or goes on with an upload; the answer's headers come once the batch is durably there.
    pub(super) async fn stream(
        &self,
        request: Request<Streaming<StreamBatchRequest>>,
    ) -> Result<Response<Messages<StreamBatchResponse>>, Status> {
        let (deadline, tenant, mut requests) = opened(request, self.tenancy())?;
        let start = convert::start(tenant, first(deadline, &mut requests).await?)?;
        let after = start.upload.after;
        let terms = self.terms(deadline, Some(start.progress))?;
        let resumes = start.upload.resume;
        let upload = deadline
            .bound(self.engine().open_upload(start.upload))
            .await?;
        let batch = upload.batch().clone();
        let feed = self.engine().follow(&batch, Order::Completion(after))?;
        let reading = self.engine().attach(&batch);
        let reader = Reader::new(feed, batch.clone(), reading, terms);
        let omit_output = start.omit_output;
        let results = messages(reader, move |event| said_of(event, omit_output));

        let sealed = batch.state != BatchState::Open;
        let (durable, grows) = watch::channel(Durable {
            items: batch.total,
            sealed: false,
        });
        let accepted = StreamAccepted {
            batch_id: batch.head.id.to_string(),
            batch_uid: batch.head.uid.to_string(),
            accepted_items: batch.total.into(),
            created: upload.is_new(),
            sealed,
        };
        let no_room = upload.no_room();
        let mut headers = Response::new(());
        batch_headers(&mut headers, &batch.head, upload.is_new());
        let gone = CancellationToken::new();
        let intake = Intake {
            api: self.clone(),
            requests,
            upload,
            durable,
            compared: CancellationToken::new(),
            gone: gone.clone(),
        };
        // Who sends a whole batch anew is told whether it is the same one; who resumes need not.
        let sends_all = sealed && !resumes;
        let hold = Hold {
            compared: intake.compared.clone(),
            closing: self.closing().clone(),
            deadline,
        };
        let (ended, end) = oneshot::channel();
        self.tasks().spawn(async move {
            let compared = intake.compared.clone();
            let outcome = intake.run().await;
            if outcome.is_ok() {
                compared.cancel();
            }
            // Without a reader there is nobody to tell.
            ended.send(outcome).ok();
        });
        let results = results.then(move |answer| {
            let hold = sends_all.then(|| hold.clone());
            async move {
                match hold {
                    Some(hold) if is_last(&answer) => hold.release(answer).await,
                    Some(_) | None => answer,
                }
            }
        });
        let durable = stream::select(durable_counts(grows, no_room), failures(end));
        let rest = until_over(stream::select(durable, results), gone.drop_guard());
        let first = tokio_stream::once(Ok(said(Said::Accepted(accepted))));
        let stream: Messages<_> = Box::pin(first.chain(rest));
        Ok(headers.map(|()| stream))
    }
}

/// What the end of a batch waits for before it is told: else it would overtake what the caller has
/// sent and nobody has compared yet.
#[derive(Clone)]
struct Hold {
    compared: CancellationToken,
    closing: CancellationToken,
    deadline: Deadline,
}

impl Hold {
    async fn release(self, last: Answers) -> Answers {
        tokio::select! {
            biased;
            () = self.compared.cancelled() => last,
            () = self.closing.cancelled() => last,
            () = self.deadline.passed() => Err(deadline::exceeded().into()),
        }
    }
}

/// The message that opens an upload.
async fn first(
    deadline: Deadline,
    requests: &mut Streaming<StreamBatchRequest>,
) -> Result<StreamStart, Status> {
    let first = tokio::time::timeout(limits::UPLOAD_START_MAX, requests.message());
    let first = deadline.bound(async { Ok(first.await) }).await?;
    let Ok(first) = first else {
        let message = format!("no start came within {:?}", limits::UPLOAD_START_MAX);
        return Err(wrong("start", message).into());
    };
    match first.map_err(answer_layer::explained)?.map(|it| it.message) {
        Some(Some(Asked::Start(start))) => Ok(start),
        Some(_) | None => Err(wrong("start", "must be the first message").into()),
    }
}

impl Intake {
    async fn run(mut self) -> Result<(), Status> {
        let superseded = self.upload.superseded();
        loop {
            let request = tokio::select! {
                biased;
                () = self.gone.cancelled() => return Ok(()),
                () = superseded.cancelled() => return Err(self.located(crate::engine::superseded())),
                request = self.requests.message() => request.map_err(answer_layer::explained)?,
                () = tokio::time::sleep(limits::UPLOAD_QUIET), if !self.compared.is_cancelled() => {
                    // Somebody who only wants to read, then.
                    self.compared.cancel();
                    continue;
                }
            };
            // The end of the requests says nothing: a client that is gone looks the same.
            let Some(request) = request else {
                return Ok(());
            };
            let taken = match request.message {
                // It may wait for room; what a caller that is gone sent then is not missed.
                Some(Asked::Items(items)) => tokio::select! {
                    biased;
                    () = self.gone.cancelled() => return Ok(()),
                    taken = self.append(items) => taken,
                },
                Some(Asked::Finish(finish)) => self.finish(finish).await,
                Some(Asked::Start(_)) => Err(wrong("start", "comes once, as the first message")),
                None => Err(wrong(
                    "message",
                    "holds none of start, items and finish that this server knows",
                )),
            };
            taken.map_err(|error| self.located(error))?;
        }
    }

    async fn append(&self, chunk: StreamItems) -> Result<()> {
        let (first, items) = convert::chunk(chunk, self.api.input())?;
        let appended = self.upload.append(first, items).await;
        let items = appended.map_err(|error| in_fields(error, first))?;
        self.note(|durable| durable.items = items);
        Ok(())
    }

    async fn finish(&self, finish: StreamFinish) -> Result<()> {
        let total = u32::try_from(finish.total_items).unwrap_or(u32::MAX);
        let sealed = self.upload.seal(total).await;
        let batch = sealed.map_err(|error| {
            if error.kind() != ErrorKind::Invalid {
                return error;
            }
            let message = match total {
                0 => "a batch needs at least one item".to_owned(),
                total => format!("{total} is not how many items came; {}", error.message()),
            };
            wrong_as("WRONG_COUNT", "finish.total_items", message)
        })?;
        self.note(|durable| {
            *durable = Durable {
                items: batch.total,
                sealed: true,
            };
        });
        self.compared.cancel();
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Durable)) {
        self.durable.send_modify(change);
    }

    /// Says which batch it was and how far it is durable.
    fn located(&self, error: Error) -> Status {
        let error = error.with("batch_id", &self.upload.batch().head.id);
        let known = error
            .metadata()
            .iter()
            .any(|(name, _)| *name == "accepted_items");
        let items = self.durable.borrow().items;
        if known {
            error
        } else {
            error.with("accepted_items", items)
        }
        .into()
    }
}

/// Names the field of the item that was refused.
fn in_fields(error: AppendError, first: u32) -> Error {
    match error {
        AppendError::Gap { accepted } => {
            let message =
                format!("{first} leaves a gap: the batch has {accepted} items, go on from there");
            wrong_as("ITEM_GAP", "items.first_index", message).with("accepted_items", accepted)
        }
        AppendError::Item {
            index,
            reason,
            message,
        } => {
            let field = match reason {
                "ITEM_MISMATCH" => format!("items.items[{}]", index - first),
                _ => format!("items.items[{}].item_id", index - first),
            };
            wrong_as(reason, field, message)
        }
        AppendError::Other(error) => error,
    }
}

fn wrong(field: &str, message: impl Into<String>) -> Error {
    wrong_as(INVALID_FIELD, field, message)
}

fn wrong_as(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Error {
    let (field, message) = (field.into(), message.into());
    Error::invalid(reason, vec![FieldViolation { field, message }])
}

type Answers = Result<StreamBatchResponse, Status>;

/// An answer each time that more is durable, and when what comes waits for room; what came in between
/// goes into one.
fn durable_counts(
    grows: watch::Receiver<Durable>,
    no_room: watch::Receiver<Option<Error>>,
) -> impl Stream<Item = Answers> + Send {
    stream::unfold((grows, no_room), |(mut grows, mut no_room)| async move {
        let waiting = loop {
            // Once the intake has ended there is nothing more to tell, but for its last count.
            tokio::select! {
                biased;
                more = grows.changed() => {
                    more.ok()?;
                    break None;
                }
                told = no_room.changed() => told.ok()?,
            }
            // That there is room again shows in what is durable then.
            if let Some(why) = &*no_room.borrow_and_update() {
                break Some(render::no_room(why));
            }
        };
        let durable = *grows.borrow_and_update();
        let told = StreamAck {
            accepted_items: durable.items.into(),
            sealed: durable.sealed,
            waiting,
        };
        Some((Ok(said(Said::Ack(told))), (grows, no_room)))
    })
}

/// What ended the intake, if it was not the caller.
fn failures(end: oneshot::Receiver<Result<(), Status>>) -> impl Stream<Item = Answers> + Send {
    stream::once(end).filter_map(async |end| match end {
        Ok(Ok(())) => None,
        Ok(Err(status)) => Some(Err(status)),
        // It panicked: nothing more would ever be durable.
        Err(_) => {
            let message = "taking the items in has failed; resume the upload";
            Some(Err(
                Error::new(ErrorKind::Internal, "INTERNAL", message).into()
            ))
        }
    })
}

fn is_last(answer: &Answers) -> bool {
    match answer {
        Ok(answer) => matches!(answer.message, Some(Said::Ended(_))),
        Err(_) => true,
    }
}

/// Everything up to the first error or the end of the batch, whichever comes first. The guard falls
/// with the stream.
fn until_over(
    answers: impl Stream<Item = Answers> + Send + 'static,
    gone: DropGuard,
) -> impl Stream<Item = Answers> + Send {
    let state = (Box::pin(answers), Some(gone));
    stream::unfold(state, |(mut answers, gone)| async move {
        let gone = gone?;
        let answer = answers.next().await?;
        let is_last = is_last(&answer);
        Some((answer, (answers, (!is_last).then_some(gone))))
    })
}

fn said_of(event: Event, omit_output: bool) -> Vec<StreamBatchResponse> {
    match event {
        Event::Results(records, batch) => records
            .into_iter()
            .map(|record| said(Said::Result(render::result(record, &batch, omit_output))))
            .collect(),
        Event::Progress(cursor, batch) => {
            vec![said(Said::Progress(render::progress(cursor, &batch)))]
        }
        Event::Ended(batch) => {
            let batch = Some(render::batch(&batch));
            vec![said(Said::Ended(WatchEnded { batch }))]
        }
    }
}

fn said(message: Said) -> StreamBatchResponse {
    StreamBatchResponse {
        message: Some(message),
    }
}
