//! Floor 0: everything ambient, each thing behind one door.
//!
//! Time comes from [`clock`], chance from [`entropy`], tasks and threads from [`tasks`], bounds from
//! [`limits`], logs go out through [`telemetry`] and figures through [`metrics`]. Nothing above reaches around a door; clippy's
//! `disallowed-methods` sees to it.

pub mod clock;
pub mod entropy;
pub mod limits;
pub mod metrics;
pub mod tasks;
pub mod telemetry;
