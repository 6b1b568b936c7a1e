//! Floor 6: what a Rust program calls. The whole system in its process, with handlers of its own.
//!
//! [`Sooner`] is what `sooner serve` is made of, without a command line: a store, an engine, and
//! the gRPC port if the program wants one. How it is used is told in [`docs`](crate::docs).

mod builder;
mod checks;
mod dead_letters;
mod results;
mod upload;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::builder::{Builder, OpenError, Queue};
use self::results::Place;
pub use self::results::Results;
pub use self::upload::Upload;
use crate::base::limits;
use crate::base::tasks::Tasks;
use crate::config::LimitsConfig;
use crate::domain::batch::Batch;
use crate::domain::ids::{BatchName, QueueName};
use crate::domain::payload::clip;
use crate::engine::{
    BatchList, BatchQuery, CancelCounts, Engine, ItemDetails, ItemList, ItemQuery, Order,
    QueueDetails, Stream, Submission, UploadStart,
};
use crate::error::Result;
use crate::server::{LAST_WORDS, Node, Recovered, Runtimes, Server};

/// A store with an engine on it, and a gRPC server in front if there is one. Clones are handles to
/// the same one.
///
/// A batch is named by its [`BatchId`](crate::BatchId) if it is of tenant `default`, as every batch is
/// that was submitted without [`Submission::with_tenant`]; one of another tenant by its
/// [`BatchName`].
///
/// It brings its own threads: nothing of it runs on the caller's but the methods themselves, which
/// never block, and work in any asynchronous runtime. [`Sooner::close`] ends it in order. If the last
/// handle is dropped without, it ends at once: nothing accepted is lost, what runs then runs again
/// after the next open, uncharged. Such a drop blocks until the store's threads have ended, which is
/// about one commit.
///
/// ```
/// use sooner::{Attempt, ItemError, Queue, Sooner, Submission, handler_fn};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let data = dir.path();
/// let shout = handler_fn(|attempt: Attempt| async move {
///     Ok::<_, ItemError>(attempt.text()?.to_uppercase())
/// });
/// let sooner = Sooner::builder(data).queue("default", Queue::new(shout)).open().await?;
///
/// let mut results = sooner.submit(Submission::new(["one", "two"])).await?;
/// while let Some(result) = results.next().await {
///     let result = result?;
///     println!("{}: {:?}", result.index, result.ending);
/// }
/// sooner.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Sooner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    front: Arc<Front>,
    limits: LimitsConfig,
    drain_grace: Duration,
    io: Tasks,
    /// Fires when streams of results end.
    closing: CancellationToken,
    close_begun: AtomicBool,
    /// Fires when all is closed.
    closed: CancellationToken,
    runtimes: Mutex<Option<Runtimes>>,
}

/// What stands in front of the store.
#[derive(Debug)]
enum Front {
    /// The engine alone.
    Engine(Box<Node>),
    /// The engine behind a port.
    Server(Box<Server>),
}

impl Front {
    fn node(&self) -> &Node {
        match self {
            Self::Engine(node) => node,
            Self::Server(server) => server.node(),
        }
    }

    /// Ends in order.
    async fn close(&self, grace: Duration, closing: &CancellationToken) {
        match self {
            Self::Server(server) => {
                // A store that has failed already is as closed as it can be.
                server.run(std::future::ready(())).await;
            }
            Self::Engine(node) => {
                let failed = node.store_failed();
                tokio::select! {
                    () = failed.cancelled() => {}
                    () = node.engine().drain(grace) => {}
                }
                closing.cancel();
                node.readers_end_within(LAST_WORDS).await;
            }
        }
        closing.cancel();
        self.node().close();
    }
}

impl Sooner {
    /// Settings for one that keeps its batches in `data_dir`, which is created if it is not there and
    /// belongs to one process at a time.
    pub fn builder(data_dir: impl AsRef<Path>) -> Builder {
        Builder::new(data_dir.as_ref())
    }

    /// Accepts a batch durably, all or nothing, and gives its results from the first on.
    ///
    /// The same batch id with the same content attaches to the batch and runs nothing twice; with
    /// other content it fails with kind `Conflict`. If the answer never comes because the future was
    /// dropped, the batch may have been accepted all the same: submit it again.
    pub async fn submit(&self, submission: Submission) -> Result<Results> {
        checks::check_batch(&submission.options, &submission.items, &self.0.limits)?;
        let submitting = async {
            let submitted = self.engine().submit(submission).await?;
            let (batch, stream) = (submitted.batch, submitted.stream);
            let feed = self.engine().follow(&batch, Order::default())?;
            let place = self.place(stream);
            Ok(Results::new(feed, batch, submitted.created, place))
        };
        self.0.io.lend_clock(submitting).await
    }

    /// Reads a batch's results from a cursor on: [`Order::default`] for all of them, or the
    /// [`Results::cursor`] of an earlier reader. There may be any number of readers. Fails with kind
    /// `NotFound` if there is no such batch, `OutOfRange` if it has not come that far.
    pub async fn watch(&self, batch: impl Into<BatchName>, cursor: Order) -> Result<Results> {
        let name = batch.into();
        let watching = async {
            let batch = self.engine().batch(&name).await?;
            let stream = self.engine().attach(&batch);
            let feed = self.engine().follow(&batch, cursor)?;
            Ok(Results::new(feed, batch, false, self.place(stream)))
        };
        self.0.io.lend_clock(watching).await
    }

    /// Opens an upload: a batch of any size whose items come piece by piece. It is a new one, or the
    /// one that bears the name; go on behind what it has [accepted](Upload::accepted).
    pub async fn upload(&self, start: UploadStart) -> Result<Upload> {
        checks::check_upload(&start.options, start.terms.open_timeout)?;
        let upload = self.0.io.lend_clock(self.engine().open_upload(start));
        let (input_bytes_max, io) = (self.0.limits.input_bytes, self.0.io.clone());
        Ok(Upload::new(upload.await?, input_bytes_max, io))
    }

    /// How a batch stands.
    pub async fn batch(&self, batch: impl Into<BatchName>) -> Result<Batch> {
        let name = batch.into();
        self.0.io.lend_clock(self.engine().batch(&name)).await
    }

    /// How a batch stands once it is over or `wait` has passed.
    pub async fn batch_when_over(
        &self,
        batch: impl Into<BatchName>,
        wait: Duration,
    ) -> Result<Batch> {
        let name = batch.into();
        let looking = self.engine().batch_when_over(&name, wait);
        self.0.io.lend_clock(looking).await
    }

    /// How an item stands once it is terminal or `wait` has passed, with what was submitted and its
    /// failed attempts. An item without an id is named by its decimal position.
    pub async fn item(
        &self,
        batch: impl Into<BatchName>,
        item: &str,
        wait: Duration,
    ) -> Result<ItemDetails> {
        let name = batch.into();
        let looking = self.engine().item(&name, item, wait, true);
        self.0.io.lend_clock(looking).await
    }

    /// Cancels a batch: what runs is asked to stop, what waits never starts, each item gets its result.
    /// The reason is kept; its first 1,024 bytes are.
    pub async fn cancel(
        &self,
        batch: impl Into<BatchName>,
        reason: &str,
    ) -> Result<(Batch, CancelCounts)> {
        let name = batch.into();
        let reason = clip(reason, limits::GIVEN_REASON_BYTES_MAX);
        let cancelling = self.engine().cancel(&name, Vec::new(), reason);
        self.0.io.lend_clock(cancelling).await
    }

    /// Pauses a batch: once it answers, nothing of it is started until it is resumed; what runs goes on.
    /// A restart does not end a pause. Repeating it gives it the new reason, of which the first 1,024
    /// bytes are kept. Fails with kind `NotFound` if there is no such batch, `Precondition` if it is over
    /// or ends early already.
    pub async fn pause(&self, batch: impl Into<BatchName>, reason: &str) -> Result<Batch> {
        let name = batch.into();
        let reason = clip(reason, limits::GIVEN_REASON_BYTES_MAX);
        let pausing = self.engine().pause(&name, reason);
        self.0.io.lend_clock(pausing).await
    }

    /// Lets a paused batch go on; one that is not paused stays as it is. Its failure policy, if it has
    /// one, counts anew from here. Fails as [`Sooner::pause`] does.
    pub async fn resume(&self, batch: impl Into<BatchName>) -> Result<Batch> {
        let name = batch.into();
        self.0.io.lend_clock(self.engine().resume(&name)).await
    }

    /// How the queues stand, by name.
    pub fn queues(&self) -> Vec<QueueDetails> {
        self.engine().queues()
    }

    /// Pauses a queue: once it answers, nothing of it is started until it is resumed, also after a
    /// restart; what runs goes on and submissions are accepted. Repeating it gives it the new reason, of
    /// which the first 1,024 bytes are kept. Fails with kind `NotFound` if there is no such queue.
    pub async fn pause_queue(&self, queue: &QueueName, reason: &str) -> Result<QueueDetails> {
        let reason = clip(reason, limits::GIVEN_REASON_BYTES_MAX);
        let pausing = self.engine().pause_queue(queue, reason);
        self.0.io.lend_clock(pausing).await
    }

    /// Lets a paused queue go on; one that is not paused stays as it is. Fails as
    /// [`Sooner::pause_queue`] does.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<QueueDetails> {
        let resuming = self.engine().resume_queue(queue);
        self.0.io.lend_clock(resuming).await
    }

    /// Cancels some items of a batch, by their ids or decimal positions; all or nothing is refused.
    /// Nothing is done if none is named.
    pub async fn cancel_items(
        &self,
        batch: impl Into<BatchName>,
        items: &[&str],
    ) -> Result<(Batch, CancelCounts)> {
        let name = batch.into();
        if items.is_empty() {
            return Ok((self.batch(name).await?, CancelCounts::default()));
        }
        let items = items.iter().map(|&item| item.into()).collect();
        let cancelling = self.engine().cancel(&name, items, "");
        self.0.io.lend_clock(cancelling).await
    }

    /// Lists batches, newest first, a page at a time: go on with the token of a page until one has none. A
    /// page may hold fewer than asked for, even none, and not be the last. One that is there all the while
    /// is listed once. Fails with kind `Invalid` if the token is not of this query.
    pub async fn list(&self, query: &BatchQuery) -> Result<BatchList> {
        self.0
            .io
            .lend_clock(self.engine().list_batches(query))
            .await
    }

    /// Lists the items of a batch in the order of their indexes, in pages as [`Sooner::list`] does, each
    /// with its result but without what was submitted.
    pub async fn list_items(
        &self,
        batch: impl Into<BatchName>,
        query: &ItemQuery,
    ) -> Result<ItemList> {
        let batch = batch.into();
        let listing = self.engine().list_items(&batch, query);
        self.0.io.lend_clock(listing).await
    }

    /// Removes a batch that is over, with all its results. Once it answers its ids are free, and whoever
    /// still reads it fails with kind `NotFound`. Fails so itself if there is no such batch, with kind
    /// `Precondition` if it is not over, or a redrive still copies from it.
    pub async fn delete(&self, batch: impl Into<BatchName>) -> Result<()> {
        let batch = batch.into();
        self.0.io.lend_clock(self.engine().delete(&batch)).await
    }

    /// Where its gRPC port listens, if it has one: the real port even if 0 was asked for.
    pub fn listen(&self) -> Option<SocketAddr> {
        match &*self.0.front {
            Front::Engine(_) => None,
            Front::Server(server) => Some(server.listen()),
        }
    }

    /// Where its ops port listens, if it has one.
    pub fn ops_listen(&self) -> Option<SocketAddr> {
        match &*self.0.front {
            Front::Engine(_) => None,
            Front::Server(server) => server.ops_listen(),
        }
    }

    /// What opening the data directory found: work of an earlier process that goes on.
    pub fn found(&self) -> &Recovered {
        self.0.front.node().found()
    }

    /// Waits until the store cannot go on, because writing failed. Nothing that was told is lost, but
    /// nothing new is accepted: close this, or end the process, and open it again.
    pub async fn store_failed(&self) {
        self.0.front.node().store_failed().cancelled().await;
    }

    /// Ends in order: nothing new starts or is accepted; what runs may finish until the grace is
    /// nearly over, is then asked to stop and goes on after the next open, uncharged; outcomes are
    /// recorded; streams end; the data directory is free.
    ///
    /// Streams of results that are being read get what is recorded by then, and are waited for up to
    /// two seconds. Closing goes on if this is dropped; a second call waits for the first.
    pub async fn close(&self) {
        if !self.0.close_begun.swap(true, Ordering::Relaxed) {
            let (front, grace) = (Arc::clone(&self.0.front), self.0.drain_grace);
            let (closing, closed) = (self.0.closing.clone(), self.0.closed.clone());
            self.0.io.spawn(async move {
                front.close(grace, &closing).await;
                closed.cancel();
            });
        }
        self.0.closed.cancelled().await;
    }

    fn engine(&self) -> &Engine {
        self.0.front.node().engine()
    }

    fn place(&self, stream: Stream) -> Place {
        Place {
            io: self.0.io.clone(),
            closing: self.0.closing.clone(),
            reader: Some(self.0.front.node().reader()),
            _stream: stream,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // First the threads, so that nothing starts any more; what still blocks one is left behind.
        let runtimes = self.runtimes.get_mut();
        drop(runtimes.unwrap_or_else(PoisonError::into_inner).take());
        if !self.closed.is_cancelled() {
            self.front.node().close();
        }
    }
}
