//! Where a list goes on, as its caller carries it about.
//!
//! A token says nothing to its caller, fits into a URL, and is good only for the list that it came
//! from: a masked position and a code over that position and the question, under a key that only this data
//! directory has. So a token that was made up, or that answers another question, is told from a good
//! one, and a good one stays good over restarts.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sha2::{Digest as _, Sha256};

/// The first byte of each token. A change of the layout needs another one.
const VERSION: u8 = 1;

/// Bytes of the code: enough that nobody guesses one.
const CODE_BYTES: usize = 16;

/// What only this data directory knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageKey(pub [u8; 16]);

impl std::fmt::Debug for PageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageKey")
    }
}

/// What is asked of a list, apart from where it goes on and how much is wanted at once.
#[derive(Clone, Debug)]
pub struct Question(Sha256);

impl Question {
    /// What is said of a token that tells no position.
    pub const NOT_ITS_TOKEN: &str = "is none that an answer to this very request has given";

    /// A question to that list.
    pub fn to(list: &str) -> Self {
        Self(Sha256::new()).and(list.as_bytes())
    }

    /// The same question with one more word, in an order that the caller keeps.
    #[must_use]
    pub fn and(mut self, word: &[u8]) -> Self {
        self.0.update((word.len() as u64).to_le_bytes());
        self.0.update(word);
        self
    }

    /// The token of a position in its answer.
    pub fn token(&self, key: PageKey, position: i64) -> String {
        let code = self.code(key, position);
        let mut token = vec![VERSION];
        token.extend(masked(key, code, position.to_be_bytes()));
        token.extend(code);
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// The position that a token of this very question tells; `None` if it is none.
    pub fn position(&self, key: PageKey, token: &str) -> Option<i64> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (position, code) = rest.split_first_chunk()?;
        let code: [u8; CODE_BYTES] = code.try_into().ok()?;
        let position = i64::from_be_bytes(masked(key, code, *position));
        (code == self.code(key, position)).then_some(position)
    }

    /// All that goes in has a fixed length, so nothing can be put behind it.
    fn code(&self, PageKey(key): PageKey, position: i64) -> [u8; CODE_BYTES] {
        let mut hash = Sha256::new();
        hash.update(key);
        hash.update([VERSION]);
        hash.update(position.to_be_bytes());
        hash.update(self.0.clone().finalize());
        let digest: [u8; 32] = hash.finalize().into();
        let (code, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        *code
    }
}

/// A position made unreadable, or readable again: its number tells how much others have in the store.
fn masked(PageKey(key): PageKey, code: [u8; CODE_BYTES], position: [u8; 8]) -> [u8; 8] {
    let mask = Sha256::new()
        .chain_update(key)
        .chain_update(code)
        .finalize();
    let mut bytes = position;
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PageKey = PageKey([7; 16]);

    #[test]
    fn a_token_leads_to_its_place_in_its_own_list_and_nowhere_else() {
        let question = Question::to("items").and(b"b").and(b"3");
        for position in [0, 1, 4711, i64::MAX] {
            let token = question.token(KEY, position);
            assert_eq!(question.position(KEY, &token), Some(position));
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(token.bytes().all(is_plain), "{token}");
            for other in [
                Question::to("batches").and(b"b").and(b"3"),
                Question::to("items").and(b"b").and(b"4"),
                Question::to("items").and(b"b3"),
                Question::to("items").and(b"b"),
            ] {
                assert_eq!(other.position(KEY, &token), None);
            }
            assert_eq!(question.position(PageKey([8; 16]), &token), None);
        }
    }

    #[test]
    fn a_token_that_was_tampered_with_is_none() {
        let question = Question::to("items");
        let token = question.token(KEY, 4711);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let tampered = String::from_utf8(bytes).unwrap();
            assert_eq!(question.position(KEY, &tampered), None, "{tampered}");
        }
        let longer = format!("{token}A");
        for none in ["", "A", "4711", "ä", &token[1..], &longer] {
            assert_eq!(question.position(KEY, none), None, "{none}");
        }
    }
}
