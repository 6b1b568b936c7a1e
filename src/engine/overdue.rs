//! Ends batches whose time is over, and nothing else: no timer per batch or item.

use tokio_util::sync::CancellationToken;

use crate::base::limits;
use crate::store::Store;

/// Looks at the batches with a time limit once a second, until `draining`.
pub(crate) async fn watch_over(store: Store, draining: CancellationToken) {
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep(limits::OVERDUE_LOOK) => {}
        }
        if let Err(error) = store.end_overdue().await {
            // A full disk, perhaps: it is looked at again.
            tracing::warn!(%error, "batches whose time is over could not be ended");
        }
    }
}
