//! `sooner resume`: a paused batch goes on.

use super::connect::{ServerArguments, Stub};
use super::exit::{Exit, Failure};
use super::output::Form;
use super::pause::{check, show};
use crate::base::tasks;
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
    output: Form,

    /// The batch
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    check(arguments.output)?;
    let mut session = arguments.server.remote()?.session();
    let request = wire::ResumeBatchRequest {
        batch_id: arguments.id.clone(),
    };
    let runtime = tasks::runtime("sooner-client", 1)?;
    let answer = runtime.block_on(session.call(|mut stub: Stub| {
        let request = request.clone();
        async move { stub.resume_batch(request).await }
    }))?;
    show(arguments.output, &answer.batch.unwrap_or_default())
}
