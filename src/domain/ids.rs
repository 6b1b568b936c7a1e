//! Names of things. Each is checked once, where it enters, and carried as its own type since.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::base::limits;

/// On whose behalf a caller acts. Tenants see nothing of each other: the ids and keys of their batches
/// are their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

/// A batch's id: the caller's, or a `UUIDv7` of the server's. Unique within its tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchId(Arc<str>);

/// What a batch is looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchName {
    /// Whose it is.
    pub tenant: Tenant,
    /// How its tenant calls it.
    pub id: BatchId,
}

/// The server's own name of a batch. Never reused, unlike a [`BatchId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchUid(pub Uuid);

/// A batch's number inside the store, from 1. Never reused, never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNo(pub u32);

/// A caller's idempotency key apart from the batch id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

/// The name by which items find a handler.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Arc<str>);

/// The tenant of everybody who is no other.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// An item inside the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// Its batch.
    pub batch: BatchNo,
    /// Its position in the submitted order, from 0.
    pub index: u32,
}

/// A position in a batch's journal, from 1; 0 is before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u32);

/// An item by the server's own name of its batch: never reused, so that handlers know it by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemOrigin {
    /// Its batch.
    pub batch: BatchUid,
    /// Its position in the submitted order, from 0.
    pub index: u32,
}

/// Proof of a lease: the item, the attempt's number and a nonce that fences off everyone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// The leased item.
    pub item: ItemKey,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What nobody can guess.
    pub nonce: u128,
}

impl Tenant {
    /// Checks a tenant's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        plain_name(text, limits::NAME_CHARS_MAX).map(Self)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tenant's batch of that id.
    pub fn batch(self, id: BatchId) -> BatchName {
        BatchName { tenant: self, id }
    }

    /// The name as text, where there is something to tell apart.
    pub fn unless_default(&self) -> Option<&str> {
        (self.as_str() != DEFAULT_TENANT).then_some(self.as_str())
    }
}

impl Default for Tenant {
    /// Everybody, where nobody says who is who.
    fn default() -> Self {
        Self(DEFAULT_TENANT.into())
    }
}

impl From<BatchId> for BatchName {
    /// A batch of the default tenant.
    fn from(id: BatchId) -> Self {
        let tenant = Tenant::default();
        Self { tenant, id }
    }
}

impl From<&BatchId> for BatchName {
    /// A batch of the default tenant.
    fn from(id: &BatchId) -> Self {
        id.clone().into()
    }
}

impl From<&Self> for BatchName {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

impl BatchId {
    /// Checks a caller's id: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`. A colon would end a REST path's id.
    pub fn parse(text: &str) -> Result<Self, String> {
        plain_name(text, limits::BATCH_ID_CHARS_MAX).map(Self)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<BatchUid> for BatchId {
    fn from(uid: BatchUid) -> Self {
        Self(uid.to_string().into())
    }
}

impl RequestId {
    /// Checks a caller's key: printable ASCII without spaces, at most 128 characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > limits::REQUEST_ID_CHARS_MAX {
            let (has, max) = (text.len(), limits::REQUEST_ID_CHARS_MAX);
            return Err(format!("has {has} bytes, more than the limit {max}"));
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("holds something other than printable ASCII".to_owned());
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl QueueName {
    /// Checks a queue's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        name(text, limits::NAME_CHARS_MAX).map(Self)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for QueueName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl ItemKey {
    /// The key as the store packs it: batch in the upper half, index in the lower.
    pub fn packed(self) -> i64 {
        i64::from(self.batch.0) << 32 | i64::from(self.index)
    }

    /// The reverse of [`ItemKey::packed`]; `None` if it never came from there.
    pub fn unpack(packed: i64) -> Option<Self> {
        let batch = BatchNo(u32::try_from(packed >> 32).ok()?);
        let index = u32::try_from(packed & i64::from(u32::MAX)).ok()?;
        Some(Self { batch, index })
    }
}

/// The text of an item's id: the caller's, or its decimal position.
pub fn item_id_text(id: Option<&str>, index: u32) -> String {
    id.map_or_else(|| index.to_string(), str::to_owned)
}

/// Checks a caller's item id: any printable text of at most 256 bytes.
pub fn check_item_id(text: &str) -> Result<(), String> {
    if text.len() > limits::ITEM_ID_BYTES_MAX {
        let (has, max) = (text.len(), limits::ITEM_ID_BYTES_MAX);
        return Err(format!("has {has} bytes, more than the limit {max}"));
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character".to_owned());
    }
    Ok(())
}

/// Checks a name of letters, digits, dot, dash and underscore.
pub fn name(text: &str, chars_max: usize) -> Result<Arc<str>, String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > chars_max {
        return Err(format!(
            "has {} bytes, more than the limit {chars_max}",
            text.len()
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.chars().find(|&c| !allowed(c)) {
        Some(wrong) => Err(format!(
            "holds {wrong:?}; allowed are A-Z, a-z, 0-9, dot, dash, underscore"
        )),
        None => Ok(text.into()),
    }
}

/// Checks a name that begins with a letter or digit.
fn plain_name(text: &str, chars_max: usize) -> Result<Arc<str>, String> {
    match text.chars().next() {
        Some(first) if !first.is_ascii_alphanumeric() => {
            Err(format!("{text:?} does not start with a letter or digit"))
        }
        Some(_) | None => name(text, chars_max),
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id alone: whoever is told of a batch is of its tenant.
impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BatchUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The idempotency key of the item and of every redrive of it.
impl fmt::Display for ItemOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.batch, self.index)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_ids_are_names_that_fit_into_a_path() {
        for good in ["a", "0", "A.b-c_d", &"x".repeat(128)] {
            assert!(BatchId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a:b", "a b", "a/b", "ä", &"x".repeat(129)] {
            assert!(BatchId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tenants_are_short_names() {
        for good in ["a", "0", "Team-7.x_y", &"x".repeat(64)] {
            assert!(Tenant::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "a b", "a,b", "ä", &"x".repeat(65)] {
            assert!(Tenant::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn item_ids_hold_anything_printable() {
        for good in ["a b", "ä/ö?", "日本", &"x".repeat(256)] {
            assert!(check_item_id(good).is_ok(), "{good}");
        }
        for bad in ["a\nb", "\0", &"ä".repeat(129)] {
            assert!(check_item_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn packed_keys_come_back() {
        for key in [(1, 0), (7, u32::MAX), (i32::MAX.cast_unsigned(), 3)] {
            let key = ItemKey {
                batch: BatchNo(key.0),
                index: key.1,
            };
            assert_eq!(ItemKey::unpack(key.packed()), Some(key));
        }
        assert_eq!(ItemKey::unpack(-1), None);
    }
}
