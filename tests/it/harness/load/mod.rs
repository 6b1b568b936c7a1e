//! A load of seeded clients that go on through crashes and note all they see.
//!
//! What a client does is drawn from the seed. When it happens is up to the machine, so a seed brings
//! a run back only roughly.

mod client;
mod plan;
mod redriver;
mod settle;
mod uploader;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::client::LoadClient;
pub(crate) use self::plan::{Dice, seed, setup};
use super::history::{Execution, Facts, Guarantees, History, Hits, Submit};
use super::{Server, ServerSetup};

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    lives: watch::Sender<Option<Life>>,
    stop: CancellationToken,
    clients: Vec<JoinHandle<()>>,
}

/// A life of the server, as clients find it.
#[derive(Clone, Debug)]
struct Life {
    number: usize,
    address: String,
}

/// What the clients of a load share.
#[derive(Debug)]
struct Shared {
    history: History,
    /// Where handlers note their executions.
    executions: PathBuf,
    /// What was submitted, with the batch id if it is known, and whether its end was seen.
    submitted: Mutex<Vec<Submitted>>,
}

#[derive(Clone, Debug)]
struct Submitted {
    submit: Arc<Submit>,
    batch_id: Option<String>,
    /// How many items of an upload were told to be durable, and whether it takes no more.
    durable: u64,
    sealed: bool,
    ended: bool,
}

/// An accepted batch.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    submit: Arc<Submit>,
    /// Items that must be there.
    items: u64,
    /// Whether it will end by itself.
    sealed: bool,
    ended: bool,
}

/// How much a load does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub(crate) clients: usize,
    /// What each client does before it leaves.
    pub(crate) actions: usize,
}

impl Load {
    /// Starts clients; they wait for a server.
    pub(crate) fn start(setup: &ServerSetup, seed: u64, volume: Volume) -> Self {
        let shared = Arc::new(Shared {
            history: History::default(),
            executions: setup.path("executions"),
            submitted: Mutex::default(),
        });
        let (lives, _) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut dice = Dice::new(seed);
        let clients = (0..volume.clients).map(|number| {
            let dice = Dice::new(dice.next());
            let client = LoadClient::new(number, dice, Arc::clone(&shared), lives.subscribe());
            let stopped = stop.clone().cancelled_owned();
            tokio::spawn(async move {
                tokio::select! {
                    () = stopped => {}
                    () = client.act(volume.actions) => {}
                }
            })
        });
        let clients = clients.collect();
        Self {
            shared,
            lives,
            stop,
            clients,
        }
    }

    /// Lets the clients find a server.
    pub(crate) fn serve(&self, server: &Server) {
        let number = self.shared.history.started(server.pid());
        let address = server.address().to_owned();
        self.lives.send_replace(Some(Life { number, address }));
    }

    /// Notes that the server is gone.
    pub(crate) fn died(&self) {
        self.shared.history.died();
    }

    /// Waits until the clients have done what they came for.
    pub(crate) async fn finish(&mut self) {
        while let Some(client) = self.clients.last_mut() {
            client.await.unwrap();
            self.clients.pop();
        }
    }

    /// Sends the clients away in the middle of what they do.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.finish().await;
    }

    /// What the clients saw.
    pub(crate) fn history(&self) -> &History {
        &self.shared.history
    }

    /// What the handlers noted.
    pub(crate) fn executions(&self) -> Vec<Execution> {
        Execution::read(&self.shared.executions)
    }

    /// Fails the test if the history breaks a promise. Answers how often it met what it is for.
    pub(crate) fn assert_holds(&self, guarantees: Guarantees) -> Hits {
        self.history().assert_holds(&self.executions(), guarantees);
        Facts::of(&self.history().events()).hits()
    }
}

impl Shared {
    /// Notes a submit that is about to be sent.
    fn note(&self, submit: &Arc<Submit>) {
        let mut submitted = self.submitted.lock().unwrap();
        if !submitted.iter().any(|it| it.submit == *submit) {
            let submit = Arc::clone(submit);
            submitted.push(Submitted {
                submit,
                batch_id: None,
                durable: 0,
                sealed: false,
                ended: false,
            });
        }
    }

    /// Notes what became of it.
    fn update(&self, submit: &Submit, change: impl FnOnce(&mut Submitted)) {
        let mut submitted = self.submitted.lock().unwrap();
        if let Some(known) = submitted.iter_mut().find(|it| *it.submit == *submit) {
            change(known);
        }
    }

    /// Accepted batches, with their ids.
    fn accepted(&self) -> Vec<Known> {
        let submitted = self.submitted.lock().unwrap();
        let accepted = submitted.iter().filter_map(|it| {
            let (id, submit) = (it.batch_id.clone()?, Arc::clone(&it.submit));
            let (items, sealed) = if submit.uploaded {
                (it.durable, it.sealed)
            } else {
                (submit.items.len() as u64, true)
            };
            Some(Known {
                id,
                submit,
                items,
                sealed,
                ended: it.ended,
            })
        });
        accepted.collect()
    }
}
