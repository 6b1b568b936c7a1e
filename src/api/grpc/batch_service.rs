//! `sooner.v1.BatchService`: each call is convert, ask the engine, render.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::call::opened;
use super::convert::{self, SubmitFields};
use super::deadline::Deadline;
use super::input_limits::InputLimits;
use super::reader::{Event, Reader, Terms};
use super::render;
use super::tenancy::Tenancy;
use super::violations::{INVALID_FIELD, Violations};
use super::watch::{Watch, said, watch_messages};
use crate::base::limits;
use crate::base::tasks::Tasks;
use crate::domain::batch::{Batch, BatchHead};
use crate::domain::ids::Sequence;
use crate::engine::{Engine, Order, Submission, Submitted};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::batch_service_server::BatchService;
use crate::wire::{
    CancelBatchRequest, CancelBatchResponse, CreateBatchRequest, CreateBatchResponse,
    DeleteBatchRequest, DeleteBatchResponse, GetBatchRequest, GetBatchResponse, GetItemRequest,
    GetItemResponse, ItemResult, ItemState, ListBatchesRequest, ListBatchesResponse,
    ListItemsRequest, ListItemsResponse, PauseBatchRequest, PauseBatchResponse, ResumeBatchRequest,
    ResumeBatchResponse, StreamBatchRequest, StreamBatchResponse, SubmitBatchRequest,
    WatchAttached, WatchBatchRequest, WatchBatchResponse, watch_batch_response,
};

/// The service.
#[derive(Clone, Debug)]
pub struct BatchApi {
    engine: Engine,
    input: InputLimits,
    tenancy: Tenancy,
    closing: CancellationToken,
    tasks: Tasks,
    /// Room for result streams: each pins memory while its reader is slow.
    streams: Arc<Semaphore>,
}

pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl BatchApi {
    /// A service of `engine`; its streams end when `closing` fires. Uploads are taken in on `tasks`.
    pub fn new(
        engine: Engine,
        input: InputLimits,
        tenancy: Tenancy,
        closing: CancellationToken,
        tasks: Tasks,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(input.watchers_max));
        Self {
            engine,
            input,
            tenancy,
            closing,
            tasks,
            streams,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn tenancy(&self) -> Tenancy {
        self.tenancy
    }

    pub(super) fn input(&self) -> InputLimits {
        self.input
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The terms of a stream, if there is room for one more. To be asked for before anything is
    /// accepted: what is refused has changed nothing.
    pub(super) fn terms(&self, deadline: Deadline, progress: Option<Duration>) -> Result<Terms> {
        let place = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| self.too_many_streams())?;
        Ok(Terms {
            deadline,
            closing: self.closing.clone(),
            progress,
            stop_when_caught_up: false,
            states: Vec::new(),
            _place: place,
        })
    }

    fn too_many_streams(&self) -> Error {
        let most = self.input.watchers_max;
        let message = format!("{most} result streams are open, the server's limit");
        Error::new(ErrorKind::Exhausted, "TOO_MANY_STREAMS", message)
            .with("limit", "limits.watchers")
    }

    async fn accept(&self, deadline: Deadline, submission: Submission) -> Result<Submitted> {
        deadline.bound(self.engine.submit(submission)).await
    }
}

#[tonic::async_trait]
impl BatchService for BatchApi {
    type SubmitBatchStream = Messages<ItemResult>;
    type StreamBatchStream = Messages<StreamBatchResponse>;
    type WatchBatchStream = Messages<WatchBatchResponse>;

    async fn submit_batch(
        &self,
        request: Request<SubmitBatchRequest>,
    ) -> Result<Response<Self::SubmitBatchStream>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let omit_output = request.omit_output;
        let fields = SubmitFields {
            tenant,
            batch_id: request.batch_id,
            request_id: request.request_id,
            queue: request.queue,
            items: request.items,
            options: request.options,
            on_disconnect: request.on_disconnect,
            progress_interval: request.progress_interval,
        };
        let (submission, progress) = convert::submission(fields, self.input)?;
        let terms = self.terms(deadline, progress)?;
        let Submitted {
            batch,
            created,
            stream,
        } = self.accept(deadline, submission).await?;
        let feed = self.engine.follow(&batch, Order::Completion(Sequence(0)))?;
        let head = Arc::clone(&batch.head);
        let reader = Reader::new(feed, batch, stream, terms);
        let results = messages(reader, move |event| match event {
            Event::Results(records, batch) => records
                .into_iter()
                .map(|record| render::result(record, &batch, omit_output))
                .collect(),
            Event::Progress(cursor, batch) => vec![marker(cursor, &batch)],
            Event::Ended(_) => Vec::new(),
        });
        let mut response = Response::new(results);
        batch_headers(&mut response, &head, created);
        Ok(response)
    }

    async fn create_batch(
        &self,
        request: Request<CreateBatchRequest>,
    ) -> Result<Response<CreateBatchResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let fields = SubmitFields {
            tenant,
            batch_id: request.batch_id,
            request_id: request.request_id,
            queue: request.queue,
            items: request.items,
            options: request.options,
            ..SubmitFields::default()
        };
        let (submission, _) = convert::submission(fields, self.input)?;
        let Submitted { batch, created, .. } = self.accept(deadline, submission).await?;
        Ok(Response::new(CreateBatchResponse {
            batch: Some(render::batch(&batch)),
            created,
        }))
    }

    async fn stream_batch(
        &self,
        request: Request<Streaming<StreamBatchRequest>>,
    ) -> Result<Response<Self::StreamBatchStream>, Status> {
        self.stream(request).await
    }

    async fn watch_batch(
        &self,
        request: Request<WatchBatchRequest>,
    ) -> Result<Response<Self::WatchBatchStream>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let watch = Watch::of(tenant, &request)?;
        let mut terms = self.terms(deadline, Some(watch.progress))?;
        let batch = deadline.bound(self.engine.batch(&watch.batch)).await?;
        check_uid(&batch, &request.batch_uid)?;
        let feed = self.engine.follow(&batch, watch.from)?;
        let stream = self.engine.attach(&batch);
        let attached = watch_batch_response::Message::Attached(WatchAttached {
            batch: Some(render::batch(&batch)),
            oldest_sequence: 1,
            last_sequence: batch.last_sequence().0.into(),
        });
        terms.stop_when_caught_up = request.stop_when_caught_up;
        terms.states = watch.states;
        let reader = Reader::new(feed, batch, stream, terms);
        let omit_output = request.omit_output;
        let first = tokio_stream::once(Ok(said(attached)));
        let rest = messages(reader, move |event| watch_messages(event, omit_output));
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn get_batch(
        &self,
        request: Request<GetBatchRequest>,
    ) -> Result<Response<GetBatchResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        let wait = convert::duration(&mut wrong, "wait", request.wait).unwrap_or_default();
        let name = tenant.batch(wrong.required(id)?);
        let found = self.engine.batch_when_over(&name, deadline.clip(wait));
        let batch = deadline.bound(found).await?;
        Ok(Response::new(GetBatchResponse {
            batch: Some(render::batch(&batch)),
        }))
    }

    async fn get_item(
        &self,
        request: Request<GetItemRequest>,
    ) -> Result<Response<GetItemResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        if request.item_id.is_empty() {
            wrong.add(INVALID_FIELD, "item_id", "must not be empty");
        }
        let wait = convert::duration(&mut wrong, "wait", request.wait).unwrap_or_default();
        let name = tenant.batch(wrong.required(id)?);
        let found = self.engine.item(
            &name,
            &request.item_id,
            deadline.clip(wait),
            request.include_spec,
        );
        let details = deadline.bound(found).await?;
        Ok(Response::new(GetItemResponse {
            item: Some(render::item(details)),
        }))
    }

    async fn cancel_batch(
        &self,
        request: Request<CancelBatchRequest>,
    ) -> Result<Response<CancelBatchResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        if request.item_ids.len() > limits::CANCEL_ITEMS_MAX {
            let has = request.item_ids.len();
            let message = format!(
                "{has} items are more than the limit {}",
                limits::CANCEL_ITEMS_MAX
            );
            wrong.add("TOO_MANY_ITEMS", "item_ids", message);
        }
        convert::check_reason(&mut wrong, &request.reason);
        let name = tenant.batch(wrong.required(id)?);
        let mut item_ids: Vec<Box<str>> = request.item_ids.into_iter().map(Into::into).collect();
        item_ids.sort_unstable();
        item_ids.dedup();
        let (batch, counts) = deadline
            .bound(self.engine.cancel(&name, item_ids, &request.reason))
            .await?;
        Ok(Response::new(CancelBatchResponse {
            batch: Some(render::batch(&batch)),
            never_started_count: counts.never_started.into(),
            stopping_count: counts.stopping.into(),
            finished_count: counts.finished.into(),
        }))
    }

    async fn pause_batch(
        &self,
        request: Request<PauseBatchRequest>,
    ) -> Result<Response<PauseBatchResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        convert::check_reason(&mut wrong, &request.reason);
        let name = tenant.batch(wrong.required(id)?);
        let paused = self.engine.pause(&name, &request.reason);
        let batch = Some(render::batch(&deadline.bound(paused).await?));
        Ok(Response::new(PauseBatchResponse { batch }))
    }

    async fn resume_batch(
        &self,
        request: Request<ResumeBatchRequest>,
    ) -> Result<Response<ResumeBatchResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        let name = tenant.batch(wrong.required(id)?);
        let resumed = deadline.bound(self.engine.resume(&name)).await?;
        let batch = Some(render::batch(&resumed));
        Ok(Response::new(ResumeBatchResponse { batch }))
    }

    async fn list_batches(
        &self,
        request: Request<ListBatchesRequest>,
    ) -> Result<Response<ListBatchesResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let listed = self.batches(tenant, deadline, request).await?;
        Ok(Response::new(listed))
    }

    async fn list_items(
        &self,
        request: Request<ListItemsRequest>,
    ) -> Result<Response<ListItemsResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let listed = self.items(tenant, deadline, request).await?;
        Ok(Response::new(listed))
    }

    async fn delete_batch(
        &self,
        request: Request<DeleteBatchRequest>,
    ) -> Result<Response<DeleteBatchResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        let name = tenant.batch(wrong.required(id)?);
        deadline.bound(self.engine.delete(&name)).await?;
        Ok(Response::new(DeleteBatchResponse {}))
    }
}

fn check_uid(batch: &Batch, uid: &str) -> Result<()> {
    if uid.is_empty() || uid == batch.head.uid.to_string() {
        return Ok(());
    }
    let message = format!(
        "batch {} is another one now, with uid {}",
        batch.head.id, batch.head.uid
    );
    Err(Error::new(ErrorKind::NotFound, "BATCH_NOT_FOUND", message)
        .with("batch_uid", batch.head.uid))
}

/// The headers that say: the batch is durably accepted.
pub(super) fn batch_headers<T>(response: &mut Response<T>, head: &BatchHead, created: bool) {
    let headers = [
        ("sooner-batch-id", head.id.to_string()),
        ("sooner-batch-uid", head.uid.to_string()),
        ("sooner-batch-created", created.to_string()),
    ];
    for (name, value) in headers {
        response
            .metadata_mut()
            .insert(name, value.parse().expect("ids are ASCII"));
    }
}

/// The messages that `say` makes of a reader's events, in order; an error ends them.
pub(super) fn messages<T: Send + 'static>(
    reader: Reader,
    say: impl Fn(Event) -> Vec<T> + Send + 'static,
) -> Messages<T> {
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((event, reader))
    });
    // All that one event brings is ready at once, so that the transport packs it into few frames.
    let chunks = events.map(move |event| match event {
        Ok(event) => say(event).into_iter().map(Ok).collect(),
        Err(error) => vec![Err(Status::from(error))],
    });
    Box::pin(chunks.flat_map(tokio_stream::iter))
}

fn marker(cursor: Order, batch: &Batch) -> ItemResult {
    ItemResult {
        batch_id: batch.head.id.to_string(),
        sequence: render::progress(cursor, batch).last_sequence,
        state: ItemState::Unspecified.into(),
        ..ItemResult::default()
    }
}
