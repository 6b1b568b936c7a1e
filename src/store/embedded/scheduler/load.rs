//! How much work is accepted and not over: what admission is decided by.
//!
//! Kept as sums that change with each batch and item, staged and taken back with them, so that they
//! are always those of the group being written. A batch's bytes are those of its inputs times the share
//! of its items that have no result yet: nothing has to be read when an item ends.

use std::collections::HashMap;

use super::{LiveBatch, Scheduler};
use crate::domain::ids::{BatchNo, Tenant};
use crate::store::admission::{Bound, Bounds, Full, Limits};

/// Work that is accepted and not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Batches.
    pub(crate) batches: u64,
    /// Items without a result.
    pub(crate) items: u64,
    /// Bytes of their inputs.
    pub(crate) bytes: u64,
}

/// The same of all tenants together, and of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loads {
    all: Load,
    tenants: HashMap<Tenant, Load>,
}

/// How much more may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Items.
    pub(crate) items: u64,
    /// Bytes of their inputs.
    pub(crate) bytes: u64,
}

impl Load {
    fn plus(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        debug_assert!(
            self.batches >= other.batches && self.items >= other.items && self.bytes >= other.bytes,
            "only what was counted is taken away"
        );
        // A wrong count must not stop the server: it is only what admission goes by.
        Self {
            batches: self.batches.saturating_sub(other.batches),
            items: self.items.saturating_sub(other.items),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether this and `more` are within the bounds.
    fn check(self, more: Self, bounds: &Bounds, tenant: Option<&Tenant>) -> Result<(), Full> {
        let with = self.plus(more);
        let bounds = [
            (
                with.batches,
                more.batches,
                bounds.open_batches,
                Bound::OpenBatches,
            ),
            (
                with.items,
                more.items,
                bounds.queued_items,
                Bound::QueuedItems,
            ),
            (
                with.bytes,
                more.bytes,
                bounds.queued_bytes,
                Bound::QueuedBytes,
            ),
        ];
        // What asks for nothing of it takes nothing of it.
        let over = bounds
            .into_iter()
            .find(|&(sum, asked, most, _)| asked > 0 && sum > most);
        over.map_or(Ok(()), |(_, asked, most, bound)| {
            Err(Full {
                tenant: tenant.cloned(),
                bound,
                most,
                never: asked > most,
            })
        })
    }
}

impl Bounds {
    /// What there is room for beside `there`.
    fn beside(&self, there: Load) -> Room {
        Room {
            items: self.queued_items.saturating_sub(there.items),
            bytes: self.queued_bytes.saturating_sub(there.bytes),
        }
    }
}

impl Room {
    /// As much as one may wish.
    pub(crate) const BOUNDLESS: Self = Self {
        items: u64::MAX,
        bytes: u64::MAX,
    };

    /// Takes the room for one more item, if there is enough.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        // An empty input asks for none of the bytes, as few as there are.
        let fits = self.items > 0 && (bytes == 0 || bytes <= self.bytes);
        if fits {
            self.items -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        fits
    }
}

impl Loads {
    /// Counts what a batch is now instead of what it was.
    pub(crate) fn change(&mut self, tenant: &Tenant, before: Load, after: Load) {
        self.all = self.all.plus(after).minus(before);
        if let Some(load) = self.tenants.get_mut(tenant) {
            *load = load.plus(after).minus(before);
            if *load == Load::default() {
                self.tenants.remove(tenant);
            }
        } else if after != before {
            self.tenants.insert(tenant.clone(), after.minus(before));
        }
    }

    fn of(&self, tenant: &Tenant) -> Load {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }
}

impl Limits {
    /// Whether `more` of a tenant may come in beside what there is, which stands in two sums.
    pub(crate) fn check(
        &self,
        tenant: &Tenant,
        there: [&Loads; 2],
        more: Load,
    ) -> Result<(), Full> {
        let [committed, staged] = there;
        if let Some(bounds) = self.tenants.get(tenant) {
            let there = committed.of(tenant).plus(staged.of(tenant));
            there.check(more, bounds, Some(tenant))?;
        }
        committed.all.plus(staged.all).check(more, &self.all, None)
    }

    /// How many items of a tenant may come in beside what there is, and bytes of their inputs.
    pub(crate) fn room(&self, tenant: &Tenant, there: [&Loads; 2]) -> Room {
        let [committed, staged] = there;
        let all = self.all.beside(committed.all.plus(staged.all));
        let own = self.tenants.get(tenant).map_or(Room::BOUNDLESS, |bounds| {
            bounds.beside(committed.of(tenant).plus(staged.of(tenant)))
        });
        Room {
            items: all.items.min(own.items),
            bytes: all.bytes.min(own.bytes),
        }
    }

    /// Whether so many items of all tenants together are within the bound.
    #[cfg(test)]
    pub(crate) fn hold(&self, loads: &Loads) -> bool {
        loads.all.items <= self.all.queued_items
    }

    /// Whether one more item of a batch may come in beside what there is.
    pub(crate) fn admits_one(&self, tenant: &Tenant, there: &Loads, bytes: u64) -> bool {
        self.check_one(tenant, there, bytes).is_ok()
    }

    /// Whether an item of a batch is small enough to come in once there is room.
    pub(crate) fn check_alone(&self, tenant: &Tenant, bytes: u64) -> Result<(), Full> {
        self.check_one(tenant, &Loads::default(), bytes)
    }

    fn check_one(&self, tenant: &Tenant, there: &Loads, bytes: u64) -> Result<(), Full> {
        let (batches, items) = (0, 1);
        let one = Load {
            batches,
            items,
            bytes,
        };
        self.check(tenant, [there, &Loads::default()], one)
    }
}

impl LiveBatch {
    /// What the batch is of the load, as staged.
    pub(crate) fn load(&self) -> Load {
        let items = self.open_items();
        let bytes = match self.staged_total {
            0 => 0,
            total => u128::from(self.input_bytes) * u128::from(items) / u128::from(total),
        };
        Load {
            batches: 1,
            items,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        }
    }
}

impl Scheduler {
    /// How much is accepted and not over, as staged, but for batches that the group being written
    /// brings.
    pub(crate) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub(crate) fn recounted(&self) -> Loads {
        let mut loads = Loads::default();
        for batch in self.batches.values() {
            loads.change(&batch.head.tenant, Load::default(), batch.load());
        }
        loads
    }

    /// Sets how many items a batch has, as staged, and the bytes of their inputs.
    pub(crate) fn stage_items(&mut self, no: BatchNo, total: u32, input_bytes: u64) {
        let Some(batch) = self.batches.get_mut(&no) else {
            return;
        };
        let before = batch.load();
        (batch.staged_total, batch.input_bytes) = (total, input_bytes);
        self.loads.change(&batch.head.tenant, before, batch.load());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(batches: u64, items: u64, bytes: u64) -> Load {
        Load {
            batches,
            items,
            bytes,
        }
    }

    fn loads(tenant: &Tenant, of_it: Load, of_others: Load) -> Loads {
        let mut loads = Loads::default();
        let other = Tenant::parse("other").unwrap();
        loads.change(tenant, Load::default(), of_it);
        loads.change(&other, Load::default(), of_others);
        loads
    }

    #[test]
    fn what_fits_exactly_is_let_in_and_one_more_is_not() {
        let tenant = Tenant::default();
        let all = Bounds {
            open_batches: 3,
            queued_items: 10,
            queued_bytes: 100,
        };
        let mut limits = Limits {
            all,
            ..Limits::default()
        };
        let staged = loads(&tenant, load(1, 4, 45), Load::default());
        let committed = loads(&tenant, Load::default(), load(1, 4, 45));
        let refused = |limits: &Limits, more| {
            let full = limits.check(&tenant, [&committed, &staged], more).err();
            full.map(|full| (full.setting(), full.never))
        };
        let over = |setting: &str, never| Some((setting.to_owned(), never));
        assert_eq!(refused(&limits, load(1, 2, 10)), None);
        let cases = [
            (load(2, 1, 1), "limits.open_batches", false),
            (load(1, 3, 1), "limits.queued_items", false),
            (load(0, 1, 11), "limits.queued_bytes", false),
            (load(0, 11, 1), "limits.queued_items", true),
        ];
        for (more, setting, never) in cases {
            assert_eq!(refused(&limits, more), over(setting, never), "{more:?}");
        }
        // More items of a batch are no more batches.
        limits.all.open_batches = 0;
        assert_eq!(refused(&limits, load(0, 1, 1)), None);
        let own = Bounds {
            queued_items: 5,
            ..Bounds::default()
        };
        limits.tenants.insert(tenant.clone(), own);
        let expected = over("tenants.default.queued_items", false);
        assert_eq!(refused(&limits, load(0, 2, 1)), expected);
        assert_eq!(refused(&limits, load(0, 1, 1)), None);
    }
}
