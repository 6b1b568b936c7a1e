//! What a bench has found: one screen, or one JSON object.

use serde_json::{Value, json};

use super::figures::Figures;

/// Where a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// Nowhere: it only shows the scale.
    None,
    /// At this or above.
    AtLeast(f64),
    /// At this or below.
    AtMost(f64),
}

/// One line.
#[derive(Debug)]
struct Row {
    what: String,
    value: f64,
    /// The lowest and the highest of what `value` is the middle of.
    spread: Option<(f64, f64)>,
    unit: &'static str,
    bar: Bar,
}

/// The figures of one bench.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    question: &'static str,
    setting: String,
    scale: Vec<Row>,
    ratios: Vec<Row>,
}

impl Report {
    /// An empty report; `setting` says what was measured with.
    pub(crate) fn new(bench: &'static str, question: &'static str, setting: String) -> Self {
        Self {
            bench,
            question,
            setting,
            scale: Vec::new(),
            ratios: Vec::new(),
        }
    }

    /// Adds an absolute value, which holds on this machine at this hour.
    pub(crate) fn scale(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.bounded(what, value, unit, Bar::None);
    }

    /// Adds an absolute value that has a bar of its own, such as memory.
    pub(crate) fn bounded(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        bar: Bar,
    ) {
        self.scale.push(Row {
            what: what.into(),
            value,
            spread: None,
            unit,
            bar,
        });
    }

    /// Adds the median of ratios that were taken side by side.
    pub(crate) fn ratio(&mut self, what: impl Into<String>, ratios: &Figures, bar: Bar) {
        self.ratios.push(Row {
            what: what.into(),
            value: ratios.median(),
            spread: Some((ratios.quantile(0.0), ratios.quantile(1.0))),
            unit: "",
            bar,
        });
    }

    /// Adds a ratio of two medians, whose values were measured in turns.
    pub(crate) fn ratio_of(&mut self, what: impl Into<String>, ratio: f64, bar: Bar) {
        self.ratios.push(Row {
            what: what.into(),
            value: ratio,
            spread: None,
            unit: "",
            bar,
        });
    }

    /// Prints it.
    #[expect(clippy::print_stdout, reason = "it is what a bench is for")]
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            println!("{}", self.screen());
        }
    }

    fn json(&self) -> Value {
        let rows = |rows: &[Row]| rows.iter().map(Row::json).collect::<Value>();
        json!({
            "bench": self.bench,
            "question": self.question,
            "setting": self.setting,
            "machine": machine(),
            "scale": rows(&self.scale),
            "ratios": rows(&self.ratios),
        })
    }

    fn screen(&self) -> String {
        let mut lines = vec![
            format!("{}: {}", self.bench, self.question),
            format!("  {}; {}", machine(), self.setting),
        ];
        for (title, rows) in [
            ("absolute values, for the scale only", &self.scale),
            ("ratios, taken side by side", &self.ratios),
        ] {
            if !rows.is_empty() {
                lines.push(format!("  {title}"));
                lines.extend(rows.iter().map(Row::line));
            }
        }
        lines.join("\n") + "\n"
    }
}

impl Row {
    fn verdict(&self) -> Option<(String, bool)> {
        match self.bar {
            Bar::None => None,
            Bar::AtLeast(least) => Some((format!(">= {}", written(least)), self.value >= least)),
            Bar::AtMost(most) => Some((format!("<= {}", written(most)), self.value <= most)),
        }
    }

    fn line(&self) -> String {
        let value = format!("{} {}", written(self.value), self.unit);
        let spread = self.spread.map_or_else(String::new, |(low, high)| {
            format!("  ({} to {})", written(low), written(high))
        });
        let verdict = self.verdict().map_or_else(String::new, |(bar, holds)| {
            let verdict = if holds { "holds" } else { "falls short" };
            format!("  bar {bar}: {verdict}")
        });
        format!("    {:<52}{value:>16}{spread}{verdict}", self.what)
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "low": self.spread.map(|(low, _)| low),
            "high": self.spread.map(|(_, high)| high),
            "bar": self.verdict().map(|(bar, _)| bar),
            "holds": self.verdict().map(|(_, holds)| holds),
        })
    }
}

/// Three digits that matter, or a whole number.
fn written(value: f64) -> String {
    if value.abs() >= 1000.0 {
        let whole = format!("{value:.0}");
        let from_the_end = whole.len() % 3;
        let (head, rest) = whole.split_at(from_the_end);
        let groups = rest.as_bytes().chunks(3).map(String::from_utf8_lossy);
        let groups: Vec<_> = std::iter::once(head.into())
            .chain(groups)
            .filter(|group| !group.is_empty())
            .collect();
        groups.join(",")
    } else if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// What the figures are of, as far as it matters for a ratio.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, loopback, client and server on the same machine")
}
