//! One call of `StreamBatch`, spoken message by message.

use sooner::wire::stream_batch_request::Message as Asked;
use sooner::wire::stream_batch_response::Message as Said;
use sooner::wire::{
    Batch, ItemResult, ItemSpec, StreamAccepted, StreamBatchRequest, StreamBatchResponse,
    StreamFinish, StreamItems, StreamStart,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::Accepted;
use super::{Client, within};

/// An upload that is under way. Dropping it is what a lost client looks like.
#[derive(Debug)]
pub(crate) struct UploadCall {
    requests: Option<mpsc::Sender<StreamBatchRequest>>,
    answers: Streaming<StreamBatchResponse>,
    pub(crate) headers: Accepted,
    /// The first answer.
    pub(crate) accepted: StreamAccepted,
    /// Results that came before the answer that was waited for.
    pub(crate) results: Vec<ItemResult>,
    /// The batch as it ended, if that was said.
    over: Option<Batch>,
}

/// A start without settings.
pub(crate) fn upload_start(batch_id: &str) -> StreamStart {
    StreamStart {
        batch_id: batch_id.into(),
        ..StreamStart::default()
    }
}

fn asked(message: Asked) -> StreamBatchRequest {
    StreamBatchRequest {
        message: Some(message),
    }
}

impl UploadCall {
    /// Opens an upload or goes on with one.
    pub(crate) async fn open(client: &Client, start: StreamStart) -> Result<Self, Status> {
        Self::begin(client, asked(Asked::Start(start))).await
    }

    /// The same with whatever as the first message.
    pub(crate) async fn begin(client: &Client, first: StreamBatchRequest) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(16);
        requests.send(first).await.unwrap();
        let mut stub = client.stub.clone();
        let response = within(stub.stream_batch(ReceiverStream::new(sent))).await?;
        let headers = Accepted::of(response.metadata());
        let mut answers = response.into_inner();
        let first = within(answers.message()).await?.unwrap().message;
        let Some(Said::Accepted(accepted)) = first else {
            panic!("not accepted first: {first:?}")
        };
        assert_eq!(headers.batch_id, accepted.batch_id);
        Ok(Self {
            requests: Some(requests),
            answers,
            headers,
            accepted,
            results: Vec::new(),
            over: None,
        })
    }

    /// Sends anything; nobody may be listening any more.
    pub(crate) async fn send(&self, message: Asked) {
        let requests = self.requests.as_ref().expect("it was not half-closed");
        drop(within(requests.send(asked(message))).await);
    }

    /// Sends items from index `first` on.
    pub(crate) async fn items(&self, first: u64, items: Vec<ItemSpec>) {
        let items = StreamItems {
            first_index: first,
            items,
        };
        self.send(Asked::Items(items)).await;
    }

    /// Says that these were all.
    pub(crate) async fn finish(&self, total_items: u64) {
        self.send(Asked::Finish(StreamFinish { total_items })).await;
    }

    /// Ends the requests without a finish.
    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// Reads until that many items are durable.
    pub(crate) async fn durable(&mut self, items: u64) {
        self.until(|said| matches!(said, Said::Ack(durable) if durable.accepted_items >= items))
            .await;
    }

    /// Reads until the server says that what was sent waits for room, and why.
    pub(crate) async fn waits_for_room(&mut self) -> (String, String) {
        let waiting = within(async {
            loop {
                let said = self.read().await.unwrap().expect("one more answer");
                if let Said::Ack(durable) = said
                    && let Some(waiting) = durable.waiting
                {
                    return waiting;
                }
            }
        });
        let waiting = waiting.await;
        (waiting.reason, waiting.message)
    }

    /// Reads until the finish is durable.
    pub(crate) async fn sealed(&mut self) {
        self.until(|said| match said {
            Said::Ack(durable) => durable.sealed,
            Said::Ended(_) => true,
            Said::Accepted(_) | Said::Result(_) | Said::Progress(_) => false,
        })
        .await;
    }

    /// Reads until there are that many results.
    pub(crate) async fn has_results(&mut self, count: usize) {
        while self.results.len() < count {
            self.read().await.unwrap().expect("one more answer");
        }
    }

    /// Reads to the batch's end.
    pub(crate) async fn ended(mut self) -> (Batch, Vec<ItemResult>) {
        // All of it, because signs of life come without end.
        within(async { while self.read().await.unwrap().is_some() {} }).await;
        let batch = self.over.expect("the last answer says ended");
        (batch, self.results)
    }

    /// Reads to the error that ends the call.
    pub(crate) async fn failed(&mut self) -> Status {
        loop {
            match self.read().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without an error"),
                Err(status) => return status,
            }
        }
    }

    async fn until(&mut self, is_it: impl Fn(&Said) -> bool) {
        within(async {
            loop {
                let said = self.read().await.unwrap().expect("one more answer");
                if is_it(&said) {
                    return;
                }
            }
        })
        .await;
    }

    async fn read(&mut self) -> Result<Option<Said>, Status> {
        let answer = within(self.answers.message()).await?;
        let said = answer.map(|answer| answer.message.unwrap());
        match &said {
            Some(Said::Result(result)) => self.results.push(result.clone()),
            // It may come before the word that the finish is durable, and instead of it.
            Some(Said::Ended(ended)) => self.over.clone_from(&ended.batch),
            Some(Said::Accepted(_) | Said::Ack(_) | Said::Progress(_)) | None => {}
        }
        Ok(said)
    }
}
