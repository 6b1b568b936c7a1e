//! Batches that end before their items do: by their time, because enough succeeded, because too much
//! failed.

use sooner::wire::{
    Batch, BatchOptions, BatchState, CreateBatchRequest, FailureAction, FailurePolicy, ItemResult,
    ItemSpec, ItemState, ResumeBatchRequest,
};
use tonic::{Code, Status};

use crate::harness::client::{fields, milliseconds};
use crate::harness::{Client, Gates, ServerSetup, item, within};

async fn create(
    client: &mut Client,
    items: Vec<ItemSpec>,
    options: BatchOptions,
) -> Result<Batch, Status> {
    let request = CreateBatchRequest {
        batch_id: "batch".into(),
        items,
        options: Some(options),
        ..CreateBatchRequest::default()
    };
    let created = within(client.stub.create_batch(request)).await?;
    Ok(created.into_inner().batch.unwrap())
}

/// Each item's state and why, in order of index.
fn fates(mut results: Vec<ItemResult>) -> Vec<(ItemState, String)> {
    results.sort_by_key(|result| result.index);
    let fate = |result: &ItemResult| {
        let error = result.error.as_ref();
        let reason = error.map_or_else(String::new, |error| error.reason.clone());
        (result.state(), reason)
    };
    results.iter().map(fate).collect()
}

fn fate(state: ItemState, reason: &str) -> (ItemState, String) {
    (state, reason.to_owned())
}

#[tokio::test]
async fn a_batch_expires_with_what_runs_and_what_waits() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["runs", "waits"]);
    let server = setup.start();
    let mut client = server.client().await;
    let options = BatchOptions {
        max_duration: Some(milliseconds(6000)),
        max_parallelism: Some(1),
        ..BatchOptions::default()
    };
    let items = vec![gates.item("runs"), gates.item("waits")];
    create(&mut client, items, options.clone()).await.unwrap();
    let _runs = gates.arrival("runs").await;
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Expired);
    assert_eq!(batch.failure_reasons["BATCH_MAX_DURATION"], 2);
    assert_eq!(batch.options, Some(options));
    let expired = fate(ItemState::Expired, "BATCH_MAX_DURATION");
    let results = client.results("batch", 0).await;
    assert_eq!(fates(results), [expired.clone(), expired]);
}

#[tokio::test]
async fn a_batch_ends_once_enough_of_it_succeeded() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["never"]);
    let server = setup.start();
    let mut client = server.client().await;
    let options = BatchOptions {
        enough: Some(2),
        ..BatchOptions::default()
    };
    let mut items = ["a", "b"].map(|name| gates.free_item(name)).to_vec();
    items.extend([gates.item("never"), gates.free_item("c")]);
    create(&mut client, items, options).await.unwrap();
    let batch = client.batch_when_over("batch").await;
    assert_eq!(batch.state(), BatchState::Completed);
    let succeeded = fate(ItemState::Succeeded, "");
    let cancelled = fate(ItemState::Cancelled, "ENOUGH_REACHED");
    let results = client.results("batch", 0).await;
    assert_eq!(
        fates(results),
        [succeeded.clone(), succeeded, cancelled.clone(), cancelled]
    );
}

fn policy(action: FailureAction) -> BatchOptions {
    BatchOptions {
        failure_policy: Some(FailurePolicy {
            max_failed_items: Some(2),
            action: action.into(),
            ..FailurePolicy::default()
        }),
        ..BatchOptions::default()
    }
}

#[tokio::test]
async fn a_batch_that_fails_too_much_is_paused_and_one_call_goes_on() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"cat $0; exit 1\", \"{}\"] }\n\
         retry = { max_attempts = 1 }\nslots = 1\n",
    );
    let gates = Gates::new(&setup, ["a", "b", "c", "d"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = ["a", "b", "c", "d"].map(|name| gates.item(name)).into();
    let options = policy(FailureAction::Pause);
    create(&mut client, items, options).await.unwrap();
    gates.open("a").await;
    gates.open("b").await;
    let paused = within(async {
        loop {
            let batch = client.batch("batch").await.unwrap();
            if batch.paused {
                return batch;
            }
        }
    })
    .await;
    assert_eq!(paused.pause_reason, "failure policy: 2 items failed");
    assert_eq!(paused.failure_reasons["EXIT_1"], 2);
    // The slot was free for c before b's failure was durable, perhaps; it is not for d.
    assert!(paused.counts.unwrap().pending >= 1);
    assert!(setup.log().contains("failure policy: 2 items failed"));
    let request = ResumeBatchRequest {
        batch_id: "batch".into(),
    };
    within(client.stub.resume_batch(request)).await.unwrap();
    gates.open("c").await;
    gates.open("d").await;
    let over = client.batch_when_over("batch").await;
    assert_eq!(over.state(), BatchState::Completed);
    assert_eq!(over.failure_reasons["EXIT_1"], 4);
}

#[tokio::test]
async fn a_batch_that_fails_too_much_ends_if_it_asked_for_that() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"false\"] }\nretry = { max_attempts = 1 }\nslots = 1\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let items: Vec<_> = (0..1000).map(|_| item("x")).collect();
    let options = policy(FailureAction::Cancel);
    create(&mut client, items, options).await.unwrap();
    let over = client.batch_when_over("batch").await;
    assert_eq!(over.state(), BatchState::Failed);
    let counts = over.counts.unwrap();
    assert!(counts.failed >= 2 && counts.cancelled > 0, "{counts:?}");
    assert_eq!(counts.failed + counts.cancelled, 1000);
    let fates = fates(client.results("batch", 0).await);
    let cancelled = fate(ItemState::Cancelled, "FAILURE_POLICY");
    assert_eq!(fates.last(), Some(&cancelled));
}

/// Settings that make no sense, and the field at fault.
fn senseless() -> [(BatchOptions, &'static str); 5] {
    let unset = BatchOptions::default;
    let far = Some(prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    });
    [
        (
            BatchOptions {
                enough: Some(0),
                ..unset()
            },
            "options.enough",
        ),
        (
            BatchOptions {
                max_parallelism: Some(0),
                ..unset()
            },
            "options.max_parallelism",
        ),
        (
            BatchOptions {
                max_duration: Some(milliseconds(0)),
                ..unset()
            },
            "options.max_duration",
        ),
        (
            BatchOptions {
                deadline: far,
                ..unset()
            },
            "options.deadline",
        ),
        (
            BatchOptions {
                not_before: far,
                ..unset()
            },
            "options.not_before",
        ),
    ]
}

/// Failure policies that make no sense, and the field at fault.
fn senseless_policies() -> [(BatchOptions, &'static str); 4] {
    let with_policy = |policy: FailurePolicy| BatchOptions {
        failure_policy: Some(policy),
        ..BatchOptions::default()
    };
    [
        (
            with_policy(FailurePolicy::default()),
            "options.failure_policy",
        ),
        (
            with_policy(FailurePolicy {
                max_failed_ratio: Some(f64::NAN),
                ..FailurePolicy::default()
            }),
            "options.failure_policy.max_failed_ratio",
        ),
        (
            with_policy(FailurePolicy {
                max_failed_items: Some(0),
                ..FailurePolicy::default()
            }),
            "options.failure_policy.max_failed_items",
        ),
        (
            with_policy(FailurePolicy {
                max_failed_items: Some(1),
                action: 9,
                ..FailurePolicy::default()
            }),
            "options.failure_policy.action",
        ),
    ]
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_with_their_field() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    for (options, field) in senseless().into_iter().chain(senseless_policies()) {
        let refused = create(&mut client, vec![item("x")], options).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(fields(&refused), [field]);
    }
}
