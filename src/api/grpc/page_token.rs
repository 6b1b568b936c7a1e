//! Page tokens: where a list goes on, opaque and good only for the request that they came with.
//!
//! A token is a place and a digest of it and of all that was asked. That keeps mistakes out: a token
//! of another list, of other filters, or with a typo. It is no secret. Whoever makes one up gets
//! another place in a list that they may read anyway.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sha2::{Digest as _, Sha256};

use super::violations::{INVALID_FIELD, Violations};

/// Bytes of the digest: enough that no mistake passes for a token.
const DIGEST_BYTES: usize = 8;

/// What a list was asked for, as far as it must stay the same from page to page.
#[derive(Clone, Debug)]
pub(crate) struct Asked(Sha256);

impl Asked {
    /// The list of that name.
    pub(crate) fn of(list: &str) -> Self {
        Self(Sha256::new()).with(list)
    }

    /// With that part. Parts count in their order, and an empty one is another than none.
    pub(crate) fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The token of a page that begins behind `place`.
    pub(crate) fn token(&self, place: i64) -> String {
        let place = place.to_le_bytes();
        BASE64_URL_SAFE_NO_PAD.encode([&place[..], &self.digest(place)].concat())
    }

    /// The place in a token that an answer to the same request gave; `None` on the first page.
    pub(crate) fn place(&self, wrong: &mut Violations, token: &str) -> Option<i64> {
        if token.is_empty() {
            return None;
        }
        let place = self.opened(token);
        if place.is_none() {
            let message = "is none that an answer to this very request has given";
            wrong.add(INVALID_FIELD, "page_token", message);
        }
        place
    }

    fn opened(&self, token: &str) -> Option<i64> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (place, digest) = bytes.split_first_chunk()?;
        (*digest == self.digest(*place)).then(|| i64::from_le_bytes(*place))
    }

    fn digest(&self, place: [u8; 8]) -> [u8; DIGEST_BYTES] {
        let digest: [u8; 32] = self.0.clone().chain_update(place).finalize().into();
        let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        *head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_the_request_that_it_came_with_alone() {
        let asked = |parts: &[&str]| parts.iter().fold(Asked::of("list"), Asked::with);
        let token = asked(&["a", ""]).token(7);
        let found = |asked: &Asked, token: &str| {
            let mut wrong = Violations::default();
            let place = asked.place(&mut wrong, token);
            wrong.or(place).map_err(|error| error.reason())
        };
        assert_eq!(found(&asked(&["a", ""]), &token), Ok(Some(7)));
        assert_eq!(found(&asked(&["a", ""]), ""), Ok(None));
        for other in [&["a"][..], &["", "a"], &["a", "", ""], &[]] {
            assert_eq!(
                found(&asked(other), &token),
                Err(INVALID_FIELD),
                "{other:?}"
            );
        }
        assert_eq!(found(&Asked::of("other"), &token), Err(INVALID_FIELD));
        for at in 0..token.len() {
            let mut wrong = token.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(
                found(&asked(&["a", ""]), &wrong),
                Err(INVALID_FIELD),
                "{wrong}"
            );
        }
        for nonsense in ["x", "-", "ä", &token[1..]] {
            assert_eq!(found(&asked(&["a", ""]), nonsense), Err(INVALID_FIELD));
        }
    }
}
