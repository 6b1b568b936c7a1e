//! Sooner (architecture page to come)
pub mod api;
pub mod base;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod error;
pub mod handler;
pub mod server;
pub mod store;
pub mod wire;
