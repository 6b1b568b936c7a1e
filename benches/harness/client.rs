//! The client's side: the generated stubs on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sooner::base::clock;
use sooner::base::tasks::Tasks;
use sooner::wire::batch_service_client::BatchServiceClient;
use sooner::wire::{
    Batch, CreateBatchRequest, GetBatchRequest, ItemResult, ItemSpec, ItemState, Payload,
    StreamBatchRequest, StreamBatchResponse, StreamFinish, StreamItems, StreamStart,
    SubmitBatchRequest, WatchBatchRequest, WatchBatchResponse, payload,
    stream_batch_request::Message as Asked, stream_batch_response::Message as Said,
    watch_batch_response::Message,
};
use tonic::Streaming;
use tonic::transport::Channel;

use super::alone::Load;

/// The generated client.
pub(crate) type Client = BatchServiceClient<Channel>;

/// Items of one unary submit: the most that a server takes unless it is told otherwise.
pub(crate) const SUBMIT_ITEMS: usize = 10_000;

/// Items of one piece of an upload: about 1 MiB of the items that the benches use.
const UPLOAD_ITEMS: usize = 1000;

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

/// How a batch stands, at once or, if it ends within `seconds`, then.
pub(crate) async fn batch(client: &mut Client, id: &str, seconds: i64) -> Batch {
    let request = GetBatchRequest {
        batch_id: id.into(),
        wait: Some(prost_types::Duration { seconds, nanos: 0 }),
    };
    let found = client.get_batch(request).await.expect("it is there");
    found.into_inner().batch.expect("an answer holds a batch")
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

/// Uploads a batch piece by piece, as fast as the server takes it; answers the stream of its results.
pub(crate) async fn upload(
    client: &mut Client,
    (queue, id): (&str, &str),
    load: Load,
) -> Streaming<StreamBatchResponse> {
    let start = Asked::Start(StreamStart {
        queue: queue.into(),
        batch_id: id.into(),
        ..StreamStart::default()
    });
    let pieces = (0..load.items).step_by(UPLOAD_ITEMS).map(move |first| {
        Asked::Items(StreamItems {
            first_index: first as u64,
            items: items(UPLOAD_ITEMS.min(load.items - first), load.bytes),
        })
    });
    let finish = Asked::Finish(StreamFinish {
        total_items: load.items as u64,
    });
    let all = std::iter::once(start)
        .chain(pieces)
        .chain(std::iter::once(finish));
    let requests = all.map(|message| StreamBatchRequest {
        message: Some(message),
    });
    let answer = client.stream_batch(tokio_stream::iter(requests)).await;
    answer.expect("the upload is accepted").into_inner()
}

/// Uploads a batch and leaves it to itself once all its items are durable.
pub(crate) async fn leave(client: &mut Client, place: (&str, &str), load: Load) {
    let mut answers = upload(client, place, load).await;
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        if matches!(answer.message, Some(Said::Ack(durable)) if durable.sealed) {
            return;
        }
    }
}

/// Reads on in an upload's answer to the next result; `None` once the batch is over.
pub(crate) async fn next_uploaded(
    answers: &mut Streaming<StreamBatchResponse>,
) -> Option<ItemResult> {
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        if let Some(Said::Result(result)) = answer.message {
            assert_eq!(result.state(), ItemState::Succeeded, "{result:?}");
            return Some(result);
        }
    }
    None
}

/// Submits a batch after a silence; answers how long it took until its last result had come.
pub(crate) async fn small(client: &mut Client, silence: Duration, load: Load) -> Duration {
    small_on(client, "", silence, load).await
}

/// The same on a queue.
pub(crate) async fn small_on(
    client: &mut Client,
    queue: &str,
    silence: Duration,
    load: Load,
) -> Duration {
    tokio::time::sleep(silence).await;
    let items = items(load.items, load.bytes);
    let began = clock::instant();
    let results = submit(client, queue, items).await;
    assert_eq!(read(results).await, load.items, "each item has its result");
    clock::instant() - began
}

/// Puts a load through the server by one upload, and reads all results; answers how long it took.
pub(crate) async fn run_upload(channel: &Channel, load: Load) -> Duration {
    let began = clock::instant();
    let mut answers = upload(&mut client(channel), ("", ""), load).await;
    let mut count = 0;
    while next_uploaded(&mut answers).await.is_some() {
        count += 1;
    }
    assert_eq!(count, load.items, "each item has its result");
    clock::instant() - began
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
