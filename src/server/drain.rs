//! The end of a server, in order.

use std::time::Duration;

use super::Server;
use super::health::Phase;

/// How long streams and connections have to end once all outcomes are recorded. It is what
/// [`crate::engine::Handler::stop_grace`] leaves of the grace if a handler takes no longer to stop than it may.
pub const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long the ops port has to answer what it was asked when everything else is done.
const LAST_PROBE: Duration = Duration::from_millis(200);

impl Server {
    /// Health says no, and calls are still taken for a while: those who route them hear of it late.
    /// Then nothing new comes in or starts; what runs may finish until the grace is nearly over;
    /// outcomes are recorded and sent; streams end with a cursor to go on from; the store is closed;
    /// and only then the ops port stops answering.
    pub(super) async fn drain(&self) {
        let (delay, grace) = (self.drain_delay, self.drain_grace);
        tracing::info!(?delay, ?grace, "draining");
        self.health.enter(Phase::Draining).await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
            tracing::info!("the delay is over: no more calls are taken");
        }
        self.connections.stop_accepting();
        self.node.engine().drain(grace).await;
        self.closing.cancel();
        self.health.end_watches().await;
        tokio::join!(
            self.connections.end_within(LAST_WORDS),
            self.node.readers_end_within(LAST_WORDS)
        );
        self.node.close();
        if let Some(ops_connections) = &self.ops_connections {
            ops_connections.stop_accepting();
            self.health.end_ops_watches().await;
            ops_connections.end_within(LAST_PROBE).await;
        }
        tracing::info!("drained");
    }
}
