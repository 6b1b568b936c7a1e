//! The end of a load: every submit's outcome is learned, and every batch is read to its end by
//! clients that have seen nothing before.

use std::sync::{Arc, Mutex};

use tokio::time::{Instant, timeout_at};

use super::super::PATIENCE;
use super::super::history::{Facts, Submit};
use super::client::{Follow, LoadClient, Told};
use super::plan::Dice;
use super::uploader::Zeal;
use super::{Known, Load, Shared};

/// Readers at once.
const READERS: usize = 4;

/// The number of a client that comes for a single thing.
const PROBE: usize = 99;

/// What is left to be done.
#[derive(Debug)]
enum Errand {
    /// To learn what became of a submit.
    Learn(Arc<Submit>),
    /// To read a batch and its items.
    Read(String, Arc<Submit>),
    /// To see that a batch which was refused is not there.
    Miss(String),
}

impl Load {
    /// Reads all there is from a server that is not going to die.
    pub(crate) async fn settle(&self) {
        let events = self.history().events();
        let facts = Facts::of(&events);
        let learn = facts.in_doubt().into_iter().map(Errand::Learn);
        let miss = facts.turned_away().into_iter().map(Errand::Miss);
        let errands = learn.chain(miss).collect();
        self.run(errands).await;
        let accepted = self.shared.accepted().into_iter();
        let read = accepted.map(|known| Errand::Read(known.id, known.submit));
        self.run(read.collect()).await;
    }

    /// Submits new batches until one is refused. Answers with which reason.
    pub(crate) async fn submit_until_refused(&self) -> String {
        let mut client = self.fresh_client(PROBE);
        let mut dice = Dice::new(self.shared.submitted.lock().unwrap().len() as u64);
        loop {
            let key = format!("probe-{}", dice.next());
            let submit = dice.submit(key);
            if let Told::Refused(reason) = client.submit(&submit, Follow::No).await {
                return reason;
            }
        }
    }

    /// Looks at every accepted batch. Answers how many there are.
    pub(crate) async fn look_at_accepted(&self) -> usize {
        let mut client = self.fresh_client(PROBE);
        let accepted = self.shared.accepted();
        for Known { id, .. } in &accepted {
            assert!(
                client.look_at_batch(id, 0).await,
                "{id} cannot be looked at"
            );
        }
        accepted.len()
    }

    async fn run(&self, errands: Vec<Errand>) {
        let errands = Arc::new(Mutex::new(errands));
        let readers = (0..READERS).map(|number| {
            let client = self.fresh_client(number);
            tokio::spawn(do_all(client, Arc::clone(&errands)))
        });
        let until = Instant::now() + PATIENCE;
        for mut reader in readers.collect::<Vec<_>>() {
            match timeout_at(until, &mut reader).await {
                Ok(read) => read.unwrap(),
                // What is not over by now is found by the checker.
                Err(_) => reader.abort(),
            }
        }
    }

    fn fresh_client(&self, number: usize) -> LoadClient {
        let shared: Arc<Shared> = Arc::clone(&self.shared);
        let dice = Dice::new(number as u64);
        LoadClient::new(number, dice, shared, self.lives.subscribe())
    }
}

async fn do_all(mut client: LoadClient, errands: Arc<Mutex<Vec<Errand>>>) {
    loop {
        let errand = errands.lock().unwrap().pop();
        match errand {
            Some(Errand::Learn(submit)) if submit.uploaded => {
                client.upload(&submit, Zeal::Whole).await;
            }
            Some(Errand::Learn(submit)) => drop(client.submit(&submit, Follow::No).await),
            Some(Errand::Read(id, submit)) => {
                let mut items = submit.items.len();
                if submit.uploaded {
                    items = client.upload_whole(&submit).await;
                }
                client.watch(&id, &submit, u64::MAX).await;
                client.look_at_batch(&id, 0).await;
                for index in 0..items {
                    client.look_at_item(&id, &submit.item_id(index), 0).await;
                }
            }
            Some(Errand::Miss(id)) => drop(client.look_at_batch(&id, 0).await),
            None => return,
        }
    }
}
