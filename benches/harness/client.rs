//! The client's side: the generated stubs on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sooner::base::clock;
use sooner::base::tasks::Tasks;
use sooner::wire::batch_service_client::BatchServiceClient;
use sooner::wire::{
    CreateBatchRequest, ItemResult, ItemSpec, ItemState, Payload, SubmitBatchRequest,
    WatchBatchRequest, WatchBatchResponse, payload, watch_batch_response::Message,
};
use tonic::Streaming;
use tonic::transport::Channel;

use super::alone::Load;

/// The generated client.
pub(crate) type Client = BatchServiceClient<Channel>;

/// Items of one unary submit: the most that a server takes unless it is told otherwise.
pub(crate) const SUBMIT_ITEMS: usize = 10_000;

/// Submits that are under way at once, so that the next is sent while one is computed.
const SUBMITS_AT_ONCE: usize = 2;

/// The generated client on a connection.
pub(crate) fn client(channel: &Channel) -> Client {
    BatchServiceClient::new(channel.clone())
}

/// So many items of so many bytes.
pub(crate) fn items(count: usize, bytes: usize) -> Vec<ItemSpec> {
    let body = Some(payload::Body::Data(vec![b'i'; bytes].into()));
    let input = Some(Payload {
        body,
        content_type: String::new(),
    });
    let item = ItemSpec {
        input,
        ..ItemSpec::default()
    };
    vec![item; count]
}

/// Submits to a queue; answers its stream once it is accepted.
pub(crate) async fn submit(
    client: &mut Client,
    queue: &str,
    items: Vec<ItemSpec>,
) -> Streaming<ItemResult> {
    let request = SubmitBatchRequest {
        queue: queue.into(),
        items,
        ..SubmitBatchRequest::default()
    };
    let submitted = client.submit_batch(request).await;
    submitted.expect("the batch is accepted").into_inner()
}

/// Creates a batch on a queue without reading it.
pub(crate) async fn create(client: &mut Client, queue: &str, id: &str, items: Vec<ItemSpec>) {
    let request = CreateBatchRequest {
        queue: queue.into(),
        batch_id: id.into(),
        items,
        ..CreateBatchRequest::default()
    };
    let created = client.create_batch(request).await;
    created.expect("the batch is accepted");
}

/// The next result, which must be a success.
pub(crate) async fn next(results: &mut Streaming<ItemResult>) -> ItemResult {
    let result = results.message().await.expect("the stream goes on");
    let result = result.expect("there is one more result");
    assert_eq!(result.state(), ItemState::Succeeded, "{result:?}");
    result
}

/// Reads a stream to its end; answers how many results came.
pub(crate) async fn read(mut results: Streaming<ItemResult>) -> usize {
    let mut count = 0;
    while let Some(result) = results.message().await.expect("the stream goes on") {
        assert_eq!(result.state(), ItemState::Succeeded, "{result:?}");
        count += 1;
    }
    count
}

/// Watches a batch as the request says.
pub(crate) async fn watch(
    client: &mut Client,
    request: WatchBatchRequest,
) -> Streaming<WatchBatchResponse> {
    let watching = client.watch_batch(request).await;
    watching.expect("the batch can be watched").into_inner()
}

/// Reads a watch until the batch has ended; answers how many results came.
pub(crate) async fn follow(mut watch: Streaming<WatchBatchResponse>) -> usize {
    let mut count = 0;
    while let Some(response) = watch.message().await.expect("the watch goes on") {
        match response.message {
            Some(Message::Result(_)) => count += 1,
            Some(Message::Attached(_) | Message::Progress(_) | Message::Ended(_)) | None => {}
        }
    }
    count
}

/// Puts a load through the server by unary submits, and reads all results; answers how long it took.
pub(crate) async fn run(channel: &Channel, tasks: &Tasks, load: Load) -> Duration {
    let (began, sent) = (clock::instant(), Arc::new(AtomicUsize::new(0)));
    let submitters = (0..SUBMITS_AT_ONCE).map(|_| {
        let (mut client, sent) = (client(channel), Arc::clone(&sent));
        tasks.spawn(async move {
            loop {
                let first = sent.fetch_add(SUBMIT_ITEMS, Ordering::Relaxed);
                let count = SUBMIT_ITEMS.min(load.items.saturating_sub(first));
                if count == 0 {
                    return;
                }
                let results = submit(&mut client, "", items(count, load.bytes)).await;
                assert_eq!(read(results).await, count, "each item has its result");
            }
        })
    });
    for submitter in submitters.collect::<Vec<_>>() {
        submitter.await.expect("a submitter does not panic");
    }
    clock::instant().duration_since(began)
}
