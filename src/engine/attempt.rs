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
use crate::domain::attempt::{ItemError, Outcome, Reason, Shortage};
use crate::domain::batch::EndCause;
use crate::domain::item::{Ending, ItemSpec, ItemTime};
use crate::domain::retry::{MAX_CRASHES_DEFAULT, RetryDecision, RetryPolicy};
use crate::store::{Charge, Damaged, Lease, LeaseEnd, Settlement};

/// Who runs local attempts, in results and logs.
pub const LOCAL_WORKER: &str = "local";

/// What a drain says of the attempts that it stops.
const STOPPED: &str = "the server stopped while the attempt ran";

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
    RanInto(Limit),
    Halted,
}

/// What an attempt may run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// The limit of each attempt.
    Timeout(Duration),
    /// The time by which its item must have its result.
    FinishBy,
    /// The time of its batch.
    Batch(EndCause),
}

/// What ends an attempt besides its handler.
#[derive(Debug)]
enum Over {
    /// The item's time, or its batch's: it ends so.
    Time(Ending),
    /// The server stops.
    Stopped,
}

/// How a lease ends, and what its attempt counts for.
struct Ended {
    end: LeaseEnd,
    /// Whether an attempt is charged.
    charged: bool,
    /// Whether the handler was called.
    ran: bool,
}

impl Ended {
    /// Before the handler was called.
    fn unattempted(ending: Ending) -> Self {
        Self {
            end: LeaseEnd::Finish(ending),
            charged: false,
            ran: false,
        }
    }

    /// How long the attempt ran that began then: not at all if the handler was not called, however
    /// long it took to find that out.
    fn ran_since(&self, started: Timestamp) -> Duration {
        if self.ran {
            clock::now().since(started)
        } else {
            Duration::ZERO
        }
    }
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
        let (id, finish_by, ended) =
            if let Ok(spec) = std::mem::replace(&mut lease.spec, Err(Damaged)) {
                let spec = Arc::new(spec);
                let ended = self.run_item(&lease, &spec, slot).await;
                (spec.id.clone(), spec.finish_by, ended)
            } else {
                let ending = failed(Reason::CORRUPT_RECORD, "the stored input is damaged");
                (None, None, Ended::unattempted(ending))
            };
        let ran = ended.ran_since(started);
        Settlement {
            token: lease.token,
            head: lease.head,
            id,
            end: ended.end,
            finish_by,
            spent: lease.spent + u32::from(ended.charged),
            worker: if ended.ran { LOCAL_WORKER } else { "" }.into(),
            queued,
            started,
            ran,
        }
    }

    /// How the lease ends.
    async fn run_item(
        &self,
        lease: &Lease,
        spec: &Arc<ItemSpec>,
        slot: &Arc<OwnedSemaphorePermit>,
    ) -> Ended {
        if let Some(late) = spec.overdue(lease.began, clock::now()) {
            return Ended::unattempted(late.ending("its time was over just before it ran"));
        }
        if let Some((_, cause)) = lease.head.ends_at().filter(|&(at, _)| at <= clock::now()) {
            return Ended::unattempted(
                cause.ending("its batch's time was over just before it ran"),
            );
        }
        let settings = spec
            .retry
            .or(&lease.head.options.retry)
            .or(&self.settings.retry);
        if lease.crashes >= settings.max_crashes.unwrap_or(MAX_CRASHES_DEFAULT) {
            let message = format!(
                "the server died {} times while this item ran",
                lease.crashes
            );
            return Ended::unattempted(failed(Reason::CRASHED_TOO_OFTEN, &message));
        }
        let (has, max) = (spec.input.bytes().len(), self.input_bytes_max);
        if has > max {
            let message = format!("the input has more than the limit of {max} bytes");
            return Ended::unattempted(failed(Reason::INPUT_TOO_LARGE, &message));
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
        let charged = !matches!(
            outcome,
            Ok(Outcome::Released { .. } | Outcome::Short(_)) | Err(Over::Stopped)
        );
        let end = match outcome {
            Ok(outcome) => self.judge(lease, &settings.policy(), outcome),
            Err(Over::Time(ending)) => LeaseEnd::Finish(ending),
            Err(Over::Stopped) => LeaseEnd::Release {
                due: clock::now(),
                error: ItemError::of(Reason::INTERRUPTED, STOPPED),
                charge: Charge::Stop,
            },
        };
        Ended {
            end,
            charged,
            ran: true,
        }
    }

    /// What the handler makes of the item, or what else ended the attempt.
    async fn attempt(
        &self,
        lease: &Lease,
        spec: Arc<ItemSpec>,
        slot: Arc<OwnedSemaphorePermit>,
    ) -> Result<Outcome, Over> {
        let now = clock::now();
        let (most, limit) = self.limit(lease, &spec, now);
        // A child of its own: a timeout must not look like a cancel of the lease.
        let stop = lease.stop.child_token();
        let attempt = Attempt {
            spec,
            batch_id: lease.head.id.clone(),
            batch_uid: lease.head.uid,
            index: lease.token.item.index,
            number: lease.token.attempt,
            deadline: now.plus(most),
            stop: stop.clone(),
            origin: lease.origin,
            slot: Some(slot),
        };
        let mut work =
            std::pin::pin!(AssertUnwindSafe(self.handler.handle(attempt)).catch_unwind());
        let cause = tokio::select! {
            biased; // An outcome that is there counts, whatever else has come.
            outcome = &mut work => return Ok(outcome.unwrap_or_else(panicked)),
            () = lease.stop.cancelled() => StopCause::Cancelled,
            () = self.halt.cancelled() => StopCause::Halted,
            () = tokio::time::sleep(most) => StopCause::RanInto(limit),
        };
        stop.cancel();
        let late = tokio::time::timeout(self.handler.stop_grace(), work)
            .await
            .ok()
            .and_then(Result::ok);
        Ok(match (cause, late) {
            // After its limit an attempt never succeeds.
            (StopCause::RanInto(limit), late) => {
                Outcome::Failed(ran_into(limit, late).map_err(Over::Time)?)
            }
            (StopCause::Cancelled | StopCause::Halted, Some(Outcome::Succeeded(output))) => {
                Outcome::Succeeded(output)
            }
            (StopCause::Cancelled, _) => Outcome::Failed(ItemError::of(
                Reason::ITEM_CANCELLED,
                "cancelled while it ran",
            )),
            (StopCause::Halted, _) if lease.head.options.at_most_once => {
                Outcome::Failed(ItemError::of(Reason::UNKNOWN_OUTCOME, STOPPED))
            }
            (StopCause::Halted, _) => return Err(Over::Stopped),
        })
    }

    /// How long the attempt may run, and what it runs into then: the earliest of its limits.
    fn limit(&self, lease: &Lease, spec: &ItemSpec, now: Timestamp) -> (Duration, Limit) {
        let timeout = spec
            .timeout
            .or(lease.head.options.item_timeout)
            .unwrap_or(self.settings.item_timeout);
        let finish_by = spec.finish_by.map(|at| (at.since(now), Limit::FinishBy));
        let batch = lease.head.ends_at();
        let batch = batch.map(|(at, cause)| (at.since(now), Limit::Batch(cause)));
        let all = [Some((timeout, Limit::Timeout(timeout))), finish_by, batch];
        let earliest = all.into_iter().flatten().min_by_key(|&(most, _)| most);
        earliest.expect("an attempt has a timeout")
    }

    /// What an outcome leads to.
    fn judge(&self, lease: &Lease, policy: &RetryPolicy, outcome: Outcome) -> LeaseEnd {
        match outcome {
            Outcome::Succeeded(output) if output.bytes().len() > self.output_bytes_max => {
                let (has, max) = (output.bytes().len(), self.output_bytes_max);
                let message = format!("the output has {has} bytes, more than the limit {max}");
                LeaseEnd::Finish(failed(Reason::OUTPUT_TOO_LARGE, &message))
            }
            Outcome::Succeeded(output) => match output.check_content_type() {
                Ok(()) => LeaseEnd::Finish(Ending::Succeeded(output)),
                Err(problem) => {
                    let message = format!("the output's {problem}");
                    LeaseEnd::Finish(failed(Reason::OUTPUT_INVALID, &message))
                }
            },
            Outcome::Failed(error) => judge_failure(lease, policy, error, None),
            Outcome::FailedFor { error, wait } => judge_failure(lease, policy, error, Some(wait)),
            // The item is innocent of what the system is short of, for however long.
            Outcome::Short(Shortage { error, wait }) => LeaseEnd::Release {
                due: due_after(wait),
                error: error.within_bounds(),
                charge: Charge::Unbegun,
            },
            Outcome::Released { error, .. } if lease.releases + 1 >= limits::RELEASES_MAX => {
                let message = format!(
                    "given back {} times, last: {}",
                    limits::RELEASES_MAX,
                    error.message
                );
                LeaseEnd::Finish(failed(Reason::RELEASED_TOO_OFTEN, &message))
            }
            Outcome::Released { error, wait } => LeaseEnd::Release {
                due: due_after(wait),
                error: error.within_bounds(),
                charge: Charge::Release,
            },
        }
    }
}

/// What kind of end an outcome is.
fn end_of(outcome: &Result<Outcome, Over>) -> AttemptEnd {
    match outcome {
        Err(Over::Time(_)) => AttemptEnd::TimedOut,
        Ok(Outcome::Succeeded(_)) => AttemptEnd::Succeeded,
        Ok(Outcome::Released { .. } | Outcome::Short(_)) | Err(Over::Stopped) => {
            AttemptEnd::Released
        }
        Ok(Outcome::Failed(error)) if &*error.reason == Reason::ITEM_TIMEOUT.name => {
            AttemptEnd::TimedOut
        }
        Ok(Outcome::Failed(error)) if &*error.reason == Reason::ITEM_CANCELLED.name => {
            AttemptEnd::Cancelled
        }
        Ok(Outcome::Failed(_) | Outcome::FailedFor { .. }) => AttemptEnd::Failed,
    }
}

/// What a failure leads to, after the policy's backoff or the handler's own `wait`. An item that runs
/// at most once has no second attempt, whatever its policy says.
fn judge_failure(
    lease: &Lease,
    policy: &RetryPolicy,
    error: ItemError,
    own_wait: Option<Duration>,
) -> LeaseEnd {
    // A handler's reason may be anything; what is kept is a name.
    let error = error.within_bounds();
    if lease.head.options.at_most_once {
        return LeaseEnd::Finish(Ending::Failed(error));
    }
    match policy.decide(&error, lease.spent + 1, entropy::fraction()) {
        RetryDecision::Final => LeaseEnd::Finish(Ending::Failed(error)),
        RetryDecision::Again(backoff) => LeaseEnd::Release {
            due: due_after(own_wait.unwrap_or(backoff)),
            error,
            charge: Charge::Attempt,
        },
    }
}

fn due_after(wait: Duration) -> Timestamp {
    clock::now().plus(wait.min(limits::DURATION_MAX))
}

/// What comes of an attempt that ran into a limit, with what the handler had to say at last: its
/// failure, or the end of its item.
fn ran_into(limit: Limit, late: Option<Outcome>) -> Result<ItemError, Ending> {
    let mut message = match limit {
        Limit::Timeout(limit) => format!("the attempt ran into its limit of {limit:?}"),
        Limit::FinishBy => "the item's time was over while it ran".to_owned(),
        Limit::Batch(_) => "its batch's time was over while it ran".to_owned(),
    };
    if let Some(
        Outcome::Failed(error)
        | Outcome::FailedFor { error, .. }
        | Outcome::Released { error, .. }
        | Outcome::Short(Shortage { error, .. }),
    ) = late
        && !error.message.is_empty()
    {
        message = format!("{message}; last words: {}", error.message);
    }
    match limit {
        Limit::Timeout(_) => Ok(ItemError::of(Reason::ITEM_TIMEOUT, &message)),
        Limit::FinishBy => Err(ItemTime::FinishBy.ending(&message)),
        Limit::Batch(cause) => Err(cause.ending(&message)),
    }
}

fn failed(reason: Reason, message: &str) -> Ending {
    Ending::Failed(ItemError::of(reason, message))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that ticked meanwhile made results of items that never ran tell how long they had run.
    #[test]
    fn what_never_ran_ran_for_no_time() {
        let long_ago = Timestamp(0);
        let refused = Ended::unattempted(failed(Reason::INPUT_TOO_LARGE, "too large"));
        assert_eq!(refused.ran_since(long_ago), Duration::ZERO);
        let ran = Ended {
            ran: true,
            ..refused
        };
        assert!(ran.ran_since(long_ago) > Duration::ZERO);
    }
}
