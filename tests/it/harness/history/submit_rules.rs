//! Rules about submits: keys, what was accepted under them, and what a refusal proves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::{CallFacts, Facts, Rule};
use super::{Call, Submit};
use tonic::Code;

/// What was sent under a key.
#[derive(Debug, Default)]
pub(super) struct KeyFacts<'a> {
    pub(super) sends: Vec<(Call, &'a Arc<Submit>)>,
    /// Submits that were told their outcome, or that it is not known.
    outcomes: BTreeMap<Call, Outcome>,
    /// The batch that the key names.
    batch_id: Option<&'a str>,
    /// Refusals for the sake of other content, and where.
    conflicts: Vec<(usize, Call)>,
    /// Whether a call was told that it created the batch.
    created: bool,
}

/// What a submit came to. Without an entry nothing came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    /// The server said that nothing was stored.
    Refused,
    Unknown,
}

impl KeyFacts<'_> {
    /// Whether that life left it open what became of a submit.
    pub(super) fn is_in_doubt_in(
        &self,
        life: usize,
        calls: &BTreeMap<Call, CallFacts<'_>>,
    ) -> bool {
        let open = |call| !matches!(self.outcome(call), Outcome::Accepted | Outcome::Refused);
        let mut sends = self.sends.iter();
        sends.any(|(call, _)| calls[call].life == life && open(*call))
    }

    fn outcome(&self, call: Call) -> Outcome {
        *self.outcomes.get(&call).unwrap_or(&Outcome::Unknown)
    }
}

impl<'a> Facts<'a> {
    /// Submits of which nobody knows whether they were accepted, nor that others of their key were.
    pub(crate) fn in_doubt(&self) -> Vec<Arc<Submit>> {
        let mut found: Vec<Arc<Submit>> = Vec::new();
        for key in self.keys.values().filter(|key| key.batch_id.is_none()) {
            for (call, submit) in &key.sends {
                if key.outcome(*call) == Outcome::Unknown && !found.contains(submit) {
                    found.push(Arc::clone(submit));
                }
            }
        }
        found
    }

    /// Batch ids under which everything was refused.
    pub(crate) fn turned_away(&self) -> Vec<String> {
        let refused = self.keys.iter().filter(|(_, key)| {
            let outcome = |(call, _): &(Call, _)| key.outcome(*call);
            key.sends
                .iter()
                .map(outcome)
                .all(|it| it == Outcome::Refused)
                && key.sends.iter().all(|(_, submit)| !submit.by_request_id)
        });
        refused.map(|(name, _)| (*name).to_owned()).collect()
    }

    pub(super) fn accepted(
        &mut self,
        at: usize,
        call: Call,
        (id, uid): (&'a str, &'a str),
        created: bool,
    ) {
        let facts = self.call(call);
        let Some(submit) = facts.asked.submit() else {
            return self.breach(Rule::Answered, at, id, "accepted what is no submit".into());
        };
        facts.batch_id = Some(id);
        let sent = facts.sent;
        let mut breaches = Vec::new();
        let key = self.keys.entry(&submit.key).or_default();
        key.outcomes.insert(call, Outcome::Accepted);
        let named = *key.batch_id.get_or_insert(id);
        if named != id || !submit.by_request_id && submit.key != id {
            let text = format!("the key {} names {named} and {id}", submit.key);
            breaches.push((Rule::I10, text));
        }
        if created && std::mem::replace(&mut key.created, true) {
            breaches.push((Rule::I10, format!("call {call} created it again")));
        }
        let first_sent = key
            .sends
            .iter()
            .find(|(_, other)| *other == submit)
            .map_or(sent, |(first, _)| self.calls[first].sent);
        let batch = self.batches.entry(id).or_default();
        match batch.accepted {
            None => batch.accepted = Some((submit, first_sent, at)),
            Some((before, _, told)) => {
                if before != submit {
                    let text = format!("call {call} brings other content and was accepted");
                    breaches.push((Rule::I10, text));
                }
                if created && told < sent {
                    let text = format!("call {call} created what had been accepted: it was lost");
                    breaches.push((Rule::I3, text));
                }
            }
        }
        for (rule, text) in breaches {
            self.breach(rule, at, id, text);
        }
        self.meet(at, id, uid);
    }

    /// Notes the uid of a batch: it never changes and no other batch has it.
    pub(super) fn meet(&mut self, at: usize, id: &'a str, uid: &'a str) {
        let known = std::mem::replace(&mut self.batches.entry(id).or_default().uid, uid);
        if known.is_empty() {
            let mut others = self.batches.iter();
            let other = others.find(|(other, batch)| **other != id && batch.uid == uid);
            if let Some(other) = other.map(|(other, _)| (*other).to_owned()) {
                let text = format!("has the uid of {other}: {uid}");
                self.breach(Rule::I10, at, id, text);
            }
        } else if known != uid {
            let text = format!("had the uid {known} and has {uid} now");
            self.breach(Rule::I10, at, id, text);
        }
    }

    pub(super) fn submit_refused(
        &mut self,
        at: usize,
        call: Call,
        submit: &'a Submit,
        (code, reason): (Code, &str),
    ) {
        let sent = self.calls[&call].sent;
        let batch = self.batches.get(&*submit.key);
        let told = batch.and_then(|batch| batch.accepted.map(|(_, _, told)| told));
        let is_lost = submit.uploaded && told.is_some_and(|told| told < sent);
        let key = self.keys.entry(&submit.key).or_default();
        let outcome = match (code, reason) {
            (Code::NotFound, "BATCH_NOT_FOUND") if is_lost => {
                let text = format!("upload {call} is not there, but it had been accepted before");
                return self.breach(Rule::I3, at, &submit.key, text);
            }
            (Code::NotFound, "BATCH_NOT_FOUND") if submit.uploaded => Outcome::Refused,
            (Code::AlreadyExists, _) => {
                key.conflicts.push((at, call));
                Outcome::Refused
            }
            (Code::Unavailable | Code::ResourceExhausted, _) => Outcome::Refused,
            (Code::Aborted, "ACCEPT_UNKNOWN") => Outcome::Unknown,
            _ => {
                let text = format!("submit {call} was refused with {code:?} {reason}");
                return self.breach(Rule::Answered, at, &submit.key, text);
            }
        };
        key.outcomes.insert(call, outcome);
    }

    /// A call broke; a submit that was not yet accepted may be or not.
    pub(super) fn broken(&mut self, call: Call) {
        if let Some(submit) = self.calls[&call].asked.submit() {
            let key = self.keys.entry(&submit.key).or_default();
            key.outcomes.entry(call).or_insert(Outcome::Unknown);
        }
    }

    /// What only the end tells about keys: all submits have been sent until their outcome was known.
    pub(super) fn check_keys(&mut self) {
        let mut breaches = Vec::new();
        for (name, key) in &self.keys {
            let last = key
                .sends
                .last()
                .map_or(0, |(call, _)| self.calls[call].sent);
            let batch = key.batch_id.and_then(|id| self.batches.get(id));
            let accepted = batch.and_then(|batch| batch.accepted);
            let in_doubt = |call: &Call| key.outcome(*call) == Outcome::Unknown;
            let doubts: Vec<_> = key
                .sends
                .iter()
                .filter(|(call, _)| in_doubt(call))
                .collect();
            match accepted {
                Some((content, _, told)) => {
                    let created_in_doubt = doubts.iter().any(|(_, submit)| *submit == content);
                    if !key.created && !created_in_doubt {
                        let text = "is there, but each of its submits attached or was refused";
                        breaches.push((Rule::Refusal, told, *name, text.to_owned()));
                    }
                }
                None if !doubts.is_empty() => {
                    let text = "nobody learned what became of it".to_owned();
                    breaches.push((Rule::I8, last, *name, text));
                }
                None if self
                    .batches
                    .get(name)
                    .is_some_and(|batch| !batch.uid.is_empty()) =>
                {
                    let text = "is there, but each of its submits was refused".to_owned();
                    breaches.push((Rule::Refusal, last, *name, text));
                }
                None => {}
            }
            for (at, call) in &key.conflicts {
                let own = key.sends.iter().find(|(other, _)| other == call);
                let own = own.map(|(_, submit)| *submit);
                if accepted.is_none_or(|(content, sent, _)| Some(content) == own || sent > *at) {
                    let text =
                        format!("submit {call} was refused for other content: there is none");
                    breaches.push((Rule::I10, *at, *name, text));
                }
            }
        }
        for (rule, at, name, text) in breaches {
            self.breach(rule, at, name, text);
        }
    }
}
