//! Floor 6: what a person types. Standard output is data, standard error is talk.

mod answer;
mod backlog;
mod batch_options;
mod cancel;
mod config_show;
mod connect;
mod dead;
mod delete;
mod exit;
mod facts;
mod field_names;
mod following;
mod get;
mod input;
mod json;
mod json_list;
mod list;
mod on_behalf;
mod out_dir;
mod output;
mod pause;
mod progress;
mod queue;
mod refusal;
mod resume;
mod room;
mod run;
mod serve;
mod shown;
mod signals;
mod specs;
mod standstill;
mod state_dir;
mod submit;
mod upload;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::exit::Failure;

/// Runs the items of a batch and hands over each result the moment it is done.
#[derive(Debug, Parser)]
#[command(
    name = "sooner",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Serve(serve::Arguments),
    Submit(submit::Arguments),
    Watch(watch::Arguments),
    Get(get::Arguments),
    List(list::Arguments),
    Cancel(cancel::Arguments),
    Pause(pause::Arguments),
    Resume(resume::Arguments),
    Queue(queue::Arguments),
    Dead(dead::Arguments),
    Delete(delete::Arguments),
    Config(config_show::Arguments),
}

/// Settings that `run` and `serve` share.
#[derive(Debug, clap::Args)]
struct Shared {
    /// Configuration file [default: ./sooner.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How many items run at once in the default queue [default: the processors]
    #[arg(short = 'j', long, value_name = "N")]
    slots: Option<usize>,
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    let matches = without_empty_variables(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let ended = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Submit(arguments) => submit::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Cancel(arguments) => cancel::run(&arguments),
        Command::Pause(arguments) => pause::run(&arguments),
        Command::Resume(arguments) => resume::run(&arguments),
        Command::Queue(arguments) => queue::run(&arguments),
        Command::Dead(arguments) => dead::run(&arguments),
        Command::Delete(arguments) => delete::run(&arguments),
        Command::Config(arguments) => config_show::run(arguments),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            tell(&format!("error: {message}"));
            exit.into()
        }
    }
}

/// The same, but that a flag's variable which is empty is as good as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let of_flags = command.mut_args(|flag| {
        let value = flag.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) {
            flag.env(Resettable::Reset)
        } else {
            flag
        }
    });
    of_flags.mut_subcommands(without_empty_variables)
}

/// Says something to the person. A closed standard error must not stop the work.
fn tell(line: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{line}").ok();
}

/// The process's environment, as far as it is text.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
