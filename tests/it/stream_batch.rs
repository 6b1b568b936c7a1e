//! `StreamBatch`: a batch comes piece by piece, over as many calls as it takes.

use sooner::wire::stream_batch_request::Message as Asked;
use sooner::wire::{
    BatchOptions, BatchState, ItemSpec, ItemState, OnOpenTimeout, StreamBatchRequest, StreamFinish,
    StreamStart,
};
use tonic::Code;

use crate::harness::client::{fact, fields, output, reason};
use crate::harness::{Client, Gates, Server, ServerSetup, UploadCall, item, upload_start, within};

async fn echo() -> (ServerSetup, Server, Client) {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let client = server.client().await;
    (setup, server, client)
}

fn numbers(range: std::ops::Range<u64>) -> Vec<ItemSpec> {
    range.map(|number| item(number.to_string())).collect()
}

fn named(name: &str) -> ItemSpec {
    ItemSpec {
        item_id: name.into(),
        ..item(name)
    }
}

fn resume(batch_id: &str) -> StreamStart {
    StreamStart {
        resume: true,
        ..upload_start(batch_id)
    }
}

async fn open(client: &Client, batch_id: &str) -> UploadCall {
    UploadCall::open(client, upload_start(batch_id))
        .await
        .unwrap()
}

#[tokio::test]
async fn results_come_while_items_are_still_coming() {
    let (_setup, _server, mut client) = echo().await;
    let mut upload = open(&client, "u").await;
    assert!(upload.accepted.created && upload.headers.created);
    assert_eq!(upload.accepted.batch_uid, upload.headers.batch_uid);
    upload.items(0, numbers(0..2)).await;
    upload.durable(2).await;
    upload.has_results(2).await;
    assert_eq!(
        upload.results[0].remaining_count, None,
        "nobody knows yet how many there will be"
    );
    assert_eq!(
        client.batch("u").await.unwrap().state(),
        BatchState::Open,
        "all its items are done, but more may come"
    );
    upload.items(2, numbers(2..3)).await;
    upload.finish(3).await;
    let (batch, results) = upload.ended().await;
    assert_eq!(batch.state(), BatchState::Completed);
    assert_eq!(batch.counts.unwrap().succeeded, 3);
    let sequences: Vec<_> = results.iter().map(|result| result.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let mut outputs: Vec<_> = results.iter().map(output).collect();
    outputs.sort_unstable();
    assert_eq!(outputs, ["0", "1", "2"]);
    let mut watched = client.results("u", 0).await;
    let mut records = results;
    for record in watched.iter_mut().chain(&mut records) {
        record.remaining_count = None; // Not part of the record: it tells how things stood.
    }
    assert_eq!(records, watched);
}

#[tokio::test]
async fn a_lost_upload_goes_on_where_it_was_durable() {
    let (setup, server, client) = echo().await;
    let mut upload = open(&client, "u").await;
    upload.items(0, numbers(0..5)).await;
    upload.durable(5).await;
    upload.has_results(5).await;
    drop(upload);
    server.kill();

    let server = setup.start();
    let client = server.client().await;
    let start = StreamStart {
        after_sequence: 3,
        ..resume("u")
    };
    let mut upload = UploadCall::open(&client, start).await.unwrap();
    assert!(!upload.accepted.created && !upload.accepted.sealed);
    assert_eq!(upload.accepted.accepted_items, 5);
    // What was sent again is compared and dropped.
    upload.items(3, numbers(3..8)).await;
    upload.durable(8).await;
    upload.finish(8).await;
    upload.sealed().await;
    let (batch, results) = upload.ended().await;
    assert_eq!(batch.counts.unwrap().total, 8);
    assert_eq!(results.first().unwrap().sequence, 4, "the cursor counts");
    assert_eq!(results.len(), 5);
}

#[tokio::test]
async fn a_finish_that_was_not_heard_can_be_said_again() {
    let (_setup, _server, client) = echo().await;
    let upload = open(&client, "u").await;
    upload.items(0, numbers(0..3)).await;
    upload.finish(3).await;
    upload.ended().await;

    let upload = UploadCall::open(&client, resume("u")).await.unwrap();
    assert!(upload.accepted.sealed);
    assert_eq!(upload.accepted.accepted_items, 3);
    upload.items(0, numbers(0..3)).await;
    upload.finish(3).await;
    let (batch, results) = upload.ended().await;
    assert_eq!((batch.state(), results.len()), (BatchState::Completed, 3));
}

#[tokio::test]
async fn more_items_than_were_finished_are_refused() {
    let gates = ServerSetup::gated(1, "");
    let server = gates.start();
    let client = server.client().await;
    let gate = Gates::new(&gates, ["a"]);
    let mut upload = open(&client, "u").await;
    upload.items(0, vec![gate.item("a")]).await;
    upload.finish(1).await;
    upload.sealed().await;
    upload.items(1, vec![named("b")]).await;
    let refused = upload.failed().await;
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "BATCH_SEALED")
    );
    gate.open("a").await;
    let (batch, _) = UploadCall::open(&client, resume("u"))
        .await
        .unwrap()
        .ended()
        .await;
    assert_eq!(batch.counts.unwrap().succeeded, 1);
}

#[tokio::test]
async fn the_newest_upload_wins() {
    let (_setup, server, client) = echo().await;
    let mut first = open(&client, "u").await;
    first.items(0, numbers(0..2)).await;
    first.durable(2).await;
    let other = server.client().await;
    let second = open(&other, "u").await;
    assert_eq!(second.accepted.accepted_items, 2);
    let lost = first.failed().await;
    assert_eq!(
        (lost.code(), &*reason(&lost)),
        (Code::Aborted, "UPLOAD_SUPERSEDED")
    );
    assert_eq!(fact(&lost, "batch_id").as_deref(), Some("u"));
    second.items(2, numbers(2..3)).await;
    second.finish(3).await;
    assert_eq!(second.ended().await.0.counts.unwrap().total, 3);
}

#[tokio::test]
async fn a_wrong_chunk_changes_nothing_and_the_batch_stays_open() {
    let (_setup, _server, mut client) = echo().await;
    let mut upload = open(&client, "u").await;
    upload.items(0, vec![named("a"), named("b")]).await;
    upload.durable(2).await;
    let other = ItemSpec {
        item_id: "b".into(),
        ..item("other content")
    };
    let chunks = [
        (3, vec![named("d")], "ITEM_GAP", "items.first_index"),
        (
            1,
            vec![other, named("c")],
            "ITEM_MISMATCH",
            "items.items[0]",
        ),
        (
            2,
            vec![named("c"), named("a")],
            "DUPLICATE_ITEM_ID",
            "items.items[1].item_id",
        ),
        (
            2,
            vec![named("c"), named("c")],
            "DUPLICATE_ITEM_ID",
            "items.items[1].item_id",
        ),
        (
            2,
            vec![item("without an id")],
            "INVALID_FIELD",
            "items.items[0].item_id",
        ),
        (2, vec![], "INVALID_FIELD", "items.items"),
        (
            u64::MAX,
            vec![named("c")],
            "TOO_MANY_ITEMS",
            "items.first_index",
        ),
    ];
    for (first, items, why, field) in chunks {
        upload.items(first, items).await;
        let refused = upload.failed().await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert_eq!(reason(&refused), why);
        assert_eq!(fields(&refused), [field]);
        assert_eq!(fact(&refused, "batch_id").as_deref(), Some("u"));
        assert_eq!(fact(&refused, "accepted_items").as_deref(), Some("2"));
        upload = UploadCall::open(&client, resume("u")).await.unwrap();
        assert_eq!(upload.accepted.accepted_items, 2, "{why}");
    }
    assert_eq!(client.batch("u").await.unwrap().state(), BatchState::Open);
    assert_eq!(
        client.item("u", "b").await.unwrap().index,
        1,
        "an open upload's items are found by their names"
    );
    upload.items(2, vec![named("c")]).await;
    upload.finish(3).await;
    assert_eq!(upload.ended().await.1.len(), 3);
}

#[tokio::test]
async fn a_cursor_ahead_is_refused_and_takes_nobodys_place() {
    let (_setup, server, client) = echo().await;
    let mut upload = open(&client, "u").await;
    let other = server.client().await;
    let ahead = StreamStart {
        after_sequence: 1,
        ..upload_start("u")
    };
    let refused = UploadCall::open(&other, ahead).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::OutOfRange, "CURSOR_AHEAD")
    );
    upload.items(0, numbers(0..1)).await;
    upload.durable(1).await;
}

#[tokio::test]
async fn other_content_is_refused_however_long_the_batch_is_over() {
    let (_setup, _server, client) = echo().await;
    let upload = open(&client, "u").await;
    upload.items(0, numbers(0..3)).await;
    upload.finish(3).await;
    upload.ended().await;
    for (first, items, total, why) in [
        (0, numbers(5..8), 3, "ITEM_MISMATCH"),
        (0, numbers(0..4), 4, "BATCH_FINISHED"),
        (0, numbers(0..2), 2, "WRONG_COUNT"),
    ] {
        let mut upload = open(&client, "u").await;
        assert!(upload.accepted.sealed);
        upload.items(first, items).await;
        upload.finish(total).await;
        assert_eq!(reason(&upload.failed().await), why);
    }
    let upload = open(&client, "u").await;
    upload.items(0, numbers(0..3)).await;
    upload.finish(3).await;
    assert_eq!(upload.ended().await.1.len(), 3, "the same is fine");
    let mut upload = open(&client, "u").await;
    upload.half_close();
    assert_eq!(upload.ended().await.1.len(), 3, "so is reading alone");
}

#[tokio::test]
async fn a_wrong_total_seals_nothing() {
    let (_setup, _server, mut client) = echo().await;
    let mut upload = open(&client, "u").await;
    upload.items(0, numbers(0..2)).await;
    upload.durable(2).await;
    for (total, said) in [(0, "at least one"), (1, "2 items"), (3, "2 items")] {
        upload.finish(total).await;
        let refused = upload.failed().await;
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (Code::InvalidArgument, "WRONG_COUNT")
        );
        assert!(refused.message().contains(said), "{refused:?}");
        upload = UploadCall::open(&client, resume("u")).await.unwrap();
    }
    assert_eq!(client.batch("u").await.unwrap().state(), BatchState::Open);
    upload.finish(2).await;
    assert_eq!(upload.ended().await.0.state(), BatchState::Completed);
}

#[tokio::test]
async fn only_an_equal_start_attaches_and_only_to_an_upload() {
    let (_setup, _server, mut client) = echo().await;
    client.create("whole", numbers(0..1)).await.unwrap();
    drop(open(&client, "u").await);
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let options = Some(BatchOptions {
        labels,
        ..BatchOptions::default()
    });
    let other = StreamStart {
        options: options.clone(),
        ..upload_start("u")
    };
    let other_resumed = StreamStart {
        options,
        ..resume("u")
    };
    let not_asked_for = StreamStart {
        resume: true,
        ..StreamStart::default()
    };
    let nowhere = StreamStart {
        queue: "nowhere".into(),
        ..upload_start("v")
    };
    let cases = [
        (other, Code::AlreadyExists, "BATCH_ID_CONFLICT"),
        (other_resumed, Code::AlreadyExists, "BATCH_ID_CONFLICT"),
        (
            upload_start("whole"),
            Code::AlreadyExists,
            "BATCH_ID_CONFLICT",
        ),
        (resume("whole"), Code::AlreadyExists, "BATCH_ID_CONFLICT"),
        (resume("nobody"), Code::NotFound, "BATCH_NOT_FOUND"),
        (nowhere, Code::FailedPrecondition, "NO_HANDLER"),
        (not_asked_for, Code::InvalidArgument, "INVALID_FIELD"),
        (
            upload_start("no:colon"),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
    ];
    for (start, code, why) in cases {
        let refused = UploadCall::open(&client, start.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (code, why),
            "{start:?}"
        );
    }
    let whole = client.create("u", numbers(0..1)).await.unwrap_err();
    assert_eq!(reason(&whole), "BATCH_ID_CONFLICT");
    assert!(!open(&client, "u").await.accepted.created);
}

#[tokio::test]
async fn the_first_message_is_a_start_and_no_other() {
    let (_setup, _server, client) = echo().await;
    let finish = Asked::Finish(StreamFinish { total_items: 1 });
    for message in [Some(finish), None] {
        let first = StreamBatchRequest { message };
        let refused = UploadCall::begin(&client, first).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(fields(&refused), ["start"]);
    }
    let mut upload = open(&client, "u").await;
    upload.send(Asked::Start(upload_start("u"))).await;
    assert_eq!(fields(&upload.failed().await), ["start"]);
}

#[tokio::test]
async fn the_end_of_the_requests_seals_nothing_but_the_open_timeout_does() {
    let (_setup, server, mut client) = echo().await;
    let second = prost_types::Duration {
        seconds: 1,
        nanos: 0,
    };
    let start = |batch_id: &str, then: OnOpenTimeout| StreamStart {
        open_timeout: Some(second),
        on_open_timeout: then.into(),
        ..upload_start(batch_id)
    };
    let seal = start("seal", OnOpenTimeout::Seal);
    let mut sealed = UploadCall::open(&client, seal).await.unwrap();
    sealed.items(0, numbers(0..2)).await;
    sealed.durable(2).await;
    // Attached, an upload may be silent for as long as it likes: the others' time runs out first.
    let attached = UploadCall::open(&client, start("attached", OnOpenTimeout::Seal));
    let attached = attached.await.unwrap();
    attached.items(0, numbers(0..1)).await;
    sealed.half_close();
    let cancel = start("cancel", OnOpenTimeout::Cancel);
    let mut cancelled = UploadCall::open(&client, cancel).await.unwrap();
    cancelled.items(0, numbers(0..1)).await;
    cancelled.durable(1).await;
    cancelled.has_results(1).await;
    drop(cancelled);
    let empty = start("empty", OnOpenTimeout::Seal);
    drop(UploadCall::open(&client, empty).await.unwrap());

    let (batch, results) = sealed.ended().await;
    assert_eq!((batch.state(), results.len()), (BatchState::Completed, 2));
    let mut states = Vec::new();
    for batch_id in ["cancel", "empty"] {
        let mut client = server.client().await;
        states.push(client.batch_when_over(batch_id).await.state());
    }
    assert_eq!(states, [BatchState::Cancelled; 2]);
    assert_eq!(
        client.batch("attached").await.unwrap().state(),
        BatchState::Open
    );
}

// Nobody ever attached to it, and so nobody ever ended it.
#[tokio::test]
async fn a_start_that_is_refused_creates_nothing() {
    let (_setup, _server, mut client) = echo().await;
    let ahead = StreamStart {
        after_sequence: 5,
        ..upload_start("ahead")
    };
    let refused = UploadCall::open(&client, ahead).await.unwrap_err();
    assert_eq!(reason(&refused), "CURSOR_AHEAD");
    let nothing = client.batch("ahead").await.unwrap_err();
    assert_eq!(reason(&nothing), "BATCH_NOT_FOUND");
}

#[tokio::test]
async fn an_upload_takes_items_in_while_nobody_reads_its_results() {
    let (_setup, _server, mut client) = echo().await;
    let upload = open(&client, "u").await;
    // More results than all buffers between here and there hold.
    let large = "x".repeat(64 << 10);
    let chunk: Vec<_> = (0..16).map(|_| item(large.clone())).collect();
    let chunks = 48;
    for number in 0..chunks {
        upload.items(number * 16, chunk.clone()).await;
    }
    within(async {
        while client.batch("u").await.unwrap().counts.unwrap().total < chunks * 16 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    upload.finish(chunks * 16).await;
    let (_, results) = upload.ended().await;
    assert_eq!(results.len() as u64, chunks * 16);
    assert!(
        results
            .iter()
            .all(|result| result.state() == ItemState::Succeeded)
    );
}
