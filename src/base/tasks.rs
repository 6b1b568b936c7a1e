//! The door to tasks and threads: nothing is spawned elsewhere, so nothing is forgotten.

use std::future::Future;
use std::thread;

use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Tasks of one kind on one runtime, which their owner can wait for as a whole.
#[derive(Clone, Debug)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
}

impl Tasks {
    /// A group of tasks that run on `runtime`.
    pub fn on(runtime: Handle) -> Self {
        Self {
            runtime,
            tracker: TaskTracker::new(),
        }
    }

    /// Starts a task of the group. Dropping the handle does not stop it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn_on(task, &self.runtime)
    }

    /// The same runtime, a group of its own.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self::on(self.runtime.clone())
    }

    /// Waits until every task of the group has ended. Cancel safe.
    pub async fn all_ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// A runtime with `threads` threads of its own, named after what they do.
pub fn runtime(name: &str, threads: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

/// Starts a named thread.
///
/// # Panics
/// If the operating system has no thread to give: the server cannot work without it.
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("the system has a thread to give")
}
