//! Stories about the real binary, told by real clients.
//!
//! One test binary, so that it links once. Each file is one story; the nouns are in [`harness`].

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "a test may panic, wait for a process and measure"
)]

mod harness;
