//! What a run tells while it goes on, on standard error: a bar on a terminal, a line every ten
//! seconds elsewhere, failures as they come, and a summary.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::shown::Shown;
use super::tell;
use crate::base::clock;
use crate::domain::batch::{Batch, BatchState};

/// Time between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Failures told one by one; the summary counts the rest.
const FAILURES_TOLD_MAX: u64 = 20;

/// What is done about an item that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failures {
    /// It is told, the first ones at least.
    Told,
    /// It is counted; whoever looks sees it anyway.
    Counted,
}

/// The progress of a run, or of a batch that is followed.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    failures: Failures,
    began: Instant,
    first: Option<Duration>,
    told: Instant,
    done: u64,
    /// Results that are no success, by how the item ended.
    unsuccessful: BTreeMap<&'static str, u64>,
    total: u64,
    reasons: BTreeMap<String, u64>,
}

impl Progress {
    /// Starts counting.
    pub(super) fn begin(quiet: bool, failures: Failures) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = "{bar:30} {pos}/{len} items, {per_sec}, {elapsed} {msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("the template is sound"));
            bar
        });
        let now = clock::instant();
        let (reasons, first) = (BTreeMap::new(), None);
        Self {
            bar,
            quiet,
            failures,
            began: now,
            first,
            told: now,
            done: 0,
            unsuccessful: BTreeMap::new(),
            total: 0,
            reasons,
        }
    }

    /// Counts a result of a batch that has `total` items so far.
    pub(super) fn count(&mut self, shown: &Shown<'_>, total: u64) {
        self.first
            .get_or_insert_with(|| clock::instant().duration_since(self.began));
        self.done += 1;
        self.total = total;
        if let Some(error) = &shown.error {
            *self.unsuccessful.entry(shown.state).or_default() += 1;
            *self.reasons.entry(error.reason.to_owned()).or_default() += 1;
            if self.failures == Failures::Told && self.unsuccessful() <= FAILURES_TOLD_MAX {
                self.say(&format!(
                    "item {} {}: {} {}",
                    shown.item_id,
                    shown.state,
                    error.reason,
                    error.message.trim_end()
                ));
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_length(self.total);
            bar.set_position(self.done);
        } else if !self.quiet && clock::instant().duration_since(self.told) >= PLAIN_INTERVAL {
            self.told = clock::instant();
            self.say(&format!(
                "{} of {} items, {}",
                self.done,
                self.total,
                self.endings()
            ));
        }
    }

    /// Whether nothing but failures is to be said.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Says a line without tearing the bar. Failures are told even if it is to be quiet.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(line)),
            None => tell(line),
        }
    }

    /// Ends without a word.
    pub(super) fn dismiss(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Ends with a summary.
    pub(super) fn end(self) {
        self.finish("");
    }

    /// Ends before every item had its result; says how much is left of `batch`.
    pub(super) fn end_early(self, batch: Option<&Batch>) {
        let left = batch.map(|batch| batch.total - batch.tally.terminal());
        let read = match batch.map(|batch| batch.state) {
            Some(BatchState::Open) => " of those read so far",
            Some(_) | None => "",
        };
        match left {
            Some(left) => self.finish(&format!(
                "stopped early, {left} items{read} have no result: "
            )),
            None => self.finish("stopped early: "),
        }
    }

    fn finish(self, preface: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.quiet {
            return;
        }
        let took = clock::instant().duration_since(self.began).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
        let rate = self.done as f64 / took.max(f64::EPSILON);
        let first = self.first.map_or_else(String::new, |first| {
            format!("; first result after {:.2} s", first.as_secs_f64())
        });
        let reasons: Vec<_> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let reasons = if reasons.is_empty() {
            String::new()
        } else {
            format!(" ({})", reasons.join(", "))
        };
        let (done, endings) = (self.done, self.endings());
        tell(&format!(
            "{preface}{done} items in {took:.2} s ({rate:.0}/s): {endings}{reasons}{first}"
        ));
    }

    fn unsuccessful(&self) -> u64 {
        self.unsuccessful.values().sum()
    }

    /// How many items ended how; that none failed is worth saying.
    fn endings(&self) -> String {
        let of = |state| self.unsuccessful.get(state).copied().unwrap_or_default();
        let failed = of("failed");
        let succeeded = self.done - self.unsuccessful();
        let others = ["expired", "cancelled"]
            .into_iter()
            .filter(|state| of(state) > 0);
        let told = [format!("{succeeded} succeeded"), format!("{failed} failed")];
        let told = told
            .into_iter()
            .chain(others.map(|state| format!("{} {state}", of(state))));
        told.collect::<Vec<_>>().join(", ")
    }
}
