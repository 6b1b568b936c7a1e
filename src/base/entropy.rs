//! The door to chance.

use uuid::Uuid;

/// A new `UUIDv7`: unique, and ordered by time within this process.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn uuid() -> Uuid {
    Uuid::now_v7()
}

/// 128 bits nobody can guess: the fence of a lease.
pub fn nonce() -> u128 {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    u128::from_le_bytes(bytes)
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
        assert_ne!(nonce(), nonce());
    }
}
