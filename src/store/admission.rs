//! How much may be accepted and not over at once: of all tenants together, and of one.

use std::collections::HashMap;

use crate::domain::ids::Tenant;

/// Bounds of what is accepted and not over: beyond them new work is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of all tenants together.
    pub all: Bounds,
    /// Of single tenants.
    pub tenants: HashMap<Tenant, Bounds>,
}

/// How much may be accepted and not over. The default is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Batches that are not over.
    pub open_batches: u64,
    /// Items that have no result.
    pub queued_items: u64,
    /// Bytes of their inputs; those of a batch count by the share of its items that have no result.
    pub queued_bytes: u64,
}

/// Which of the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`Bounds::open_batches`].
    OpenBatches,
    /// [`Bounds::queued_items`].
    QueuedItems,
    /// [`Bounds::queued_bytes`].
    QueuedBytes,
}

/// Why no more is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// Whose bound it is; `None` if it is that of all together.
    pub tenant: Option<Tenant>,
    /// The bound that it would go beyond.
    pub bound: Bound,
    /// How much it allows.
    pub most: u64,
    /// Whether what comes would go beyond it by itself, whatever ends.
    pub never: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            open_batches: u64::MAX,
            queued_items: u64::MAX,
            queued_bytes: u64::MAX,
        }
    }
}

impl Bound {
    /// The setting's name in its table.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenBatches => "open_batches",
            Self::QueuedItems => "queued_items",
            Self::QueuedBytes => "queued_bytes",
        }
    }
}

impl Full {
    /// The setting that it would go beyond.
    pub fn setting(&self) -> String {
        let name = self.bound.name();
        match &self.tenant {
            Some(tenant) => format!("tenants.{tenant}.{name}"),
            None => format!("limits.{name}"),
        }
    }
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let most = self.most;
        let what = match self.bound {
            Bound::OpenBatches => "open batches",
            Bound::QueuedItems => "items without a result",
            Bound::QueuedBytes => "bytes of inputs of items without a result",
        };
        match (self.never, &self.tenant) {
            (true, _) => write!(f, "what came alone has more than {most} {what}, the limit"),
            (false, None) => write!(f, "there would be more than {most} {what}, the limit"),
            (false, Some(tenant)) => {
                write!(
                    f,
                    "tenant {tenant} would have more than {most} {what}, its limit"
                )
            }
        }
    }
}
