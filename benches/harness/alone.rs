//! The store alone: the keeper's public verbs in this process, without server, engine or wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sooner::base::tasks::Tasks;
use sooner::base::{clock, entropy};
use sooner::domain::attempt::{ItemError, Reason};
use sooner::domain::batch::Batch;
use sooner::domain::fingerprint::fingerprint;
use sooner::domain::ids::{BatchUid, QueueName, Tenant};
use sooner::domain::item::{Ending, ItemSpec};
use sooner::domain::payload::Payload;
use sooner::domain::settings::{BatchOptions, OnDisconnect, UploadTerms};
use sooner::store::{
    Charge, Content, Created, Lease, LeaseEnd, NewBatch, Settlement, Store, StoreOptions,
};
use tempfile::TempDir;

/// Items of one append, as an upload sends them.
const APPEND_ITEMS: usize = 1000;

/// Groups that the leases in flight are held in, so that one is computed while another is committed.
const LANES: usize = 4;

/// Batches that are created at once, so that many share a commit.
const CREATES_AT_ONCE: usize = 512;

/// How often the server may die under an item; it does not here.
const CRASHES_MAX: u32 = 3;

/// What is put through a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many items.
    pub(crate) items: usize,
    /// Bytes of each input and each output.
    pub(crate) bytes: usize,
    /// How many are leased at once.
    pub(crate) in_flight: usize,
}

/// A store in a directory of its own.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) store: Store,
    _dir: TempDir,
}

impl Alone {
    /// An empty store.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let store = open(&dir.path().join("data"));
        Self { store, _dir: dir }
    }

    /// Appends and finishes items, both as fast as it goes; answers how long it took.
    pub(crate) async fn run(&self, tasks: &Tasks, load: Load) -> Duration {
        let began = clock::instant();
        let appending = {
            let store = self.store.clone();
            tasks.spawn(async move { append(&store, load).await })
        };
        finish(&self.store, tasks, load).await;
        appending.await.expect("appending does not panic");
        clock::instant().duration_since(began)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.store.close();
    }
}

/// The store of a directory.
pub(crate) fn open(data_dir: &std::path::Path) -> Store {
    let options = StoreOptions::new(data_dir.to_owned());
    Store::open(&options).expect("the store can be opened").0
}

/// A batch that takes items.
pub(crate) async fn open_batch(store: &Store) -> Batch {
    create(store, Content::Appended(UploadTerms::default())).await
}

/// Creates so many batches of one item each, some hundred at once.
pub(crate) async fn create_many(store: &Store, tasks: &Tasks, count: usize) {
    let left = Arc::new(AtomicUsize::new(count));
    let lanes = (0..CREATES_AT_ONCE).map(|_| {
        let (store, left) = (store.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let one = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one)
                .is_ok()
            {
                create(&store, Content::Whole(vec![ItemSpec::default()])).await;
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("creating does not panic");
    }
}

async fn create(store: &Store, content: Content) -> Batch {
    let options = BatchOptions::default();
    let new = NewBatch {
        tenant: Tenant::default(),
        id: None,
        request_id: None,
        uid: BatchUid(entropy::uuid()),
        queue: QueueName::default(),
        fingerprint: fingerprint(None, &options, &[]),
        options,
        on_disconnect: OnDisconnect::Continue,
        content,
    };
    match store.create_batch(new).await.expect("it is stored") {
        Created::New(batch) | Created::Existing(batch) => batch,
    }
}

/// Appends a batch in pieces and seals it.
pub(crate) async fn append(store: &Store, load: Load) -> Batch {
    let batch = open_batch(store).await;
    let item = ItemSpec {
        input: Payload::data(vec![b'i'; load.bytes]),
        ..ItemSpec::default()
    };
    let mut first = 0;
    while first < load.items {
        let count = APPEND_ITEMS.min(load.items - first);
        let items = Arc::new(vec![item.clone(); count]);
        let at = u32::try_from(first).expect("a batch counts in 32 bits");
        let appended = store.append_items(batch.head.no, at, items).await;
        appended.expect("it is stored");
        first += count;
    }
    let total = u32::try_from(load.items).expect("a batch counts in 32 bits");
    let sealed = store.seal(batch.head.no, total).await;
    sealed.expect("it is stored")
}

/// Leases and finishes items until `load` is done.
pub(crate) async fn finish(store: &Store, tasks: &Tasks, load: Load) {
    let output = Payload::data(vec![b'o'; load.bytes]);
    settle_all(store, tasks, load, move |lease| done(lease, output.clone())).await;
}

/// Leases items and lets each fail for good, until `load` is done.
pub(crate) async fn fail(store: &Store, tasks: &Tasks, load: Load) {
    let fails = |lease: &Lease| {
        let error = ItemError::of(Reason::ITEM_TIMEOUT, "it took too long");
        Settlement {
            end: LeaseEnd::Finish(Ending::Failed(error)),
            ..done(lease, Payload::default())
        }
    };
    settle_all(store, tasks, load, fails).await;
}

/// Leases items and lets each wait for its next attempt, until `load` waits.
pub(crate) async fn put_off(store: &Store, tasks: &Tasks, load: Load, wait: Duration) {
    let again = move |lease: &Lease| {
        let error = ItemError::of(Reason::ITEM_TIMEOUT, "it took too long");
        let end = LeaseEnd::Release {
            due: clock::now().plus(wait),
            error,
            charge: Charge::Attempt,
        };
        Settlement {
            end,
            ..done(lease, Payload::default())
        }
    };
    settle_all(store, tasks, load, again).await;
}

async fn settle_all(
    store: &Store,
    tasks: &Tasks,
    load: Load,
    ended: impl Fn(&Lease) -> Settlement + Clone + Send + Sync + 'static,
) {
    let left = Arc::new(AtomicUsize::new(load.items));
    let lanes = (0..LANES).map(|_| {
        let (store, left, ended) = (store.clone(), Arc::clone(&left), ended.clone());
        tasks.spawn(async move {
            let want = load.in_flight.div_ceil(LANES);
            while left.load(Ordering::Relaxed) > 0 {
                let leases = lease(&store, want).await;
                if leases.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let settlements = leases.iter().map(&ended).collect();
                let verdicts = store.settle(settlements).await.expect("it is stored");
                left.fetch_sub(verdicts.len(), Ordering::Relaxed);
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("finishing does not panic");
    }
}

/// Up to `want` leases of the default queue.
pub(crate) async fn lease(store: &Store, want: usize) -> Vec<Lease> {
    let leased = store.lease(&QueueName::default(), want, CRASHES_MAX).await;
    leased.expect("the store is open").leases
}

/// The success of a lease.
pub(crate) fn done(lease: &Lease, output: Payload) -> Settlement {
    Settlement {
        token: lease.token,
        head: Arc::clone(&lease.head),
        id: None,
        end: LeaseEnd::Finish(Ending::Succeeded(output)),
        finish_by: None,
        spent: lease.spent + 1,
        worker: "local".into(),
        queued: lease.granted.since(lease.ready_since),
        started: lease.granted,
        ran: Duration::ZERO,
    }
}

/// One commit after a silence, again and again: what a single result costs when nothing else is
/// going on.
#[derive(Debug)]
pub(crate) struct IdleCommits {
    alone: Alone,
    leases: Vec<Lease>,
    bytes: usize,
}

impl IdleCommits {
    /// A store with so many commits to come.
    pub(crate) async fn new(count: usize, bytes: usize) -> Self {
        let alone = Alone::new();
        let load = Load {
            items: count,
            bytes,
            in_flight: count,
        };
        append(&alone.store, load).await;
        let leases = lease(&alone.store, count).await;
        assert_eq!(leases.len(), count, "all items are due");
        Self {
            alone,
            leases,
            bytes,
        }
    }

    /// How long the next one takes. The caller has kept silent before.
    pub(crate) async fn next(&mut self) -> Duration {
        let lease = self.leases.pop().expect("there is one for each call");
        let done = done(&lease, Payload::data(vec![b'o'; self.bytes]));
        let began = clock::instant();
        let settled = self.alone.store.settle(vec![done]).await;
        settled.expect("it is stored");
        clock::instant().duration_since(began)
    }
}
