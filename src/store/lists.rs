//! What is asked of lists, and the pages they answer with.

use std::collections::BTreeMap;

use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{BatchNo, Tenant};
use crate::domain::item::ItemState;
use crate::store::ItemView;

/// Which batches, and how many.
#[derive(Clone, Debug)]
pub struct BatchWalk {
    /// Of this tenant.
    pub tenant: Tenant,
    /// In one of these states; none means all.
    pub states: Vec<BatchState>,
    /// With all of these labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Older than this one.
    pub before: Option<BatchNo>,
    /// At most so many.
    pub most: usize,
}

/// Batches, newest first.
#[derive(Clone, Debug)]
pub struct BatchPage {
    /// They.
    pub batches: Vec<Batch>,
    /// The oldest that was looked at, if older ones were not.
    pub next: Option<BatchNo>,
}

/// Which items of a batch, and how many.
#[derive(Clone, Debug)]
pub struct ItemWalk {
    /// In one of these states; none means all.
    pub states: Vec<ItemState>,
    /// From this index on.
    pub from: u32,
    /// At most so many.
    pub most: usize,
}

/// Items in the order of their indexes, without what was submitted.
#[derive(Clone, Debug)]
pub struct ItemPage {
    /// They, each with the last of its attempts that gave no result.
    pub items: Vec<ItemView>,
    /// Their batch.
    pub batch: Batch,
    /// The first index that was not looked at, if there is one.
    pub next: Option<u32>,
}
