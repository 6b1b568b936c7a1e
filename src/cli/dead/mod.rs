//! `sooner dead`: items that failed or expired, and what to do with them.

mod letter_json;
mod list;
mod purge;
mod redrive;

use super::exit::{Exit, Failure};
use crate::base::clock::{self, Timestamp};
use crate::config::parse_duration;
use crate::wire;

/// Dead letters: find out what failed or expired, run it again, or take it off the list
///
/// A dead letter is an item that failed for good or expired. First `sooner dead list` tells what it
/// was; once the handler is mended, `sooner dead redrive` runs it again in a new batch. Results of the
/// old batch never change.
///
/// Examples:
///   sooner dead list --queue thumbnails
///   sooner dead redrive nightly-7 --all --follow
///   sooner dead purge nightly-7 --all
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Arguments),
    Redrive(redrive::Arguments),
    Purge(purge::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments),
        Command::Redrive(arguments) => redrive::run(arguments),
        Command::Purge(arguments) => purge::run(arguments),
    }
}

/// Which dead letters are meant; all that is said must be so.
#[derive(Clone, Debug, clap::Args)]
struct FilterArguments {
    /// Those of this queue
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    queue: String,

    /// Those with this reason, as the list shows it
    #[arg(
        long,
        value_name = "REASON",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,

    /// Those that ended so
    #[arg(long, value_name = "STATE", value_enum)]
    state: Option<State>,

    /// Those that ended before that time (2030-01-31T08:00:00Z), or longer ago than that (2h)
    #[arg(long, value_name = "WHEN", value_parser = time_before)]
    before: Option<Timestamp>,
}

/// How an item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// Its last attempt failed
    Failed,
    /// A time limit passed first
    Expired,
}

impl FilterArguments {
    fn is_set(&self) -> bool {
        !self.queue.is_empty()
            || !self.reason.is_empty()
            || self.state.is_some()
            || self.before.is_some()
    }

    fn states(&self) -> Vec<i32> {
        let wire = |state| match state {
            State::Failed => wire::ItemState::Failed,
            State::Expired => wire::ItemState::Expired,
        };
        let states = self.state.into_iter().map(wire);
        states.map(i32::from).collect()
    }

    fn before(&self) -> Option<prost_types::Timestamp> {
        self.before.map(super::specs::time)
    }
}

fn time_before(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp((clock::now().0 - ago).max(0)));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        format!("{text:?} is neither a time such as \"2030-01-31T08:00:00Z\" nor a duration such as \"2h\"")
    })?;
    Ok(Timestamp(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_as_it_is_or_as_long_ago() {
        assert_eq!(time_before("1970-01-01T00:00:01Z"), Ok(Timestamp(1000)));
        let ago = clock::now().0 - time_before("1h").unwrap().0;
        assert!((3_600_000..3_660_000).contains(&ago), "{ago}");
        assert_eq!(time_before("80000h"), time_before("80000h"));
        assert!(time_before("yesterday").unwrap_err().contains("\"2h\""));
    }
}
