//! How batches and items stand, at once or once they are over; cancelling and pausing them.

use std::time::Duration;

use super::{Engine, Waiting};
use crate::base::{clock, limits};
use crate::domain::batch::Batch;
use crate::domain::ids::BatchName;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{CancelCounts, ItemView, StoreError};

/// An item and its batch.
#[derive(Clone, Debug)]
pub struct ItemDetails {
    /// The item.
    pub item: ItemView,
    /// Its batch.
    pub batch: Batch,
    /// Why it is not running, if it is pending.
    pub waiting: Option<Waiting>,
}

impl Engine {
    /// The batch of that name.
    pub async fn batch(&self, name: &BatchName) -> Result<Batch> {
        self.0
            .store
            .batch(name)
            .await
            .map_err(|error| named(error, name))
    }

    /// The batch of that name, once it is over or `wait` has passed.
    pub async fn batch_when_over(&self, name: &BatchName, wait: Duration) -> Result<Batch> {
        let until = clock::now().plus(wait);
        let mut batch = self.batch(name).await?;
        let mut hint = self.0.store.journal_hint(batch.head.no);
        loop {
            hint.borrow_and_update();
            batch = match self.0.store.batch(name).await {
                Ok(now) if now.head.no == batch.head.no => now,
                // It has ended and was removed, all since the last look.
                Ok(_) | Err(StoreError::NoBatch) => return Err(named(StoreError::NoBatch, name)),
                Err(_) => batch,
            };
            let left = until.since(clock::now());
            if batch.state.is_terminal() || left.is_zero() || self.0.draining.is_cancelled() {
                return Ok(batch);
            }
            self.wait_for_change(&mut hint, left).await;
        }
    }

    /// An item, once it is terminal or `wait` has passed.
    pub async fn item(
        &self,
        name: &BatchName,
        item_id: &str,
        wait: Duration,
        with_spec: bool,
    ) -> Result<ItemDetails> {
        let until = clock::now().plus(wait);
        let batch = self.batch(name).await?;
        let no = batch.head.no;
        let found = self.0.store.indexes(no, vec![item_id.into()]).await;
        let index = found.map_err(|error| named(error, name))?[0];
        let mut hint = self.0.store.journal_hint(no);
        loop {
            hint.borrow_and_update();
            let item = self.0.store.item(no, index, with_spec).await;
            let item = item.map_err(|error| named(error, name))?;
            let left = until.since(clock::now());
            if item.record.is_some() || left.is_zero() || self.0.draining.is_cancelled() {
                let waiting = match item.record {
                    Some(_) => None,
                    None => self.waiting(&batch, &item).await?,
                };
                return Ok(ItemDetails {
                    item,
                    batch,
                    waiting,
                });
            }
            self.wait_for_change(&mut hint, left).await;
        }
    }

    /// Cancels a batch, or those of its items if some are named.
    pub async fn cancel(
        &self,
        name: &BatchName,
        item_ids: Vec<Box<str>>,
        reason: &str,
    ) -> Result<(Batch, CancelCounts)> {
        let batch = self.batch(name).await?;
        let no = batch.head.no;
        let counts = if item_ids.is_empty() {
            self.0.store.cancel_batch(no, reason).await
        } else {
            let found = self.0.store.indexes(no, item_ids).await;
            let indexes = found.map_err(|error| named(error, name))?;
            self.0.store.cancel_items(no, indexes).await
        };
        let counts = counts.map_err(|error| named(error, name))?;
        Ok((self.batch(name).await?, counts))
    }

    /// Removes a batch that is over, with all its results.
    pub async fn delete(&self, name: &BatchName) -> Result<()> {
        let no = self.batch(name).await?.head.no;
        let deleted = self.0.store.delete_batch(no).await;
        deleted.map_err(|error| named(error, name))
    }

    /// Pauses a batch: nothing of it starts until it is resumed.
    pub async fn pause(&self, name: &BatchName, reason: &str) -> Result<Batch> {
        let no = self.batch(name).await?.head.no;
        let paused = self.0.store.pause_batch(no, reason).await;
        paused.map_err(|error| named(error, name))
    }

    /// Lets a paused batch go on.
    pub async fn resume(&self, name: &BatchName) -> Result<Batch> {
        let no = self.batch(name).await?.head.no;
        let resumed = self.0.store.resume_batch(no).await;
        resumed.map_err(|error| named(error, name))
    }

    async fn wait_for_change(&self, hint: &mut tokio::sync::watch::Receiver<()>, most: Duration) {
        let most = most.min(limits::JOURNAL_HINT_LOST_MAX);
        tokio::select! {
            // A drain answers waiting calls with what is known.
            () = self.0.draining.cancelled() => {}
            _ = hint.changed() => {}
            () = tokio::time::sleep(most) => {}
        }
    }
}

/// The store knows numbers; the caller knows the batch by its name. That of another tenant is not there.
pub(super) fn named(error: StoreError, name: &BatchName) -> Error {
    let error = if error == StoreError::NoBatch {
        Error::new(
            ErrorKind::NotFound,
            "BATCH_NOT_FOUND",
            format!("there is no batch {name}"),
        )
    } else {
        Error::from(error)
    };
    error.with("batch_id", name)
}
