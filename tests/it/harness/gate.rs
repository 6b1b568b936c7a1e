//! A gate inside the test's own process, for handlers that run there.

use std::sync::{Arc, Condvar, Mutex};

use sooner::Attempt;

use super::PATIENCE;

/// Counts who has come and lets through who may pass. Whoever waits at it blocks a thread, as a
/// handler does that computes or calls something that blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<Count>, Condvar)>);

#[derive(Debug, Default)]
struct Count {
    arrived: usize,
    open_below: usize,
}

impl Gate {
    /// Blocks the thread until places below `place + 1` are open. Gives up in the end, so that a
    /// test that fails ends.
    pub(crate) fn pass(&self, place: usize) {
        let (count, changed) = &*self.0;
        let mut state = count.lock().unwrap();
        state.arrived += 1;
        changed.notify_all();
        let waited = changed.wait_timeout_while(state, PATIENCE, |it| it.open_below <= place);
        drop(waited.unwrap());
    }

    /// Opens the places below this one.
    pub(crate) fn open_below(&self, place: usize) {
        let (count, changed) = &*self.0;
        let mut state = count.lock().unwrap();
        state.open_below = state.open_below.max(place);
        changed.notify_all();
    }

    /// Lets everybody through.
    pub(crate) fn open(&self) {
        self.open_below(usize::MAX);
    }

    /// How many have come so far.
    pub(crate) fn arrived(&self) -> usize {
        self.0.0.lock().unwrap().arrived
    }

    /// Waits until that many have come, without blocking the thread.
    pub(crate) async fn arrivals(&self, count: usize) {
        let gate = self.clone();
        let waited = tokio::task::spawn_blocking(move || {
            let (count_of, changed) = &*gate.0;
            let state = count_of.lock().unwrap();
            let waited = changed.wait_timeout_while(state, PATIENCE, |it| it.arrived < count);
            assert!(!waited.unwrap().1.timed_out(), "{count} have not come");
        });
        waited.await.unwrap();
    }
}

/// Lets the gates through when a test ends in whatever way: no thread is left at them.
#[derive(Debug)]
pub(crate) struct OpenAtEnd(pub(crate) Gate);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Where an attempt's item stands in its batch.
pub(crate) fn place(attempt: &Attempt) -> usize {
    usize::try_from(attempt.index).unwrap()
}
