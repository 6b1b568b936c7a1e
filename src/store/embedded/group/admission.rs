//! Whether more work is let in. What was accepted is not asked.

use super::{Group, lock};
use crate::domain::ids::Tenant;
use crate::store::StoreError;
use crate::store::admission::Limits;
use crate::store::embedded::scheduler::{LiveBatch, Load, Loads, Room};

/// What stands against new work while a group is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission<'a> {
    /// Whether what is left of the disk is kept for results.
    pub(crate) disk_is_low: bool,
    /// How much may be accepted and not over.
    pub(crate) limits: &'a Limits,
}

impl Admission<'_> {
    /// Whether `more` of a tenant may come in beside what there is.
    pub(super) fn check(
        self,
        tenant: &Tenant,
        there: [&Loads; 2],
        more: Load,
    ) -> Result<(), StoreError> {
        if self.disk_is_low {
            return Err(StoreError::DiskFull);
        }
        let within = self.limits.check(tenant, there, more);
        within.map_err(|full| StoreError::Full(Box::new(full)))
    }
}

impl Group<'_> {
    /// Whether `more` of a tenant may come in beside what there is and what the group brings.
    pub(super) fn check_room(&self, tenant: &Tenant, more: Load) -> Result<(), StoreError> {
        let scheduler = lock(self.scheduler);
        let there = [scheduler.loads(), &self.effects.loads];
        self.admission.check(tenant, there, more)
    }

    /// What there is room for beside what there is and what the group brings.
    pub(super) fn room(&self, tenant: &Tenant) -> Room {
        let scheduler = lock(self.scheduler);
        let there = [scheduler.loads(), &self.effects.loads];
        self.admission.limits.room(tenant, there)
    }

    /// Stages that a batch is new.
    pub(super) fn take_in(&mut self, batch: LiveBatch) {
        let loads = &mut self.effects.loads;
        loads.change(&batch.head.tenant, Load::default(), batch.load());
        self.effects.admitted.push(batch);
    }
}
