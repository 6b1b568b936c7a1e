//! Ends batches whose time is over, and nothing else: no timer per batch or item.

use tokio_util::sync::CancellationToken;

use crate::base::limits;
use crate::store::{Store, StoreError};

/// Looks at the batches with a time limit once a second, until `draining`.
pub(crate) async fn watch_over(store: Store, draining: CancellationToken) {
    look(|| store.end_overdue(), draining).await;
}

async fn look<F>(end_overdue: impl Fn() -> F, draining: CancellationToken)
where
    F: Future<Output = Result<(), StoreError>>,
{
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep(limits::OVERDUE_LOOK) => {}
        }
        let ended = tokio::select! {
            biased;
            // An end waits for room on a full disk; a drain does not wait for that.
            () = draining.cancelled() => return,
            ended = end_overdue() => ended,
        };
        if let Err(error) = ended {
            // It is looked at again.
            tracing::warn!(%error, "batches whose time is over could not be ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // It did, on a full disk, and so did the whole server.
    #[tokio::test]
    async fn a_drain_does_not_wait_for_an_end_that_waits_for_room() {
        let draining = CancellationToken::new();
        let stuck = || {
            draining.cancel();
            std::future::pending()
        };
        let looking = look(stuck, draining.clone());
        let patience = Duration::from_secs(30);
        let ended = tokio::time::timeout(patience, looking).await;
        ended.expect("it leaves as the drain begins");
    }
}
