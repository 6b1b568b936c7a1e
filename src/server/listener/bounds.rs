//! What bounds the connections of a port.

use crate::base::limits;
use crate::base::metrics::{Counter, Gauge, Metrics};
use crate::config::{Config, ConnectionTimes};

/// What bounds the connections of one port, and where they are counted.
#[derive(Clone, Debug)]
pub(in crate::server) struct Bounds {
    /// Connections at once; more are closed as they come.
    pub(super) connections: usize,
    /// Connections at once from one address.
    pub(super) connections_per_address: usize,
    /// Calls at once on one connection.
    pub(super) streams: u32,
    /// How long they may take and last.
    pub(super) times: ConnectionTimes,
    /// The open ones.
    pub(super) open: Gauge,
    /// Those that were closed as they came.
    pub(super) refused: Counter,
}

impl Bounds {
    /// Of the port that serves.
    pub(in crate::server) fn of_main(config: &Config, metrics: &Metrics) -> Self {
        Self {
            connections: config.limits.connections,
            connections_per_address: config.limits.connections_per_address,
            streams: limits::CONNECTION_STREAMS_MAX,
            times: config.server.connections,
            open: metrics.connections("main"),
            refused: metrics.connections_refused("main"),
        }
    }

    /// Of the port for probes: few, from wherever, for as long as they like.
    pub(in crate::server) fn of_ops(config: &Config, metrics: &Metrics) -> Self {
        Self {
            connections: limits::OPS_CONNECTIONS_MAX,
            connections_per_address: limits::OPS_CONNECTIONS_MAX,
            streams: limits::OPS_STREAMS_MAX,
            times: ConnectionTimes {
                handshake_timeout: limits::OPS_SILENCE_MAX,
                age_max: None,
                ..config.server.connections
            },
            open: metrics.connections("ops"),
            refused: metrics.connections_refused("ops"),
        }
    }
}
