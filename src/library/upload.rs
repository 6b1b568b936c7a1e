//! A batch that a program fills piece by piece.

use crate::base::tasks::Tasks;
use crate::domain::batch::Batch;
use crate::domain::item::ItemSpec;
use crate::engine;
use crate::error::Result;

use super::checks;

/// An upload: a batch of any size whose items come piece by piece, and run meanwhile.
///
/// Dropping it leaves the batch open for whoever goes on with it; see
/// [`UploadTerms`](crate::domain::settings::UploadTerms) for what becomes of it otherwise. A second
/// one for the same batch supersedes the first.
#[derive(Debug)]
pub struct Upload {
    inner: engine::Upload,
    accepted: u32,
    input_bytes_max: usize,
    io: Tasks,
}

impl Upload {
    pub(super) fn new(upload: engine::Upload, input_bytes_max: usize, io: Tasks) -> Self {
        let accepted = upload.batch().total;
        Self {
            inner: upload,
            accepted,
            input_bytes_max,
            io,
        }
    }

    /// The batch as it was when the upload was opened.
    pub fn batch(&self) -> &Batch {
        self.inner.batch()
    }

    /// Items that the batch has durably. Who resumes an upload goes on behind them.
    pub fn accepted(&self) -> u32 {
        self.accepted
    }

    /// Appends items, durably and all or none; answers how many the batch has then. About 1,000 items
    /// or 1 MiB at a time keep both the disk and other writers happy. After an error it is unknown
    /// only if the error's kind says so whether they are there; opening the upload again tells.
    pub async fn append<I: Into<ItemSpec>>(
        &mut self,
        items: impl IntoIterator<Item = I>,
    ) -> Result<u32> {
        let items: Vec<ItemSpec> = items.into_iter().map(Into::into).collect();
        checks::check_chunk(self.accepted, &items, self.input_bytes_max)?;
        let appending = self.inner.append(self.accepted, items);
        self.accepted = self.io.lend_clock(appending).await?;
        Ok(self.accepted)
    }

    /// Says that these were all items. Fails with `WRONG_COUNT` if there are none: a batch needs one.
    pub async fn finish(self) -> Result<Batch> {
        self.io.lend_clock(self.inner.seal(self.accepted)).await
    }
}
