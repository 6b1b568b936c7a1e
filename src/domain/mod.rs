//! Floor 1: values and their rules. No async, no I/O, no clock: time is a parameter.

pub mod attempt;
pub mod batch;
pub mod bounds;
pub mod dead_letter;
pub mod failures;
pub mod fingerprint;
pub mod ids;
pub mod item;
pub mod page_token;
pub mod pause;
pub mod payload;
pub mod rate;
pub mod retry;
pub mod settings;
pub mod tally;
pub mod weights;
