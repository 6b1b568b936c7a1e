//! `sooner resume`: a paused batch goes on.

use super::answer::{AnswerForm, ask};
use super::connect::ServerArguments;
use super::exit::{Exit, Failure};
use super::pause::show;
use crate::wire;

/// Let a paused batch go on
///
/// One that its failures had paused counts them anew from here. One that is not paused stays as it is.
///
/// Exit codes: 0 done; 2 bad usage; 6 no such batch; 7 the batch is over, or ends already; 9 the server
/// cannot be reached.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let request = wire::ResumeBatchRequest {
        batch_id: arguments.id.clone(),
    };
    let answer = ask(
        &arguments.server,
        &request,
        |mut stub, request| async move { stub.resume_batch(request).await },
    )?;
    show(arguments.output, &answer.batch.unwrap_or_default())
}
