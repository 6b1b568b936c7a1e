//! Dead letters: listing them, running them again, taking them off the list.

use std::sync::Arc;

use super::Engine;
use super::lookup::named;
use super::submission::draining;
use crate::base::{entropy, limits};
use crate::domain::batch::Batch;
use crate::domain::dead_letter::{Chosen, DeadLetter, LetterFilter, LetterPlace};
use crate::domain::failures::Failures;
use crate::domain::fingerprint::{Fingerprint, redrive_fingerprint};
use crate::domain::ids::{
    BatchId, BatchName, BatchNo, BatchUid, QueueName, RequestId, Sequence, Tenant,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Created, FirstPlace, LetterReach, LetterSearch, Redrive, Standing, StoreError};

/// Which dead letters are to be listed or purged.
#[derive(Clone, Debug, Default)]
pub struct LetterQuery {
    /// Whose they are.
    pub tenant: Tenant,
    /// Those of this batch.
    pub batch_id: Option<BatchId>,
    /// Those.
    pub filter: LetterFilter,
    /// Whether redriven ones are listed too.
    pub redriven: bool,
}

/// Some dead letters.
#[derive(Clone, Debug, Default)]
pub struct LetterPage {
    /// They, newest first.
    pub letters: Vec<DeadLetter>,
    /// On the first page, how many of all have which reason.
    pub reasons: Failures,
    /// Whether there may be more than those counted.
    pub reasons_partial: bool,
    /// Where the next page begins; `None` at the end.
    pub next: Option<LetterPlace>,
}

/// Which dead letters of a batch are to be run again.
#[derive(Clone, Debug)]
pub struct RedriveRequest {
    /// The caller's key.
    pub request_id: Option<RequestId>,
    /// Their batch.
    pub batch: BatchName,
    /// These; none means all.
    pub item_ids: Vec<Box<str>>,
    /// Those of this queue.
    pub queue: Option<QueueName>,
    /// Those with this reason.
    pub reason: Option<Box<str>>,
}

impl RedriveRequest {
    /// All dead letters of a batch.
    pub fn all_of(batch: impl Into<BatchName>) -> Self {
        Self {
            request_id: None,
            batch: batch.into(),
            item_ids: Vec::new(),
            queue: None,
            reason: None,
        }
    }
}

impl Engine {
    /// A page of up to `rows` dead letters behind `after`, newest first. It may have fewer, or none,
    /// and not be the last: a call looks at a bounded number of them.
    pub async fn dead_letters(
        &self,
        query: &LetterQuery,
        after: Option<LetterPlace>,
        rows: usize,
    ) -> Result<LetterPage> {
        let mut search = LetterSearch {
            tenant: query.tenant.clone(),
            within: self.batch_no(query).await?,
            filter: query.filter.clone(),
            redriven: query.redriven,
            after,
        };
        let mut page = LetterPage::default();
        let (mut visits, mut bytes) = (0, limits::PAGE_ROWS_BYTES_MAX);
        loop {
            let reach = LetterReach {
                visits: limits::LETTER_VISITS_LOOK,
                letters: rows - page.letters.len(),
                bytes,
            };
            let found = self.0.store.letters(search.clone(), reach).await?;
            visits += found.visits;
            bytes = bytes.saturating_sub(found.bytes);
            page.letters.extend(found.letters);
            add(&mut page.reasons, &found.reasons);
            search.after = found.next;
            if found.next.is_none()
                || page.letters.len() == rows
                || bytes == 0
                || visits >= limits::LETTER_VISITS_MAX
            {
                break;
            }
        }
        page.next = search.after;
        if after.is_some() {
            page.reasons = Failures::default();
            return Ok(page);
        }
        let most = limits::LETTER_REASONS_VISITS_MAX;
        while search.after.is_some() && visits < most {
            let reach = LetterReach {
                visits: limits::LETTER_VISITS_LOOK.min(most - visits),
                letters: 0,
                bytes: 0,
            };
            let found = self.0.store.letters(search.clone(), reach).await?;
            visits += found.visits;
            add(&mut page.reasons, &found.reasons);
            search.after = found.next;
        }
        page.reasons_partial = search.after.is_some();
        Ok(page)
    }

    /// Runs dead letters again in a new batch, or answers the batch that an equal call with the same
    /// key made. Once it answers, that batch and its first items are durable, and the others follow.
    pub async fn redrive(&self, mut request: RedriveRequest) -> Result<Batch> {
        self.check_not_draining()?;
        // The same request in another order is the same.
        request.item_ids.sort_unstable();
        request.item_ids.dedup();
        let RedriveRequest {
            request_id,
            batch: BatchName { tenant, id },
            item_ids,
            queue,
            reason,
        } = request.clone();
        let fingerprint = redrive_fingerprint(&id, queue.as_ref(), reason.as_deref(), &item_ids);
        let earlier = async || match &request_id {
            Some(key) => self.0.store.find_redrive(&tenant, key, fingerprint).await,
            None => Ok(None),
        };
        if let Some(batch) = earlier().await? {
            return Ok(batch);
        }
        match self.redrive_anew(request, fingerprint).await {
            Ok(batch) => Ok(batch),
            // An equal call may have taken the letters meanwhile.
            Err(error) => earlier().await?.ok_or(error),
        }
    }

    async fn redrive_anew(
        &self,
        request: RedriveRequest,
        fingerprint: Fingerprint,
    ) -> Result<Batch> {
        let RedriveRequest {
            request_id,
            batch: name,
            item_ids,
            queue,
            reason,
        } = request;
        let store = &self.0.store;
        let source = self.batch(&name).await?;
        if queue.is_some_and(|queue| queue != source.head.queue) {
            return Err(named(StoreError::NoLetters, &name));
        }
        self.check_queue(&source.head.queue)?;
        let mut redrive = Redrive {
            source: source.head.no,
            source_id: source.head.id.clone(),
            request_id,
            uid: BatchUid(entropy::uuid()),
            fingerprint,
            after: Sequence(0),
            chosen: Chosen {
                reason,
                sequences: self.sequences(&source, item_ids).await?,
            },
        };
        let mut oversized = None;
        loop {
            let (head, chosen) = (Arc::clone(&source.head), redrive.chosen.clone());
            let first = store.first_letter(head, chosen, redrive.after).await?;
            oversized = oversized.or(first.oversized);
            match first.place {
                FirstPlace::NotUpTo(place) => redrive.after = place,
                FirstPlace::Nowhere => {
                    let full = oversized.map(|full| StoreError::Full(Box::new(full)));
                    return Err(named(full.unwrap_or(StoreError::NoLetters), &name));
                }
                FirstPlace::Behind(place) => {
                    redrive.after = place;
                    match store.redrive(redrive.clone()).await {
                        Ok(Created::New(batch) | Created::Existing(batch)) => return Ok(batch),
                        // Somebody else has taken it meanwhile, and there may be others.
                        Err(StoreError::NoLetters) => {}
                        Err(error) => return Err(named(error, &name)),
                    }
                }
            }
        }
    }

    /// Takes dead letters off the list and answers how many. It does so in chunks: a call that is
    /// dropped has done a part.
    pub async fn purge(&self, query: &LetterQuery, item_ids: Vec<Box<str>>) -> Result<u64> {
        if !item_ids.is_empty() {
            return self.purge_items(query, item_ids).await;
        }
        let mut search = LetterSearch {
            tenant: query.tenant.clone(),
            within: self.batch_no(query).await?,
            filter: query.filter.clone(),
            redriven: false,
            after: None,
        };
        let reach = LetterReach {
            visits: limits::LETTER_VISITS_LOOK,
            letters: limits::SWEEP_ITEMS_MAX,
            bytes: usize::MAX,
        };
        let mut purged = 0;
        loop {
            let found = self.0.store.letters(search.clone(), reach).await?;
            let places = found.letters.iter().map(|letter| LetterPlace {
                batch: letter.head.no,
                sequence: letter.record.sequence,
            });
            purged += self.purge_chunk(places.collect()).await?;
            if found.next.is_none() {
                return Ok(purged);
            }
            search.after = found.next;
        }
    }

    async fn purge_items(&self, query: &LetterQuery, item_ids: Vec<Box<str>>) -> Result<u64> {
        let Some(batch_id) = &query.batch_id else {
            return Ok(0);
        };
        let batch = self
            .batch(&query.tenant.clone().batch(batch_id.clone()))
            .await?;
        let queue = query.filter.queue.as_ref();
        let is_meant = queue.is_none_or(|queue| *queue == batch.head.queue);
        let mut places = Vec::new();
        for standing in self.standings(&batch, item_ids).await? {
            if let Standing::Dead(record) = standing
                && is_meant
                && query.filter.matches(&record)
            {
                places.push(LetterPlace {
                    batch: batch.head.no,
                    sequence: record.sequence,
                });
            }
        }
        let mut purged = 0;
        for chunk in places.chunks(limits::SWEEP_ITEMS_MAX) {
            purged += self.purge_chunk(chunk.to_vec()).await?;
        }
        Ok(purged)
    }

    async fn purge_chunk(&self, places: Vec<LetterPlace>) -> Result<u64> {
        if self.0.draining.is_cancelled() {
            return Err(draining());
        }
        if places.is_empty() {
            return Ok(0);
        }
        Ok(self.0.store.purge(places).await?.into())
    }

    async fn batch_no(&self, query: &LetterQuery) -> Result<Option<BatchNo>> {
        match &query.batch_id {
            Some(id) => {
                let name = query.tenant.clone().batch(id.clone());
                Ok(Some(self.batch(&name).await?.head.no))
            }
            None => Ok(None),
        }
    }

    /// The places of items in their batch's journal, each of which must be a dead letter.
    async fn sequences(&self, batch: &Batch, item_ids: Vec<Box<str>>) -> Result<Vec<Sequence>> {
        let standings = self.standings(batch, item_ids.clone()).await?;
        let mut sequences = Vec::with_capacity(standings.len());
        for (id, standing) in item_ids.iter().zip(standings) {
            let what = match standing {
                Standing::Dead(record) => {
                    sequences.push(record.sequence);
                    continue;
                }
                Standing::NotDead => "has not failed or expired".to_owned(),
                Standing::Redriven(batch) => format!("was redriven in batch {batch} already"),
                Standing::Purged => "was purged".to_owned(),
            };
            return Err(not_a_dead_letter(id, &what).with("batch_id", &batch.head.id));
        }
        sequences.sort_unstable();
        Ok(sequences)
    }

    async fn standings(&self, batch: &Batch, item_ids: Vec<Box<str>>) -> Result<Vec<Standing>> {
        let store = &self.0.store;
        let mut standings = Vec::with_capacity(item_ids.len());
        for some in item_ids.chunks(limits::LETTER_VISITS_LOOK) {
            let no = batch.head.no;
            let found = store.indexes(no, some.to_vec()).await;
            let indexes = found.map_err(|error| named(error, &batch.head.name()))?;
            standings.extend(store.standings(no, indexes).await?);
        }
        Ok(standings)
    }
}

fn add(all: &mut Failures, some: &Failures) {
    for (reason, &count) in &some.reasons {
        all.add(reason, count);
    }
}

fn not_a_dead_letter(id: &str, what: &str) -> Error {
    let message = format!("item {id:?} {what}: it is no dead letter");
    Error::new(ErrorKind::Precondition, "NOT_A_DEAD_LETTER", message).with("item_id", id)
}
