//! How tenants share a queue.

use std::collections::HashMap;

use crate::base::limits;
use crate::domain::ids::Tenant;

/// The weights of tenants. Who is not named weighs 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights(HashMap<Tenant, u32>);

impl Weights {
    /// Gives a tenant a weight, 1 to [`limits::WEIGHT_MAX`]; what is beyond is taken for the bound.
    pub fn set(&mut self, tenant: Tenant, weight: u32) {
        self.0.insert(tenant, weight.clamp(1, limits::WEIGHT_MAX));
    }

    /// What a tenant weighs.
    pub fn of(&self, tenant: &Tenant) -> u32 {
        self.0.get(tenant).copied().unwrap_or(1)
    }
}
