//! What most commands are: one call to a server, and its answer on standard output.

use std::future::Future;
use std::io::{self, Write as _};

use serde::Serialize;
use tonic::{Response, Status};

use super::connect::{AdminStub, ServerArguments, Stub};
use super::exit::{self, Failure};
use crate::base::tasks;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum AnswerForm {
    /// In words or columns, for people
    Table,
    /// One JSON document, over several lines
    Json,
    /// A JSON object each, on a line of its own
    Jsonl,
    /// The id alone
    Name,
}

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    One,
    Many,
}

/// Makes one call that may be repeated without harm.
pub(super) fn ask<Q: Clone, T, F>(
    server: &ServerArguments,
    request: &Q,
    call: impl Fn(Stub, Q) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut session = server.remote()?.session();
    let runtime = tasks::runtime("sooner-client", 1)?;
    runtime.block_on(session.call(|stub| call(stub, request.clone())))
}

/// The same of the operators' service.
pub(super) fn ask_admin<Q: Clone, T, F>(
    server: &ServerArguments,
    request: &Q,
    call: impl Fn(AdminStub, Q) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut session = server.remote()?.session();
    let runtime = tasks::runtime("sooner-client", 1)?;
    runtime.block_on(session.call_admin(|stub| call(stub, request.clone())))
}

/// Shows the one thing that an answer is about.
pub(super) fn show(
    form: AnswerForm,
    thing: &impl Serialize,
    told: &str,
    name: &str,
) -> Result<(), Failure> {
    match form {
        AnswerForm::Table => out(told.as_bytes()),
        AnswerForm::Json => json(thing, Lines::Many),
        AnswerForm::Jsonl => json(thing, Lines::One),
        AnswerForm::Name => out(format!("{name}\n").as_bytes()),
    }
}

/// Prints a JSON object.
pub(super) fn json(value: &impl Serialize, lines: Lines) -> Result<(), Failure> {
    let text = match lines {
        Lines::One => serde_json::to_string(value),
        Lines::Many => serde_json::to_string_pretty(value),
    };
    let text = text.expect("our own shapes are JSON") + "\n";
    out(text.as_bytes())
}

/// Prints to standard output.
pub(super) fn out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| exit::of_output(&error))
}
