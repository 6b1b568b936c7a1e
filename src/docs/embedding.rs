//! The engine in your program, and the gRPC server with your handlers.
//!
//! [`Sooner`](crate::Sooner) is the whole system in your process: the store, the engine, your
//! handlers and, with [`Builder::listen`](crate::Builder::listen), the gRPC port.
//!
//! ```
//! use sooner::{Attempt, BatchId, ItemError, Order, Queue, Sooner, Submission, handler_fn};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let data = dir.path();
//! let double = handler_fn(|attempt: Attempt| async move {
//!     let number: i64 = attempt.text()?.parse()?;
//!     Ok::<_, ItemError>((2 * number).to_string())
//! });
//! let sooner = Sooner::builder(data)
//!     .queue("default", Queue::new(double).slots(8))
//!     .listen(([127, 0, 0, 1], 0).into()) // leave it out and there is no server
//!     .open()
//!     .await?;
//!
//! let submission = Submission::new(["1", "2", "3"]).with_batch_id("numbers")?;
//! let mut results = sooner.submit(submission).await?;
//! let first = results.next().await.expect("there are three")?;
//! assert_eq!(first.sequence.0, 1);
//!
//! // Any number of readers, each at its own cursor and pace.
//! let id = BatchId::parse("numbers")?;
//! let mut behind = sooner.watch(&id, Order::Completion(first.sequence)).await?;
//! assert_eq!(behind.next().await.expect("there are two more")?.sequence.0, 2);
//! # drop((results, behind));
//! sooner.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it takes of your program
//!
//! - **Threads**: its own, never yours. A few serve streams and connections, two read and one writes
//!   the store, and each queue has those of its handler ([`handlers`](super::handlers)). Its methods
//!   never block, but for hashing what is submitted, and work in any asynchronous runtime.
//! - **A directory**, which belongs to one process at a time. Opening it elsewhere fails.
//! - **Logs** go through `tracing`; install whatever subscriber you like.
//! - **Signals** are yours: call [`Sooner::close`](crate::Sooner::close) when yours comes.
//!
//! # What you can rely on
//!
//! The README's promises, in your process: what [`submit`](crate::Sooner::submit) has returned is
//! durable; a result is given once it is durable, never before, and never changes; a batch id
//! submitted again attaches. Results come through a [`Results`](crate::Results), which is a `Stream`
//! with a cursor: whoever was interrupted goes on behind it, in this life of the program or a later one.
//!
//! [`BatchOptions`](crate::BatchOptions) has what a batch may be asked for beside its items: whose turn
//! it is, when it ends early, and what happens when too much of it fails. A batch that
//! [paused](crate::Sooner::pause), by hand or by itself, goes on with [`resume`](crate::Sooner::resume).
//! What failed for good is listed by [`dead_letters`](crate::Sooner::dead_letters), and run again by
//! [`redrive`](crate::Sooner::redrive).
//!
//! # How it ends
//!
//! | you | what runs |
//! |---|---|
//! | call [`close`](crate::Sooner::close) | may finish within the grace, is then asked to stop, runs again after the next open, uncharged |
//! | drop the last handle | is left; runs again after the next open, uncharged |
//! | are killed | runs again after the next open, uncharged, with a crash mark: an item under which the program dies three times fails with `CRASHED_TOO_OFTEN` |
//!
//! If writing fails (a broken disk, not a full one), [`store_failed`](crate::Sooner::store_failed)
//! returns: after a failed sync nothing a process believes about its file can be trusted, so close it,
//! or end the program, and open it again.
