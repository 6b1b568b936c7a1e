//! `ListBatches` and `ListItems`: questions into queries, pages into answers.

use super::batch_service::BatchApi;
use super::convert;
use super::deadline::Deadline;
use super::render;
use super::violations::{INVALID_FIELD, Violations};
use crate::domain::batch::BatchState;
use crate::domain::ids::Tenant;
use crate::domain::item::{ItemState, TerminalState};
use crate::engine::{BatchList, BatchQuery, ItemList, ItemQuery};
use crate::error::Result;
use crate::wire::{ListBatchesRequest, ListBatchesResponse, ListItemsRequest, ListItemsResponse};

impl BatchApi {
    pub(super) async fn batches(
        &self,
        tenant: Tenant,
        deadline: Deadline,
        request: ListBatchesRequest,
    ) -> Result<ListBatchesResponse> {
        let mut wrong = Violations::default();
        let query = BatchQuery {
            tenant,
            states: states(&mut wrong, &request.states, |number| {
                BatchState::from_number(number.into())
            }),
            labels: convert::labels(&mut wrong, "labels", request.labels),
            page_size: page_size(&mut wrong, request.page_size),
            page_token: request.page_token.into(),
        };
        let query = wrong.or(query)?;
        let listed = deadline.bound(self.engine().list_batches(&query)).await?;
        let BatchList {
            batches,
            next_page_token,
        } = listed;
        Ok(ListBatchesResponse {
            batches: batches.iter().map(render::batch).collect(),
            next_page_token,
        })
    }

    pub(super) async fn items(
        &self,
        tenant: Tenant,
        deadline: Deadline,
        request: ListItemsRequest,
    ) -> Result<ListItemsResponse> {
        let mut wrong = Violations::default();
        let id = convert::batch_id(&mut wrong, &request.batch_id);
        let query = ItemQuery {
            states: states(&mut wrong, &request.states, |number| match number {
                1 => Some(ItemState::Pending),
                2 => Some(ItemState::Running),
                ended => TerminalState::from_number(ended.into()).map(ItemState::Ended),
            }),
            page_size: page_size(&mut wrong, request.page_size),
            page_token: request.page_token.into(),
        };
        let name = tenant.batch(wrong.required(id)?);
        let listed = deadline.bound(self.engine().list_items(&name, &query));
        let listed = listed.await?;
        let ItemList {
            items,
            batch,
            next_page_token,
        } = listed;
        let items = items.into_iter();
        Ok(ListItemsResponse {
            items: items
                .map(|item| render::listed_item(item, &batch))
                .collect(),
            next_page_token,
        })
    }
}

fn states<T>(wrong: &mut Violations, wire: &[i32], known: impl Fn(i32) -> Option<T>) -> Vec<T> {
    let mut states = Vec::new();
    for (i, &number) in wire.iter().enumerate() {
        match known(number) {
            Some(state) => states.push(state),
            None => wrong.add(
                INVALID_FIELD,
                format!("states[{i}]"),
                format!("{number} is not a known state"),
            ),
        }
    }
    states
}

fn page_size(wrong: &mut Violations, wire: i32) -> usize {
    usize::try_from(wire).unwrap_or_else(|_| {
        wrong.add(INVALID_FIELD, "page_size", format!("{wire} is negative"));
        0
    })
}
