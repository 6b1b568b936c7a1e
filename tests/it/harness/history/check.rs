//! Holds a log against the promises: one pass in the order of the log, then what only the end tells.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::item_rules::CancelFacts;
use super::journal::{Journal, Marks};
use super::submit_rules::KeyFacts;
use super::upload_rules::UploadFacts;
use super::{Answer, Asked, Call, Event, Execution, Submit};
use sooner::wire::Item;
use tonic::Code;

/// What was broken: an invariant of the architecture page, or one of the rules that follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// An item has one terminal record, which never changes.
    I1,
    /// What was seen is durable; nothing is un-seen.
    I2,
    /// An accepted item is never lost.
    I3,
    /// Sequences are dense and the same for every reader.
    I4,
    /// A batch ends once, after all its records.
    I5,
    /// Counts sum to the total; progress never shrinks.
    I6,
    /// Of a cancel and a completion one wins, and the answer says which.
    I7,
    /// A crash delays work and never loses it: everything ends.
    I8,
    /// A stale lease never changes a result.
    I9,
    /// A repeated submit creates nothing new; other content is refused.
    I10,
    /// An upload is what its callers sent, in their order, and as long as their finish said.
    Upload,
    /// What is refused with our `ErrorInfo` was not stored.
    Refusal,
    /// An item ends as its handler and its callers made it end.
    Fate,
    /// Attempt numbers grow and never repeat.
    Attempts,
    /// A server that lives answers, and only with what the call may bring.
    Answered,
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    /// Position in the log, and the batch or key it is about.
    at: usize,
    about: String,
    text: String,
    excerpt: Vec<String>,
}

/// What the faults of a run leave of the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guarantees {
    /// All of them.
    All,
    /// A power cut or a full disk may cost the traces of running attempts: their numbers come again.
    WithoutTraces,
}

/// How often a run met what it is for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hits {
    pub(crate) kills: usize,
    /// Kills during which an item ran.
    pub(crate) running: usize,
    /// Kills that left a submit's outcome unknown.
    pub(crate) submits: usize,
    /// Kills that met an accepted batch before its end.
    pub(crate) unfinished: usize,
    /// Kills that met an upload before its end was known.
    pub(crate) uploads: usize,
    /// Items that were given up after too many crashes.
    pub(crate) given_up: usize,
}

/// A life of the server.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) pid: u32,
    pub(super) started: usize,
    /// Position in the log, and wall clock.
    pub(super) died: Option<(usize, i64)>,
}

/// A call so far.
#[derive(Debug)]
pub(super) struct CallFacts<'a> {
    pub(super) sent: usize,
    pub(super) life: usize,
    pub(super) asked: &'a Asked,
    /// The batch it turned out to be about.
    pub(super) batch_id: Option<&'a str>,
    /// Of a stream: the last sequence it has, and whether its first and last message have come.
    pub(super) cursor: u64,
    pub(super) marks: Marks,
    pub(super) attached: bool,
    /// Of an upload: where it was opened, the items it was told of, and where it said something wrong.
    pub(super) opened: Option<usize>,
    pub(super) durable: u64,
    pub(super) wrong: Option<usize>,
    pub(super) ended: bool,
    pub(super) over: bool,
}

/// A batch so far.
#[derive(Debug, Default)]
pub(super) struct BatchFacts<'a> {
    pub(super) uid: &'a str,
    /// What was accepted, and the positions at which that was first sent and first told.
    pub(super) accepted: Option<(&'a Arc<Submit>, usize, usize)>,
    pub(super) journal: Journal<'a>,
    pub(super) upload: UploadFacts,
    /// The last look at each item, and its position.
    pub(super) items: BTreeMap<u64, (usize, &'a Item)>,
    pub(super) cancels: Vec<CancelFacts<'a>>,
    /// Cancels that were refused because the batch was over.
    pub(super) too_late: Vec<usize>,
    /// The life in which someone read it from its start to its end last.
    pub(super) read_in: usize,
}

/// A log, understood.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(super) events: &'a [Event],
    pub(super) lives: Vec<Life>,
    pub(super) calls: BTreeMap<Call, CallFacts<'a>>,
    pub(super) batches: BTreeMap<&'a str, BatchFacts<'a>>,
    pub(super) keys: BTreeMap<&'a str, KeyFacts<'a>>,
    /// Calls that broke, where and why.
    breaks: Vec<(usize, Call, &'a str)>,
    violations: Vec<Violation>,
}

impl Rule {
    /// All of them.
    pub(crate) const ALL: [Self; 15] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::Upload,
        Self::Refusal,
        Self::Fate,
        Self::Attempts,
        Self::Answered,
    ];
}

impl<'a> Facts<'a> {
    /// Reads a log.
    pub(crate) fn of(events: &'a [Event]) -> Self {
        let mut facts = Self {
            events,
            lives: Vec::new(),
            calls: BTreeMap::new(),
            batches: BTreeMap::new(),
            keys: BTreeMap::new(),
            breaks: Vec::new(),
            violations: Vec::new(),
        };
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Started(pid) => facts.lives.push(Life {
                    pid: *pid,
                    started: at,
                    died: None,
                }),
                Event::Died(millis) => {
                    if let Some(life) = facts.lives.last_mut() {
                        life.died = Some((at, *millis));
                    }
                }
                Event::Sent(call, life, asked) => facts.sent(at, *call, *life, asked),
                Event::Said(call, piece) => facts.said(at, *call, *piece),
                Event::Came(call, answer) => facts.came(at, *call, answer),
            }
        }
        facts
    }

    /// What breaks the promises, in the order of the log.
    pub(crate) fn check(
        mut self,
        executions: &[Execution],
        guarantees: Guarantees,
    ) -> Vec<Violation> {
        self.check_breaks();
        self.check_keys();
        self.check_batches(executions);
        self.check_executions(executions, guarantees);
        let mut violations = std::mem::take(&mut self.violations);
        violations.sort_by_key(|violation| violation.at);
        for violation in violations.iter_mut().take(10) {
            violation.excerpt = self.excerpt(&violation.about, violation.at);
        }
        violations
    }

    /// How often the run met what it is for.
    pub(crate) fn hits(&self) -> Hits {
        let mut hits = Hits::default();
        let millis = |time: Option<prost_types::Timestamp>| time.map_or(0, super::millis);
        for (number, life) in self.lives.iter().enumerate() {
            let Some((died, died_millis)) = life.died else {
                continue;
            };
            hits.kills += 1;
            let before = number.checked_sub(1).and_then(|it| self.lives[it].died);
            let before_millis = before.map_or(0, |(_, millis)| millis);
            let interrupted = |(_, item): &(usize, &Item)| {
                item.attempts.iter().any(|attempt| {
                    let by_crash = attempt.error.as_ref().is_some_and(|error| {
                        error.reason == "INTERRUPTED" && error.message.contains("died")
                    });
                    // When it ended nobody saw.
                    let began = millis(attempt.start_time);
                    by_crash && before_millis <= began && began <= died_millis
                })
            };
            let mut items = self.batches.values().flat_map(|batch| batch.items.values());
            hits.running += usize::from(items.any(interrupted));
            let in_doubt = self
                .keys
                .values()
                .any(|key| key.is_in_doubt_in(number + 1, &self.calls));
            hits.submits += usize::from(in_doubt);
            let is_open = |batch: &BatchFacts<'_>| batch.was_open_upload_at(died, died_millis);
            hits.uploads += usize::from(self.batches.values().any(is_open));
            let unfinished = self.batches.values().any(|batch| {
                let accepted = batch.accepted.is_some_and(|(_, _, told)| told < died);
                let end = batch.journal.end();
                accepted && end.is_none_or(|end| millis(end.finish_time) > died_millis)
            });
            hits.unfinished += usize::from(unfinished);
        }
        let journals = self.batches.values().map(|batch| &batch.journal);
        hits.given_up = journals.map(Journal::given_up).sum();
        hits
    }

    pub(super) fn call(&mut self, call: Call) -> &mut CallFacts<'a> {
        let facts = self.calls.get_mut(&call);
        facts.expect("a call is noted before it is sent")
    }

    pub(super) fn breach(&mut self, rule: Rule, at: usize, about: &str, text: String) {
        self.violations.push(Violation {
            rule,
            at,
            about: about.to_owned(),
            text,
            excerpt: Vec::new(),
        });
    }

    fn sent(&mut self, at: usize, call: Call, life: usize, asked: &'a Asked) {
        let (batch_id, cursor) = match asked {
            Asked::Watch(id, after) => (Some(id.as_str()), *after),
            Asked::GetBatch(id) | Asked::GetItem(id, _) | Asked::Cancel(id, _) => {
                (Some(id.as_str()), 0)
            }
            Asked::Submit(submit) | Asked::Upload(submit, _) => {
                let key = self.keys.entry(&submit.key).or_default();
                key.sends.push((call, submit));
                let after = match asked {
                    Asked::Upload(_, opening) => opening.after,
                    Asked::Submit(_)
                    | Asked::Watch(..)
                    | Asked::GetBatch(_)
                    | Asked::GetItem(..)
                    | Asked::Cancel(..) => 0,
                };
                (None, after)
            }
        };
        let facts = CallFacts {
            sent: at,
            life,
            asked,
            batch_id,
            cursor,
            marks: [0; 5],
            attached: false,
            opened: None,
            durable: 0,
            wrong: None,
            ended: false,
            over: false,
        };
        self.calls.insert(call, facts);
    }

    fn came(&mut self, at: usize, call: Call, answer: &'a Answer) {
        match answer {
            Answer::Accepted(id, uid, created) => self.accepted(at, call, (id, uid), *created),
            Answer::Opened(opened) => self.opened(at, call, opened),
            Answer::Durable(items, sealed) => self.durable(at, call, (*items, *sealed)),
            Answer::Attached(batch) => self.attached(at, call, batch),
            Answer::Result(seen) => self.result(at, call, seen),
            Answer::Progress(last, counts) => self.progress(at, call, *last, counts),
            Answer::Ended(batch) => self.ended(at, call, batch),
            Answer::Over => self.over(at, call),
            Answer::Batch(batch) => self.batch(at, call, batch),
            Answer::Item(item) => self.item(at, call, item),
            Answer::Cancelled(counts, begun) => self.cancelled(at, call, counts, *begun),
            Answer::Refused(code, reason) => self.refused(at, call, *code, reason),
            Answer::Broken(why) => {
                self.broken(call);
                self.breaks.push((at, call, why));
            }
        }
    }

    /// Calls may break when the server dies. Which life does not die the end tells.
    fn check_breaks(&mut self) {
        for (at, call, why) in std::mem::take(&mut self.breaks) {
            let life = self.calls[&call].life;
            if self
                .lives
                .get(life - 1)
                .is_none_or(|life| life.died.is_none())
            {
                let text = format!("call {call} broke while the server lived: {why}");
                self.breach(Rule::Answered, at, "", text);
            }
        }
    }

    fn refused(&mut self, at: usize, call: Call, code: Code, reason: &str) {
        let facts = &self.calls[&call];
        let (asked, sent, batch_id) = (facts.asked, facts.sent, facts.batch_id);
        let about = batch_id.unwrap_or_default().to_owned();
        let said = format!("call {call} was refused with {code:?} {reason}");
        if let Some(submit) = asked.submit()
            && batch_id.is_none()
        {
            return self.submit_refused(at, call, submit, (code, reason));
        }
        if matches!(asked, Asked::Upload(..)) {
            return self.upload_refused(at, call, (code, reason));
        }
        let batch = self.batches.get(&*about);
        let told = batch.and_then(|batch| batch.accepted.map(|(_, _, told)| told));
        match (code, reason) {
            // The server ends, or a write failed: a stream says so and a cancel may have happened.
            (Code::Unavailable, _) | (Code::Aborted, "ACCEPT_UNKNOWN") => {}
            (Code::NotFound, "BATCH_NOT_FOUND") => {
                if told.is_some_and(|told| told < sent) {
                    let text = format!("{said}, but the batch had been accepted before");
                    self.breach(Rule::I3, at, &about, text);
                }
            }
            (Code::OutOfRange, "CURSOR_AHEAD") => {
                let text = format!("{said}, but that sequence had been seen");
                self.breach(Rule::I2, at, &about, text);
            }
            (Code::FailedPrecondition, "BATCH_FINISHED") if matches!(asked, Asked::Cancel(..)) => {
                if let Some(batch) = self.batches.get_mut(&*about) {
                    batch.too_late.push(at);
                }
            }
            _ => self.breach(Rule::Answered, at, &about, said),
        }
    }

    /// The entries about a batch around a position.
    fn excerpt(&self, about: &str, at: usize) -> Vec<String> {
        let key = self.batches.get(about).and_then(|batch| batch.accepted);
        let key = key.map_or(about, |(submit, _, _)| submit.key.as_str());
        let is_about = |event: &Event| match event {
            Event::Started(_) | Event::Died(_) => true,
            Event::Sent(call, ..) | Event::Said(call, _) | Event::Came(call, _) => {
                match self.calls[call].asked {
                    Asked::Submit(submit) | Asked::Upload(submit, _) => submit.key == key,
                    Asked::Watch(id, _)
                    | Asked::GetBatch(id)
                    | Asked::GetItem(id, _)
                    | Asked::Cancel(id, _) => id == about,
                }
            }
        };
        let line = |(place, event): (usize, &Event)| {
            let mark = if place == at { '>' } else { ' ' };
            format!("{mark} {place}: {event}")
        };
        let entries = self.events.iter().enumerate();
        let mut before: Vec<_> = entries
            .clone()
            .take(at.saturating_add(1))
            .filter(|(_, event)| is_about(event))
            .collect();
        let after = entries.skip(at.saturating_add(1));
        let after = after.filter(|(_, event)| is_about(event)).take(3);
        before.drain(..before.len().saturating_sub(12));
        before.into_iter().chain(after).map(line).collect()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} {}: {}", self.rule, self.about, self.text)?;
        for line in &self.excerpt {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}
