//! Settings of a batch on the command line.

use std::str::FromStr;
use std::time::Duration;

use clap::ArgGroup;

use super::specs;
use crate::base::clock::{self, Timestamp};
use crate::config::parse_duration;
use crate::domain::retry::RetrySettings;
use crate::wire;

/// What a batch is asked for beside its items. Only what is given is set.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("too_many_failures")
    .args(["max_failed", "max_failed_ratio"])
    .multiple(true))]
pub(super) struct OptionArguments {
    /// Limit of each attempt, such as 30s [default: the queue's]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    item_timeout: Option<Duration>,

    /// Attempts per item [default: the queue's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_attempts: Option<u32>,

    /// A mark of your own on the batch; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,

    /// Batches with a higher number get their turn first, within the queue [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,

    /// How many of its items run at once, at most [default: as many as the queue has slots]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_parallelism: Option<u32>,

    /// Nothing of it starts before WHEN: a time as in RFC 3339, such as 2030-01-31T08:00:00Z, or a
    /// duration from now, such as +2h
    #[arg(long, value_name = "WHEN")]
    not_before: Option<Moment>,

    /// It ends at WHEN, whatever is done by then: a time or a duration from now, as for --not-before
    #[arg(long, value_name = "WHEN")]
    deadline: Option<Moment>,

    /// It ends that long after its accept, such as 2h, whatever is done by then
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_duration: Option<Duration>,

    /// It ends once that many items have succeeded; the others are cancelled
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    enough: Option<u32>,

    /// No item runs twice: one that is interrupted ends as failed, and so does one that fails,
    /// whatever --max-attempts says
    #[arg(long)]
    at_most_once: bool,

    /// So many failed or expired items are too many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_failed: Option<u32>,

    /// Such a share of the finished items is too many, 0 to 1; it counts from the tenth item on
    #[arg(long, value_name = "R", value_parser = share)]
    max_failed_ratio: Option<f64>,

    /// How long it stays with its results once it is over, such as 1h [default: the server's, 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    retention: Option<Duration>,

    /// What happens when too many have failed [default: pause]
    #[arg(
        long,
        value_name = "ACTION",
        value_enum,
        requires = "too_many_failures"
    )]
    on_failures: Option<OnFailures>,
}

/// What happens when too many items of a batch have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnFailures {
    /// The batch is paused, until a resume
    Pause,
    /// It ends as failed, the remaining items are cancelled
    Cancel,
}

/// A point in time as someone typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    at: Timestamp,
    /// Whether it was told from now on: then the same words mean another time later.
    from_now: bool,
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(wait) = text.strip_prefix('+') {
            let at = clock::now().plus(parse_duration(wait)?);
            return Ok(Self { at, from_now: true });
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            format!("{text:?} is neither a time such as \"2030-01-31T08:00:00Z\" nor a duration from now such as \"+2h\"")
        })?;
        let at = Timestamp(time.as_millisecond());
        let from_now = false;
        Ok(Self { at, from_now })
    }
}

impl OptionArguments {
    /// The settings for the wire.
    pub(super) fn options(&self) -> wire::BatchOptions {
        let retry = RetrySettings {
            max_attempts: self.max_attempts,
            ..RetrySettings::default()
        };
        wire::BatchOptions {
            item_timeout: self.item_timeout.map(specs::duration),
            retry_policy: (retry != RetrySettings::default()).then(|| specs::retry(retry)),
            labels: self.label.iter().cloned().collect(),
            priority: self.priority.unwrap_or_default(),
            not_before: self.not_before.map(|moment| specs::time(moment.at)),
            max_parallelism: self.max_parallelism,
            deadline: self.deadline.map(|moment| specs::time(moment.at)),
            max_duration: self.max_duration.map(specs::duration),
            enough: self.enough,
            at_most_once: self.at_most_once,
            failure_policy: self.failure_policy(),
            retention: self.retention.map(specs::duration),
        }
    }

    fn failure_policy(&self) -> Option<wire::FailurePolicy> {
        if self.max_failed.is_none() && self.max_failed_ratio.is_none() {
            return None;
        }
        let action = match self.on_failures {
            None => wire::FailureAction::Unspecified,
            Some(OnFailures::Pause) => wire::FailureAction::Pause,
            Some(OnFailures::Cancel) => wire::FailureAction::Cancel,
        };
        Some(wire::FailurePolicy {
            max_failed_items: self.max_failed,
            max_failed_ratio: self.max_failed_ratio,
            min_items: None,
            action: action.into(),
        })
    }

    /// The flags whose words mean another time when they are typed again, each with the time that was
    /// meant: a batch only goes on with the settings it began with.
    pub(super) fn fixed_times(&self) -> String {
        let moments = [
            ("--not-before", self.not_before),
            ("--deadline", self.deadline),
        ];
        let from_now = moments.into_iter().filter_map(|(flag, moment)| {
            let Moment { at, .. } = moment.filter(|moment| moment.from_now)?;
            let time = jiff::Timestamp::from_millisecond(at.0).ok()?;
            Some(format!(" {flag} {time}"))
        });
        from_now.collect()
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is not a number between 0 and 1"))
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not of the form NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
