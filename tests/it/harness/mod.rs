//! The nouns of the stories: a server in a process of its own, clients, batches.

pub(crate) mod client;
pub(crate) mod server;

pub(crate) use self::client::{Client, item};
pub(crate) use self::server::{Server, ServerSetup};
