//! How to use this crate as a library: pages, no code.
//!
//! - [`handlers`]: what computes your items, and on which threads.
//! - [`embedding`]: the engine in your program, and the gRPC server with your handlers.
//!
//! The examples `async_handler`, `cpu_bound`, `embedded` and `own_server` of the repository are
//! whole programs: `cargo run --example NAME`.
//!
//! # What is meant for users
//!
//! What is re-exported at the top of the crate, and [`wire`](crate::wire) for gRPC clients. The
//! other modules are public so that the program in this crate, its tests and its benches can use
//! them, and so that the map at the top can link to them; they change without notice.

pub mod embedding;
pub mod handlers;
