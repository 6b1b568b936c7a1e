//! A budget of bytes for the request messages in memory.
//!
//! tonic makes room for a message as soon as its five bytes of prefix have come, so that is when
//! the whole message takes its place in the budget, at once. (Taken frame by frame, many half
//! messages could fill the budget and wait for each other.) A unary call keeps its place until it
//! is answered, by when what it brought is durable; a stream of messages keeps it until the handler
//! asks for the next one. Whoever waits for a place holds none.
//!
//! Small messages have a lane of their own. What does not get its place within bounded time is
//! refused `SERVER_BUSY`; a message that does not arrive in time, `MESSAGE_TIMEOUT`; one of countless
//! items, which would be far larger in memory than on the wire, `TOO_MANY_ITEMS`.

mod body;
mod fields;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use self::body::Weighed;
use crate::base::limits;
use crate::error::{Error, ErrorKind, Result};

/// Bounds of all requests together.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Fields of one message, not counting those in its items.
    pub message_fields_max: usize,
    /// Bytes of all messages in memory; at least those of one.
    pub request_bytes_max: usize,
    /// How long one message may take to arrive once it has begun.
    pub message_timeout: Duration,
}

/// The layer around the gRPC routes. All calls share what it holds.
#[derive(Clone, Debug)]
pub struct RequestBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limits: RequestLimits,
    /// Room for messages of any size.
    large: Arc<Semaphore>,
    /// Room for small ones.
    small: Arc<Semaphore>,
    /// How long a message may wait for room.
    patience: Duration,
    /// Who may wait for room.
    waiters: Arc<Semaphore>,
    /// Names of the methods whose requests are streams of messages.
    streams: HashSet<String>,
}

/// A call's place in the budget, shared by its body and its answer: the later of both frees it.
type Held = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

/// A place that is being waited for.
type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit>> + Send>>;

impl RequestBudget {
    /// A budget of which calls to `streams` may bring many messages each.
    pub fn new(limits: RequestLimits, streams: HashSet<String>) -> Self {
        let lane = lane_bytes(limits);
        Self(Arc::new(Budget {
            limits,
            large: Arc::new(Semaphore::new(limits.request_bytes_max)),
            small: Arc::new(Semaphore::new(lane)),
            patience: limits::REQUEST_WAIT_MAX,
            waiters: Arc::new(Semaphore::new(limits::REQUEST_WAITERS_MAX)),
            streams,
        }))
    }

    /// Bytes of the messages that have their place now.
    pub fn bytes_held(&self) -> usize {
        let budget = &self.0;
        let free = budget.large.available_permits() + budget.small.available_permits();
        let all = budget.limits.request_bytes_max + lane_bytes(budget.limits);
        all.saturating_sub(free)
    }
}

/// Bytes of the small messages' lane.
fn lane_bytes(limits: RequestLimits) -> usize {
    let lane = limits.request_bytes_max / limits::SMALL_LANE_DIVISOR;
    lane.max(limits::SMALL_MESSAGE_BYTES)
}

impl Budget {
    fn is_stream(&self, path: &str) -> bool {
        let name = path.strip_prefix('/');
        name.is_some_and(|name| self.streams.contains(name))
    }

    /// A place for a message of this length. `None` if it needs none: tonic refuses what is too long.
    fn place(&self, length: u32) -> Option<Waiting> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes == 0 || bytes > self.limits.message_bytes_max {
            return None;
        }
        let lane = if bytes <= limits::SMALL_MESSAGE_BYTES {
            &self.small
        } else {
            &self.large
        };
        // Fair all the same: what is freed while somebody waits is theirs.
        if let Ok(place) = Arc::clone(lane).try_acquire_many_owned(length) {
            return Some(Box::pin(std::future::ready(Ok(place))));
        }
        let waiter = Arc::clone(&self.waiters).try_acquire_owned();
        let (lane, patience) = (Arc::clone(lane), self.patience);
        Some(Box::pin(async move {
            let _waiter = waiter.map_err(|_| busy())?;
            let place = lane.acquire_many_owned(length);
            match tokio::time::timeout(patience, place).await {
                Ok(place) => Ok(place.expect("the budget is never closed")),
                Err(_) => Err(busy()),
            }
        }))
    }
}

fn busy() -> Error {
    let message =
        "other requests fill the memory that the server has for them; this message was not taken";
    Error::new(ErrorKind::Exhausted, "SERVER_BUSY", message).with("limit", "limits.request_bytes")
}

impl<S> Layer<S> for RequestBudget {
    type Service = Budgeted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let budget = Arc::clone(&self.0);
        Budgeted { inner, budget }
    }
}

/// The service with the layer around it.
#[derive(Clone, Debug)]
pub struct Budgeted<S> {
    inner: S,
    budget: Arc<Budget>,
}

impl<S, B, Answer> Service<Request<B>> for Budgeted<S>
where
    S: Service<Request<Weighed<B>>, Response = Response<Answer>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let held = Held::default();
        let streams = self.budget.is_stream(request.uri().path());
        let weighed =
            |body| Weighed::new(body, Arc::clone(&self.budget), Arc::clone(&held), streams);
        let answer = self.inner.call(request.map(weighed));
        Box::pin(async move {
            let answer = answer.await;
            drop(held);
            answer
        })
    }
}

/// Puts another place, or none, where a call's place was.
fn hold(held: &Held, place: Option<OwnedSemaphorePermit>) {
    *held.lock().unwrap_or_else(PoisonError::into_inner) = place;
}
