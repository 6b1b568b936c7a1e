//! One attempt: the handler under its limit, its cancel and a guard against panics, and the
//! settlement its outcome leads to.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Handler, QueueSettings};
use crate::base::clock::{self, Timestamp};
use crate::base::metrics::{AttemptEnd, Metrics, QueueMetrics};
use crate::base::{entropy, limits};
use crate::domain::attempt::{ItemError, Outcome, Reason};
use crate::domain::item::{Ending, ItemSpec};
use crate::domain::retry::{MAX_CRASHES_DEFAULT, RetryDecision, RetryPolicy};
use crate::store::{Damaged, Lease, LeaseEnd, Settlement};

/// Who runs local attempts, in results and logs.
pub const LOCAL_WORKER: &str = "local";

/// Runs the attempts of one queue.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) settings: QueueSettings,
    pub(crate) halt: CancellationToken,
    pub(crate) input_bytes_max: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) queue_metrics: QueueMetrics,
}

/// Why an attempt was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopCause {
    Cancelled,
    TimedOut,
    Halted,
}

impl Executor {
    /// Runs a lease's attempt to its end, in a slot of the queue's.
    pub(crate) async fn run(
        &self,
        mut lease: Lease,
        slot: &Arc<OwnedSemaphorePermit>,
    ) -> Settlement {
        let started = clock::now();
        let queued = lease.granted.since(lease.ready_since);
        self.queue_metrics.granted(queued);
        let (id, (end, charged)) =
            if let Ok(spec) = std::mem::replace(&mut lease.spec, Err(Damaged)) {
                let spec = Arc::new(spec);
                let end = self.run_item(&lease, &spec, slot).await;
                (spec.id.clone(), end)
            } else {
                let end = failed(Reason::CORRUPT_RECORD, "the stored input is damaged");
                (None, (end, false))
            };
        Settlement {
            token: lease.token,
            head: lease.head,
            id,
            end,
            spent: lease.spent + u32::from(charged),
            worker: LOCAL_WORKER.into(),
            queued,
            started,
            ran: clock::now().since(started),
        }
    }

    /// How the lease ends, and whether an attempt is charged for it.
    async fn run_item(
        &self,
        lease: &Lease,
        spec: &Arc<ItemSpec>,
        slot: &Arc<OwnedSemaphorePermit>,
    ) -> (LeaseEnd, bool) {
        let settings = spec
            .retry
            .or(&lease.head.options.retry)
            .or(&self.settings.retry);
        if lease.crashes >= settings.max_crashes.unwrap_or(MAX_CRASHES_DEFAULT) {
            let message = format!(
                "the server died {} times while this item ran",
                lease.crashes
            );
            return (failed(Reason::CRASHED_TOO_OFTEN, &message), false);
        }
        let (has, max) = (spec.input.bytes().len(), self.input_bytes_max);
        if has > max {
            let message = format!("the input has more than the limit of {max} bytes");
            return (failed(Reason::INPUT_TOO_LARGE, &message), false);
        }
        let began = clock::instant();
        let (spec, slot) = (Arc::clone(spec), Arc::clone(slot));
        let outcome = self.attempt(lease, spec, slot).await;
        let returned = clock::instant();
        let took = returned.duration_since(began);
        self.queue_metrics.ended(end_of(&outcome), took);
        let item = lease.token.item;
        self.metrics
            .returned
            .note(item.batch.0, item.index, returned);
        let charged = !matches!(outcome, Outcome::Released { .. });
        (self.judge(lease, &settings.policy(), outcome), charged)
    }

    async fn attempt(
        &self,
        lease: &Lease,
        spec: Arc<ItemSpec>,
        slot: Arc<OwnedSemaphorePermit>,
    ) -> Outcome {
        let limit = self.limit(lease, &spec);
        // A child of its own: a timeout must not look like a cancel of the lease.
        let stop = lease.stop.child_token();
        let attempt = Attempt {
            spec,
            batch_id: lease.head.id.clone(),
            batch_uid: lease.head.uid,
            index: lease.token.item.index,
            number: lease.token.attempt,
            deadline: clock::now().plus(limit),
            stop: stop.clone(),
            slot: Some(slot),
        };
        let mut work =
            std::pin::pin!(AssertUnwindSafe(self.handler.handle(attempt)).catch_unwind());
        let cause = tokio::select! {
            biased; // An outcome that is there counts, whatever else has come.
            outcome = &mut work => return outcome.unwrap_or_else(panicked),
            () = lease.stop.cancelled() => StopCause::Cancelled,
            () = self.halt.cancelled() => StopCause::Halted,
            () = tokio::time::sleep(limit) => StopCause::TimedOut,
        };
        stop.cancel();
        let late = tokio::time::timeout(self.handler.stop_grace(), work)
            .await
            .ok()
            .and_then(Result::ok);
        match (cause, late) {
            // After its limit an attempt never succeeds.
            (StopCause::TimedOut, late) => Outcome::Failed(timed_out(limit, late)),
            (StopCause::Cancelled | StopCause::Halted, Some(Outcome::Succeeded(output))) => {
                Outcome::Succeeded(output)
            }
            (StopCause::Cancelled, _) => Outcome::Failed(ItemError::of(
                Reason::ITEM_CANCELLED,
                "cancelled while it ran",
            )),
            (StopCause::Halted, _) => Outcome::Released {
                error: ItemError::of(
                    Reason::INTERRUPTED,
                    "the server stopped while the attempt ran",
                ),
                wait: Duration::ZERO,
            },
        }
    }

    fn limit(&self, lease: &Lease, spec: &ItemSpec) -> Duration {
        spec.timeout
            .or(lease.head.options.item_timeout)
            .unwrap_or(self.settings.item_timeout)
    }

    /// What an outcome leads to.
    fn judge(&self, lease: &Lease, policy: &RetryPolicy, outcome: Outcome) -> LeaseEnd {
        match outcome {
            Outcome::Succeeded(output) if output.bytes().len() > self.output_bytes_max => {
                let (has, max) = (output.bytes().len(), self.output_bytes_max);
                let message = format!("the output has {has} bytes, more than the limit {max}");
                failed(Reason::OUTPUT_TOO_LARGE, &message)
            }
            Outcome::Succeeded(output) => match output.check_content_type() {
                Ok(()) => LeaseEnd::Finish(Ending::Succeeded(output)),
                Err(problem) => failed(Reason::OUTPUT_INVALID, &format!("the output's {problem}")),
            },
            Outcome::Failed(error) => judge_failure(lease, policy, error, None),
            Outcome::FailedFor { error, wait } => judge_failure(lease, policy, error, Some(wait)),
            Outcome::Released { error, .. } if lease.releases + 1 >= limits::RELEASES_MAX => {
                let message = format!(
                    "given back {} times, last: {}",
                    limits::RELEASES_MAX,
                    error.message
                );
                failed(Reason::RELEASED_TOO_OFTEN, &message)
            }
            Outcome::Released { error, wait } => LeaseEnd::Release {
                due: due_after(wait),
                error: error.within_bounds(),
                charged: false,
            },
        }
    }
}

/// What kind of end an outcome is.
fn end_of(outcome: &Outcome) -> AttemptEnd {
    match outcome {
        Outcome::Succeeded(_) => AttemptEnd::Succeeded,
        Outcome::Released { .. } => AttemptEnd::Released,
        Outcome::Failed(error) if &*error.reason == Reason::ITEM_TIMEOUT.name => {
            AttemptEnd::TimedOut
        }
        Outcome::Failed(error) if &*error.reason == Reason::ITEM_CANCELLED.name => {
            AttemptEnd::Cancelled
        }
        Outcome::Failed(_) | Outcome::FailedFor { .. } => AttemptEnd::Failed,
    }
}

/// What a failure leads to, after the policy's backoff or the handler's own `wait`.
fn judge_failure(
    lease: &Lease,
    policy: &RetryPolicy,
    error: ItemError,
    own_wait: Option<Duration>,
) -> LeaseEnd {
    // A handler's reason may be anything; what is kept is a name.
    let error = error.within_bounds();
    match policy.decide(&error, lease.spent + 1, entropy::fraction()) {
        RetryDecision::Final => LeaseEnd::Finish(Ending::Failed(error)),
        RetryDecision::Again(backoff) => LeaseEnd::Release {
            due: due_after(own_wait.unwrap_or(backoff)),
            error,
            charged: true,
        },
    }
}

fn due_after(wait: Duration) -> Timestamp {
    clock::now().plus(wait.min(limits::DURATION_MAX))
}

/// The error of an attempt that ran into its limit, with what the handler had to say at last.
fn timed_out(limit: Duration, late: Option<Outcome>) -> ItemError {
    let mut message = format!("the attempt ran into its limit of {limit:?}");
    if let Some(
        Outcome::Failed(error) | Outcome::FailedFor { error, .. } | Outcome::Released { error, .. },
    ) = late
        && !error.message.is_empty()
    {
        message = format!("{message}; last words: {}", error.message);
    }
    ItemError::of(Reason::ITEM_TIMEOUT, &message)
}

fn failed(reason: Reason, message: &str) -> LeaseEnd {
    LeaseEnd::Finish(Ending::Failed(ItemError::of(reason, message)))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what catch_unwind hands over"
)]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Outcome {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Outcome::Failed(ItemError::of(
        Reason::PANIC,
        &format!("the handler panicked: {text}"),
    ))
}
