//! `sooner.v1.AdminService`: each call is convert, ask the engine, render.

use tonic::{Request, Response, Status};

use super::call::opened;
use super::convert::{self, LetterFields};
use super::render;
use super::tenancy::Tenancy;
use super::violations::{INVALID_FIELD, Violations};
use crate::domain::dead_letter::LetterPlace;
use crate::domain::ids::{ItemKey, Sequence, Tenant};
use crate::domain::page_token::Question;
use crate::engine::Engine;
use crate::error::Result;
use crate::wire::admin_service_server::AdminService;
use crate::wire::{
    ListDeadLettersRequest, ListDeadLettersResponse, ListQueuesRequest, ListQueuesResponse,
    PauseQueueRequest, PauseQueueResponse, PurgeDeadLettersRequest, PurgeDeadLettersResponse,
    RedriveDeadLettersRequest, RedriveDeadLettersResponse, ResumeQueueRequest, ResumeQueueResponse,
};

/// The service.
#[derive(Clone, Debug)]
pub struct AdminApi {
    engine: Engine,
    tenancy: Tenancy,
}

impl AdminApi {
    /// A service of `engine`, whose calls act for tenants as `tenancy` says.
    pub fn new(engine: Engine, tenancy: Tenancy) -> Self {
        Self { engine, tenancy }
    }

    /// Where the page begins that a token leads to; `None` on the first page.
    fn place(
        &self,
        wrong: &mut Violations,
        question: &Question,
        token: &str,
    ) -> Option<LetterPlace> {
        if token.is_empty() {
            return None;
        }
        let position = question.position(self.engine.page_key(), token);
        let place = position.and_then(unpacked);
        if place.is_none() {
            wrong.add(INVALID_FIELD, "page_token", Question::NOT_ITS_TOKEN);
        }
        place
    }
}

#[tonic::async_trait]
impl AdminService for AdminApi {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let question = question(&tenant, &request);
        let mut wrong = Violations::default();
        let rows = convert::page_rows(&mut wrong, request.page_size);
        let after = self.place(&mut wrong, &question, &request.page_token);
        let fields = LetterFields {
            queue: request.queue,
            batch_id: request.batch_id,
            reason: request.reason,
            states: request.states,
            before: request.before,
            redriven: request.include_redriven,
        };
        let query = convert::letters(&mut wrong, tenant, &fields);
        let (query, after) = wrong.or((query, after))?;
        let found = self.engine.dead_letters(&query, after, rows);
        let page = deadline.bound(found).await?;
        let key = self.engine.page_key();
        let next = page.next.map(|place| question.token(key, packed(place)));
        Ok(Response::new(ListDeadLettersResponse {
            reasons: render::failure_reasons(&page.reasons),
            reasons_partial: page.reasons_partial,
            dead_letters: page.letters.into_iter().map(render::dead_letter).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let redrive = convert::redrive(tenant, request)?;
        let batch = deadline.bound(self.engine.redrive(redrive)).await?;
        let batch = Some(render::batch(&batch));
        Ok(Response::new(RedriveDeadLettersResponse { batch }))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<PurgeDeadLettersRequest>,
    ) -> Result<Response<PurgeDeadLettersResponse>, Status> {
        let (deadline, tenant, request) = opened(request, self.tenancy)?;
        let (query, item_ids) = convert::purge(tenant, request)?;
        let purged_count = deadline.bound(self.engine.purge(&query, item_ids)).await?;
        Ok(Response::new(PurgeDeadLettersResponse { purged_count }))
    }

    async fn list_queues(
        &self,
        request: Request<ListQueuesRequest>,
    ) -> Result<Response<ListQueuesResponse>, Status> {
        opened(request, self.tenancy)?;
        let queues = self.engine.queues().into_iter();
        let queues = queues.map(render::queue).collect();
        Ok(Response::new(ListQueuesResponse { queues }))
    }

    async fn pause_queue(
        &self,
        request: Request<PauseQueueRequest>,
    ) -> Result<Response<PauseQueueResponse>, Status> {
        let (deadline, _, request) = opened(request, self.tenancy)?;
        let PauseQueueRequest { queue, reason } = request;
        let mut wrong = Violations::default();
        convert::check_reason(&mut wrong, &reason);
        let queue = convert::queue(&mut wrong, &queue);
        let queue = wrong.required(queue)?;
        let paused = self.engine.pause_queue(&queue, &reason);
        let queue = Some(render::queue(deadline.bound(paused).await?));
        Ok(Response::new(PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        request: Request<ResumeQueueRequest>,
    ) -> Result<Response<ResumeQueueResponse>, Status> {
        let (deadline, _, request) = opened(request, self.tenancy)?;
        let mut wrong = Violations::default();
        let queue = convert::queue(&mut wrong, &request.queue);
        let queue = wrong.required(queue)?;
        let resumed = self.engine.resume_queue(&queue);
        let queue = Some(render::queue(deadline.bound(resumed).await?));
        Ok(Response::new(ResumeQueueResponse { queue }))
    }
}

/// What a list is asked for, the page apart.
fn question(tenant: &Tenant, request: &ListDeadLettersRequest) -> Question {
    let before = request
        .before
        .map(|time| [time.seconds, time.nanos.into()].map(i64::to_be_bytes));
    let states = request.states.iter().flat_map(|state| state.to_be_bytes());
    Question::to("dead letters")
        .and(tenant.as_str().as_bytes())
        .and(request.queue.as_bytes())
        .and(request.batch_id.as_bytes())
        .and(request.reason.as_bytes())
        .and(&states.collect::<Vec<_>>())
        .and(before.unwrap_or_default().as_flattened())
        .and(&[
            u8::from(before.is_some()),
            u8::from(request.include_redriven),
        ])
}

fn packed(place: LetterPlace) -> i64 {
    ItemKey {
        batch: place.batch,
        index: place.sequence.0,
    }
    .packed()
}

fn unpacked(place: i64) -> Option<LetterPlace> {
    let ItemKey { batch, index } = ItemKey::unpack(place)?;
    let sequence = Sequence(index);
    Some(LetterPlace { batch, sequence })
}
