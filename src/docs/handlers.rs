//! What computes your items: the contract of a [`Handler`](crate::Handler), and its threads.
//!
//! A handler computes **one attempt of one item**: it is given an [`Attempt`](crate::Attempt) and
//! returns an [`Outcome`](crate::Outcome). Everything else (the order, the limits, retries, durability,
//! who reads the results) is not its business.
//!
//! # Which kind
//!
//! | your code | write | runs on |
//! |---|---|---|
//! | waits: HTTP, a database, another service | [`handler_fn`](crate::handler_fn), or [`Handler`](crate::Handler) itself | an asynchronous runtime that belongs to the queue alone |
//! | computes, or calls what blocks | [`blocking`](crate::blocking) | a thread per attempt, as many as the queue has slots |
//! | is a program | `Exec` in [`handler`](crate::handler) | a process per attempt |
//!
//! ```
//! use std::time::Duration;
//! use sooner::{Attempt, ItemError, Queue, blocking, handler_fn};
//!
//! // Waits: many at once on few threads.
//! let fetch = Queue::new(handler_fn(|attempt: Attempt| async move {
//!     tokio::time::sleep(Duration::from_millis(5)).await;
//!     Ok::<_, ItemError>(attempt.text()?.len().to_string())
//! }))
//! .slots(256);
//!
//! // Computes: no more at once than there are processors, which is the default.
//! let compute = Queue::new(blocking(|attempt: &Attempt| {
//!     let sum: u64 = attempt.spec.input.bytes().iter().map(|&b| u64::from(b)).sum();
//!     Ok::<_, ItemError>(sum.to_string())
//! }));
//! # drop((fetch, compute));
//! ```
//!
//! **A handler delays nobody else's result.** Neither the serving of streams and connections nor what
//! looks after attempts ever runs on a thread that your code can hold. If an asynchronous handler
//! blocks by mistake, it takes threads from its own queue ([`Queue::threads`](crate::Queue::threads)
//! says how many that has) and from nobody else; its attempts still end at their limits, and its
//! results that are done are still shown.
//!
//! # Outcomes
//!
//! | you return | the item |
//! |---|---|
//! | `Ok(output)`, where the output becomes a [`Payload`](crate::Payload): `&str`, `String`, `Vec<u8>`, `Bytes` | succeeds |
//! | `Err(error)` for any `std::error::Error` | is tried again as its retry policy says: `HANDLER_ERROR` |
//! | [`ItemError::retryable`](crate::ItemError::retryable) | is tried again, under a reason of yours |
//! | [`ItemError::permanent`](crate::ItemError::permanent) | fails at once, under a reason of yours |
//! | [`Outcome::FailedFor`](crate::Outcome::FailedFor) | is tried again after a wait that you name |
//! | [`Outcome::Released`](crate::Outcome::Released) | is pending again, uncharged: you had not begun |
//! | a panic | is tried again: `PANIC` |
//!
//! An item that fails is data: it is a result like any other, and harms no other item.
//!
//! # At least once
//!
//! After a crash an attempt may run again. What it does elsewhere should therefore be harmless when
//! done twice: hand [`Attempt::idempotency_key`](crate::Attempt::idempotency_key) to whom you call.
//! It is the same for every attempt of an item, and of no other item.
//!
//! # Stopping
//!
//! [`Attempt::stop`](crate::Attempt::stop) fires when the outcome is not wanted any more: at the
//! attempt's limit, at a cancel, when a drain's grace is nearly over.
//!
//! - An **asynchronous** handler is dropped at its next await, at once or after its
//!   [`stop_grace`](crate::Handler::stop_grace), in which it may clean up.
//! - A **blocking** one cannot be stopped from outside: it should ask
//!   [`Attempt::is_stopped`](crate::Attempt::is_stopped) now and then. One that does not is left
//!   behind: its attempt ends without it, and its slot is free once it returns.
//!
//! What an attempt ends with follows from why it was stopped: over its limit it has failed with
//! `ITEM_TIMEOUT`, whatever it returns; cancelled, it has succeeded if it returns an output within
//! its grace; drained, the same, or it is pending again, uncharged.
