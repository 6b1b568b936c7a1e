//! A client as anyone would write one, on the generated stubs.

use sooner::wire::batch_service_client::BatchServiceClient;
use sooner::wire::{
    CreateBatchRequest, ItemResult, ItemSpec, Payload, SubmitBatchRequest, WatchBatchRequest,
    WatchBatchResponse, payload, watch_batch_response::Message,
};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use super::within;

/// The generated client.
pub(crate) type Stub = BatchServiceClient<Channel>;

/// A client with a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// For everything that has no shorthand here.
    pub(crate) stub: Stub,
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
        let channel = endpoint.connect().await.unwrap();
        Self {
            stub: BatchServiceClient::new(channel).max_decoding_message_size(16 << 20),
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
        Ok(self.stub.submit_batch(request).await?.into_inner())
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
        Ok(self.stub.create_batch(request).await?.into_inner().created)
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
        Ok(self.stub.watch_batch(request).await?.into_inner())
    }

    /// All results behind `after`, read to the batch's end.
    pub(crate) async fn results(&mut self, batch_id: &str, after: u64) -> Vec<ItemResult> {
        let mut watch = self.watch(batch_id, after).await.unwrap();
        let (mut results, mut ended) = (Vec::new(), false);
        while let Some(response) = watch.message().await.unwrap() {
            match response.message.unwrap() {
                Message::Result(result) => results.push(result),
                Message::Ended(_) => ended = true,
                Message::Attached(_) | Message::Progress(_) => {}
            }
        }
        assert!(ended, "a watch of a batch that is over ends by saying so");
        results
    }
}

/// Reads a submit's stream to its end.
pub(crate) async fn all(stream: &mut Streaming<ItemResult>) -> Vec<ItemResult> {
    let mut results = Vec::new();
    while let Some(result) = stream.message().await.unwrap() {
        results.push(result);
    }
    results
}
