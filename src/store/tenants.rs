//! Part of the suite that every keeper must pass: tenants do not see each other.

use super::conformance::{Fixture, items, new_batch};
use super::*;
use crate::domain::ids::BatchName;

fn tenant(name: &str) -> Tenant {
    Tenant::parse(name).unwrap()
}

fn name(of: &str) -> BatchName {
    tenant(of).batch(BatchId::parse("b").unwrap())
}

impl Fixture {
    async fn submit(&self, of: &str, count: u32) -> Result<Batch, StoreError> {
        let mut new = new_batch(Some("b"), Some("r"), Content::Whole(items(count)));
        new.tenant = tenant(of);
        let (Created::New(batch) | Created::Existing(batch)) = self.store.create_batch(new).await?;
        Ok(batch)
    }
}

#[tokio::test]
async fn ids_and_keys_are_each_tenants_own_across_a_restart() {
    let fixture = Fixture::new();
    let [acme, umbrella] = [
        fixture.submit("acme", 1).await.unwrap(),
        fixture.submit("umbrella", 2).await.unwrap(),
    ];
    assert_ne!(acme.head.no, umbrella.head.no, "they are two batches");
    let fixture = fixture.reopen();
    assert_eq!(fixture.submit("acme", 1).await.unwrap().head, acme.head);
    let refused = fixture.submit("acme", 2).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "its own batch stands in the way: {refused:?}"
    );
    for batch in [acme, umbrella] {
        assert_eq!(
            fixture.store.batch(&batch.head.name()).await.unwrap().head,
            batch.head
        );
        let id = batch.head.id.clone();
        let request_id = RequestId::parse("r").unwrap();
        for (id, request_id) in [(Some(&id), None), (None, Some(&request_id))] {
            let keys = |tenant| Keys {
                tenant,
                id,
                request_id,
            };
            let own = fixture.store.find(keys(&batch.head.tenant)).await.unwrap();
            assert_eq!(own.unwrap().head, batch.head);
            let other = fixture.store.find(keys(&tenant("other"))).await.unwrap();
            assert_eq!(other, None);
        }
    }
    for other in ["default", "Acme"] {
        let found = fixture.store.batch(&name(other)).await;
        assert_eq!(found.unwrap_err(), StoreError::NoBatch);
    }
}
