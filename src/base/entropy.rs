//! The door to chance.

use std::cell::RefCell;

use uuid::Uuid;

/// Nonces drawn at once: each draw is a call of the operating system, and each lease takes a nonce.
const NONCES_DRAWN: usize = 256;

thread_local! {
    /// Nonces that this thread has drawn and not yet given away.
    static NONCES: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// A new `UUIDv7`: unique, and ordered by time within this process.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn uuid() -> Uuid {
    Uuid::now_v7()
}

/// 128 bits nobody can guess: the fence of a lease.
///
/// # Panics
/// If the operating system has no random bytes to give.
pub fn nonce() -> u128 {
    NONCES.with_borrow_mut(|drawn| {
        if drawn.is_empty() {
            let mut bytes = [0; 16 * NONCES_DRAWN];
            fill(&mut bytes);
            let (nonces, _) = bytes.as_chunks();
            drawn.extend(nonces.iter().copied().map(u128::from_le_bytes));
        }
        drawn.pop().expect("some were drawn just now")
    })
}

/// A uniform number from 0 up to, but not including, 1.
pub fn fraction() -> f64 {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[expect(clippy::disallowed_methods, reason = "this is the door")]
fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system hands out random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_stay_below_one_and_nonces_differ() {
        assert!((0..1000).all(|_| (0.0..1.0).contains(&fraction())));
        let nonces: std::collections::HashSet<_> = (0..3 * NONCES_DRAWN).map(|_| nonce()).collect();
        assert_eq!(nonces.len(), 3 * NONCES_DRAWN);
    }
}
