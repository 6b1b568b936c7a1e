//! Rules about what became of items: their ends, cancels, and what their handlers noted.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{BatchFacts, Facts, Guarantees, Life, Rule};
use super::journal::Sighting;
use super::{Asked, Call, Execution, Fate, Output, Submit};
use sooner::wire::{Attempt, BatchState, CancelBatchResponse, ItemState};

/// How often the server may die under an item before it is given up, by default.
const CRASHES_MAX: usize = 3;

/// A cancel that was sent.
#[derive(Debug)]
pub(super) struct CancelFacts<'a> {
    /// Positions of the call and its answer, and the life that answered.
    sent: usize,
    at: usize,
    life: usize,
    /// The items it names; all if none.
    ids: &'a [String],
    counts: &'a CancelBatchResponse,
    /// Executions that had begun when the answer had come.
    begun: usize,
}

type Breach = (Rule, usize, String);

impl CancelFacts<'_> {
    fn names(&self, item_id: &str) -> bool {
        self.ids.is_empty() || self.ids.iter().any(|id| id == item_id)
    }
}

impl<'a> Facts<'a> {
    pub(super) fn cancelled(
        &mut self,
        at: usize,
        call: Call,
        counts: &'a CancelBatchResponse,
        begun: usize,
    ) {
        let facts = self.call(call);
        let (sent, life) = (facts.sent, facts.life);
        let Asked::Cancel(id, ids) = facts.asked else {
            return self.breach(Rule::Answered, at, "", "cancelled what is no cancel".into());
        };
        self.batches
            .entry(id)
            .or_default()
            .cancels
            .push(CancelFacts {
                sent,
                at,
                life,
                ids,
                counts,
                begun,
            });
        if let Some(batch) = &counts.batch {
            self.batch(at, call, batch);
        }
    }

    /// What only the end tells about batches: everyone has read them to their end.
    pub(super) fn check_batches(&mut self, executions: &[Execution]) {
        let mut breaches = Vec::new();
        for (id, batch) in &self.batches {
            let Some((submit, _, told)) = batch.accepted else {
                continue;
            };
            let mut found = Vec::new();
            if batch.read_in != self.lives.len() || batch.journal.end().is_none() {
                let text = "was accepted and not over at the end of the run".to_owned();
                found.push((Rule::I8, told, text));
            }
            let total = batch.total(submit);
            found.extend(self.judge_upload(id, batch, submit));
            for index in 0..total.min(submit.items.len()) {
                match batch.journal.of_item(index as u64) {
                    Some(sighting) => found.extend(self.judge_end(id, batch, submit, sighting)),
                    None => found.push((Rule::I3, told, format!("item {index} has no result"))),
                }
            }
            for (at, item) in batch.items.values() {
                let sighting = batch.journal.of_item(item.index);
                let agrees = |it: &Sighting<'_>| item.result.is_none() || it.agrees_with(item);
                if sighting.is_some_and(|sighting| !agrees(sighting)) {
                    let text = format!("{} has another result when asked for", item.item_id);
                    found.push((Rule::I1, *at, text));
                }
            }
            let end = batch.journal.end().map(|end| end.state);
            if end != Some(BatchState::Completed.into()) {
                let text = "a cancel was refused because it was over, but it ended otherwise";
                let too_late = batch.too_late.iter();
                found.extend(too_late.map(|&at| (Rule::I7, at, text.to_owned())));
            }
            for cancel in &batch.cancels {
                found.extend(self.judge_cancel(batch, submit, cancel, executions));
            }
            breaches.extend(found.into_iter().map(|breach| (*id, breach)));
        }
        for (id, (rule, at, text)) in breaches {
            self.breach(rule, at, id, text);
        }
    }

    /// Whether an item ended as it had to.
    fn judge_end(
        &self,
        id: &str,
        batch: &BatchFacts<'_>,
        submit: &Submit,
        sighting: &Sighting<'_>,
    ) -> Option<Breach> {
        let Sighting { at, seen, .. } = *sighting;
        let item = &submit.items[usize::try_from(seen.index).ok()?];
        let reason = seen.error.as_ref().map_or("", |error| &error.reason);
        let is_due = match (ItemState::try_from(seen.state), item.fate) {
            (Ok(ItemState::Succeeded), Fate::Echoes) => {
                seen.output == Some(Output::of(&item.input)) && seen.attempt_count == 1
            }
            (Ok(ItemState::Succeeded), Fate::Succeeds) => {
                let output = |attempt| Output::of(&format!("{} {attempt}", item.input));
                let attempt = seen.output.as_ref().and_then(attempt_of);
                attempt.map(output) == seen.output && (1..=3).contains(&seen.attempt_count)
            }
            (Ok(ItemState::Failed), _) if reason == "CRASHED_TOO_OFTEN" => {
                let crashes = self.crashes_until(id, batch, at);
                let told = batch.items.get(&seen.index).map(|(_, item)| {
                    let reasons = item.attempts.iter().filter_map(|it| it.error.as_ref());
                    reasons
                        .filter(|error| error.reason == "INTERRUPTED")
                        .count()
                });
                crashes >= CRASHES_MAX && told.is_none_or(|told| told >= CRASHES_MAX)
            }
            (Ok(ItemState::Failed), Fate::Fails(expected, attempts)) => {
                reason == expected && seen.attempt_count == attempts
            }
            (Ok(ItemState::Cancelled), _) => self.was_cancelled(id, &seen.item_id, at),
            _ => false,
        };
        let fate = item.fate;
        let text = || format!("{seen}: not an end of an item whose fate is {fate:?}");
        (!is_due).then(|| (Rule::Fate, at, text()))
    }

    /// How many lives ended between the first submit of a batch and a position.
    fn crashes_until(&self, id: &str, batch: &BatchFacts<'_>, at: usize) -> usize {
        let began = batch.accepted.map_or(0, |(_, sent, _)| sent);
        let within = |life: &&Life| life.died.is_some_and(|(died, _)| began < died && died < at);
        debug_assert!(self.batches.contains_key(id));
        self.lives.iter().filter(within).count()
    }

    /// Whether someone had sent a cancel of that item before a position.
    fn was_cancelled(&self, batch: &str, item: &str, at: usize) -> bool {
        self.calls.values().any(|call| {
            let Asked::Cancel(id, items) = call.asked else {
                return false;
            };
            let names = items.is_empty() || items.iter().any(|it| it == item);
            id == batch && call.sent < at && names
        })
    }

    /// Whether a cancel's answer agrees with what became of its items.
    fn judge_cancel(
        &self,
        batch: &BatchFacts<'_>,
        submit: &Submit,
        cancel: &CancelFacts<'_>,
        executions: &[Execution],
    ) -> Vec<Breach> {
        let CancelFacts { at, sent, .. } = *cancel;
        let (waited, stopping, finished) = (
            cancel.counts.never_started_count,
            cancel.counts.stopping_count,
            cancel.counts.finished_count,
        );
        let said = format!("a cancel met {waited} waiting, {stopping} running, {finished} ended");
        let mut breaches = Vec::new();
        let mut breach = |text: String| breaches.push((Rule::I7, at, format!("{said}; {text}")));
        let of = |it: &&Sighting<'_>| cancel.names(&it.seen.item_id);
        let ended = |state: ItemState| {
            let ends = batch.journal.results().filter(of);
            ends.filter(|it| it.seen.state == i32::from(state)).count() as u64
        };
        let all = batch.total(submit);
        let named = (0..all).filter(|&index| cancel.names(&submit.item_id(index)));
        let named = named.count() as u64;
        if waited + stopping + finished != named {
            breach(format!("it was about {named}"));
        }
        let before = batch.journal.results().filter(of);
        let before = before.filter(|it| it.at < sent).count() as u64;
        if finished < before {
            breach(format!("{before} had been seen to have ended"));
        }
        if ended(ItemState::Cancelled) < waited {
            breach(format!("{} were cancelled", ended(ItemState::Cancelled)));
        }
        if ended(ItemState::Failed) > finished {
            breach(format!("{} failed", ended(ItemState::Failed)));
        }
        let state = batch
            .journal
            .end()
            .map(|end| BatchState::try_from(end.state));
        if cancel.ids.is_empty() && finished < named && state != Some(Ok(BatchState::Cancelled)) {
            breach(format!("the batch ended {state:?}"));
        }
        // Once it has answered, no attempt starts: only those may still be seen to begin that had
        // been granted before.
        let pid = self.lives.get(cancel.life - 1).map_or(0, |life| life.pid);
        let late = executions.iter().skip(cancel.begun);
        let late = late.filter(|it| it.batch_uid == batch.uid && it.parent == pid);
        let late = late.filter(|it| {
            let index = usize::try_from(it.index).unwrap_or(usize::MAX);
            cancel.names(&submit.item_id(index))
        });
        let late: BTreeSet<_> = late.map(|it| it.index).collect();
        if late.len() as u64 > stopping {
            breach(format!("items {late:?} began later"));
        }
        breaches
    }

    /// Holds what the handlers noted against what was read.
    pub(super) fn check_executions(&mut self, executions: &[Execution], guarantees: Guarantees) {
        let uids: BTreeMap<_, _> = self
            .batches
            .iter()
            .map(|(id, batch)| (batch.uid, (*id, batch)))
            .collect();
        let mut items: BTreeMap<_, Vec<&Execution>> = BTreeMap::new();
        for execution in executions {
            let item = (execution.batch_uid.as_str(), execution.index);
            items.entry(item).or_default().push(execution);
        }
        let mut breaches = Vec::new();
        for (&(uid, index), begun) in &items {
            let Some((id, batch)) = uids.get(uid) else {
                let text = format!("item {index} of an unknown batch {uid} was executed");
                breaches.push(("", (Rule::Refusal, usize::MAX, text)));
                continue;
            };
            let known = batch.items.get(&index).map(|(_, item)| {
                let reason = |it: &Attempt| it.error.clone().unwrap_or_default().reason;
                let attempts = item.attempts.iter();
                attempts
                    .map(|it| (it.attempt, reason(it)))
                    .collect::<Vec<_>>()
            });
            let told = format!(
                "item {index} was executed as {} and tells {known:?}",
                listed(begun)
            );
            if let Some(text) = self.misnumbered(begun, guarantees) {
                breaches.push((*id, (Rule::Attempts, usize::MAX, format!("{told}: {text}"))));
            }
            let Some(sighting) = batch.journal.of_item(index) else {
                continue;
            };
            let later = |life: &&Life| life.started > sighting.at;
            let later: Vec<_> = self.lives.iter().filter(later).map(|it| it.pid).collect();
            if begun.iter().any(|it| later.contains(&it.parent)) {
                let text = format!("{told}, also after it had been seen as {}", sighting.seen);
                breaches.push((*id, (Rule::I1, sighting.at, text)));
            }
            let newest = begun.iter().map(|it| it.attempt).max();
            let by = sighting.seen.output.as_ref().and_then(attempt_of);
            if by.is_some() && by != newest {
                let text = format!("{told}, but its result is of {by:?}");
                breaches.push((*id, (Rule::I9, sighting.at, text)));
            }
        }
        for batch in self.batches.values() {
            breaches.extend(unexecuted(batch, &items));
        }
        for (id, (rule, at, text)) in breaches {
            self.breach(rule, at, id, text);
        }
    }

    /// What is wrong with the numbers of an item's executions.
    fn misnumbered(&self, begun: &[&Execution], guarantees: Guarantees) -> Option<&'static str> {
        let of_life = |life: &Life| {
            let own = begun.iter().filter(|it| it.parent == life.pid);
            own.map(|it| it.attempt).collect::<Vec<_>>()
        };
        let mut before = 0;
        for life in &self.lives {
            let numbers = of_life(life);
            if !numbers.is_sorted_by(|left, right| left < right) {
                return Some("the numbers of one life do not grow");
            }
            let lowest = numbers.first().copied();
            if guarantees == Guarantees::All && lowest.is_some_and(|lowest| lowest <= before) {
                return Some("the numbers do not grow from life to life");
            }
            before = numbers.last().copied().unwrap_or_default().max(before);
        }
        let numbers: BTreeSet<_> = begun.iter().map(|it| it.attempt).collect();
        let repeated = guarantees == Guarantees::All && numbers.len() != begun.len();
        repeated.then_some("a number was given twice")
    }
}

/// Results of attempts that no handler knows of.
fn unexecuted<'a>(
    batch: &BatchFacts<'a>,
    items: &BTreeMap<(&str, u64), Vec<&Execution>>,
) -> Vec<(&'a str, Breach)> {
    let mut breaches = Vec::new();
    let Some((submit, ..)) = batch.accepted else {
        return breaches;
    };
    for Sighting { at, seen, .. } in batch.journal.results() {
        let index = usize::try_from(seen.index).unwrap_or(usize::MAX);
        let succeeded = seen.state == i32::from(ItemState::Succeeded);
        let failed = seen.state == i32::from(ItemState::Failed);
        let least = match submit.items.get(index).map(|item| item.fate) {
            Some(Fate::Succeeds) if succeeded => 1,
            Some(Fate::Fails(reason, count)) if failed => {
                let error = seen.error.as_ref();
                let by_itself = error.is_some_and(|error| error.reason == reason);
                if by_itself { count as usize } else { 0 }
            }
            _ => 0,
        };
        let count = items.get(&(batch.uid, seen.index)).map_or(0, Vec::len);
        if count < least {
            let text = format!("{seen}, after {count} executions");
            breaches.push((seen.batch_id.as_str(), (Rule::Fate, *at, text)));
        }
    }
    breaches
}

/// The number of the attempt at the end of an output of a handler that tells it.
fn attempt_of(output: &Output) -> Option<u32> {
    let (_, number) = output.begins.rsplit_once(' ')?;
    number.parse().ok()
}

fn listed(begun: &[&Execution]) -> String {
    let list = begun
        .iter()
        .map(|it| format!("{} by {}", it.attempt, it.parent));
    list.collect::<Vec<_>>().join(", ")
}
