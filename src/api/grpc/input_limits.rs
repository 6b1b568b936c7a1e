//! What requests may bring.

/// Bounds of what a submit may bring, and of how many may be read.
#[derive(Clone, Copy, Debug)]
pub struct InputLimits {
    /// Items of one submit.
    pub items_max: usize,
    /// Bytes of one input.
    pub input_bytes_max: usize,
    /// Result streams that may be open at once.
    pub watchers_max: usize,
}
