//! `sooner config show`: the settings that are in effect, and who set them.

use super::answer::out;
use super::exit::{Exit, Failure};
use super::serve;
use crate::config;

/// Settings
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Show(Show),
}

/// Show every setting in effect, as a configuration file
///
/// It takes the flags of serve and shows what serve would go by. Variables that handlers find in their
/// environment are hidden.
///
/// Exit codes: 0 shown; 2 bad usage or configuration.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, mut_arg("ready_file", |argument| argument.hide(true)))]
struct Show {
    #[command(flatten)]
    of_serve: serve::Arguments,

    /// Also tell where each comes from: a flag, a variable, a file and line, or the default
    #[arg(long)]
    origin: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Command::Show(show) = arguments.command;
    let settings = config::show(&show.of_serve.layers())?;
    let mut lines = Vec::new();
    for setting in settings {
        let line = format!("{} = {}", setting.key, setting.value);
        lines.push(if show.origin {
            format!("{line:<48} # {}\n", setting.origin)
        } else {
            format!("{line}\n")
        });
    }
    out(lines.concat().as_bytes())?;
    Ok(Exit::Success)
}
