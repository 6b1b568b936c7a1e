//! What a watcher asks for, checked, and what it is told.

use std::time::Duration;

use super::convert;
use super::reader::Event;
use super::render;
use super::violations::{INVALID_FIELD, Violations};
use crate::base::limits;
use crate::domain::ids::{BatchName, Sequence, Tenant};
use crate::domain::item::TerminalState;
use crate::engine::Order;
use crate::error::Result;
use crate::wire::{
    ResultOrder, WatchBatchRequest, WatchBatchResponse, WatchEnded, watch_batch_response,
};

/// A checked watch.
pub(super) struct Watch {
    pub(super) batch: BatchName,
    pub(super) from: Order,
    pub(super) progress: Duration,
    pub(super) states: Vec<TerminalState>,
}

impl Watch {
    pub(super) fn of(tenant: Tenant, request: &WatchBatchRequest) -> Result<Self> {
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        let progress =
            convert::duration(&mut wrong, "progress_interval", request.progress_interval)
                .and_then(|interval| convert::progress(&mut wrong, "progress_interval", interval));
        let states = convert::states(&mut wrong, &request.states);
        let from = match ResultOrder::try_from(request.order) {
            Ok(ResultOrder::Unspecified | ResultOrder::Completion) => Order::Completion(Sequence(
                u32::try_from(request.after_sequence).unwrap_or(u32::MAX),
            )),
            Ok(ResultOrder::Index) => {
                Order::Index(u32::try_from(request.after_index).unwrap_or(u32::MAX))
            }
            Err(_) => {
                wrong.add(
                    INVALID_FIELD,
                    "order",
                    format!("{} is not a known value", request.order),
                );
                Order::Index(0)
            }
        };
        match from {
            Order::Completion(_) if request.after_index != 0 => {
                wrong.add(INVALID_FIELD, "after_index", "only goes with order INDEX");
            }
            Order::Index(_) if request.after_sequence != 0 => {
                wrong.add(
                    INVALID_FIELD,
                    "after_sequence",
                    "does not go with order INDEX",
                );
            }
            Order::Completion(_) | Order::Index(_) => {}
        }
        let batch = tenant.batch(wrong.required(id)?);
        let progress = progress.unwrap_or(limits::PROGRESS_INTERVAL_DEFAULT);
        Ok(Self {
            batch,
            from,
            progress,
            states,
        })
    }
}

/// What a watcher is told of an event.
pub(super) fn watch_messages(event: Event, omit_output: bool) -> Vec<WatchBatchResponse> {
    match event {
        Event::Results(records, batch) => records
            .into_iter()
            .map(|record| render::result(record, &batch, omit_output))
            .map(|result| said(watch_batch_response::Message::Result(result)))
            .collect(),
        Event::Progress(cursor, batch) => {
            let progress = render::progress(cursor, &batch);
            vec![said(watch_batch_response::Message::Progress(progress))]
        }
        Event::Ended(batch) => {
            let batch = Some(render::batch(&batch));
            vec![said(watch_batch_response::Message::Ended(WatchEnded {
                batch,
            }))]
        }
    }
}

/// A message of that kind.
pub(super) fn said(message: watch_batch_response::Message) -> WatchBatchResponse {
    WatchBatchResponse {
        message: Some(message),
    }
}
