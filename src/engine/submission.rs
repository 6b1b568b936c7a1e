//! Batches come in whole.

use super::{Engine, Stream};
use crate::base::entropy;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::fingerprint::fingerprint;
use crate::domain::ids::{BatchId, BatchUid, QueueName, RequestId, Tenant};
use crate::domain::item::ItemSpec;
use crate::domain::settings::{BatchOptions, OnDisconnect};
use crate::error::{Error, ErrorKind, FieldViolation, Result};
use crate::store::{Content, Created, Keys, NewBatch};

/// What a caller submits, checked.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// On whose behalf.
    pub tenant: Tenant,
    /// The caller's name for the batch.
    pub batch_id: Option<BatchId>,
    /// The caller's other key.
    pub request_id: Option<RequestId>,
    /// Where its items wait, if the caller said so; else in the default queue.
    pub queue: Option<QueueName>,
    /// Its settings.
    pub options: BatchOptions,
    /// What happens when its last stream has gone.
    pub on_disconnect: OnDisconnect,
    /// Its items.
    pub items: Vec<ItemSpec>,
}

impl Submission {
    /// These items, with nothing else asked for. Name it with [`Submission::with_batch_id`] to be able
    /// to come back to it, and to be able to submit it again without running anything twice.
    pub fn new<I: Into<ItemSpec>>(items: impl IntoIterator<Item = I>) -> Self {
        Self {
            items: items.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Names the batch. Fails unless the id is one to 128 of A-Z, a-z, 0-9, dot, dash and underscore
    /// and begins with a letter or digit.
    pub fn with_batch_id(mut self, id: &str) -> Result<Self> {
        self.batch_id = Some(parsed("batch_id", id, BatchId::parse)?);
        Ok(self)
    }

    /// Says on whose behalf it is submitted; else it is tenant `default`. Ids and keys of other tenants'
    /// batches are none of its business, and it shares its queue with them by their weights.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// Says which queue its items wait in. Fails unless it is a name.
    pub fn with_queue(mut self, queue: &str) -> Result<Self> {
        self.queue = Some(parsed("queue", queue, QueueName::parse)?);
        Ok(self)
    }

    /// Settings of the batch.
    #[must_use]
    pub fn with_options(mut self, options: BatchOptions) -> Self {
        self.options = options;
        self
    }
}

/// The domain value that a field's text stands for.
pub(super) fn parsed<T>(
    field: &str,
    text: &str,
    parse: impl FnOnce(&str) -> std::result::Result<T, String>,
) -> Result<T> {
    parse(text).map_err(|message| {
        let field = field.to_owned();
        Error::invalid("INVALID_FIELD", vec![FieldViolation { field, message }])
    })
}

/// A batch that is durably accepted.
#[derive(Debug)]
pub struct Submitted {
    /// How it stands.
    pub batch: Batch,
    /// Whether this call created it; otherwise an equal one had.
    pub created: bool,
    /// The caller's stream; see [`Engine::attach`].
    pub stream: Stream,
}

impl Engine {
    /// Accepts a batch durably, all or nothing, or attaches to the one an equal call created.
    ///
    /// A call that is dropped may still take effect; whoever then has no stream of the batch left
    /// counts as disconnected.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted> {
        self.check_not_draining()?;
        let queue = submission.queue.clone().unwrap_or_default();
        let keys = Keys {
            tenant: &submission.tenant,
            id: submission.batch_id.as_ref(),
            request_id: submission.request_id.as_ref(),
        };
        self.check_queue_or_known(&queue, keys).await?;
        let fingerprint = fingerprint(
            submission.queue.as_ref(),
            &submission.options,
            &submission.items,
        );
        let new = NewBatch {
            tenant: submission.tenant,
            id: submission.batch_id,
            request_id: submission.request_id,
            uid: BatchUid(entropy::uuid()),
            queue,
            options: submission.options,
            on_disconnect: submission.on_disconnect,
            fingerprint,
            content: Content::Whole(submission.items),
        };
        self.create_to_the_end(new).await
    }

    /// Creates a batch in a task of its own: a caller that goes away in mid-accept drops its future,
    /// not the accept.
    pub(super) async fn create_to_the_end(&self, new: NewBatch) -> Result<Submitted> {
        let engine = self.clone();
        let accept = self.0.tasks.spawn(async move { engine.create(new).await });
        accept.await.map_err(|_| interrupted())?
    }

    async fn create(&self, new: NewBatch) -> Result<Submitted> {
        let (batch, created) = match self.0.store.create_batch(new).await? {
            Created::New(batch) => {
                if batch.state == BatchState::Open {
                    // Here, in the task that no caller can drop: its open timeout must count.
                    self.0.uploads.enter(&batch);
                }
                (batch, true)
            }
            Created::Existing(batch) => (batch, false),
        };
        let stream = self.attach(&batch);
        Ok(Submitted {
            batch,
            created,
            stream,
        })
    }

    pub(super) fn check_not_draining(&self) -> Result<()> {
        if self.0.draining.is_cancelled() {
            Err(draining())
        } else {
            Ok(())
        }
    }

    /// A batch that is there can be attached to even if its queue is not configured any more.
    pub(super) async fn check_queue_or_known(
        &self,
        queue: &QueueName,
        keys: Keys<'_>,
    ) -> Result<()> {
        let Err(unknown) = self.check_queue(queue) else {
            return Ok(());
        };
        match self.0.store.find(keys).await? {
            Some(_) => Ok(()),
            None => Err(unknown),
        }
    }

    pub(super) fn check_queue(&self, queue: &QueueName) -> Result<()> {
        if self.0.options.queues.contains_key(queue) {
            return Ok(());
        }
        let mut known: Vec<_> = self
            .0
            .options
            .queues
            .keys()
            .map(ToString::to_string)
            .collect();
        known.sort_unstable();
        let message = format!(
            "there is no queue {queue}; this server has {}",
            known.join(", ")
        );
        Err(Error::new(ErrorKind::Precondition, "NO_HANDLER", message).with("queue", queue))
    }
}

/// The server accepts nothing any more.
pub(crate) fn draining() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "SERVER_DRAINING",
        "the server is shutting down; nothing was stored",
    )
}

fn interrupted() -> Error {
    Error::new(
        ErrorKind::Unknown,
        "ACCEPT_UNKNOWN",
        "the accept was interrupted; repeat with the same key",
    )
}
