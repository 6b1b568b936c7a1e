//! Threads that belong to one queue alone, for a handler that may compute or block between awaits.
//!
//! Only the handler is polled there. Limits, cancels and outcomes are looked after on the threads
//! that all handlers share and that none of them may block: an attempt whose handler does not let go
//! of its thread still ends at its limit, and the queue's other items are unharmed by it as long as
//! one of the threads is free.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Attempt, Handler};
use crate::base::tasks::OwnRuntime;
use crate::domain::attempt::{ItemError, Outcome, Reason};

/// A handler on threads of its own.
#[derive(Debug)]
pub(crate) struct OwnThreads {
    handler: Arc<dyn Handler>,
    runtime: OwnRuntime,
}

/// Gives a handler threads of its own unless it promises not to need them.
pub fn apart(handler: Arc<dyn Handler>, threads: usize) -> io::Result<Arc<dyn Handler>> {
    if !handler.may_block() {
        return Ok(handler);
    }
    let runtime = OwnRuntime::start("sooner-own", threads)?;
    Ok(Arc::new(OwnThreads { handler, runtime }))
}

#[async_trait]
impl Handler for OwnThreads {
    async fn handle(&self, mut attempt: Attempt) -> Outcome {
        let (handler, slot) = (Arc::clone(&self.handler), attempt.slot.take());
        let computed = self.runtime.tasks().run(async move {
            let outcome = handler.handle(attempt).await;
            // Kept until here: a future that blocks is not gone when it is dropped.
            drop(slot);
            outcome
        });
        match computed.await {
            Ok(outcome) => outcome,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Its threads are gone: the program is ending.
                Err(_) => Outcome::Released {
                    error: ItemError::of(Reason::INTERRUPTED, "the handler's threads have ended"),
                    wait: Duration::ZERO,
                },
            },
        }
    }

    fn stop_grace(&self) -> Duration {
        self.handler.stop_grace()
    }

    fn kind(&self) -> &'static str {
        self.handler.kind()
    }

    fn may_block(&self) -> bool {
        false
    }
}
