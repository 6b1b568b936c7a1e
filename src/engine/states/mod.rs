//! What becomes of an item and of a batch at each event, in each state: the tables of `docs/states.md`,
//! computed with the store and the attempts of the server, and compared.
//!
//! What waits or runs meets every event twice, live and after the store was closed and opened in
//! between, and what has changed must be the same after another restart.

mod batches;
mod items;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::attempt::Executor;
use super::{Attempt, Handler, QueueSettings};
use crate::base::clock::{self, Timestamp};
use crate::base::limits;
use crate::base::metrics::Metrics;
use crate::domain::attempt::Outcome;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{QueueName, Sequence};
use crate::domain::item::ItemSpec;
use crate::domain::retry::RetrySettings;
use crate::domain::settings::{BatchOptions, UploadTerms};
use crate::store::conformance::{new_batch, open};
use crate::store::item_ends::{in_time, until};
use crate::store::{Content, Created, Lease, Settlement, Store, Verdict};

/// Long over: whatever waits for it is due.
const PAST: Timestamp = Timestamp(1);

/// How long one meeting may take before it is given up. Never asserted on.
const PATIENCE: Duration = Duration::from_secs(60);

/// A handler that ends with what it is told to, or never.
#[derive(Clone, Debug)]
struct Scripted(Option<Outcome>);

#[async_trait]
impl Handler for Scripted {
    async fn handle(&self, _: Attempt) -> Outcome {
        match self.0.clone() {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}

/// A store with one batch, and the leases on its items.
struct World {
    dir: TempDir,
    store: Store,
    batch: Batch,
    leases: Vec<Lease>,
}

impl World {
    /// A batch of these items: submitted whole, or uploaded so far.
    async fn new(options: BatchOptions, items: Vec<ItemSpec>, upload: Option<UploadTerms>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let (content, rest) = match upload {
            None => (Content::Whole(items), Vec::new()),
            Some(terms) => (Content::Appended(terms), items),
        };
        let mut new = new_batch(Some("b"), None, content);
        new.options = options;
        let Created::New(batch) = store.create_batch(new).await.unwrap() else {
            panic!("it is new")
        };
        if !rest.is_empty() {
            let appended = store.append_items(batch.head.no, 0, rest.into());
            appended.await.unwrap();
        }
        let leases = Vec::new();
        Self {
            dir,
            store,
            batch,
            leases,
        }
    }

    /// The process dies, and another one goes on.
    fn die(&mut self) {
        self.leases.clear();
        self.store.close();
        self.store = open(&self.dir);
    }

    /// Takes what is due.
    async fn lease(&mut self, want: usize) {
        let leased = self.store.lease(&QueueName::default(), want, 3).await;
        self.leases.extend(leased.unwrap().leases);
    }

    async fn settle(&self, settlement: Settlement) -> Verdict {
        self.store.settle(vec![settlement]).await.unwrap()[0]
    }

    /// Runs a lease's attempt to its end, beside what happens meanwhile.
    async fn run(&self, lease: Lease, outcome: Option<Outcome>, halt: CancellationToken) {
        let metrics = Arc::new(Metrics::new());
        let retry = RetrySettings {
            initial_backoff: Some(Duration::ZERO),
            ..RetrySettings::default()
        };
        let handler: Arc<dyn Handler> = Arc::new(Scripted(outcome));
        let executor = Executor {
            handler: Arc::clone(&handler),
            settings: QueueSettings {
                handler: Some(handler),
                slots: 1,
                item_timeout: Duration::from_secs(600),
                retry,
                rate: None,
            },
            halt,
            input_bytes_max: limits::INPUT_BYTES_MAX,
            output_bytes_max: limits::OUTPUT_BYTES_MAX,
            queue_metrics: metrics.queue("default"),
            metrics,
        };
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let settlement = executor.run(lease, &Arc::new(slot)).await;
        self.settle(settlement).await;
    }

    /// The batch as it stands.
    async fn batch(&self) -> Batch {
        let page = self.store.read_log(self.batch.head.no, Sequence(0)).await;
        page.unwrap().batch
    }

    /// The batch once no record of it is on its way any more: it is over, or waits for its leases.
    async fn calm(&self) -> Batch {
        loop {
            let batch = self.batch().await;
            let left = batch.total - batch.tally.terminal() - batch.running;
            if batch.state != BatchState::Cancelling || (left == 0 && batch.running > 0) {
                return batch;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// What comes of a meeting, which must not take for ever.
async fn patiently<T>(meeting: impl Future<Output = T>, what: &str) -> T {
    let came = tokio::time::timeout(PATIENCE, meeting).await;
    came.unwrap_or_else(|_| panic!("{what}: nothing came of it"))
}

/// Compares a table with the one that the docs show under a heading.
fn assert_shown(heading: &str, head: &[&str], rows: &[Vec<String>]) {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> = cells.collect();
        format!("| {} |", cells.join(" | "))
    };
    let mut table = vec![
        line(&mut head.iter().copied()),
        format!("|{}", "---|".repeat(head.len())),
    ];
    table.extend(rows.iter().map(|row| line(&mut row.iter().map(|it| &**it))));
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/states.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find(|it| it.starts_with(heading));
    let section = section.expect("the docs have this heading").lines();
    let shown: Vec<_> = section.filter(|line| line.starts_with('|')).collect();
    assert_eq!(shown, table, "\n{}\n", table.join("\n"));
}
