//! Rules about what is read: results, counts and the ends of batches and streams.

use std::collections::BTreeMap;

use super::check::{BatchFacts, Facts, Rule};
use super::line::told;
use super::{Asked, Call, Opening, Seen};
use sooner::wire::{Batch, BatchState, Counts, Item, ItemState};

/// What has been seen of a batch's journal and counts, by anyone.
#[derive(Debug, Default)]
pub(super) struct Journal<'a> {
    by_sequence: BTreeMap<u64, Sighting<'a>>,
    sequences: BTreeMap<u64, u64>,
    /// The most of each count that had been seen at a position, in order of position.
    floors: Vec<(usize, usize, Marks)>,
    /// The batch in its terminal state, and where that was first seen.
    end: Option<(usize, &'a Batch)>,
}

/// The first time a result was seen: position, life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting<'a> {
    pub(super) at: usize,
    pub(super) life: usize,
    pub(super) seen: &'a Seen,
}

impl Sighting<'_> {
    /// Whether an item that is looked at has the result that was read.
    pub(super) fn agrees_with(&self, item: &Item) -> bool {
        let result = item.result.clone().map(Seen::of);
        result.is_some_and(|result| result.is_of_one_record_with(self.seen))
    }
}

/// Counts that only grow: the last sequence, then items by terminal state.
pub(super) type Marks = [u64; 5];

/// A rule that was broken, and how.
type Breach = (Rule, String);

impl<'a> Journal<'a> {
    /// The first sightings, by sequence.
    pub(super) fn results(&self) -> impl Iterator<Item = &Sighting<'a>> {
        self.by_sequence.values()
    }

    /// The first sighting of an item's result.
    pub(super) fn of_item(&self, index: u64) -> Option<&Sighting<'a>> {
        self.by_sequence.get(self.sequences.get(&index)?)
    }

    /// The batch as it ended.
    pub(super) fn end(&self) -> Option<&'a Batch> {
        self.end.map(|(_, batch)| batch)
    }

    /// Items that were given up after too many crashes.
    pub(super) fn given_up(&self) -> usize {
        let gave_up = |it: &&Sighting<'_>| {
            let error = it.seen.error.as_ref();
            error.is_some_and(|error| error.reason == "CRASHED_TOO_OFTEN")
        };
        self.results().filter(gave_up).count()
    }

    /// Compares a result with what was seen before.
    fn see(&mut self, at: usize, life: usize, seen: &'a Seen) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let other = self.by_sequence.entry(seen.sequence);
        let first = *other.or_insert(Sighting { at, life, seen });
        if !first.seen.is_of_one_record_with(seen) {
            let same_item = first.seen.index == seen.index;
            let rule = if same_item { Rule::I1 } else { Rule::I4 };
            let text = format!("{seen}, but it had been seen as {}", first.seen);
            breaches.push((across(rule, first.life, life), text));
        }
        let sequence = *self.sequences.entry(seen.index).or_insert(seen.sequence);
        if sequence != seen.sequence {
            let rule = across(Rule::I1, self.by_sequence[&sequence].life, life);
            let text = format!("{seen}, but the item had been seen as #{sequence}");
            breaches.push((rule, text));
        }
        self.raise(at, life, [seen.sequence, 0, 0, 0, 0]);
        breaches
    }

    /// Notes counts that were seen.
    fn raise(&mut self, at: usize, life: usize, marks: Marks) {
        let last = self.floors.last().map_or([0; 5], |(_, _, marks)| *marks);
        let most = std::array::from_fn(|place| last[place].max(marks[place]));
        if most != last {
            self.floors.push((at, life, most));
        }
    }

    /// Compares counts with those that had been seen when the call for them was sent.
    fn compare(&self, sent: usize, life: usize, marks: Marks) -> Option<Breach> {
        let after = self.floors.partition_point(|(at, _, _)| *at < sent);
        let (_, floor_life, floor) = self.floors.get(after.checked_sub(1)?)?;
        let shrunk = (0..5).any(|place| marks[place] < floor[place]);
        let text = || format!("counts {marks:?} after {floor:?} had been seen");
        shrunk.then(|| (across(Rule::I6, *floor_life, life), text()))
    }

    /// Notes a batch in its terminal state, or finds that it had been in it before.
    fn end_with(&mut self, at: usize, sent: usize, batch: &'a Batch) -> Option<Breach> {
        let over = is_over(batch);
        let Some((seen, end)) = self.end else {
            self.end = over.then_some((at, batch));
            return None;
        };
        let whole = |batch: &Batch| {
            let Batch {
                state,
                counts,
                finish_time,
                last_sequence,
                ..
            } = *batch;
            (state, counts, finish_time, last_sequence)
        };
        if over && whole(end) != whole(batch) {
            let text = format!("ended as {}, but before as {}", told(batch), told(end));
            return Some((Rule::I5, text));
        }
        let goes_on = !over && seen < sent;
        goes_on.then(|| (Rule::I5, format!("goes on after its end: {}", told(batch))))
    }
}

/// A breach between two lives is one of durability.
pub(super) fn across(rule: Rule, first: usize, second: usize) -> Rule {
    if first == second { rule } else { Rule::I2 }
}

pub(super) fn is_over(batch: &Batch) -> bool {
    matches!(
        BatchState::try_from(batch.state),
        Ok(BatchState::Completed | BatchState::Cancelled)
    )
}

fn ends(counts: &Counts) -> u64 {
    counts.succeeded + counts.failed + counts.cancelled + counts.expired
}

impl<'a> Facts<'a> {
    pub(super) fn attached(&mut self, at: usize, call: Call, batch: &'a Batch) {
        let facts = self.call(call);
        if std::mem::replace(&mut facts.attached, true) {
            self.breach(Rule::I5, at, &batch.batch_id, "attached twice".into());
        }
        self.batch(at, call, batch);
    }

    pub(super) fn result(&mut self, at: usize, call: Call, seen: &'a Seen) {
        let facts = self.call(call);
        let (life, due, ended) = (facts.life, facts.cursor + 1, facts.ended || facts.over);
        let opens = matches!(facts.asked, Asked::Watch(..) | Asked::Upload(..));
        let unattached = opens && !facts.attached;
        facts.cursor = seen.sequence;
        facts.marks[0] = seen.sequence;
        let id = seen.batch_id.as_str();
        let about = facts.batch_id.unwrap_or_default();
        if about != id {
            let text = format!("a reader of {about:?} got a result of {id:?}");
            self.breach(Rule::I4, at, about, text);
        }
        if seen.sequence != due {
            let text = format!("{seen}, but the reader was due #{due}");
            self.breach(Rule::I4, at, id, text);
        }
        if ended || unattached {
            let text = format!("{seen} before the stream's first message or after its last");
            self.breach(Rule::I5, at, id, text);
        }
        self.see(at, life, seen);
    }

    fn see(&mut self, at: usize, life: usize, seen: &'a Seen) {
        let id = seen.batch_id.as_str();
        let batch = self.batches.entry(id).or_default();
        let mut breaches = batch.journal.see(at, life, seen);
        if let Some((submit, _, _)) = batch.accepted {
            let total = submit.items.len() as u64;
            let upload = &mut batch.upload;
            if submit.uploaded {
                breaches.extend(upload.see(at, seen));
            } else if seen.remaining_count != total.checked_sub(seen.sequence) {
                let text = format!("{seen}: {:?} remaining of {total}", seen.remaining_count);
                breaches.push((Rule::I6, text));
            }
            let named = usize::try_from(seen.index).map(|index| submit.item_id(index));
            if seen.index >= total || named.as_ref() != Ok(&seen.item_id) {
                let text = format!("{seen}: item {:?} was not submitted so", seen.item_id);
                breaches.push((Rule::I1, text));
            }
        }
        for (rule, text) in breaches {
            self.breach(rule, at, id, text);
        }
    }

    pub(super) fn progress(&mut self, at: usize, call: Call, last: u64, counts: &'a Counts) {
        let facts = self.call(call);
        let (id, cursor) = (facts.batch_id.unwrap_or_default(), facts.cursor);
        if last != cursor {
            let text = format!("progress says #{last}, but the reader has #{cursor}");
            self.breach(Rule::I4, at, id, text);
        }
        self.counts(at, call, (id, ends(counts)), counts);
    }

    pub(super) fn ended(&mut self, at: usize, call: Call, batch: &'a Batch) {
        let facts = self.call(call);
        let twice = std::mem::replace(&mut facts.ended, true);
        let cursor = facts.cursor;
        let total = batch.counts.unwrap_or_default().total;
        if twice || cursor != total || !is_over(batch) {
            let text = format!(
                "a watch that has #{cursor} of {total} was told of the end{}: {}",
                if twice { " again" } else { "" },
                told(batch)
            );
            self.breach(Rule::I5, at, &batch.batch_id, text);
        }
        self.batch(at, call, batch);
    }

    /// A stream ended with OK.
    pub(super) fn over(&mut self, at: usize, call: Call) {
        let facts = self.call(call);
        let twice = std::mem::replace(&mut facts.over, true);
        let (asked, life, cursor, ended) = (facts.asked, facts.life, facts.cursor, facts.ended);
        let id = facts.batch_id.unwrap_or_default();
        let batch = self.batches.entry(id).or_default();
        let total = batch.accepted.map(|(submit, _, _)| submit.items.len());
        let told_all = match asked {
            Asked::Watch(_, after) | Asked::Upload(_, Opening { after, .. }) => {
                batch.read_in = if *after == 0 { life } else { batch.read_in };
                ended
            }
            Asked::Submit(_) | Asked::GetBatch(_) | Asked::GetItem(..) | Asked::Cancel(..) => {
                batch.read_in = life;
                total.is_none_or(|total| cursor == total as u64)
            }
        };
        if twice || !told_all {
            let text = format!("a stream ended with OK at #{cursor} of {total:?}");
            self.breach(Rule::I5, at, id, text);
        }
    }

    pub(super) fn batch(&mut self, at: usize, call: Call, batch: &'a Batch) {
        let facts = self.call(call);
        let (sent, id) = (facts.sent, batch.batch_id.as_str());
        self.meet(at, id, &batch.batch_uid);
        let counts = batch.counts.unwrap_or_default();
        self.counts(at, call, (id, batch.last_sequence), &counts);
        let ended = self.batches.entry(id).or_default();
        if let Some((rule, text)) = ended.journal.end_with(at, sent, batch) {
            self.breach(rule, at, id, text);
        }
        for (rule, text) in self.upload_stands(sent, call, batch) {
            self.breach(rule, at, id, text);
        }
        let all_told = ends(&counts) == counts.total && batch.finish_time.is_some();
        if is_over(batch) != all_told {
            let text = format!("state and counts disagree: {}", told(batch));
            self.breach(Rule::I5, at, id, text);
        }
    }

    fn counts(&mut self, at: usize, call: Call, (id, last): (&'a str, u64), counts: &Counts) {
        let facts = self.call(call);
        let (sent, life, own) = (facts.sent, facts.life, facts.marks);
        let mut breaches = Vec::new();
        if counts.pending + counts.running + ends(counts) != counts.total {
            breaches.push((Rule::I6, format!("do not sum to the total: {counts:?}")));
        }
        if last != ends(counts) {
            let text = format!("last sequence {last}, but {} ended", ends(counts));
            breaches.push((Rule::I4, text));
        }
        let batch = self.batches.entry(id).or_default();
        let submit = batch.accepted.map(|(submit, _, _)| submit);
        let total = submit.filter(|submit| !submit.uploaded);
        let total = total.map(|submit| submit.items.len());
        if submit.is_some() && total.is_none() {
            breaches.extend(batch.upload.hold((at, sent, life), counts.total));
        }
        if total.is_some_and(|total| total as u64 != counts.total) {
            breaches.push((Rule::I6, format!("not the {total:?} accepted: {counts:?}")));
        }
        let ended = [
            counts.succeeded,
            counts.failed,
            counts.cancelled,
            counts.expired,
        ];
        let marks = std::array::from_fn(|place| place.checked_sub(1).map_or(last, |it| ended[it]));
        if (0..5).any(|place| marks[place] < own[place]) {
            let text = format!("counts {marks:?} after {own:?} on the same stream");
            breaches.push((Rule::I6, text));
        }
        breaches.extend(batch.journal.compare(sent, life, marks));
        batch.journal.raise(at, life, marks);
        self.call(call).marks = marks;
        for (rule, text) in breaches {
            self.breach(rule, at, id, text);
        }
    }

    pub(super) fn item(&mut self, at: usize, call: Call, item: &'a Item) {
        let facts = self.call(call);
        let (sent, life, id) = (facts.sent, facts.life, item.batch_id.as_str());
        let batch: &mut BatchFacts<'_> = self.batches.entry(id).or_default();
        let said = format!("item {} is {:?}", item.item_id, state_of(item));
        let mut breaches = Vec::new();
        let terminal = item.result.as_ref().map(|result| result.state);
        if terminal.is_some_and(|state| state != item.state)
            || terminal.is_none() && is_terminal(item)
        {
            breaches.push((Rule::I1, format!("{said}, its result {terminal:?}")));
        }
        if let Some(first) = batch.journal.of_item(item.index)
            && first.at < sent
            && !first.agrees_with(item)
        {
            let text = format!("{said}, but had been seen as {}", first.seen);
            breaches.push((across(Rule::I1, first.life, life), text));
        }
        let before = batch.items.get(&item.index).copied();
        let changed = |(seen, before): (usize, &Item)| {
            let result = |item: &Item| item.result.clone().map(Seen::of);
            let (Some(before), now) = (result(before), result(item)) else {
                return false;
            };
            seen < sent && !now.is_some_and(|now| now.is_of_one_record_with(&before))
        };
        if before.is_some_and(changed) {
            breaches.push((Rule::I1, format!("{said}, but had another result before")));
        }
        if before.is_none_or(|(_, before)| before.result.is_none() || item.result.is_some()) {
            batch.items.insert(item.index, (at, item));
        }
        let numbers: Vec<_> = item.attempts.iter().map(|it| it.attempt).collect();
        if !numbers.is_sorted_by(|left, right| left < right) {
            let text = format!("{said}: its attempts are {numbers:?}");
            breaches.push((Rule::Attempts, text));
        }
        for (rule, text) in breaches {
            self.breach(rule, at, id, text);
        }
    }
}

fn state_of(item: &Item) -> ItemState {
    ItemState::try_from(item.state).unwrap_or_default()
}

fn is_terminal(item: &Item) -> bool {
    !matches!(state_of(item), ItemState::Pending | ItemState::Running)
}
