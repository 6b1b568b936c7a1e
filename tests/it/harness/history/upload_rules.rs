//! Rules about uploads: what was sent of them, what of it is durable, and how long they are.

use super::check::{BatchFacts, Facts, Rule};
use super::journal::{across, is_over};
use super::{Asked, Call, Opened, Piece, Seen, Submit};
use sooner::wire::{Batch, BatchState};
use tonic::Code;

/// What has been said and seen of an upload, by anyone.
#[derive(Debug, Default)]
pub(super) struct UploadFacts {
    /// How many items someone has sent.
    said: u64,
    /// The totals that someone said.
    finishes: Vec<u64>,
    /// The most items that had been seen to be durable at a position, and in which life.
    floors: Vec<(usize, usize, u64)>,
    /// Where and in which life it was first seen to take no more items.
    sealed: Option<(usize, usize)>,
    /// Totals that follow from results, and where.
    totals: Vec<(usize, u64)>,
}

type Breach = (Rule, String);

impl UploadFacts {
    /// Notes that so many items were seen, at a position, by a call that was sent before in a life.
    pub(super) fn hold(
        &mut self,
        (at, sent, life): (usize, usize, usize),
        items: u64,
    ) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let before = self.floors.partition_point(|(at, _, _)| *at < sent);
        if let Some((_, floor_life, floor)) = before.checked_sub(1).map(|last| self.floors[last])
            && items < floor
        {
            let text = format!("has {items} items, but {floor} had been durable");
            breaches.push((across(Rule::I6, floor_life, life), text));
        }
        if items > self.said {
            let text = format!("has {items} items, but only {} were sent", self.said);
            breaches.push((Rule::Upload, text));
        }
        let most = self.most();
        if items > most {
            self.floors.push((at, life, items));
        }
        breaches
    }

    /// Notes what a result tells.
    pub(super) fn see(&mut self, at: usize, seen: &Seen) -> Option<Breach> {
        let total = seen.remaining_count.map(|rest| rest + seen.sequence);
        self.totals.extend(total.map(|total| (at, total)));
        let unsent = seen.index >= self.said;
        unsent.then(|| (Rule::Upload, format!("{seen}: nobody sent that item")))
    }

    fn most(&self) -> u64 {
        self.floors.last().map_or(0, |(_, _, items)| *items)
    }
}

impl BatchFacts<'_> {
    /// How many items it has in the end.
    pub(super) fn total(&self, submit: &Submit) -> usize {
        if !submit.uploaded {
            return submit.items.len();
        }
        let counts = self.journal.end().and_then(|end| end.counts);
        usize::try_from(counts.unwrap_or_default().total).unwrap_or(usize::MAX)
    }

    /// Whether it was an accepted upload with items but without a seal, at that position and time.
    pub(super) fn was_open_upload_at(&self, at: usize, millis: i64) -> bool {
        let accepted = self.accepted;
        let told = accepted.is_some_and(|(submit, _, told)| submit.uploaded && told < at);
        let has_items = self.upload.floors.first().is_some_and(|it| it.0 < at);
        let ended = self.journal.end().and_then(|end| end.finish_time);
        let is_over = ended.is_some_and(|ended| super::millis(ended) <= millis);
        told && has_items && self.upload.sealed.is_none_or(|(sealed, _)| sealed > at) && !is_over
    }
}

impl<'a> Facts<'a> {
    pub(super) fn said(&mut self, at: usize, call: Call, piece: Piece) {
        let facts = self.call(call);
        let Some(id) = facts.batch_id else {
            return self.breach(Rule::Upload, at, "", "went on before it was opened".into());
        };
        match piece {
            Piece::Wrong(_) => facts.wrong = Some(at),
            Piece::Items(first, count) => {
                let upload = &mut self.batches.entry(id).or_default().upload;
                upload.said = upload.said.max(first + count);
            }
            Piece::Finish(total) => {
                let upload = &mut self.batches.entry(id).or_default().upload;
                upload.finishes.push(total);
            }
        }
    }

    pub(super) fn opened(&mut self, at: usize, call: Call, opened: &'a Opened) {
        self.accepted(at, call, (&opened.id, &opened.uid), opened.created);
        let facts = self.call(call);
        facts.opened = Some(at);
        if std::mem::replace(&mut facts.attached, true) {
            self.breach(Rule::I5, at, &opened.id, "opened twice".into());
        }
        self.held(at, call, (opened.accepted, opened.sealed));
    }

    pub(super) fn durable(&mut self, at: usize, call: Call, told: (u64, bool)) {
        let facts = self.call(call);
        if !facts.attached || facts.ended || facts.over {
            let (id, text) = (
                facts.batch_id,
                "a count before the first message or after the last",
            );
            let id = id.unwrap_or_default();
            return self.breach(Rule::I5, at, id, text.into());
        }
        self.held(at, call, told);
    }

    fn held(&mut self, at: usize, call: Call, (items, sealed): (u64, bool)) {
        let facts = self.call(call);
        let (id, sent, life) = (facts.batch_id.unwrap_or_default(), facts.sent, facts.life);
        let before = std::mem::replace(&mut facts.durable, items);
        let is_cancelled = self.was_cancelled_whole(id, at);
        let upload = &mut self.batches.entry(id).or_default().upload;
        let mut breaches = upload.hold((at, sent, life), items);
        if items < before {
            let text = format!("{items} are durable after {before} on the same stream");
            breaches.push((Rule::I6, text));
        }
        if sealed && !is_cancelled && !upload.finishes.contains(&items) {
            let text = format!("sealed with {items} items; said were {:?}", upload.finishes);
            breaches.push((Rule::Upload, text));
        }
        if let Some((_, sealed_life)) = upload.sealed.filter(|(at, _)| *at < sent)
            && !sealed
        {
            let text = "takes items again after it was sealed".to_owned();
            breaches.push((across(Rule::Upload, sealed_life, life), text));
        }
        if sealed {
            upload.sealed.get_or_insert((at, life));
        }
        for (rule, text) in breaches {
            self.breach(rule, at, id, text);
        }
    }

    /// What a look at a batch tells of an upload.
    pub(super) fn upload_stands(&self, sent: usize, call: Call, batch: &Batch) -> Vec<Breach> {
        let Some(facts) = self.batches.get(&*batch.batch_id) else {
            return Vec::new();
        };
        if !facts.accepted.is_some_and(|(submit, ..)| submit.uploaded) {
            return Vec::new();
        }
        let (upload, life) = (&facts.upload, self.calls[&call].life);
        let mut breaches = Vec::new();
        if batch.state() == BatchState::Completed && upload.finishes.is_empty() {
            let text = "completed, and nobody said that these were all items";
            breaches.push((Rule::Upload, text.to_owned()));
        }
        if let Some((_, sealed_life)) = upload.sealed.filter(|(at, _)| *at < sent)
            && batch.state() == BatchState::Open
        {
            let text = "is open again after it was sealed".to_owned();
            breaches.push((across(Rule::Upload, sealed_life, life), text));
        }
        breaches
    }

    pub(super) fn upload_refused(&mut self, at: usize, call: Call, (code, reason): (Code, &str)) {
        let facts = &self.calls[&call];
        let id = facts.batch_id.unwrap_or_default();
        let is_due = match (code, reason) {
            // The server ends, or a write failed: what is durable the next call tells.
            (Code::Unavailable | Code::ResourceExhausted, _)
            | (Code::Aborted, "ACCEPT_UNKNOWN") => true,
            (Code::Aborted, "UPLOAD_SUPERSEDED") => self.has_successor(at, call),
            (Code::FailedPrecondition, "BATCH_SEALED" | "BATCH_FINISHED") => {
                self.was_cancelled_whole(id, at)
            }
            (Code::InvalidArgument, "WRONG_COUNT" | "ITEM_MISMATCH" | "ITEM_GAP") => {
                facts.wrong.is_some()
            }
            _ => false,
        };
        if !is_due {
            let text = format!("upload {call} was refused with {code:?} {reason}");
            self.breach(Rule::Answered, at, id, text);
        }
    }

    /// Whether another call may have been attached to the upload after this one.
    fn has_successor(&self, at: usize, call: Call) -> bool {
        let own = &self.calls[&call];
        let key = own.asked.submit().map(|submit| &submit.key);
        self.calls.iter().any(|(&other, facts)| {
            let is_upload = matches!(facts.asked, Asked::Upload(..));
            let same = is_upload && facts.asked.submit().map(|submit| &submit.key) == key;
            let meanwhile = facts.sent < at && facts.opened.is_none_or(|it| it > own.sent);
            other != call && same && facts.life == own.life && meanwhile
        })
    }

    fn was_cancelled_whole(&self, batch: &str, at: usize) -> bool {
        self.calls.values().any(|call| {
            let is_it = |id: &str, items: &[String]| id == batch && items.is_empty();
            matches!(call.asked, Asked::Cancel(id, items) if is_it(id, items)) && call.sent < at
        })
    }

    /// What only the end tells about an upload.
    pub(super) fn judge_upload(
        &self,
        id: &str,
        batch: &BatchFacts<'_>,
        submit: &Submit,
    ) -> Vec<(Rule, usize, String)> {
        let end = batch.journal.end().filter(|end| is_over(end));
        let (Some(end), true) = (end, submit.uploaded) else {
            return Vec::new();
        };
        let (upload, total) = (&batch.upload, batch.total(submit) as u64);
        let mut breaches = Vec::new();
        for &(at, told) in &upload.totals {
            if told != total {
                let text = format!("a result told of {told} items; it ended with {total}");
                breaches.push((Rule::I6, at, text));
            }
        }
        let at = upload.floors.last().map_or(0, |(at, _, _)| *at);
        if upload.most() > total {
            let text = format!(
                "{} items were durable; it ended with {total}",
                upload.most()
            );
            breaches.push((Rule::I3, at, text));
        }
        if !upload.finishes.contains(&total) && !self.was_cancelled_whole(id, usize::MAX) {
            let finishes = &upload.finishes;
            let text = format!(
                "ended as {} with {total}; said were {finishes:?}",
                end.state
            );
            breaches.push((Rule::Upload, at, text));
        }
        breaches
    }
}
