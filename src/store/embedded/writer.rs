//! The one thread that writes.
//!
//! Everything that changes state is an operation in its queue. It takes what is waiting, commits it
//! as one group, and only then answers. There is no timer: with nothing else waiting an operation is
//! committed at once, and while a commit runs the next group gathers by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::keeper::Keeper;
use super::operation::{Answer, Operation, Request};
use crate::base::{clock, limits, tasks};
use crate::store::StoreError;

/// How often the disk is looked at when all there is to do waits for room on it.
const ROOM_PAUSE: Duration = Duration::from_millis(200);

/// Wakes the thread when the queue has something.
#[derive(Debug)]
struct Knock(Thread);

/// The queue into the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Operation>>>,
    /// Kibibytes of payload that may still come in.
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(keeper: Keeper) -> Self {
        let (queue, operations) = mpsc::channel(limits::WRITER_QUEUE_MAX);
        let room = Arc::new(Semaphore::new(limits::WRITER_QUEUE_BYTES_MAX / 1024));
        let thread = tasks::thread("sooner-writer", move || write(keeper, operations));
        Self {
            queue: Mutex::new(Some(queue)),
            room,
            thread: Mutex::new(Some(thread)),
        }
    }

    /// Has a request committed and answers what came of it. Once it is in the queue it takes effect
    /// even if this future is dropped.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, StoreError> {
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let queue = queue.ok_or(StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let bytes = request.bytes();
        let patience = request
            .is_new_work()
            .then_some(limits::WRITER_QUEUE_WAIT_MAX);
        let enter = async {
            // More than there is room in all would never fit; it waits for all of it.
            let kibibytes = bytes.min(limits::WRITER_QUEUE_BYTES_MAX).div_ceil(1024);
            let kibibytes = u32::try_from(kibibytes).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room).acquire_many_owned(kibibytes).await;
            let room = Some(room.map_err(|_| StoreError::Closed)?);
            let operation = Operation {
                request,
                answer,
                bytes,
                _room: room,
            };
            queue.send(operation).await.map_err(|_| StoreError::Closed)
        };
        match patience {
            Some(patience) => {
                tokio::time::timeout(patience, enter)
                    .await
                    .map_err(|_| StoreError::QueueFull)??;
            }
            // What ends work is never turned away.
            None => enter.await?,
        }
        drop(queue);
        answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Finishes what is queued, empties the log into the file, and ends the thread.
    pub(crate) fn stop(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.room.close();
        if let Some(thread) = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            // A writer that panicked has ended the process's service already.
            drop(thread.join());
        }
    }
}

fn write(mut keeper: Keeper, mut operations: mpsc::Receiver<Operation>) {
    // If this thread ends in any way but the planned one, the server must not go on.
    let alarm = keeper.alarm();
    loop {
        let next = if keeper.has_chores() {
            operations.try_recv()
        } else if keeper.waits_for_disk() {
            recv_within(&mut operations, ROOM_PAUSE)
        } else {
            let next = operations.blocking_recv();
            next.ok_or(mpsc::error::TryRecvError::Disconnected)
        };
        let first = match next {
            Ok(first) => Some(first),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => break,
        };
        let group = gather(first, &mut operations);
        let bytes: usize = group.iter().map(|operation| operation.bytes).sum();
        let committed = keeper
            .commit(group, clock::now(), &mut || operations.try_recv().ok())
            .and_then(|()| keeper.after_commit(bytes));
        if committed.is_err() {
            // Dropping the queue answers what waits in it: nothing of it was stored.
            operations.close();
            while let Ok(operation) = operations.try_recv() {
                drop(operation.answer.send(Err(StoreError::Closed)));
            }
            return;
        }
    }
    keeper.shut();
    alarm.disarm();
}

/// The next operation, if one comes within `patience`.
fn recv_within(
    operations: &mut mpsc::Receiver<Operation>,
    patience: Duration,
) -> Result<Operation, mpsc::error::TryRecvError> {
    let knock = Waker::from(Arc::new(Knock(std::thread::current())));
    let mut context = Context::from_waker(&knock);
    let until = clock::instant() + patience;
    loop {
        if let Poll::Ready(next) = operations.poll_recv(&mut context) {
            return next.ok_or(mpsc::error::TryRecvError::Disconnected);
        }
        let left = until.saturating_duration_since(clock::instant());
        if left.is_zero() {
            return Err(mpsc::error::TryRecvError::Empty);
        }
        std::thread::park_timeout(left);
    }
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn gather(first: Option<Operation>, operations: &mut mpsc::Receiver<Operation>) -> Vec<Operation> {
    let mut group: Vec<_> = first.into_iter().collect();
    let mut bytes: usize = group.iter().map(|operation| operation.bytes).sum();
    while !group.is_empty()
        && group.len() < limits::GROUP_OPERATIONS_MAX
        && bytes < limits::GROUP_BYTES_MAX
        && let Ok(operation) = operations.try_recv()
    {
        bytes += operation.bytes;
        group.push(operation);
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_the_disk_is_waited_for_ends_the_wait() {
        let (queue, mut operations) = mpsc::channel(1);
        let hour = Duration::from_secs(3600);
        let sender = queue.clone();
        let comes = tasks::thread("comes", move || {
            let sent = sender.blocking_send(Operation::unanswered(Request::EndOverdue));
            sent.unwrap();
        });
        assert!(recv_within(&mut operations, hour).is_ok());
        comes.join().unwrap();
        let none = recv_within(&mut operations, Duration::ZERO).unwrap_err();
        assert_eq!(none, mpsc::error::TryRecvError::Empty);
        let goes = tasks::thread("goes", move || drop(queue));
        let end = recv_within(&mut operations, hour).unwrap_err();
        assert_eq!(end, mpsc::error::TryRecvError::Disconnected);
        goes.join().unwrap();
    }
}
