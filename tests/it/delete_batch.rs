//! `DeleteBatch` and retention: what is removed is gone for everybody at once, and for good.

use rusqlite::Connection;
use sooner::wire::{
    Batch, BatchOptions, CreateBatchRequest, DeleteBatchRequest, ItemSpec,
    watch_batch_response::Message,
};
use tonic::{Code, Status};

use crate::harness::client::{fact, next, reason};
use crate::harness::{Client, Gates, Server, ServerSetup, all, eventually, item, within};

impl Client {
    /// Removes a batch that is over.
    pub(crate) async fn delete_batch(&mut self, batch_id: &str) -> Result<(), Status> {
        let request = DeleteBatchRequest {
            batch_id: batch_id.into(),
        };
        within(self.stub.delete_batch(request)).await.map(|_| ())
    }

    async fn done(&mut self, batch_id: &str, items: Vec<ItemSpec>) -> Batch {
        self.create(batch_id, items).await.unwrap();
        self.batch_when_over(batch_id).await
    }
}

fn not_found(status: &Status) -> bool {
    status.code() == Code::NotFound && reason(status) == "BATCH_NOT_FOUND"
}

const REMOVED: &str = "sooner_batches_removed_total{reason=\"deleted\"}";
const EXPIRED: &str = "sooner_batches_removed_total{reason=\"expired\"}";
const RECORDS: &str = "sooner_records_removed_total";

async fn records_removed(server: &Server) -> usize {
    let metrics = server.metrics().await;
    metrics[RECORDS].parse().unwrap()
}

/// Rows of the file of a server that has stopped: of batches, items, results and ids.
fn rows(setup: &ServerSetup) -> [u32; 4] {
    let file = Connection::open(setup.data_dir().join("sooner.db")).unwrap();
    ["batches", "items", "results", "item_ids"].map(|table| {
        let sql = format!("SELECT count(*) FROM {table}");
        file.query_row(&sql, [], |row| row.get(0)).unwrap()
    })
}

fn named(count: usize) -> Vec<ItemSpec> {
    let named = |index| ItemSpec {
        item_id: format!("item-{index}"),
        ..item("x")
    };
    (0..count).map(named).collect()
}

#[tokio::test]
async fn a_deleted_batch_is_gone_and_its_ids_are_free_at_once() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    let request = |items| CreateBatchRequest {
        batch_id: "batch".into(),
        request_id: "request".into(),
        items,
        ..CreateBatchRequest::default()
    };
    let first = request(vec![gates.item("a")]);
    let first = within(client.stub.create_batch(first)).await.unwrap();
    let first = first.into_inner().batch.unwrap();
    let refused = client.delete_batch("batch").await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "BATCH_RUNNING")
    );
    assert_eq!(fact(&refused, "batch_id").as_deref(), Some("batch"));
    gates.open("a").await;
    client.batch_when_over("batch").await;
    client.delete_batch("batch").await.unwrap();

    assert!(not_found(&client.batch("batch").await.unwrap_err()));
    assert!(not_found(&client.item("batch", "a").await.unwrap_err()));
    assert!(not_found(&client.watch("batch", 0).await.unwrap_err()));
    assert!(not_found(&client.delete_batch("batch").await.unwrap_err()));
    assert!(not_found(&client.cancel("batch", &[]).await.unwrap_err()));
    let other = request(vec![gates.free_item("b"), gates.free_item("c")]);
    let second = within(client.stub.create_batch(other)).await.unwrap();
    let second = second.into_inner();
    assert!(second.created, "both ids were free");
    assert_ne!(second.batch.unwrap().batch_uid, first.batch_uid);
    client.batch_when_over("batch").await;
    let results = client.results("batch", 0).await;
    let mut ids: Vec<_> = results.iter().map(|result| &*result.item_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["b", "c"]);
    server.metric_becomes(RECORDS, |it| it == "1").await;
    assert_eq!(server.metrics().await[REMOVED], "1");
}

#[tokio::test]
async fn whoever_reads_a_batch_that_is_deleted_is_told_so() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    // More than fits on its way to a reader that does not read.
    let items = vec![item("x".repeat(50_000)); 200];
    client.done("batch", items).await;
    let mut watch = client.watch("batch", 0).await.unwrap();
    let attached = next(&mut watch).await.message.unwrap();
    assert!(matches!(attached, Message::Attached(_)));
    client.delete_batch("batch").await.unwrap();
    let mut last = 0;
    let broken = loop {
        match within(watch.message()).await {
            Ok(Some(response)) => match response.message.unwrap() {
                Message::Result(result) => {
                    last += 1;
                    assert_eq!(result.sequence, last, "no gap before the end");
                }
                other @ (Message::Attached(_) | Message::Progress(_) | Message::Ended(_)) => {
                    panic!("{other:?} from a batch that is gone")
                }
            },
            Ok(None) => panic!("the watch ended as if it had told everything"),
            Err(broken) => break broken,
        }
    };
    assert!(not_found(&broken), "{broken:?}");
    assert!(last < 200, "it had been read to its end");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_removal_only_delays_it() {
    let setup = ServerSetup::echo();
    let mut server = setup.start();
    let mut client = server.client().await;
    client.done("kept", named(3)).await;
    let mut interrupted = false;
    for round in 0..20 {
        let id = format!("batch-{round}");
        client.done(&id, named(10_000)).await;
        let before = records_removed(&server).await;
        client.delete_batch(&id).await.unwrap();
        eventually(async || records_removed(&server).await > before).await;
        server.kill();
        let [batches, items, results, ids] = rows(&setup);
        interrupted = results > 3;
        assert!(batches <= 2 && items >= 3 && results >= 3 && ids >= 3);
        server = setup.start();
        client = server.client().await;
        assert!(not_found(&client.batch(&id).await.unwrap_err()));
        if interrupted {
            break;
        }
    }
    assert!(interrupted, "no kill met a removal");
    assert_eq!(client.results("kept", 0).await.len(), 3);
    let file = setup.data_dir().join("sooner.db");
    let file = Connection::open(file).unwrap();
    eventually(async || {
        let count = "SELECT count(*) FROM batches";
        file.query_row(count, [], |row| row.get::<_, u32>(0)) == Ok(1)
    })
    .await;
    drop(file);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(rows(&setup), [1, 3, 3, 3]);
}

#[tokio::test]
async fn a_batch_goes_when_its_retention_is_over() {
    let setup = ServerSetup::new(
        "[store]\nretention = \"1s\"\n[queues.default]\nhandler = { echo = {} }\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let request = CreateBatchRequest {
        batch_id: "long".into(),
        items: vec![item("x")],
        options: Some(BatchOptions {
            retention: Some(prost_types::Duration {
                seconds: 3600,
                nanos: 0,
            }),
            ..BatchOptions::default()
        }),
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
    let long = client.batch_when_over("long").await;
    let seconds = |batch: &Batch| {
        let (end, expiry) = (batch.finish_time.unwrap(), batch.expire_time.unwrap());
        assert_eq!(end.nanos, expiry.nanos);
        expiry.seconds - end.seconds
    };
    assert_eq!(seconds(&long), 3600);
    let (start, end) = (long.start_time.unwrap(), long.finish_time.unwrap());
    assert!((start.seconds, start.nanos) <= (end.seconds, end.nanos));

    let brief = client.done("brief", named(3)).await;
    assert_eq!(seconds(&brief), 1, "the server's own");
    server.metric_becomes(EXPIRED, |it| it == "1").await;
    server.metric_becomes(RECORDS, |it| it == "3").await;
    assert!(not_found(&client.batch("brief").await.unwrap_err()));
    assert_eq!(client.results("long", 0).await.len(), 1);
    let metrics = server.metrics().await;
    assert_eq!(metrics["sooner_trimming_paused"], "0");
    assert_eq!(metrics[REMOVED], "0");
}

/// Batches that all expire at about the same time, with a thousand results each.
const EXPIRING: usize = 12;

#[tokio::test]
async fn a_kill_while_many_batches_expire_only_delays_that() {
    let setup = ServerSetup::new(
        "[store]\nretention = \"2s\"\n[queues.default]\nhandler = { echo = {} }\n",
    );
    let (mut interrupted, mut sizes) = (0, Vec::new());
    for round in 0..12 {
        let server = setup.start();
        let mut client = server.client().await;
        for number in 0..EXPIRING {
            let id = format!("batch-{round}-{number}");
            client.create(&id, named(1000)).await.unwrap();
        }
        eventually(async || records_removed(&server).await > 0).await;
        server.kill();
        let [batches, _, results, _] = rows(&setup);
        interrupted += u32::from(batches > 0 && results > 0);

        let server = setup.start();
        let file = setup.data_dir().join("sooner.db");
        let left = Connection::open(&file).unwrap();
        eventually(async || {
            let count = "SELECT count(*) FROM batches";
            left.query_row(count, [], |row| row.get::<_, u32>(0)) == Ok(0)
        })
        .await;
        drop(left);
        let mut client = server.client().await;
        assert!(not_found(&client.batch("batch-0-0").await.unwrap_err()));
        assert_eq!(server.terminate(), Some(0));
        assert_eq!(rows(&setup), [0; 4], "nothing is left of any");
        assert!(!setup.log().contains("ERROR"), "{}", setup.log());
        sizes.push(file.metadata().unwrap().len());
        if interrupted > 0 && sizes.len() > 1 {
            break;
        }
    }
    assert!(interrupted > 0, "no kill met a removal");
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    assert!(
        last < first + first / 2,
        "its room is used again: {sizes:?}"
    );
}

#[tokio::test]
async fn the_file_does_not_grow_by_batches_that_come_and_go() {
    let setup = ServerSetup::echo();
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let server = setup.start();
        let mut client = server.client().await;
        for round in 1..=3 {
            let mut results = client.submit("batch", named(3000)).await.unwrap();
            assert_eq!(all(&mut results).await.len(), 3000);
            client.batch_when_over("batch").await;
            client.delete_batch("batch").await.unwrap();
            let all_gone = (3000 * round).to_string();
            server.metric_becomes(RECORDS, |it| it == all_gone).await;
        }
        assert_eq!(server.terminate(), Some(0));
        let file = setup.data_dir().join("sooner.db");
        sizes.push(file.metadata().unwrap().len());
    }
    assert!(sizes[3] < sizes[0] + sizes[0] / 4, "{sizes:?}");
}
