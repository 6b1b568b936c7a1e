//! The messages of an upload.

use super::{duration, items, optional, options, progress};
use crate::api::grpc::input_limits::InputLimits;
use crate::api::grpc::stream_batch::Start;
use crate::api::grpc::violations::{INVALID_FIELD, Violations};
use crate::base::limits;
use crate::domain::ids::{BatchId, QueueName, RequestId, Sequence, Tenant};
use crate::domain::item::ItemSpec;
use crate::domain::settings::{OnOpenTimeout, UploadTerms};
use crate::engine::UploadStart;
use crate::error::Result;
use crate::wire;

/// A checked start of an upload.
pub(in crate::api::grpc) fn start(tenant: Tenant, wire: wire::StreamStart) -> Result<Start> {
    let mut wrong = Violations::default();
    let open_timeout = duration(&mut wrong, "start.open_timeout", wire.open_timeout);
    if let Some(short) = open_timeout.filter(|&timeout| timeout < limits::OPEN_TIMEOUT_MIN) {
        let message = format!("{short:?} is below the minimum 1s");
        wrong.add(INVALID_FIELD, "start.open_timeout", message);
    }
    let on_open_timeout = match wire::OnOpenTimeout::try_from(wire.on_open_timeout) {
        Ok(wire::OnOpenTimeout::Unspecified | wire::OnOpenTimeout::Seal) => OnOpenTimeout::Seal,
        Ok(wire::OnOpenTimeout::Cancel) => OnOpenTimeout::Cancel,
        Err(_) => {
            let message = format!("{} is not a known value", wire.on_open_timeout);
            wrong.add(INVALID_FIELD, "start.on_open_timeout", message);
            OnOpenTimeout::Seal
        }
    };
    if wire.resume && wire.batch_id.is_empty() && wire.request_id.is_empty() {
        let message = "is needed to resume, or request_id is";
        wrong.add(INVALID_FIELD, "start.batch_id", message);
    }
    let progress = duration(
        &mut wrong,
        "start.progress_interval",
        wire.progress_interval,
    )
    .and_then(|interval| progress(&mut wrong, "start.progress_interval", interval));
    let upload = UploadStart {
        tenant,
        batch_id: optional(&mut wrong, "start.batch_id", &wire.batch_id, BatchId::parse),
        request_id: optional(
            &mut wrong,
            "start.request_id",
            &wire.request_id,
            RequestId::parse,
        ),
        queue: optional(&mut wrong, "start.queue", &wire.queue, QueueName::parse),
        options: options(
            &mut wrong,
            "start.options",
            wire.options.unwrap_or_default(),
        ),
        terms: UploadTerms {
            open_timeout,
            on_open_timeout,
        },
        after: Sequence(u32::try_from(wire.after_sequence).unwrap_or(u32::MAX)),
        resume: wire.resume,
    };
    wrong.or(Start {
        upload,
        omit_output: wire.omit_output,
        progress: progress.unwrap_or(limits::PROGRESS_INTERVAL_DEFAULT),
    })
}

/// The checked items of one message of an upload, and the index of the first.
pub(in crate::api::grpc) fn chunk(
    wire: wire::StreamItems,
    input: InputLimits,
) -> Result<(u32, Vec<ItemSpec>)> {
    let mut wrong = Violations::default();
    let first = u32::try_from(wire.first_index).ok();
    let first = first.filter(|&first| first <= limits::BATCH_ITEMS_MAX);
    if first.is_none() {
        let (has, max) = (wire.first_index, limits::BATCH_ITEMS_MAX);
        let message = format!("{has} is more than the {max} items that a batch may have");
        wrong.add("TOO_MANY_ITEMS", "items.first_index", message);
    }
    let items = items(&mut wrong, "items.items", wire.items, input);
    wrong.or((first.unwrap_or_default(), items))
}
