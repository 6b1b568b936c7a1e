//! Whether more work is let in. What was accepted is not asked.

use crate::store::StoreError;

/// What stands against new work while a group is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Admission {
    /// Whether what is left of the disk is kept for results.
    pub(crate) disk_is_low: bool,
}

impl Admission {
    /// Whether a new batch, or more items of one, may come in.
    pub(super) fn check(self) -> Result<(), StoreError> {
        if self.disk_is_low {
            return Err(StoreError::DiskFull);
        }
        Ok(())
    }
}
