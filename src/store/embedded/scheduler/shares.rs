//! Whose turn it is among the tenants of one queue, and within a tenant among its batches.
//!
//! Each tenant stands somewhere on a line that a grant moves it along, the less the more it weighs;
//! whoever stands furthest back is next, and of two who stand together whoever waits there longer.
//! The line's own time is where the last tenant stood when it was granted something. Who comes back is
//! put there, if that is further on than where it stood: being away earns nothing. Who stands
//! beyond it has been granted its next turn ahead of time, and waits for the others to come up; once
//! nobody is left waiting, nobody owes anybody anything.

use std::collections::{BTreeMap, HashMap};

use super::turns::{Place, Turns};
use crate::base::clock::Timestamp;
use crate::domain::ids::{BatchNo, Tenant};

/// How far a grant moves a tenant of weight 1. The product of two weights must stay below it: then
/// rounding never costs anybody a turn.
const STEP: u128 = 1 << 32;

/// Tenants who are away are looked through for ones to forget once there are so many.
const FORGET_FROM: usize = 64;

/// A queue's tenants and their batches with due items.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Those in line, and those away who may still owe a turn.
    tenants: HashMap<Tenant, Share>,
    line: BTreeMap<Stand, Tenant>,
    time: u128,
    arrivals: u64,
    /// How many tenants were left when those who owe nothing were last forgotten.
    kept: usize,
}

#[derive(Debug, Default)]
struct Share {
    turns: Turns,
    at: u128,
    /// Where it stands in line, if it does.
    stand: Option<Stand>,
}

/// A tenant's place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stand {
    at: u128,
    arrival: u64,
}

impl Shares {
    /// Sits a tenant's batch down, which has waited since then; answers its place.
    pub(crate) fn join(
        &mut self,
        tenant: &Tenant,
        batch: BatchNo,
        priority: i32,
        since: Timestamp,
    ) -> Place {
        self.forget();
        let arrival = self.next_arrival();
        let place = Place { since, arrival };
        let share = self.tenants.entry(tenant.clone()).or_default();
        share.turns.join(place, batch, priority);
        if share.stand.is_none() {
            share.at = share.at.max(self.time);
            let stand = Stand {
                at: share.at,
                arrival,
            };
            share.stand = Some(stand);
            self.line.insert(stand, tenant.clone());
        }
        place
    }

    /// The batch whose turn it is.
    pub(crate) fn first(&mut self, now: Timestamp) -> Option<BatchNo> {
        let Some((_, tenant)) = self.line.first_key_value() else {
            if !self.tenants.is_empty() {
                (self.tenants, self.time, self.kept) = (HashMap::new(), 0, 0);
            }
            return None;
        };
        self.tenants.get(tenant)?.turns.first(now)
    }

    /// A batch leaves its place, if it still has it, without a turn.
    pub(crate) fn leave(&mut self, tenant: &Tenant, place: Place) {
        let Some(share) = self.tenants.get_mut(tenant) else {
            return;
        };
        share.turns.leave(place);
        if share.turns.is_empty()
            && let Some(stand) = share.stand.take()
        {
            self.line.remove(&stand);
        }
    }

    /// A batch leaves its place for a turn, which moves its tenant along the line.
    pub(crate) fn serve(&mut self, tenant: &Tenant, place: Place, weight: u32) {
        let arrival = self.next_arrival();
        let Some(share) = self.tenants.get_mut(tenant) else {
            return;
        };
        share.turns.leave(place);
        self.time = self.time.max(share.at);
        share.at += STEP.div_ceil(u128::from(weight));
        if let Some(stand) = share.stand.take() {
            self.line.remove(&stand);
        }
        if !share.turns.is_empty() {
            let stand = Stand {
                at: share.at,
                arrival,
            };
            share.stand = Some(stand);
            self.line.insert(stand, tenant.clone());
        }
    }

    /// How many of a tenant's batches wait for a turn.
    pub(crate) fn in_line(&self, tenant: &Tenant) -> usize {
        let share = self.tenants.get(tenant);
        share.map_or(0, |share| share.turns.len())
    }

    fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Forgets tenants who are away and owe nothing, now and then: there may be any number of them.
    fn forget(&mut self) {
        if self.tenants.len() < FORGET_FROM.max(2 * self.kept) {
            return;
        }
        let time = self.time;
        self.tenants
            .retain(|_, share| share.stand.is_some() || share.at > time);
        self.kept = self.tenants.len();
    }

    /// How many tenants are remembered.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.tenants.len()
    }

    /// How many batches sit.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.tenants.values().map(|share| share.turns.len()).sum()
    }
}
