//! `sooner delete`: batches that are over go, with all their results.

use serde::Serialize;

use super::answer::{AnswerForm, show};
use super::connect::{ServerArguments, Stub};
use super::exit::{Exit, Failure};
use super::tell;
use crate::base::tasks;
use crate::wire;

/// Delete batches that are over, with all their results
///
/// Once it answers, a batch is gone for everybody, and its id is free for another. It cannot be undone.
/// A batch that is not over is not touched: cancel it first. Of several batches each is deleted that
/// can be.
///
/// Exit codes: 0 all are deleted; 2 bad usage; 6 no such batch; 7 the batch is not over; 9 the server
/// cannot be reached. Of several troubles the first one's.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// How the answer is shown
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: AnswerForm,

    /// The batches
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// A batch that is gone.
#[derive(Debug, Serialize)]
struct Deleted<'a> {
    batch_id: &'a str,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut session = arguments.server.remote()?.session();
    let runtime = tasks::runtime("sooner-client", 1)?;
    let mut trouble = None;
    for batch_id in &arguments.ids {
        let request = wire::DeleteBatchRequest {
            batch_id: batch_id.clone(),
        };
        let deleted = runtime.block_on(session.call(|mut stub: Stub| {
            let request = request.clone();
            async move { stub.delete_batch(request).await }
        }));
        match deleted {
            Ok(wire::DeleteBatchResponse {}) => {
                let told = format!("batch {batch_id} is deleted\n");
                show(arguments.output, &Deleted { batch_id }, &told, batch_id)?;
            }
            // The others wait for nothing better.
            Err(failure) if failure.exit == Exit::Unavailable => return Err(failure),
            Err(failure) => {
                tell(&format!("error: {}", failure.message));
                trouble.get_or_insert(failure.exit);
            }
        }
    }
    Ok(trouble.unwrap_or(Exit::Success))
}
