//! Lists of batches and of a batch's items, page by page.

use std::collections::BTreeMap;

use super::Engine;
use super::lookup::named;
use crate::base::limits;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::ids::{BatchName, BatchNo, Tenant};
use crate::domain::item::ItemState;
use crate::domain::page_token::{PageKey, Question};
use crate::error::{Error, FieldViolation, Result};
use crate::store::{BatchPage, BatchWalk, ItemPage, ItemView, ItemWalk};

/// Which batches to list.
#[derive(Clone, Debug, Default)]
pub struct BatchQuery {
    /// Those of this tenant; by default of tenant `default`.
    pub tenant: Tenant,
    /// Those in one of these states; none means all.
    pub states: Vec<BatchState>,
    /// Those that have all of these labels, with these values.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// How many at once, at most: 0 means 100; more than 1,000 counts as 1,000.
    pub page_size: usize,
    /// Where to go on: the token of an earlier page of the same states and labels; empty for the first.
    pub page_token: Box<str>,
}

/// Which items of a batch to list.
#[derive(Clone, Debug, Default)]
pub struct ItemQuery {
    /// Those in one of these states; none means all.
    pub states: Vec<ItemState>,
    /// How many at once, at most: 0 means 100; more than 1,000 counts as 1,000.
    pub page_size: usize,
    /// Where to go on: the token of an earlier page of the same batch and states; empty for the first.
    pub page_token: Box<str>,
}

/// A page of batches, newest first. It may hold fewer than asked for, even none, and not be the last.
#[derive(Clone, Debug)]
pub struct BatchList {
    /// They.
    pub batches: Vec<Batch>,
    /// Where the next page begins; empty at the end.
    pub next_page_token: String,
}

/// A page of items in the order of their indexes. It may hold fewer than asked for, even none, and not
/// be the last.
#[derive(Clone, Debug)]
pub struct ItemList {
    /// They, without what was submitted, each with the last of its failed attempts.
    pub items: Vec<ItemView>,
    /// Their batch.
    pub batch: Batch,
    /// Where the next page begins; empty at the end.
    pub next_page_token: String,
}

impl Engine {
    /// Lists batches, newest first. One that is there all the while is listed once, over all pages; one
    /// that is accepted meanwhile is not.
    pub async fn list_batches(&self, query: &BatchQuery) -> Result<BatchList> {
        let question = query.question();
        let before = self.position(&question, &query.page_token)?.map(BatchNo);
        let walk = BatchWalk {
            tenant: query.tenant.clone(),
            states: query.states.clone(),
            labels: query.labels.clone(),
            before,
            most: page_size(query.page_size),
        };
        let BatchPage { batches, next } = self.0.store.list_batches(walk).await?;
        Ok(BatchList {
            batches,
            next_page_token: self.token(&question, next.map(|no| no.0)),
        })
    }

    /// Lists the items of a batch in the order of their indexes, each as it stands when its page is read.
    pub async fn list_items(&self, name: &BatchName, query: &ItemQuery) -> Result<ItemList> {
        let batch = self.batch(name).await?;
        let question = query.question(&batch);
        let from = self.position(&question, &query.page_token)?;
        let walk = ItemWalk {
            states: query.states.clone(),
            from: from.unwrap_or(0),
            most: page_size(query.page_size),
        };
        let listed = self.0.store.list_items(batch.head.no, walk).await;
        let ItemPage { items, batch, next } = listed.map_err(|error| named(error, name))?;
        Ok(ItemList {
            items,
            batch,
            next_page_token: self.token(&question, next),
        })
    }

    /// The key of page tokens.
    pub fn page_key(&self) -> PageKey {
        self.0.store.page_key()
    }

    fn token(&self, question: &Question, next: Option<u32>) -> String {
        let key = self.page_key();
        next.map_or_else(String::new, |position| question.token(key, position.into()))
    }

    fn position(&self, question: &Question, token: &str) -> Result<Option<u32>> {
        if token.is_empty() {
            return Ok(None);
        }
        let position = question.position(self.page_key(), token);
        let position = position.and_then(|position| u32::try_from(position).ok());
        position.map(Some).ok_or_else(|| {
            let violation = FieldViolation {
                field: "page_token".into(),
                message: Question::NOT_ITS_TOKEN.into(),
            };
            Error::invalid("INVALID_FIELD", vec![violation])
        })
    }
}

impl BatchQuery {
    fn question(&self) -> Question {
        let mut states: Vec<_> = self.states.iter().map(|&state| state as u8).collect();
        states.sort_unstable();
        states.dedup();
        let tenant = self.tenant.as_str();
        let question = Question::to("batches").and(tenant.as_bytes()).and(&states);
        let labels = self.labels.iter();
        labels.fold(question, |question, (name, value)| {
            question.and(name.as_bytes()).and(value.as_bytes())
        })
    }
}

impl ItemQuery {
    fn question(&self, batch: &Batch) -> Question {
        let number = |state: &ItemState| match state {
            ItemState::Pending => 1,
            ItemState::Running => 2,
            ItemState::Ended(state) => *state as u8,
        };
        let mut states: Vec<_> = self.states.iter().map(number).collect();
        states.sort_unstable();
        states.dedup();
        // Its own name: another batch of this id is another list.
        let uid = batch.head.uid.0;
        Question::to("items").and(uid.as_bytes()).and(&states)
    }
}

fn page_size(asked: usize) -> usize {
    match asked {
        0 => limits::LISTED_DEFAULT,
        asked => asked.min(limits::LISTED_MAX),
    }
}
