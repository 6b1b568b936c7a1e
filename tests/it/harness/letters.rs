//! Items that fail until their handler is mended, and what becomes of the dead letters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sooner::wire::{
    Batch, BatchOptions, CreateBatchRequest, DeadLetter, ItemSpec, ListDeadLettersRequest,
    ListDeadLettersResponse, PurgeDeadLettersRequest, RedriveDeadLettersRequest,
};
use tonic::Status;

use super::{Client, ServerSetup, within};

/// A queue whose items exit with the code that is their input, until a file says that it is mended.
/// Their output is their idempotency key. One whose input is a path waits at that gate before.
const BROKEN: &str = r#"
[queues.default]
handler = { exec = ["sh", "-c", "code=$(cat); if [ -p \"$code\" ]; then cat \"$code\"; code=0; fi; [ -e mended ] && code=0; echo $SOONER_IDEMPOTENCY_KEY; echo \"failed with $code\" >&2; exit $code"] }
slots = 2
[queues.other]
handler = { exec = ["sh", "-c", "exit 77"] }
[queues.unserved]
"#;

impl ServerSetup {
    /// A server with the queue [`BROKEN`], another one that always fails, and one that nobody serves.
    pub(crate) fn broken() -> Self {
        Self::new(BROKEN)
    }

    /// From now on items of the default queue succeed.
    pub(crate) fn mend(&self) {
        std::fs::write(self.path("mended"), "").unwrap();
    }
}

impl Client {
    /// Makes a batch all of whose items expire before they run.
    pub(crate) async fn expire(&mut self, batch_id: &str, items: Vec<ItemSpec>) {
        let count = items.len() as u64;
        let request = expiring(batch_id, items);
        within(self.stub.create_batch(request)).await.unwrap();
        let over = self.batch_when_over(batch_id).await;
        assert_eq!(over.counts.unwrap().expired, count);
    }

    /// All dead letters that match, read page by page; the reasons are those of the first.
    pub(crate) async fn letters(&mut self, request: ListDeadLettersRequest) -> Listed {
        let mut listed = self.letters_page(request.clone()).await.unwrap();
        let mut token = listed.next_page_token.clone();
        while !token.is_empty() {
            let request = ListDeadLettersRequest {
                page_token: token,
                ..request.clone()
            };
            let page = self.letters_page(request).await.unwrap();
            listed.dead_letters.extend(page.dead_letters);
            token = page.next_page_token;
        }
        let mut reasons: Vec<_> = listed.reasons.into_iter().collect();
        reasons.sort_unstable();
        Listed {
            letters: listed.dead_letters,
            reasons,
        }
    }

    /// One page of dead letters.
    pub(crate) async fn letters_page(
        &mut self,
        request: ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, Status> {
        let listed = within(self.admin.list_dead_letters(request)).await?;
        Ok(listed.into_inner())
    }

    /// Runs dead letters again.
    pub(crate) async fn redrive(
        &mut self,
        request: RedriveDeadLettersRequest,
    ) -> Result<Batch, Status> {
        let redriven = within(self.admin.redrive_dead_letters(request)).await?;
        Ok(redriven.into_inner().batch.unwrap())
    }

    /// Takes dead letters off the list.
    pub(crate) async fn purge(&mut self, request: PurgeDeadLettersRequest) -> Result<u64, Status> {
        let purged = within(self.admin.purge_dead_letters(request)).await?;
        Ok(purged.into_inner().purged_count)
    }
}

/// A batch all of whose items expire before they run: a redrive has no such times.
pub(crate) fn expiring(batch_id: &str, items: Vec<ItemSpec>) -> CreateBatchRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let time = |wait: u64| {
        let at = now + Duration::from_secs(wait);
        Some(prost_types::Timestamp {
            seconds: i64::try_from(at.as_secs()).unwrap(),
            nanos: 0,
        })
    };
    CreateBatchRequest {
        batch_id: batch_id.into(),
        items,
        options: Some(BatchOptions {
            not_before: time(3600),
            deadline: time(1),
            ..BatchOptions::default()
        }),
        ..CreateBatchRequest::default()
    }
}

/// Dead letters.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) letters: Vec<DeadLetter>,
    /// By name.
    pub(crate) reasons: Vec<(String, u64)>,
}

impl Listed {
    /// Their items, as `batch/item`.
    pub(crate) fn items(&self) -> Vec<String> {
        let name = |letter: &DeadLetter| format!("{}/{}", letter.batch_id, letter.item_id);
        self.letters.iter().map(name).collect()
    }
}
