//! The end of a server, in order.

use std::time::Duration;

use tonic_health::ServingStatus;

use super::{Server, tell_health};
use crate::api::grpc::BATCH_SERVICE;

/// How long streams and connections have to end once all outcomes are recorded. It is what
/// [`crate::engine::Handler::stop_grace`] leaves of the grace if a handler takes no longer to stop than it may.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Server {
    /// Health says no; nothing new comes in; what runs may finish until the grace is nearly over;
    /// outcomes are recorded and sent; streams end with a cursor to go on from; then all closes.
    pub(super) async fn drain(&self) {
        tracing::info!(grace = ?self.drain_grace, "draining");
        tell_health(&self.health, ServingStatus::NotServing).await;
        self.connections.stop_accepting();
        self.node.engine().drain(self.drain_grace).await;
        self.closing.cancel();
        // Ends the calls that watch health; they would hold their connections for ever.
        for service in ["", BATCH_SERVICE] {
            self.health.clone().clear_service_status(service).await;
        }
        self.connections.end_within(LAST_WORDS).await;
        self.node.close();
        tracing::info!("drained");
    }
}
