//! A client of a load that has dead letters run again, round after round, and deletes what they were of.
//!
//! It is a tenant with a quota, most of which something else holds: so a redrive waits for room again
//! and again, and a kill meets it there. Every step may be repeated, whatever became of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use sooner::wire::admin_service_client::AdminServiceClient;
use sooner::wire::watch_batch_response::Message;
use sooner::wire::{
    Batch, BatchOptions, BatchState, CancelBatchRequest, CreateBatchRequest, DeleteBatchRequest,
    GetBatchRequest, ItemSpec, ItemState, ListDeadLettersRequest, RedriveDeadLettersRequest,
    WatchBatchRequest,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::super::client::{Stub, reason};
use super::super::{item, within};
use super::{Life, Load};

/// Dead letters of a round: as many as the quota has items.
const LETTERS: usize = 30;

/// What holds most of the quota while they are run again.
const FILL: usize = 24;

const TENANT: &str = "redriver";

/// What the tenant may have, and its queue, for the server's configuration.
pub(super) const CONFIG: &str = "\n[server]\ntrust_tenant_header = true\n[tenants.redriver]\nqueued_items = 30\n\
     [queues.broken]\nhandler = { exec = [\"false\"] }\nslots = 3\nretry = { max_attempts = 1 }\n";

/// The client and what it has seen.
#[derive(Debug)]
pub(crate) struct Redriver {
    rounds: Arc<Mutex<Vec<Round>>>,
    lives: watch::Receiver<Option<Life>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// A batch of dead letters and what has become of them.
#[derive(Clone, Debug, Default)]
struct Round {
    /// The batch that runs them again.
    redriven: Option<String>,
    /// The most items that it was seen to have, and whether it was seen to be over.
    total: u64,
    over: bool,
    /// Whether the old one may have been deleted.
    deleting: bool,
}

/// How a client talks to whichever server lives.
struct Caller {
    lives: watch::Receiver<Option<Life>>,
    rounds: Arc<Mutex<Vec<Round>>>,
    connection: Option<(usize, Stub, AdminServiceClient<Channel>)>,
    /// The newest life that is known to be over.
    over: usize,
}

impl Load {
    /// Starts a redriver beside the clients.
    pub(crate) fn redrive_beside(&self) -> Redriver {
        let (rounds, lives) = (Arc::default(), self.lives.subscribe());
        let stop = CancellationToken::new();
        let mut redriver = Redriver {
            rounds,
            lives,
            stop,
            thread: None,
        };
        let mut caller = redriver.caller();
        let stop = redriver.stop.clone();
        redriver.thread = Some(std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(stop.run_until_cancelled(async {
                loop {
                    let number = caller.rounds.lock().unwrap().len();
                    caller.rounds.lock().unwrap().push(Round::default());
                    caller.round(number).await;
                }
            }));
        }));
        redriver
    }
}

impl Redriver {
    /// Whether letters are being copied, or run, as far as was seen.
    pub(crate) fn is_redriving(&self) -> bool {
        let rounds = self.rounds.lock().unwrap();
        let last = rounds.last();
        last.is_some_and(|round| round.redriven.is_some() && !round.over)
    }

    /// Sends the client away in the middle of what it does.
    pub(crate) fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && let Err(failed) = thread.join()
        {
            std::panic::resume_unwind(failed);
        }
    }

    /// Does what is left of the last round with a server that is not going to die, and looks whether what
    /// was deleted is gone. Answers how many rounds there were.
    pub(crate) async fn settle(&self) -> usize {
        let rounds = self.rounds.lock().unwrap().len();
        let mut caller = self.caller();
        if let Some(last) = rounds.checked_sub(1) {
            caller.round(last).await;
        }
        for number in 0..rounds {
            caller.assert_gone(&old(number)).await;
        }
        rounds
    }

    fn caller(&self) -> Caller {
        Caller {
            lives: self.lives.clone(),
            rounds: Arc::clone(&self.rounds),
            connection: None,
            over: 0,
        }
    }
}

impl Caller {
    /// Goes through a round, or through what is left of it.
    async fn round(&mut self, number: usize) {
        let deleting = self.rounds.lock().unwrap()[number].deleting;
        if !deleting {
            self.create(|| failing(number)).await;
            let failed = self.when_over(&old(number), number).await;
            assert_eq!(failed.counts.unwrap().failed, LETTERS as u64);
            self.create(|| filler(number)).await;
            let new = self.redrive(number).await;
            let over = self.when_over(&new, number).await;
            self.note(number, |round| round.over = true);
            assert_eq!(over.counts.unwrap().failed, LETTERS as u64);
            assert_eq!(over.state(), BatchState::Completed);
            self.assert_each_ran_again_once(number, &new).await;
            let filler = format!("filler-{number}");
            self.cancel(&filler).await;
            self.when_over(&filler, number).await;
        }
        self.delete(number).await;
        self.assert_gone(&old(number)).await;
    }

    async fn create(&mut self, request: impl Fn() -> CreateBatchRequest) {
        let create = async |mut stub: Stub, _| stub.create_batch(of(request())).await;
        if let Err((refused, _)) = self.told(create).await {
            // It was created before, with times of that time.
            assert_eq!(reason(&refused), "BATCH_ID_CONFLICT", "{refused:?}");
        }
    }

    async fn redrive(&mut self, number: usize) -> String {
        let request = RedriveDeadLettersRequest {
            request_id: format!("redrive-{number}"),
            batch_id: old(number),
            ..RedriveDeadLettersRequest::default()
        };
        let redrive = async |_, mut admin: AdminServiceClient<Channel>| {
            admin.redrive_dead_letters(of(request.clone())).await
        };
        let (answer, _) = self.told(redrive).await.expect("it has letters");
        let new = answer.batch.unwrap();
        let before = self.rounds.lock().unwrap()[number].redriven.clone();
        assert!(before.is_none_or(|before| before == new.batch_id));
        self.note(number, |round| round.redriven = Some(new.batch_id.clone()));
        self.see(number, &new);
        new.batch_id
    }

    /// Waits for the end of a batch; of that of a round it notes how it grows.
    async fn when_over(&mut self, id: &str, number: usize) -> Batch {
        loop {
            let request = GetBatchRequest {
                batch_id: id.to_owned(),
                wait: Some(Duration::from_millis(20).try_into().unwrap()),
            };
            let get = async |mut stub: Stub, _| stub.get_batch(of(request.clone())).await;
            let (answer, _) = self.told(get).await.expect("it is there");
            let batch = answer.batch.unwrap();
            self.see(number, &batch);
            if batch.finish_time.is_some() {
                return batch;
            }
        }
    }

    fn see(&self, number: usize, batch: &Batch) {
        let total = batch.counts.unwrap().total;
        self.note(number, |round| {
            if round.redriven.as_ref() == Some(&batch.batch_id) {
                assert!(total >= round.total, "copies are lost: {batch:?}");
                round.total = total;
            }
        });
    }

    async fn assert_each_ran_again_once(&mut self, number: usize, new: &str) {
        let request = ListDeadLettersRequest {
            batch_id: old(number),
            include_redriven: true,
            ..ListDeadLettersRequest::default()
        };
        let list = async |_, mut admin: AdminServiceClient<Channel>| {
            admin.list_dead_letters(of(request.clone())).await
        };
        let (listed, _) = self.told(list).await.expect("its batch is there");
        assert_eq!(listed.dead_letters.len(), LETTERS);
        let mut letters = listed.dead_letters.iter();
        assert!(letters.all(|letter| letter.redriven_to == new));
        let watch = async |stub: Stub, _| results(stub, new).await;
        let (names, _) = self.told(watch).await.expect("it is there");
        let expected: BTreeSet<_> = (0..LETTERS).map(|index| index.to_string()).collect();
        assert_eq!(names, expected);
    }

    async fn cancel(&mut self, id: &str) {
        let request = CancelBatchRequest {
            batch_id: id.to_owned(),
            ..CancelBatchRequest::default()
        };
        let cancel = async |mut stub: Stub, _| stub.cancel_batch(of(request.clone())).await;
        self.told(cancel).await.expect("it is there");
    }

    async fn delete(&mut self, number: usize) {
        let was_deleting = self.rounds.lock().unwrap()[number].deleting;
        self.note(number, |round| round.deleting = true);
        let request = DeleteBatchRequest {
            batch_id: old(number),
        };
        let delete = async |mut stub: Stub, _| stub.delete_batch(of(request.clone())).await;
        if let Err((refused, in_doubt)) = self.told(delete).await {
            assert_eq!(reason(&refused), "BATCH_NOT_FOUND");
            assert!(was_deleting || in_doubt, "nobody else deletes it");
        }
    }

    async fn assert_gone(&mut self, id: &str) {
        let request = GetBatchRequest {
            batch_id: id.to_owned(),
            ..GetBatchRequest::default()
        };
        let get = async |mut stub: Stub, _| stub.get_batch(of(request.clone())).await;
        let (refused, _) = self.told(get).await.expect_err("it was deleted");
        assert_eq!(reason(&refused), "BATCH_NOT_FOUND");
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Round)) {
        change(&mut self.rounds.lock().unwrap()[number]);
    }

    /// Calls until a server has answered; answers, too, whether an earlier one may have done it.
    async fn told<T>(
        &mut self,
        call: impl AsyncFn(Stub, AdminServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<(T, bool), (Status, bool)> {
        let mut in_doubt = false;
        loop {
            let (life, stub, admin) = self.connection().await;
            match within(call(stub, admin)).await {
                Ok(answer) => return Ok((answer.into_inner(), in_doubt)),
                Err(status) => {
                    let ends = matches!(status.code(), Code::Unavailable | Code::Aborted);
                    let is_ours = !reason(&status).is_empty();
                    if is_ours && !ends {
                        return Err((status, in_doubt));
                    }
                    in_doubt = true;
                    (self.over, self.connection) = (life, None);
                }
            }
        }
    }

    /// A connection to the server that lives, once there is one.
    async fn connection(&mut self) -> (usize, Stub, AdminServiceClient<Channel>) {
        loop {
            let life = self.lives.borrow_and_update().clone();
            match (life, &self.connection) {
                (Some(life), Some(known)) if known.0 == life.number => return known.clone(),
                (Some(life), _) if life.number > self.over => {
                    let endpoint = format!("http://{}", life.address);
                    let endpoint = Endpoint::from_shared(endpoint).unwrap();
                    match within(endpoint.connect()).await {
                        Ok(channel) => {
                            let admin = AdminServiceClient::new(channel.clone());
                            self.connection = Some((life.number, Stub::new(channel), admin));
                        }
                        Err(_) => self.over = life.number,
                    }
                }
                _ => within(self.lives.changed()).await.unwrap(),
            }
        }
    }
}

/// The names of a batch's items, read to its end.
async fn results(mut stub: Stub, id: &str) -> Result<tonic::Response<BTreeSet<String>>, Status> {
    let request = WatchBatchRequest {
        batch_id: id.to_owned(),
        ..WatchBatchRequest::default()
    };
    let mut stream = stub.watch_batch(of(request)).await?.into_inner();
    let mut names = BTreeSet::new();
    while let Some(message) = stream.message().await? {
        if let Some(Message::Result(result)) = message.message {
            assert_eq!(result.state(), ItemState::Failed);
            assert!(names.insert(result.item_id), "it ended twice");
        }
    }
    Ok(tonic::Response::new(names))
}

fn old(number: usize) -> String {
    format!("letters-{number}")
}

/// A batch whose items fail, and fail again.
fn failing(number: usize) -> CreateBatchRequest {
    batch(old(number), LETTERS)
}

/// A batch that waits for its time.
fn filler(number: usize) -> CreateBatchRequest {
    let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
    CreateBatchRequest {
        options: Some(BatchOptions {
            not_before: Some(in_an_hour.into()),
            ..BatchOptions::default()
        }),
        ..batch(format!("filler-{number}"), FILL)
    }
}

fn batch(batch_id: String, items: usize) -> CreateBatchRequest {
    CreateBatchRequest {
        batch_id,
        queue: "broken".into(),
        items: (0..items).map(|index| letter(&index.to_string())).collect(),
        ..CreateBatchRequest::default()
    }
}

fn letter(name: &str) -> ItemSpec {
    ItemSpec {
        item_id: name.to_owned(),
        ..item(name)
    }
}

fn of<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let tenant = TENANT.parse().unwrap();
    request.metadata_mut().insert("sooner-tenant", tenant);
    request
}
