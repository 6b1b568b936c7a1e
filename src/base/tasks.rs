//! The door to tasks and threads: nothing is spawned elsewhere, so nothing is forgotten.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::context::TokioContext;
pub use tokio_util::task::task_tracker::TaskTrackerToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::limits;

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

    /// Runs a task of the group for as long as the answer is waited for; dropping that stops it.
    pub fn run<F>(&self, task: F) -> AbortOnDropHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        AbortOnDropHandle::new(self.spawn(task))
    }

    /// Lets whoever polls `future` do so, on whatever threads, but with the clock of this runtime.
    pub fn lend_clock<F: Future>(&self, future: F) -> TokioContext<F> {
        TokioContext::new(future, self.runtime.clone())
    }

    /// Counts something that is no task in the group, for as long as the answer is kept.
    pub fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
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
pub fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

/// A runtime that may be dropped anywhere, on async threads too: what still blocks on its threads is
/// left behind, the rest is dropped where it waits.
#[derive(Debug)]
pub struct OwnRuntime {
    runtime: Option<Runtime>,
    tasks: Tasks,
}

impl OwnRuntime {
    /// Starts it.
    pub fn start(name: &str, threads: usize) -> io::Result<Self> {
        let runtime = runtime(name, threads)?;
        let tasks = Tasks::on(runtime.handle().clone());
        let runtime = Some(runtime);
        Ok(Self { runtime, tasks })
    }

    /// Runs `main` to its end on this thread and those of the runtime.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime, which must not be blocked.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref();
        runtime
            .expect("it is there until it is dropped")
            .block_on(main)
    }

    /// Its tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Threads for work that computes or blocks: as many as there is work at once, which its owner
/// bounds. They are started when there is none idle, and end once they have been idle for a while.
#[derive(Clone)]
pub struct Threads(Arc<Pool>);

type Work = Box<dyn FnOnce() + Send>;

struct Pool {
    name: String,
    state: Mutex<Waiting>,
    more: Condvar,
}

/// Work that no thread has taken yet, never more than there are idle threads to take it.
#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    idle: usize,
}

impl Threads {
    /// No threads yet; they will bear this name.
    pub fn new(name: &str) -> Self {
        Self(Arc::new(Pool {
            name: name.to_owned(),
            state: Mutex::default(),
            more: Condvar::new(),
        }))
    }

    /// Starts `work` at once. The answer is what it returns, or its panic; dropping the answer does
    /// not stop the work. Fails if the operating system has no thread to give.
    ///
    /// # Panics
    /// Never: what was begun always answers.
    pub fn run<T, W>(
        &self,
        work: W,
    ) -> io::Result<impl Future<Output = thread::Result<T>> + use<T, W>>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let work = move || {
            // Whoever asked may have gone.
            done.send(catch_unwind(AssertUnwindSafe(work))).ok();
        };
        let mut state = self.0.state();
        state.work.push_back(Box::new(work));
        if state.idle >= state.work.len() {
            self.0.more.notify_one();
        } else {
            let pool = Arc::clone(&self.0);
            let builder = thread::Builder::new().name(self.0.name.clone());
            if let Err(error) = builder.spawn(move || pool.work()) {
                drop(state.work.pop_back());
                return Err(error);
            }
        }
        drop(state);
        Ok(async move { result.await.expect("work that was begun always answers") })
    }
}

impl Pool {
    /// Works until there has been nothing to do for a while.
    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(work) = state.work.pop_front() {
                drop(state);
                work();
                state = self.state();
                continue;
            }
            state.idle += 1;
            let waited = self
                .more
                .wait_timeout_while(state, limits::THREAD_IDLE_MAX, |it| it.work.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.work.is_empty() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Threads").field(&self.0.name).finish()
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn work_never_waits_for_other_work_and_idle_threads_are_used_again() {
        let threads = Threads::new("test");
        // None of the four could pass if one of them waited for the others to end.
        let together = Arc::new(Barrier::new(4));
        let work = [(); 4].map(|()| {
            let together = Arc::clone(&together);
            threads.run(move || {
                together.wait();
                thread::current().id()
            })
        });
        let first = work.map(|it| block_on(it.unwrap()).unwrap());
        while threads.0.state().idle < 4 {
            thread::yield_now();
        }
        let again = block_on(threads.run(|| thread::current().id()).unwrap()).unwrap();
        assert!(first.contains(&again), "an idle thread took it");
    }

    #[test]
    fn a_panic_is_handed_over_and_its_thread_works_on() {
        let threads = Threads::new("test");
        let panic = block_on(threads.run(|| panic!("oh")).unwrap()).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"oh"));
        assert_eq!(block_on(threads.run(|| 7).unwrap()).unwrap(), 7);
    }
}
