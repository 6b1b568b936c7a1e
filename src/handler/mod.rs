//! Floor 4: what computes items. Each handler is one file; the contract is [`crate::engine::Handler`].

mod echo;
mod exec;

pub use self::echo::Echo;
pub use self::exec::{Environment, Exec, ExecSettings, end_orphans};
