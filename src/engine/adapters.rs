//! Functions as handlers: asynchronous ones, and ones that compute or block.

use std::fmt;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Attempt, Handler};
use crate::base::limits;
use crate::base::tasks::Threads;
use crate::domain::attempt::{ItemError, Outcome, Reason, Shortage};

/// A handler that is an asynchronous function; see [`handler_fn`].
pub struct HandlerFn(Box<dyn Fn(Attempt) -> Computing + Send + Sync>);

type Computing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Makes a handler of an asynchronous function from an attempt to an outcome, or to a `Result` that
/// becomes one.
///
/// ```
/// use sooner::{Attempt, ItemError, handler_fn};
///
/// let greeter = handler_fn(|attempt: Attempt| async move {
///     Ok::<_, ItemError>(format!("hello, {}", attempt.text()?))
/// });
/// # drop(greeter);
/// ```
///
/// Its future is dropped as soon as the attempt should stop. A function that must have a say then is
/// better written as a [`Handler`] with a grace of its own.
pub fn handler_fn<F, C>(function: F) -> HandlerFn
where
    F: Fn(Attempt) -> C + Send + Sync + 'static,
    C: Future<Output: Into<Outcome>> + Send + 'static,
{
    HandlerFn(Box::new(move |attempt| {
        let computing = function(attempt);
        Box::pin(async move { computing.await.into() })
    }))
}

#[async_trait]
impl Handler for HandlerFn {
    async fn handle(&self, attempt: Attempt) -> Outcome {
        (self.0)(attempt).await
    }
}

impl fmt::Debug for HandlerFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerFn")
    }
}

/// A handler that computes or blocks; see [`blocking`].
pub struct Blocking {
    compute: Arc<dyn Fn(&Attempt) -> Outcome + Send + Sync>,
    threads: Threads,
    stop_grace: Duration,
}

/// Makes a handler of a function that computes for long, or blocks: each attempt runs on a thread of
/// its own, as many at once as the queue has slots. A thread is used again while there is work.
///
/// ```
/// use sooner::{Attempt, ItemError, blocking};
///
/// let checksum = blocking(|attempt: &Attempt| {
///     let mut sum = 0u64;
///     for chunk in attempt.spec.input.bytes().chunks(64 << 10) {
///         if attempt.is_stopped() {
///             break; // cancelled, over its limit, or drained: nobody wants the rest
///         }
///         sum += chunk.iter().map(|&byte| u64::from(byte)).sum::<u64>();
///     }
///     Ok::<_, ItemError>(sum.to_string())
/// });
/// # drop(checksum);
/// ```
///
/// A thread cannot be stopped from outside. If the function does not return within its grace (one
/// second, see [`Blocking::with_stop_grace`]) after the attempt should stop, the attempt ends without
/// it, and its slot is free again once the function has returned: a function that never does so
/// costs its queue that slot, and nobody else anything.
pub fn blocking<F, R>(function: F) -> Blocking
where
    F: Fn(&Attempt) -> R + Send + Sync + 'static,
    R: Into<Outcome>,
{
    Blocking {
        compute: Arc::new(move |attempt| function(attempt).into()),
        threads: Threads::new("sooner-blocking"),
        stop_grace: limits::BLOCKING_STOP_GRACE,
    }
}

impl Blocking {
    /// How long the function may take to return once the attempt should stop.
    #[must_use]
    pub fn with_stop_grace(mut self, stop_grace: Duration) -> Self {
        self.stop_grace = stop_grace;
        self
    }
}

#[async_trait]
impl Handler for Blocking {
    async fn handle(&self, mut attempt: Attempt) -> Outcome {
        let (compute, slot) = (Arc::clone(&self.compute), attempt.slot.take());
        let computed = self.threads.run(move || {
            let outcome = compute(&attempt);
            // Kept until here, whatever became of the attempt meanwhile.
            drop(slot);
            outcome
        });
        match computed {
            Ok(computed) => computed.await.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => Outcome::Short(Shortage {
                error: ItemError::of(Reason::NO_THREAD, &format!("start a thread: {error}")),
                wait: limits::NO_THREAD_WAIT,
            }),
        }
    }

    fn stop_grace(&self) -> Duration {
        self.stop_grace
    }

    fn may_block(&self) -> bool {
        false
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking")
            .field("stop_grace", &self.stop_grace)
            .finish_non_exhaustive()
    }
}
