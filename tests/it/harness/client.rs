//! A client as anyone would write one, on the generated stubs.

use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use sooner::wire::admin_service_client::AdminServiceClient;
use sooner::wire::batch_service_client::BatchServiceClient;
use sooner::wire::{
    Batch, CancelBatchRequest, CancelBatchResponse, CreateBatchRequest, GetBatchRequest,
    GetItemRequest, Item, ItemResult, ItemSpec, Payload, SubmitBatchRequest, WatchBatchRequest,
    WatchBatchResponse, payload, watch_batch_response::Message,
};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Server, within};

/// The generated client.
pub(crate) type Stub = BatchServiceClient<Channel>;

/// The generated client on a transport that keeps no deadline by itself, unlike tonic's.
pub(crate) type RawStub = BatchServiceClient<legacy::Client<HttpConnector, tonic::body::Body>>;

/// See [`RawStub`].
pub(crate) fn raw_stub(server: &Server) -> RawStub {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    let transport = builder.http2_only(true).build_http();
    let origin = format!("http://{}", server.address());
    BatchServiceClient::with_origin(transport, origin.parse().unwrap())
}

/// A client with a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// For everything that has no shorthand here.
    pub(crate) stub: Stub,
    /// The same for operators.
    pub(crate) admin: AdminServiceClient<Channel>,
}

/// What the headers of a submit say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) batch_id: String,
    pub(crate) batch_uid: String,
    pub(crate) created: bool,
}

impl Accepted {
    pub(crate) fn of(headers: &MetadataMap) -> Self {
        let text = |name| headers.get(name).unwrap().to_str().unwrap().to_owned();
        Self {
            batch_id: text("sooner-batch-id"),
            batch_uid: text("sooner-batch-uid"),
            created: text("sooner-batch-created").parse().unwrap(),
        }
    }
}

/// An item whose input is `text`, without an id.
pub(crate) fn item(text: impl Into<String>) -> ItemSpec {
    let body = Some(payload::Body::Text(text.into()));
    ItemSpec {
        input: Some(Payload {
            body,
            content_type: String::new(),
        }),
        ..ItemSpec::default()
    }
}

/// A duration as the wire has it.
pub(crate) fn milliseconds(millis: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: millis / 1000,
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap(),
    }
}

/// The text of a result's output.
pub(crate) fn output(result: &ItemResult) -> &str {
    match result
        .output
        .as_ref()
        .and_then(|output| output.body.as_ref())
    {
        Some(payload::Body::Text(text)) => text,
        other => panic!("no text in {other:?}"),
    }
}

/// The reason in an error's `ErrorInfo`.
pub(crate) fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

/// A fact in an error's `ErrorInfo`.
pub(crate) fn fact(status: &Status, name: &str) -> Option<String> {
    let details = status.get_error_details();
    details.error_info()?.metadata.get(name).cloned()
}

/// The fields that an error finds at fault.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

impl Client {
    /// Connects to a server.
    pub(crate) async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = within(endpoint.connect()).await.unwrap();
        Self {
            stub: BatchServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            admin: AdminServiceClient::new(channel),
        }
    }

    /// Submits and answers the stream of results once the batch is accepted.
    pub(crate) async fn submit(
        &mut self,
        batch_id: &str,
        items: Vec<ItemSpec>,
    ) -> Result<Streaming<ItemResult>, Status> {
        let request = SubmitBatchRequest {
            batch_id: batch_id.into(),
            items,
            ..SubmitBatchRequest::default()
        };
        Ok(self.submit_request(request).await?.1)
    }

    /// Submits and answers the headers too.
    pub(crate) async fn submit_request(
        &mut self,
        request: impl tonic::IntoRequest<SubmitBatchRequest>,
    ) -> Result<(Accepted, Streaming<ItemResult>), Status> {
        let response = within(self.stub.submit_batch(request)).await?;
        Ok((Accepted::of(response.metadata()), response.into_inner()))
    }

    /// Creates a batch without reading it.
    pub(crate) async fn create(
        &mut self,
        batch_id: &str,
        items: Vec<ItemSpec>,
    ) -> Result<bool, Status> {
        let request = CreateBatchRequest {
            batch_id: batch_id.into(),
            items,
            ..CreateBatchRequest::default()
        };
        let created = within(self.stub.create_batch(request)).await?;
        Ok(created.into_inner().created)
    }

    /// Watches from behind `after` on.
    pub(crate) async fn watch(
        &mut self,
        batch_id: &str,
        after: u64,
    ) -> Result<Streaming<WatchBatchResponse>, Status> {
        let request = WatchBatchRequest {
            batch_id: batch_id.into(),
            after_sequence: after,
            ..WatchBatchRequest::default()
        };
        self.watch_request(request).await
    }

    /// Watches as the request says.
    pub(crate) async fn watch_request(
        &mut self,
        request: impl tonic::IntoRequest<WatchBatchRequest>,
    ) -> Result<Streaming<WatchBatchResponse>, Status> {
        Ok(within(self.stub.watch_batch(request)).await?.into_inner())
    }

    /// The batch as it stands.
    pub(crate) async fn batch(&mut self, batch_id: &str) -> Result<Batch, Status> {
        self.batch_within(batch_id, 0).await
    }

    /// The batch once it is over.
    pub(crate) async fn batch_when_over(&mut self, batch_id: &str) -> Batch {
        let batch = self.batch_within(batch_id, 50).await.unwrap();
        assert!(batch.finish_time.is_some(), "still going on: {batch:?}");
        batch
    }

    async fn batch_within(&mut self, batch_id: &str, seconds: i64) -> Result<Batch, Status> {
        let request = GetBatchRequest {
            batch_id: batch_id.into(),
            wait: Some(prost_types::Duration { seconds, nanos: 0 }),
        };
        let found = within(self.stub.get_batch(request)).await?;
        Ok(found.into_inner().batch.unwrap())
    }

    /// An item as it stands.
    pub(crate) async fn item(&mut self, batch_id: &str, item_id: &str) -> Result<Item, Status> {
        let request = GetItemRequest {
            batch_id: batch_id.into(),
            item_id: item_id.into(),
            ..GetItemRequest::default()
        };
        let found = within(self.stub.get_item(request)).await?;
        Ok(found.into_inner().item.unwrap())
    }

    /// An item once it is terminal.
    pub(crate) async fn item_when_over(&mut self, batch_id: &str, item_id: &str) -> Item {
        let wait = prost_types::Duration {
            seconds: 50,
            nanos: 0,
        };
        let request = GetItemRequest {
            batch_id: batch_id.into(),
            item_id: item_id.into(),
            wait: Some(wait),
            ..GetItemRequest::default()
        };
        let found = within(self.stub.get_item(request)).await.unwrap();
        let item = found.into_inner().item.unwrap();
        assert!(item.result.is_some(), "still going on: {item:?}");
        item
    }

    /// Cancels a batch, or some of its items.
    pub(crate) async fn cancel(
        &mut self,
        batch_id: &str,
        item_ids: &[&str],
    ) -> Result<CancelBatchResponse, Status> {
        let request = CancelBatchRequest {
            batch_id: batch_id.into(),
            item_ids: item_ids.iter().map(ToString::to_string).collect(),
            reason: "no longer wanted".into(),
        };
        Ok(within(self.stub.cancel_batch(request)).await?.into_inner())
    }

    /// All results behind `after`, read to the batch's end.
    pub(crate) async fn results(&mut self, batch_id: &str, after: u64) -> Vec<ItemResult> {
        let mut watch = self.watch(batch_id, after).await.unwrap();
        let (mut results, mut ended) = (Vec::new(), false);
        // All of it, because signs of life come without end.
        let to_the_end = async {
            while let Some(response) = watch.message().await.unwrap() {
                match response.message.unwrap() {
                    Message::Result(result) => results.push(result),
                    Message::Ended(_) => ended = true,
                    Message::Attached(_) | Message::Progress(_) => {}
                }
            }
        };
        within(to_the_end).await;
        assert!(ended, "a watch of a batch that is over ends by saying so");
        results
    }
}

/// Reads a submit's stream to its end.
pub(crate) async fn all(stream: &mut Streaming<ItemResult>) -> Vec<ItemResult> {
    let mut results = Vec::new();
    while let Some(result) = within(stream.message()).await.unwrap() {
        results.push(result);
    }
    results
}

/// The next message of a stream.
#[track_caller]
pub(crate) fn next<T>(stream: &mut Streaming<T>) -> impl Future<Output = T> {
    let message = within(stream.message());
    async move { message.await.unwrap().expect("one more message") }
}

/// How a stream ends that has nothing more to say.
#[track_caller]
pub(crate) fn end<T: std::fmt::Debug>(
    stream: &mut Streaming<T>,
) -> impl Future<Output = Result<(), Status>> {
    let message = within(stream.message());
    async move {
        let more = message.await?;
        assert!(more.is_none(), "one message too many: {more:?}");
        Ok(())
    }
}
