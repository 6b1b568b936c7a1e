//! Items, of a whole batch or of a piece of one.

use std::collections::{BTreeMap, HashSet};

use super::options::{map, retry, timeout};
use super::time;
use crate::api::grpc::input_limits::InputLimits;
use crate::api::grpc::violations::{INVALID_FIELD, Violations};
use crate::base::{clock, limits};
use crate::domain::ids;
use crate::domain::item::ItemSpec;
use crate::domain::payload::{Body, Payload};
use crate::domain::retry::RetrySettings;
use crate::wire;

pub(super) fn items(
    wrong: &mut Violations,
    field: &str,
    wire: Vec<wire::ItemSpec>,
    input: InputLimits,
) -> Vec<ItemSpec> {
    if wire.is_empty() {
        wrong.add(INVALID_FIELD, field, "needs at least one item");
    }
    if wire.len() > input.items_max {
        let (has, max) = (wire.len(), input.items_max);
        wrong.add(
            "TOO_MANY_ITEMS",
            field,
            format!("{has} items are more than the limit {max} of one message"),
        );
        return Vec::new();
    }
    let with_ids = wire.iter().filter(|item| !item.item_id.is_empty()).count();
    if with_ids != 0
        && with_ids != wire.len()
        && let Some(without) = wire.iter().position(|item| item.item_id.is_empty())
    {
        let field = format!("{field}[{without}].item_id");
        wrong.add(
            INVALID_FIELD,
            field,
            "is empty although other items have one; all have one or none has",
        );
    }
    duplicates(wrong, field, &wire);
    wire.into_iter()
        .enumerate()
        .map(|(i, wire)| item(wrong, (field, i), wire, input))
        .collect()
}

fn duplicates(wrong: &mut Violations, field: &str, wire: &[wire::ItemSpec]) {
    let mut seen = HashSet::with_capacity(wire.len());
    for (i, item) in wire.iter().enumerate() {
        if !item.item_id.is_empty() && !seen.insert(&item.item_id) {
            let message = format!("{:?} names an earlier item of the batch too", item.item_id);
            wrong.add(
                "DUPLICATE_ITEM_ID",
                format!("{field}[{i}].item_id"),
                message,
            );
        }
    }
}

fn item(
    wrong: &mut Violations,
    (list, i): (&str, usize),
    wire: wire::ItemSpec,
    input: InputLimits,
) -> ItemSpec {
    // Only for what is there: most items have nothing but an input, and there are many.
    let field = |name: &str| format!("{list}[{i}].{name}");
    if let Err(message) = ids::check_item_id(&wire.item_id) {
        wrong.add(INVALID_FIELD, field("item_id"), message);
    }
    let payload = payload(wire.input.unwrap_or_default());
    let (has, max) = (payload.bytes().len(), input.input_bytes_max);
    if has > max {
        wrong.add(
            "INPUT_TOO_LARGE",
            field("input"),
            format!("{has} bytes are more than the limit {max}"),
        );
    } else if let Err(message) = payload.check() {
        wrong.add(INVALID_FIELD, field("input"), message);
    }
    let (count, bytes) = (limits::ATTRIBUTES_MAX, limits::ATTRIBUTE_BYTES_MAX);
    let spec = ItemSpec {
        id: (!wire.item_id.is_empty()).then(|| wire.item_id.into()),
        input: payload,
        timeout: wire
            .timeout
            .and_then(|limit| timeout(wrong, &field("timeout"), Some(limit))),
        start_by: wire
            .start_by
            .and_then(|at| time(wrong, &field("start_by"), Some(at))),
        finish_by: wire
            .finish_by
            .and_then(|at| time(wrong, &field("finish_by"), Some(at))),
        retry: wire
            .retry_policy
            .map_or_else(RetrySettings::default, |policy| {
                retry(wrong, &field("retry_policy"), policy)
            }),
        attributes: if wire.attributes.is_empty() {
            BTreeMap::new()
        } else {
            map(wrong, &field("attributes"), wire.attributes, count, bytes)
        },
    };
    if spec.start_by.is_some() || spec.finish_by.is_some() {
        wrong.add_all(&format!("{list}[{i}]"), spec.check_times(clock::now()));
    }
    spec
}

fn payload(wire: wire::Payload) -> Payload {
    let body = match wire.body {
        Some(wire::payload::Body::Data(data)) => Body::Data(data),
        Some(wire::payload::Body::Text(text)) => Body::Text(text.into()),
        None => Body::Data(bytes::Bytes::new()),
    };
    Payload {
        body,
        content_type: wire.content_type.into(),
    }
}
