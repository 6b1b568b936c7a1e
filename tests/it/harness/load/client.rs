//! A client of a load: what it does next, and how it reads and notes the answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sooner::wire::{
    CancelBatchRequest, GetBatchRequest, GetItemRequest, WatchBatchRequest,
    watch_batch_response::Message,
};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Status};

use super::super::client::Stub;
use super::super::history::{Answer, Asked, Call, Execution, Seen, Submit};
use super::super::within;
use super::plan::Dice;
use super::uploader::Zeal;
use super::{Known, Life, Shared};

/// Batches that are not over at once, so that a settle does not take for ever.
const OPEN_MAX: usize = 10;

/// A client with a connection of its own.
#[derive(Debug)]
pub(super) struct LoadClient {
    number: usize,
    pub(super) dice: Dice,
    pub(super) shared: Arc<Shared>,
    lives: watch::Receiver<Option<Life>>,
    connection: Option<(usize, Stub)>,
    /// The newest life that is known to be over.
    over: usize,
    /// How far it has read each batch.
    pub(super) cursors: HashMap<String, u64>,
    submits: usize,
}

/// What a submit came to.
#[derive(Debug)]
pub(super) enum Told {
    Accepted,
    /// Nothing was stored, for this reason.
    Refused(String),
}

/// Whether a submit's results are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Perhaps,
    No,
}

impl LoadClient {
    pub(super) fn new(
        number: usize,
        dice: Dice,
        shared: Arc<Shared>,
        lives: watch::Receiver<Option<Life>>,
    ) -> Self {
        Self {
            number,
            dice,
            shared,
            lives,
            connection: None,
            over: 0,
            cursors: HashMap::new(),
            submits: 0,
        }
    }

    /// Does so many things, one after the other.
    pub(super) async fn act(mut self, actions: usize) {
        for _ in 0..actions {
            let accepted = self.shared.accepted();
            let open: Vec<_> = accepted.iter().filter(|known| !known.ended).collect();
            if open.len() >= OPEN_MAX {
                let oldest = open[0].clone();
                self.read_on(&oldest, u64::MAX).await;
                continue;
            }
            // Old batches are dull: mostly the newest are asked about.
            let newest = &accepted[accepted.len().saturating_sub(12)..];
            let known = self.dice.choose(newest).cloned();
            match (self.dice.within(1, 100), known) {
                (1..=10, _) => self.submit_again().await,
                (11..=18, _) => {
                    let key = self.next_key();
                    let submit = self.dice.upload(key);
                    self.upload(&submit, Zeal::Cut).await;
                }
                (19..=28, _) => {
                    let uploads = open.iter().filter(|known| !known.sealed);
                    let uploads: Vec<_> = uploads.map(|known| &known.submit).collect();
                    if let Some(submit) = self.dice.choose(&uploads) {
                        self.upload(submit, Zeal::Cut).await;
                    }
                }
                (41..=62, Some(known)) => {
                    let most = if self.dice.hits(40) {
                        u64::MAX
                    } else {
                        self.dice.within(1, 9)
                    };
                    self.read_on(&known, most).await;
                }
                (
                    63..=76,
                    Some(Known {
                        id, submit, items, ..
                    }),
                ) if items > 0 => {
                    let wait = self.dice.within(0, 40);
                    let index = self.dice.within(0, items - 1);
                    let item = submit.item_id(usize::try_from(index).unwrap());
                    self.look_at_item(&id, &item, wait).await;
                }
                (77..=88, Some(known)) => {
                    let wait = self.dice.within(0, 40);
                    self.look_at_batch(&known.id, wait).await;
                }
                (89..=95, Some(known)) => self.cancel(&known).await,
                _ => {
                    let key = self.next_key();
                    let submit = self.dice.submit(key);
                    self.submit(&submit, Follow::Perhaps).await;
                }
            }
        }
    }

    fn next_key(&mut self) -> String {
        self.submits += 1;
        format!("b{}-{}", self.number, self.submits)
    }

    /// Reads a batch, or goes on with its upload: unsealed it would not end.
    async fn read_on(&mut self, known: &Known, most: u64) {
        if known.sealed {
            self.watch(&known.id, &known.submit, most).await;
        } else {
            self.upload(&known.submit, Zeal::Whole).await;
        }
    }

    /// The stub of the server that lives, once there is one.
    async fn stub(&mut self) -> (usize, Stub) {
        loop {
            let life = self.lives.borrow_and_update().clone();
            if let Some(life) = life
                && life.number > self.over
            {
                match &self.connection {
                    Some((number, stub)) if *number == life.number => {
                        return (life.number, stub.clone());
                    }
                    _ => match connect(&life.address).await {
                        Ok(stub) => self.connection = Some((life.number, stub)),
                        Err(_) => self.over = life.number,
                    },
                }
            } else if self.lives.changed().await.is_err() {
                // The load is gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Notes a call and answers what to send it with.
    pub(super) async fn ask(&mut self, asked: Asked) -> (Call, Stub) {
        let (life, stub) = self.stub().await;
        (self.shared.history.sent(life, asked), stub)
    }

    pub(super) fn came(&self, call: Call, answer: Answer) {
        self.shared.history.came(call, answer);
    }

    /// Notes an error. Answers the server's reason, if it is the server that said it.
    pub(super) fn failed(&mut self, call: Call, status: &Status) -> Option<String> {
        let answer = Answer::of(status);
        let reason = if let Answer::Refused(_, reason) = &answer {
            Some(reason.clone())
        } else {
            None
        };
        self.came(call, answer);
        // Those codes are of a server that is about to end: the next one is waited for.
        let ends = matches!(status.code(), Code::Aborted | Code::Unavailable)
            && reason.as_deref() != Some("UPLOAD_SUPERSEDED");
        if ends || reason.is_none() {
            self.over = self.connection.take().map_or(self.over, |(life, _)| life);
        }
        reason
    }

    /// Submits until the outcome is known, across crashes. Reads some results, or all.
    pub(super) async fn submit(&mut self, submit: &Arc<Submit>, follow: Follow) -> Told {
        self.shared.note(submit);
        loop {
            let (call, mut stub) = self.ask(Asked::Submit(Arc::clone(submit))).await;
            let sent = if follow == Follow::Perhaps && self.dice.hits(60) {
                let sent = within(stub.submit_batch(submit.submit_request())).await;
                sent.map(|response| {
                    let header = |name| response.metadata().get(name).unwrap().to_str().unwrap();
                    let (id, uid) = (header("sooner-batch-id"), header("sooner-batch-uid"));
                    let created = header("sooner-batch-created") == "true";
                    (
                        id.to_owned(),
                        uid.to_owned(),
                        created,
                        Some(response.into_inner()),
                    )
                })
            } else {
                let sent = within(stub.create_batch(submit.create_request())).await;
                sent.map(|response| {
                    let response = response.into_inner();
                    let batch = response.batch.unwrap();
                    (batch.batch_id, batch.batch_uid, response.created, None)
                })
            };
            match sent {
                Ok((id, uid, created, stream)) => {
                    self.came(call, Answer::Accepted(id.clone(), uid, created));
                    self.shared
                        .update(submit, |it| it.batch_id = Some(id.clone()));
                    if let Some(stream) = stream {
                        self.read_submit(call, submit, stream).await;
                    }
                    return Told::Accepted;
                }
                Err(status) => {
                    // What is unknown is sent again, to the next life.
                    if let Some(reason) = self.failed(call, &status)
                        && status.code() != Code::Aborted
                    {
                        return Told::Refused(reason);
                    }
                }
            }
        }
    }

    async fn read_submit(
        &mut self,
        call: Call,
        submit: &Submit,
        mut stream: tonic::Streaming<sooner::wire::ItemResult>,
    ) {
        let most = if self.dice.hits(70) {
            u64::MAX
        } else {
            self.dice.within(0, 9)
        };
        for _ in 0..most {
            match within(stream.message()).await {
                Ok(Some(result)) => {
                    self.cursors
                        .insert(result.batch_id.clone(), result.sequence);
                    self.came(call, Answer::Result(Seen::of(result)));
                }
                Ok(None) => {
                    self.came(call, Answer::Over);
                    return self.shared.update(submit, |it| it.ended = true);
                }
                Err(status) => {
                    self.failed(call, &status);
                    return;
                }
            }
        }
    }

    /// Sends a submit again that someone has sent before, or other content under its key.
    async fn submit_again(&mut self) {
        let submitted = self.shared.submitted.lock().unwrap().clone();
        let newest = &submitted[submitted.len().saturating_sub(12)..];
        if let Some(known) = self.dice.choose(newest) {
            let altered = self.dice.hits(30);
            let submit = &known.submit;
            if submit.uploaded && !altered {
                self.upload(submit, Zeal::Cut).await;
                return;
            }
            let submit = if altered {
                submit.altered()
            } else {
                Arc::clone(submit)
            };
            self.submit(&submit, Follow::Perhaps).await;
        }
    }

    /// Reads on from where this client was, at most so many results. Answers whether it saw the end.
    pub(super) async fn watch(&mut self, id: &str, submit: &Submit, most: u64) -> bool {
        let from_start = self.dice.hits(30);
        let cursor = self.cursors.get(id).copied().unwrap_or_default();
        let after = if from_start { 0 } else { cursor };
        let (call, mut stub) = self.ask(Asked::Watch(id.to_owned(), after)).await;
        let request = WatchBatchRequest {
            batch_id: id.to_owned(),
            after_sequence: after,
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..WatchBatchRequest::default()
        };
        let mut stream = match within(stub.watch_batch(request)).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.failed(call, &status);
                return false;
            }
        };
        let mut read = 0;
        while read < most {
            let message = match within(stream.message()).await {
                Ok(Some(response)) => response.message.unwrap(),
                Ok(None) => {
                    self.came(call, Answer::Over);
                    self.shared.update(submit, |it| it.ended = true);
                    return true;
                }
                Err(status) => {
                    self.failed(call, &status);
                    return false;
                }
            };
            let answer = match message {
                Message::Attached(attached) => Answer::Attached(Box::new(attached.batch.unwrap())),
                Message::Result(result) => {
                    read += 1;
                    self.cursors.insert(id.to_owned(), result.sequence);
                    Answer::Result(Seen::of(result))
                }
                Message::Progress(progress) => {
                    Answer::Progress(progress.last_sequence, progress.counts.unwrap())
                }
                Message::Ended(ended) => Answer::Ended(Box::new(ended.batch.unwrap())),
            };
            self.came(call, answer);
        }
        false
    }

    /// Asks for a batch. Answers whether it is there.
    pub(super) async fn look_at_batch(&mut self, id: &str, wait_millis: u64) -> bool {
        let (call, mut stub) = self.ask(Asked::GetBatch(id.to_owned())).await;
        let wait = Some(Duration::from_millis(wait_millis).try_into().unwrap());
        let request = GetBatchRequest {
            batch_id: id.to_owned(),
            wait,
        };
        match within(stub.get_batch(request)).await {
            Ok(response) => {
                let batch = response.into_inner().batch.unwrap();
                self.came(call, Answer::Batch(Box::new(batch)));
                true
            }
            Err(status) => {
                self.failed(call, &status);
                false
            }
        }
    }

    pub(super) async fn look_at_item(&mut self, id: &str, item: &str, wait_millis: u64) {
        let asked = Asked::GetItem(id.to_owned(), item.to_owned());
        let (call, mut stub) = self.ask(asked).await;
        let request = GetItemRequest {
            batch_id: id.to_owned(),
            item_id: item.to_owned(),
            wait: Some(Duration::from_millis(wait_millis).try_into().unwrap()),
            include_spec: false,
        };
        match within(stub.get_item(request)).await {
            Ok(response) => {
                let item = response.into_inner().item.unwrap();
                self.came(call, Answer::Item(Box::new(item)));
            }
            Err(status) => drop(self.failed(call, &status)),
        }
    }

    /// Cancels a batch or some of its items.
    async fn cancel(&mut self, known: &Known) {
        let Known {
            id, submit, items, ..
        } = known;
        let mut item_ids = Vec::new();
        if self.dice.hits(60) && *items > 0 {
            let mut draw = || usize::try_from(self.dice.within(0, items - 1)).unwrap();
            let ids = (0..4).map(|_| submit.item_id(draw()));
            item_ids = ids.collect();
        }
        let asked = Asked::Cancel(id.clone(), item_ids.clone());
        let (call, mut stub) = self.ask(asked).await;
        let reason = "as the dice said".to_owned();
        let request = CancelBatchRequest {
            batch_id: id.clone(),
            item_ids,
            reason,
        };
        match within(stub.cancel_batch(request)).await {
            Ok(response) => {
                let begun = Execution::count(&self.shared.executions);
                self.came(
                    call,
                    Answer::Cancelled(Box::new(response.into_inner()), begun),
                );
            }
            Err(status) => drop(self.failed(call, &status)),
        }
    }
}

async fn connect(address: &str) -> Result<Stub, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let channel: Channel = within(endpoint.connect()).await?;
    Ok(Stub::new(channel).max_decoding_message_size(16 << 20))
}
