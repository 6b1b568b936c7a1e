//! How the store's errors look to a caller.

use crate::domain::ids::BatchId;
use crate::error::{Error, ErrorKind};
use crate::store::admission::Full;
use crate::store::{Key, Mismatch, StoreError};

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Conflict {
                key,
                holder,
                mismatch,
            } => conflict(key, &holder, mismatch),
            StoreError::NoBatch => Self::new(ErrorKind::NotFound, "BATCH_NOT_FOUND", message),
            StoreError::NoItem(id) => Self::new(
                ErrorKind::NotFound,
                "ITEM_NOT_FOUND",
                format!("the batch has no item {id:?}"),
            )
            .with("item_id", id),
            StoreError::Sealed => Self::new(ErrorKind::Precondition, "BATCH_SEALED", message),
            StoreError::Ended => Self::new(ErrorKind::Precondition, "BATCH_FINISHED", message),
            StoreError::NotOver | StoreError::Redriven => {
                Self::new(ErrorKind::Precondition, "BATCH_RUNNING", message)
            }
            StoreError::DuplicateId { index, .. } => {
                Self::new(ErrorKind::Invalid, "DUPLICATE_ITEM_ID", message).with("index", index)
            }
            StoreError::MixedIds(index) => {
                Self::new(ErrorKind::Invalid, "INVALID_FIELD", message).with("index", index)
            }
            StoreError::WrongCount(count) => {
                Self::new(ErrorKind::Invalid, "WRONG_COUNT", message).with("accepted_items", count)
            }
            StoreError::NoLetters => {
                Self::new(ErrorKind::Precondition, "NOTHING_TO_REDRIVE", message)
            }
            StoreError::DiskFull => Self::new(
                ErrorKind::Exhausted,
                "DISK_FULL",
                "the server's disk is full, or nearly; accepted batches go on, new work is refused until there is room",
            ),
            StoreError::Full(full) => limited(&full),
            StoreError::QueueFull => Self::new(
                ErrorKind::Exhausted,
                "QUEUE_FULL",
                "more is being submitted than can be written; nothing was stored",
            ),
            StoreError::Closed => Self::new(ErrorKind::Unavailable, "STORAGE_UNAVAILABLE", message),
            StoreError::OutcomeUnknown => Self::new(
                ErrorKind::Unknown,
                "ACCEPT_UNKNOWN",
                "writing failed and may have happened all the same; repeat with the same key",
            ),
            StoreError::Corrupt => Self::new(ErrorKind::Corrupt, "CORRUPT_RECORD", message),
            StoreError::Read(_) => {
                Self::new(ErrorKind::Unavailable, "STORAGE_UNAVAILABLE", message)
            }
        }
    }
}

/// A limit of what may be accepted and not over is reached.
fn limited(full: &Full) -> Error {
    let error = no_room(full, format!("{full}; nothing was stored"));
    if full.never {
        error.with(Error::RETRY, "never")
    } else {
        error
    }
}

/// The same for whoever waits until there is room.
pub(super) fn waiting_for_room(full: &Full) -> Error {
    no_room(full, full.to_string())
}

fn no_room(full: &Full, message: String) -> Error {
    let reason = match full.tenant {
        Some(_) => "QUOTA",
        None => "QUEUE_FULL",
    };
    Error::new(ErrorKind::Exhausted, reason, message).with("limit", full.setting())
}

/// A key names a batch that is not the one submitted.
fn conflict(key: Key, holder: &BatchId, mismatch: Mismatch) -> Error {
    let (name, reason) = match key {
        Key::BatchId => ("batch_id", "BATCH_ID_CONFLICT"),
        Key::RequestId => ("request_id", "REQUEST_ID_CONFLICT"),
    };
    let message = match mismatch {
        Mismatch::Content => {
            format!("this {name} belongs to batch {holder}, whose content is other")
        }
        Mismatch::Keys => format!(
            "the keys do not name one batch: the other one belongs to batch {holder}, this {name} does not"
        ),
    };
    Error::new(ErrorKind::Conflict, reason, message).with("batch_id", holder)
}
