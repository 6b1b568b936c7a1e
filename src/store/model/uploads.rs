//! Uploads in a random history.

use proptest::prelude::*;

use super::super::conformance::new_batch;
use super::super::*;
use super::{Seen, Told};
use crate::domain::ids::BatchNo;

/// A step of an upload.
#[derive(Clone, Debug)]
pub(super) enum UploadStep {
    Open {
        id: u8,
    },
    Append {
        batch: u8,
        items: u8,
    },
    /// Appends items of which the last one has the id of an earlier one, in the chunk or before.
    AppendAgain {
        batch: u8,
        items: u8,
        earlier: u8,
    },
    /// Appends an item that has an id where the others have none, or the other way round.
    AppendMixed {
        batch: u8,
    },
    Seal {
        batch: u8,
    },
}

pub(super) fn step() -> impl Strategy<Value = UploadStep> {
    let any = || any::<u8>();
    prop_oneof![
        2 => (6u8..12).prop_map(|id| UploadStep::Open { id }),
        4 => (any(), 1u8..4).prop_map(|(batch, items)| UploadStep::Append { batch, items }),
        2 => (any(), 0u8..3, any())
            .prop_map(|(batch, items, earlier)| UploadStep::AppendAgain { batch, items, earlier }),
        1 => any().prop_map(|batch| UploadStep::AppendMixed { batch }),
        1 => any().prop_map(|batch| UploadStep::Seal { batch }),
    ]
}

impl Told {
    pub(super) async fn upload(&mut self, step: &UploadStep) {
        match *step {
            UploadStep::Open { id } => {
                let id = format!("b{id}");
                let new = new_batch(Some(&id), None, Content::Appended(UploadTerms::default()));
                if let Created::New(batch) = self.store.create_batch(new).await.unwrap() {
                    self.batches.insert(
                        batch.head.no,
                        Seen {
                            named: id.bytes().last().is_some_and(|last| last % 2 == 0),
                            id,
                            open: true,
                            ..Seen::default()
                        },
                    );
                }
            }
            UploadStep::Append { batch, items } => {
                let Some(no) = self.pick_whole(batch) else {
                    return;
                };
                let more = self.batches[&no].more(items.into());
                if let Some(total) = self.append(no, more).await {
                    self.batches.get_mut(&no).unwrap().total = total.unwrap();
                }
            }
            UploadStep::AppendAgain {
                batch,
                items,
                earlier,
            } => self.append_again(batch, items.into(), earlier).await,
            UploadStep::AppendMixed { batch } => {
                let Some(no) = self.pick_whole(batch) else {
                    return;
                };
                let seen = &self.batches[&no];
                if seen.total == 0 {
                    return;
                }
                let (mut mixed, index) = (seen.more(1), seen.total);
                mixed[0].id = (!seen.named).then(|| "x".into());
                if let Some(refused) = self.append(no, mixed).await {
                    assert_eq!(refused, Err(StoreError::MixedIds(index)));
                }
            }
            UploadStep::Seal { batch } => {
                let Some(no) = self.pick_whole(batch) else {
                    return;
                };
                // Sealed, over and empty batches refuse it; that changes nothing.
                let sealed = self.store.seal(no, self.batches[&no].total).await;
                self.batches.get_mut(&no).unwrap().open &= sealed.is_err();
            }
        }
    }

    /// A batch that is no redrive: nobody else adds to such a one.
    fn pick_whole(&self, number: u8) -> Option<BatchNo> {
        let no = self.pick(number)?;
        self.batches[&no].copies.is_none().then_some(no)
    }

    /// Appends behind the last item. `None` if the batch takes no more, or no more for now, which it
    /// has said then.
    async fn append(&self, no: BatchNo, items: Vec<ItemSpec>) -> Option<Result<u32, StoreError>> {
        let seen = &self.batches[&no];
        let end = seen.total + u32::try_from(items.len()).unwrap();
        let appended = self.store.append_items(no, seen.total, items.into()).await;
        if !seen.open {
            let closed = [Err(StoreError::Sealed), Err(StoreError::Ended)];
            assert!(closed.contains(&appended), "{appended:?}");
            return None;
        }
        if let Err(full @ StoreError::Full(_)) = &appended {
            self.assert_full(full, end - seen.total);
            return None;
        }
        assert!(appended.is_err() || appended == Ok(end), "{appended:?}");
        Some(appended)
    }

    async fn append_again(&mut self, batch: u8, fresh: u32, earlier: u8) {
        let Some(no) = self.pick_whole(batch) else {
            return;
        };
        let seen = &self.batches[&no];
        let index = seen.total + fresh;
        if !seen.named || index == 0 {
            return;
        }
        let first = u32::from(earlier) % index;
        let mut items = seen.more(fresh + 1);
        let id = seen.item_id(first);
        items.last_mut().unwrap().id.clone_from(&id);
        let id = id.expect("it is named");
        if let Some(refused) = self.append(no, items).await {
            assert_eq!(refused, Err(StoreError::DuplicateId { index, first, id }));
        }
    }
}
