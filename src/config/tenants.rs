//! What the file says of single tenants.

use std::collections::HashMap;

use super::check::{Check, QUEUED_CEILING};
use super::describe::size;
use super::layers::Checked;
use super::{TenantConfig, file};
use crate::base::limits;
use crate::domain::ids::Tenant;

impl Check {
    /// The settings of the tenants that are named.
    pub(super) fn tenants(&self, file: &file::File) -> Checked<HashMap<Tenant, TenantConfig>> {
        let all = file.tenants.iter().map(|(name, tenant)| {
            let id = Tenant::parse(name)
                .map_err(|problem| self.wrong(&format!("tenants.{name}"), problem))?;
            Ok((id, self.tenant(name, tenant)?))
        });
        all.collect()
    }

    fn tenant(&self, name: &str, tenant: &file::Tenant) -> Checked<TenantConfig> {
        let key = |field: &str| format!("tenants.{name}.{field}");
        let count = |field: &str, number: Option<usize>| {
            let number = number.map(|it| self.count(&key(field), Some(it), it, QUEUED_CEILING));
            number.transpose()
        };
        let bytes = tenant.queued_bytes.as_ref().map(|text| {
            let most = QUEUED_CEILING;
            self.size(&key("queued_bytes"), Some(text), most, most)
        });
        let most = usize::try_from(limits::WEIGHT_MAX).unwrap_or(usize::MAX);
        let weight = self.count(&key("weight"), tenant.weight, 1, most)?;
        Ok(TenantConfig {
            weight: u32::try_from(weight).unwrap_or(limits::WEIGHT_MAX),
            open_batches: count("open_batches", tenant.open_batches)?,
            queued_items: count("queued_items", tenant.queued_items)?,
            queued_bytes: bytes.transpose()?,
        })
    }
}

/// The settings of a tenant as the file would have them.
pub(super) fn described(config: &TenantConfig) -> file::Tenant {
    let TenantConfig {
        weight,
        open_batches,
        queued_items,
        queued_bytes,
    } = config;
    file::Tenant {
        weight: usize::try_from(*weight).ok(),
        open_batches: *open_batches,
        queued_items: *queued_items,
        queued_bytes: queued_bytes.map(size),
    }
}
