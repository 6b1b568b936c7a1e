//! Whether the server serves, in each way it can be asked: gRPC health on both ports, and `/readyz`.

use std::sync::{Arc, Mutex, PoisonError};

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::api::grpc::{ADMIN_SERVICE, BATCH_SERVICE};

/// The names whose health is that of the server.
const READINESS: [&str; 4] = ["", BATCH_SERVICE, ADMIN_SERVICE, "readiness"];

/// The name that is healthy for as long as the process lives: whoever asks it must not end a server
/// that drains.
const LIVENESS: &str = "liveness";

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The store is being opened.
    Starting,
    /// Calls are served.
    Serving,
    /// It was asked to stop.
    Draining,
}

/// What both ports tell.
#[derive(Clone, Debug)]
pub(super) struct Health {
    phase: Arc<Mutex<Phase>>,
    main: HealthReporter,
    ops: HealthReporter,
}

/// The health service of each port. They say the same, but those who watch it end at different times.
pub(super) struct Services<Main, Ops> {
    pub(super) main: HealthServer<Main>,
    pub(super) ops: HealthServer<Ops>,
}

impl Health {
    /// A server that is starting.
    pub(super) async fn new() -> (
        Self,
        Services<impl health_server::Health, impl health_server::Health>,
    ) {
        let (main, main_service) = health_reporter();
        let (ops, ops_service) = health_reporter();
        let health = Self {
            phase: Arc::new(Mutex::new(Phase::Starting)),
            main,
            ops,
        };
        for reporter in [&health.main, &health.ops] {
            reporter
                .set_service_status(LIVENESS, ServingStatus::Serving)
                .await;
        }
        health.enter(Phase::Starting).await;
        let services = Services {
            main: main_service,
            ops: ops_service,
        };
        (health, services)
    }

    /// Tells everybody of another phase.
    pub(super) async fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        let status = match phase {
            Phase::Serving => ServingStatus::Serving,
            Phase::Starting | Phase::Draining => ServingStatus::NotServing,
        };
        for reporter in [&self.main, &self.ops] {
            for name in READINESS {
                reporter.set_service_status(name, status).await;
            }
        }
    }

    /// The phase now.
    pub(super) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the calls that watch health on the main port; they would hold their connections for ever.
    pub(super) async fn end_watches(&self) {
        end_watches(self.main.clone()).await;
    }

    /// The same on the ops port.
    pub(super) async fn end_ops_watches(&self) {
        end_watches(self.ops.clone()).await;
    }
}

async fn end_watches(mut reporter: HealthReporter) {
    for name in READINESS.into_iter().chain([LIVENESS]) {
        reporter.clear_service_status(name).await;
    }
}
