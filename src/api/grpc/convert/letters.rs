//! What is asked of dead letters.

use super::{batch_id, optional, states, time};
use crate::api::grpc::violations::{INVALID_FIELD, Violations};
use crate::base::limits;
use crate::domain::attempt::is_reason;
use crate::domain::dead_letter::LetterFilter;
use crate::domain::ids::{BatchId, QueueName, RequestId, Tenant};
use crate::domain::item::TerminalState;
use crate::engine::{LetterQuery, RedriveRequest};
use crate::error::Result;
use crate::wire;

/// The filters that lists and purges share.
#[derive(Debug, Default)]
pub(crate) struct LetterFields {
    pub(crate) queue: String,
    pub(crate) batch_id: String,
    pub(crate) reason: String,
    pub(crate) states: Vec<i32>,
    pub(crate) before: Option<prost_types::Timestamp>,
    pub(crate) redriven: bool,
}

/// Which dead letters are listed or purged.
pub(crate) fn letters(
    wrong: &mut Violations,
    tenant: Tenant,
    fields: &LetterFields,
) -> LetterQuery {
    let wanted = states(wrong, &fields.states);
    for (i, state) in wanted.iter().enumerate() {
        if !state.is_dead() {
            let message = format!("no dead letter is {}; they failed or expired", state.name());
            wrong.add(INVALID_FIELD, format!("states[{i}]"), message);
        }
    }
    let mut wanted: Vec<TerminalState> = wanted;
    wanted.sort_unstable_by_key(|state| *state as u8);
    wanted.dedup();
    LetterQuery {
        tenant,
        batch_id: optional(wrong, "batch_id", &fields.batch_id, BatchId::parse),
        filter: LetterFilter {
            queue: optional(wrong, "queue", &fields.queue, QueueName::parse),
            reason: reason(wrong, &fields.reason),
            states: wanted,
            before: time(wrong, "before", fields.before),
        },
        redriven: fields.redriven,
    }
}

/// Which dead letters are run again.
pub(crate) fn redrive(
    tenant: Tenant,
    request: wire::RedriveDeadLettersRequest,
) -> Result<RedriveRequest> {
    let mut wrong = Violations::default();
    let batch_id = batch_id(&mut wrong, &request.batch_id);
    let request_id = optional(
        &mut wrong,
        "request_id",
        &request.request_id,
        RequestId::parse,
    );
    let item_ids = item_ids(&mut wrong, request.item_ids);
    let queue = optional(&mut wrong, "queue", &request.queue, QueueName::parse);
    let reason = reason(&mut wrong, &request.reason);
    Ok(RedriveRequest {
        batch: tenant.batch(wrong.required(batch_id)?),
        request_id,
        item_ids,
        queue,
        reason,
    })
}

/// Which dead letters are purged: all that match, or those of these items.
pub(crate) fn purge(
    tenant: Tenant,
    request: wire::PurgeDeadLettersRequest,
) -> Result<(LetterQuery, Vec<Box<str>>)> {
    let mut wrong = Violations::default();
    let fields = LetterFields {
        queue: request.queue,
        batch_id: request.batch_id,
        reason: request.reason,
        states: request.states,
        before: request.before,
        redriven: false,
    };
    let query = letters(&mut wrong, tenant, &fields);
    if fields.batch_id.is_empty() && !request.item_ids.is_empty() {
        wrong.add(INVALID_FIELD, "item_ids", "needs the batch_id of the items");
    }
    let item_ids = item_ids(&mut wrong, request.item_ids);
    wrong.or((query, item_ids))
}

/// Items, each once, in an order that does not depend on the caller's.
fn item_ids(wrong: &mut Violations, wire: Vec<String>) -> Vec<Box<str>> {
    let (has, max) = (wire.len(), limits::LETTER_ITEMS_MAX);
    if has > max {
        let message = format!("{has} items are more than the limit {max}");
        wrong.add("TOO_MANY_ITEMS", "item_ids", message);
    }
    let mut ids: Vec<Box<str>> = wire.into_iter().map(Into::into).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn reason(wrong: &mut Violations, text: &str) -> Option<Box<str>> {
    optional(wrong, "reason", text, |text| {
        let problem = || "is not a name of at most 63 of A-Z, 0-9 and underscore".to_owned();
        is_reason(text).then(|| text.into()).ok_or_else(problem)
    })
}
