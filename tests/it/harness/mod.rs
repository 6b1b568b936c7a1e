//! The nouns of the stories: a server in a process of its own, clients, batches, gates.

pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod gate;
pub(crate) mod gates;
pub(crate) mod history;
pub(crate) mod letters;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod ops;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod run;
pub(crate) mod server;
pub(crate) mod shim;
pub(crate) mod transport;
pub(crate) mod upload;

use std::panic::Location;

pub(crate) use self::client::{Client, all, item};
pub(crate) use self::gates::Gates;
pub(crate) use self::process::{Ended, ended};
pub(crate) use self::server::{PATIENCE, Server, ServerSetup};
pub(crate) use self::upload::{UploadCall, upload_start};

/// Waits for what must come, but not for ever: silence fails the test and names the caller's line.
#[track_caller]
pub(crate) fn within<F: Future>(awaited: F) -> impl Future<Output = F::Output> {
    let line = Location::caller();
    async move {
        let came = tokio::time::timeout(PATIENCE, awaited).await;
        came.unwrap_or_else(|_| panic!("{line}: nothing came within {PATIENCE:?}"))
    }
}

/// Asks again and again until it is so. Only for what tells nobody when it becomes so.
pub(crate) async fn eventually(is_so: impl AsyncFn() -> bool) {
    let becomes_so = async {
        while !is_so().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(becomes_so).await;
}
