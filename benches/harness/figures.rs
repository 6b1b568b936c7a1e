//! Medians, quantiles and ratios.

use std::time::Duration;

/// Measured values of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    /// Adds a value.
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, as milliseconds.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    /// The value below which this share of all lies; 0 without values.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return 0.0;
        };
        sorted[place(share, last)]
    }

    /// The middle value.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Each value divided by the one that was measured beside it.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let ratios = self.0.iter().zip(&other.0);
        Self(ratios.map(|(mine, theirs)| mine / theirs).collect())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in a list of measurements"
)]
fn place(share: f64, last: usize) -> usize {
    (share * last as f64).round() as usize
}

/// `count` things in `time`, as a rate per second.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    number(count) / time.as_secs_f64()
}

/// A count as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts here stay far below 2^53"
)]
pub(crate) fn number(count: usize) -> f64 {
    count as f64
}
