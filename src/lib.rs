//! Sooner: a batch server whose results do not wait for each other.
//!
//! This page is the map. The program's users want the README; **who wants to use this crate as a
//! library wants [`docs`]**, and what is re-exported below under *Re-exports*; who wants to change the
//! program starts here.
//!
//! # Three ideas
//!
//! 1. **One journal.** Every batch has an append-only log of results. A result gets the next
//!    [`Sequence`] (1, 2, 3 …, dense, in commit order) in the same transaction
//!    that makes it durable. Nothing is shown to anyone before that commit.
//! 2. **One lease.** Whoever computes an item holds a [`Lease`](store::Lease) on it: exclusive and
//!    fenced by a [`LeaseToken`](domain::ids::LeaseToken).
//! 3. **One feed.** Every reader is a [`Feed`](engine::Feed): the journal at a cursor, catch up, then
//!    follow. A slow reader costs a position, never memory and never a delay for others.
//!
//! # The house
//!
//! ```text
//!   cli      library                      6  what a person types; what a Rust program calls
//!   server   config                       5  composition root: accept loop, ops port, drain; settings
//!   api      handler                      4  requests come in; items get computed
//!   engine                                3  submit, upload, pool, attempt, settle, follow, cancel
//!   store                                 2  the durable verbs and their keeper, embedded/
//!   domain   error   wire                 1  values and rules; wire: the generated messages
//!   base                                  0  clock, entropy, limits, metrics, tasks, telemetry
//! ```
//!
//! Imports only point down. `api` and `handler` never see each other nor the `store`; generated
//! messages are seen by `api` and `cli` alone; SQL stays in [`store`]; tasks, threads, time and chance come
//! through the doors of [`base`]. `tests/tidy.rs` enforces the table.
//!
//! # The life of an item
//!
//! ```text
//!  SubmitBatch ─▶ api::grpc: convert, validate ─▶ Engine::submit ─▶ Store::create_batch
//!                                                                     │ durable
//!                      response headers ◀─────────────────────────────┤
//!                                                                     ▼
//!  engine::pool ── as many leases as free slots ──▶ Store::lease ─▶ scheduler (pure, fair)
//!       │                                              └─ a trace in the in-flight file
//!       ▼
//!  engine::attempt ─▶ Handler::handle, under limit, cancel, panic guard; on threads that nobody
//!       │             else waits for: its queue's own, unless it promises not to block
//!       │ Outcome
//!       ▼
//!  RetryDecision ─▶ engine::settler, many in one call ─▶ Store::settle
//!                                                         │ sequence, tally, record: one transaction
//!                                                         ▼ durable
//!  hint ─▶ engine::Feed: read_log(after) · hand over · wait for the hint ─▶ the caller's stream
//! ```
//!
//! An item that failed or expired is a dead letter until somebody redrives or purges it. A redrive is a
//! new batch, copied from the old one's letters a chunk a transaction (`store/embedded/group/redrive.rs`);
//! so no record ever changes.
//!
//! # Invariants
//!
//! Each has a test that names it; `tests/it` checks them on what real clients of the real program saw.
//!
//! - **I1** An item has at most one terminal record, for ever. It never changes.
//! - **I2** A result is shown only after its record is durable.
//! - **I3** An accepted item is pending, leased or terminal; never none of them.
//! - **I4** Sequences are dense and in commit order; what is read behind a cursor is a prefix of the
//!   truth and never misses a record.
//! - **I5** A batch ends exactly once, after the records of all its items.
//! - **I6** Counts always sum to the total; progress never shrinks.
//! - **I7** Cancel and completion race item by item; exactly one wins.
//! - **I8** Losing every hint, lease, reader or server delays work; it never loses any.
//! - **I9** A stale lease token can waste an attempt; it can never change a result.
//! - **I10** A submit repeated with the same key and content creates nothing new and attaches; with
//!   other content it is refused.
//! - **I11** Memory depends on concurrency and configured buffers, not on a batch's size, the backlog
//!   or a reader's speed. (A batch costs one bit per terminal item, and an entry per item that waits
//!   for another attempt.)
//! - **I12** Whoever is slow delays nobody else.
//!
//! # Where a crash leaves things
//!
//! The writer commits before it answers, so what a caller was told is on disk. A restart rebuilds
//! the scheduler from the rows of the batches that are not over, their results' index and their
//! failed attempts; the in-flight file says what was running, which is marked and pending again. An
//! I/O error while writing ends the process with code 74: after a failed sync nothing this process
//! believes about its file can be trusted.
//!
//! # What is deliberately absent
//!
//! A workflow language, dependencies between items, cron, exactly-once side effects, a consensus
//! protocol of our own, plugins. Sooner does one thing: it runs the items of a batch and hands each
//! result over at once.
//!
//! # Where to start reading
//!
//! [`store`] for the verbs, then `store/embedded/group` for what a transaction is and
//! `store/embedded/scheduler` for turns; [`engine::Feed`] for reading; `engine/attempt.rs` for what
//! happens to one item; [`server`] and [`library`] for how it is put together.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod api;
pub mod base;
pub mod cli;
pub mod config;
pub mod docs;
pub mod domain;
pub mod engine;
pub mod error;
pub mod handler;
pub mod library;
pub mod server;
pub mod store;
pub mod wire;

pub use async_trait::async_trait;

#[doc(inline)]
pub use self::base::clock::Timestamp;
#[doc(inline)]
pub use self::domain::attempt::{ItemError, Outcome, Shortage};
#[doc(inline)]
pub use self::domain::batch::{Batch, BatchState, EndCause};
#[doc(inline)]
pub use self::domain::dead_letter::{DeadLetter, LetterFilter, LetterPlace};
#[doc(inline)]
pub use self::domain::failures::{FailureAction, FailurePolicy, Failures};
#[doc(inline)]
pub use self::domain::ids::{BatchId, BatchName, QueueName, RequestId, Sequence, Tenant};
#[doc(inline)]
pub use self::domain::item::{Ending, ItemSpec, ItemState, Record, TerminalState};
#[doc(inline)]
pub use self::domain::pause::{Pause, PausedBy};
#[doc(inline)]
pub use self::domain::payload::{Body, Payload};
#[doc(inline)]
pub use self::domain::rate::Rate;
#[doc(inline)]
pub use self::domain::retry::RetrySettings;
#[doc(inline)]
pub use self::domain::settings::{BatchOptions, OnDisconnect, OnOpenTimeout, UploadTerms};
#[doc(inline)]
pub use self::domain::tally::Tally;
#[doc(inline)]
pub use self::engine::{
    Attempt, BatchList, BatchQuery, Blocking, CancelCounts, Handler, HandlerFn, ItemDetails,
    ItemList, ItemLog, ItemQuery, ItemView, LetterPage, LetterQuery, Order, QueueDetails,
    RedriveRequest, Submission, UploadStart, Waiting, WaitingReason, blocking, handler_fn,
};
#[doc(inline)]
pub use self::error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use self::library::{Builder, OpenError, Queue, Results, Sooner, Upload};
