//! The verbs that list batches and items.

use std::sync::PoisonError;

use super::rows::Known;
use super::scheduler::LiveBatch;
use super::{Store, rows};
use crate::base::{clock, limits};
use crate::domain::ids::BatchNo;
use crate::domain::item::ItemState;
use crate::domain::page_token::PageKey;
use crate::store::{BatchPage, BatchWalk, ItemPage, ItemWalk, StoreError};

impl Store {
    /// What the places of lists are signed with.
    pub fn page_key(&self) -> PageKey {
        self.0.shared.page_key
    }

    /// Batches behind a place, newest first.
    pub async fn list_batches(&self, walk: BatchWalk) -> Result<BatchPage, StoreError> {
        let page = self
            .0
            .readers
            .run(move |db, part| rows::batch_page(db, &walk, part));
        let mut page = page.await?;
        for batch in &mut page.batches {
            self.count_running(batch);
        }
        Ok(page)
    }

    /// Items of a batch from a place on, in the order of their indexes.
    pub async fn list_items(&self, batch: BatchNo, walk: ItemWalk) -> Result<ItemPage, StoreError> {
        // Memory before disk: an item that ends in between is then terminal, never lost.
        let known = {
            let scheduler = &self.0.shared.scheduler;
            let scheduler = scheduler.lock().unwrap_or_else(PoisonError::into_inner);
            known(scheduler.batch(batch), &walk)
        };
        let page = self
            .0
            .readers
            .run(move |db, part| rows::item_page(db, batch, &walk, &known, part));
        let mut page = page.await?.ok_or(StoreError::NoBatch)?;
        self.count_running(&mut page.batch);
        Ok(page)
    }
}

/// What memory knows of the items that a page may show.
fn known(batch: Option<&LiveBatch>, walk: &ItemWalk) -> Known {
    let asks_for = |is_such: fn(&ItemState) -> bool| walk.states.iter().all(is_such);
    let only_unfinished = !walk.states.is_empty() && asks_for(|state| !state.is_terminal());
    let Some(batch) = batch else {
        let none = only_unfinished.then(|| (Vec::new(), None));
        return Known {
            unfinished: none,
            ..Known::default()
        };
    };
    let only_running = only_unfinished && asks_for(|state| *state == ItemState::Running);
    let (indexes, next) = if only_running {
        running(batch, walk)
    } else if only_unfinished {
        unfinished(batch, walk)
    } else {
        let most = u32::try_from(limits::LIST_VISITED_MAX).unwrap_or(u32::MAX);
        let to = walk.from.saturating_add(most).min(batch.total);
        ((walk.from..to).collect(), None)
    };
    let (mut of_running, mut due, now) = (Vec::new(), Vec::new(), clock::now());
    for &index in &indexes {
        if let Some(attempt) = batch.running_attempt(index) {
            of_running.push((index, attempt));
        } else if let Some(past) = batch.pasts.get(&index)
            && !past.withheld
            && past.since > now
        {
            due.push((index, past.since));
        }
    }
    Known {
        running: of_running.into_iter().collect(),
        due: due.into_iter().collect(),
        unfinished: only_unfinished.then_some((indexes, next)),
    }
}

/// The running items of a page, and where the next one begins.
fn running(batch: &LiveBatch, walk: &ItemWalk) -> (Vec<u32>, Option<u32>) {
    let running = batch.leases.keys().chain(batch.ending.keys()).copied();
    let mut indexes: Vec<_> = running.filter(|&index| index >= walk.from).collect();
    indexes.sort_unstable();
    let next = indexes.get(walk.most).copied();
    indexes.truncate(walk.most);
    (indexes, next)
}

/// The items of a page that have no result, and where the next one begins.
fn unfinished(batch: &LiveBatch, walk: &ItemWalk) -> (Vec<u32>, Option<u32>) {
    let with_running = walk.states.contains(&ItemState::Running);
    let (mut indexes, mut visited) = (Vec::new(), 0);
    let mut next = batch.next_unfinished(walk.from);
    while let Some(index) = next
        && indexes.len() < walk.most
        && visited < limits::LIST_VISITED_MAX
    {
        if with_running || batch.running_attempt(index).is_none() {
            indexes.push(index);
        }
        visited += 1;
        next = batch.next_unfinished(index + 1);
    }
    (indexes, next)
}
