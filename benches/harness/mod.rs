//! What the benches share: arguments, the report, the server under test, the store alone.
//!
//! Every figure that means something here is a ratio of two things measured in turns in one run;
//! absolute values show the scale.

pub(crate) mod alone;
pub(crate) mod arguments;
pub(crate) mod client;
pub(crate) mod figures;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod server;
