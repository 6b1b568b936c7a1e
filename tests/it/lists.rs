//! `ListBatches` and `ListItems`: pages that together tell everything once.

use std::collections::HashMap;

use sooner::wire::ItemState::{Cancelled, Expired, Failed, Pending, Running, Succeeded};
use sooner::wire::{
    Batch, BatchOptions, BatchState, CreateBatchRequest, Item, ItemState, ListBatchesRequest,
    ListBatchesResponse, ListItemsRequest, ListItemsResponse,
};
use tonic::{Code, Status};

use crate::harness::client::{fields, output, reason};
use crate::harness::{Client, Gates, ServerSetup, all, item, within};

impl Client {
    pub(crate) async fn list_batches(
        &mut self,
        request: ListBatchesRequest,
    ) -> Result<ListBatchesResponse, Status> {
        Ok(within(self.stub.list_batches(request)).await?.into_inner())
    }

    pub(crate) async fn list_items(
        &mut self,
        request: ListItemsRequest,
    ) -> Result<ListItemsResponse, Status> {
        Ok(within(self.stub.list_items(request)).await?.into_inner())
    }

    /// All pages, and how many there were.
    async fn batches(&mut self, mut request: ListBatchesRequest) -> (Vec<Batch>, usize) {
        let (mut batches, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.list_batches(request.clone()).await.unwrap();
            batches.extend(page.batches);
            pages += 1;
            if page.next_page_token.is_empty() {
                return (batches, pages);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The same of items.
    async fn items(&mut self, mut request: ListItemsRequest) -> (Vec<Item>, usize) {
        let (mut items, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.list_items(request.clone()).await.unwrap();
            items.extend(page.items);
            pages += 1;
            if page.next_page_token.is_empty() {
                return (items, pages);
            }
            request.page_token = page.next_page_token;
        }
    }
}

fn labelled(id: &str, labels: &[(&str, &str)]) -> CreateBatchRequest {
    let labels = labels
        .iter()
        .map(|&(name, value)| (name.into(), value.into()));
    CreateBatchRequest {
        batch_id: id.into(),
        items: vec![item("x")],
        options: Some(BatchOptions {
            labels: labels.collect(),
            ..BatchOptions::default()
        }),
        ..CreateBatchRequest::default()
    }
}

fn ids(batches: &[Batch]) -> Vec<&str> {
    batches.iter().map(|batch| &*batch.batch_id).collect()
}

#[tokio::test]
async fn batches_are_listed_once_newest_first_whatever_comes_and_goes_meanwhile() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let (all, _) = client.batches(ListBatchesRequest::default()).await;
    assert_eq!(all, []);
    for number in 0..7 {
        client
            .create(&format!("b{number}"), vec![item("x")])
            .await
            .unwrap();
        client.batch_when_over(&format!("b{number}")).await;
    }
    let by_two = ListBatchesRequest {
        page_size: 2,
        ..ListBatchesRequest::default()
    };
    let first = client.list_batches(by_two.clone()).await.unwrap();
    assert_eq!(ids(&first.batches), ["b6", "b5"]);
    assert_eq!(first.batches[0], client.batch("b6").await.unwrap());

    client.create("new", vec![item("x")]).await.unwrap();
    client.delete_batch("b6").await.unwrap();
    client.delete_batch("b3").await.unwrap();
    // A token outlives the server that gave it.
    assert_eq!(server.terminate(), Some(0));
    let server = setup.start();
    let mut client = server.client().await;
    let rest = ListBatchesRequest {
        page_token: first.next_page_token,
        ..by_two.clone()
    };
    let (rest, pages) = client.batches(rest).await;
    assert_eq!((ids(&rest), pages), (vec!["b4", "b2", "b1", "b0"], 2));
    let (all, pages) = client.batches(by_two).await;
    assert_eq!(
        (ids(&all), pages),
        (vec!["new", "b5", "b4", "b2", "b1", "b0"], 3)
    );
    let huge = ListBatchesRequest {
        page_size: i32::MAX,
        ..ListBatchesRequest::default()
    };
    assert_eq!(client.batches(huge).await.1, 1);
}

#[tokio::test]
async fn batches_are_filtered_by_state_and_by_every_label() {
    let setup = ServerSetup::new("[queues.default]\nhandler = { echo = {} }\n[queues.later]\n");
    let server = setup.start();
    let mut client = server.client().await;
    let (red, big) = (("color", "red"), ("size", "big"));
    for (id, labels) in [
        ("both", &[red, big][..]),
        ("red", &[red]),
        ("blue", &[("color", "blue"), big]),
        ("none", &[]),
    ] {
        let request = labelled(id, labels);
        within(client.stub.create_batch(request)).await.unwrap();
        client.batch_when_over(id).await;
    }
    for id in ["waits", "stopped"] {
        let request = CreateBatchRequest {
            queue: "later".into(),
            ..labelled(id, &[red])
        };
        within(client.stub.create_batch(request)).await.unwrap();
    }
    client.cancel("stopped", &[]).await.unwrap();
    client.batch_when_over("stopped").await;
    let query = |states: &[BatchState], labels: &[(&str, &str)]| ListBatchesRequest {
        states: states.iter().map(|&state| state.into()).collect(),
        labels: labelled("", labels).options.unwrap().labels,
        ..ListBatchesRequest::default()
    };
    let (done, running, cancelled) = (
        BatchState::Completed,
        BatchState::Running,
        BatchState::Cancelled,
    );
    for (states, labels, found) in [
        (&[done][..], &[][..], &["none", "blue", "red", "both"][..]),
        (&[running], &[], &["waits"]),
        (&[running, BatchState::Open], &[big], &[]),
        (&[cancelled, running], &[red], &["stopped", "waits"]),
        (&[], &[red, big], &["both"]),
        (&[], &[red], &["stopped", "waits", "red", "both"]),
        (&[], &[("color", "gr")], &[]),
        (&[BatchState::Failed], &[], &[]),
    ] {
        let (batches, _) = client.batches(query(states, labels)).await;
        assert_eq!(ids(&batches), found, "{states:?} {labels:?}");
    }
}

fn of_batch(states: &[ItemState], page_size: i32) -> ListItemsRequest {
    ListItemsRequest {
        batch_id: "batch".into(),
        states: states.iter().map(|&state| state.into()).collect(),
        page_size,
        ..ListItemsRequest::default()
    }
}

fn told(items: &[Item]) -> Vec<(String, ItemState)> {
    let told = |item: &Item| (item.item_id.clone(), item.state());
    items.iter().map(told).collect()
}

#[tokio::test]
async fn items_are_listed_in_the_order_of_their_indexes_in_every_state() {
    let setup = ServerSetup::gated(2, "");
    let gates = Gates::new(&setup, ["a", "b", "never"]);
    let server = setup.start();
    let mut client = server.client().await;
    let mut items = vec![
        gates.item("a"),
        gates.item("b"),
        gates.free_item("c"),
        gates.item("never"),
    ];
    let mut bad = item(setup.path("missing").display().to_string());
    bad.item_id = "bad".into();
    bad.retry_policy = Some(sooner::wire::RetryPolicy {
        max_attempts: Some(1),
        ..Default::default()
    });
    items.insert(0, bad);
    client.create("batch", items).await.unwrap();
    let a = gates.arrival("a").await;
    let b = gates.arrival("b").await;
    client.cancel("batch", &["never"]).await.unwrap();
    let everything = [
        ("bad", Failed),
        ("a", Running),
        ("b", Running),
        ("c", Pending),
        ("never", Cancelled),
    ]
    .map(|(id, state)| (id.to_owned(), state));
    for states in [
        &[][..],
        &[Pending],
        &[Running],
        &[Pending, Running],
        &[Failed],
        &[Expired, Failed],
        &[Expired],
        &[Cancelled, Failed],
        &[Succeeded],
        &[Running, Cancelled],
    ] {
        let is_asked_for =
            |(_, state): &&(String, ItemState)| states.is_empty() || states.contains(state);
        let expected: Vec<_> = everything.iter().filter(is_asked_for).cloned().collect();
        for page_size in [0, 1, 2] {
            let (items, _) = client.items(of_batch(states, page_size)).await;
            assert_eq!(told(&items), expected, "{states:?} by {page_size}");
        }
    }
    let (items, pages) = client.items(of_batch(&[], 2)).await;
    assert_eq!(pages, 3);
    assert_eq!(items[1].attempts[0].attempt, 1, "the one under way");
    let error = items[0].result.as_ref().unwrap().error.as_ref().unwrap();
    assert_eq!(error.reason, "EXIT_1");
    a.open();
    b.open();
    client.batch_when_over("batch").await;
    let (items, _) = client.items(of_batch(&[Succeeded], 0)).await;
    let outputs: Vec<_> = items
        .iter()
        .map(|item| output(item.result.as_ref().unwrap()))
        .collect();
    assert_eq!(outputs, ["a", "b", "c"]);
    assert_eq!(client.items(of_batch(&[Pending, Running], 0)).await.0, []);
}

#[tokio::test]
async fn an_answer_stays_small_and_leaves_large_outputs_out() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    // 60 items of 60 KiB are more than one answer holds, and one of 65 KiB is not shown.
    let mut items = vec![item("x".repeat(60 << 10)); 60];
    items.push(item("y".repeat(65 << 10)));
    let mut results = client.submit("batch", items).await.unwrap();
    assert_eq!(all(&mut results).await.len(), 61);
    let request = ListItemsRequest {
        batch_id: "batch".into(),
        page_size: 1000,
        ..ListItemsRequest::default()
    };
    let first = client.list_items(request.clone()).await.unwrap();
    let bytes = prost::Message::encoded_len(&first);
    assert!(bytes <= (3 << 20) + (64 << 10), "{bytes}");
    assert!(!first.next_page_token.is_empty());
    let (items, pages) = client.items(request).await;
    assert_eq!((items.len(), pages), (61, 2));
    for (item, index) in items.iter().zip(0..) {
        assert_eq!(item.index, index);
        let result = item.result.as_ref().unwrap();
        let left_out = index == 60;
        assert_eq!(result.output_omitted, left_out);
        assert_eq!(result.output.is_none(), left_out);
    }
}

#[tokio::test]
async fn a_page_may_be_empty_and_only_an_empty_token_is_the_end() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![item("x"); 8000]).await.unwrap();
    client.batch_when_over("batch").await;
    let request = ListItemsRequest {
        batch_id: "batch".into(),
        states: vec![Cancelled.into()],
        ..ListItemsRequest::default()
    };
    let (items, pages) = client.items(request).await;
    assert_eq!(
        (items.len(), pages),
        (0, 2),
        "5,000 rows are looked at for a page"
    );
}

#[track_caller]
fn assert_foreign(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(reason(status), "INVALID_FIELD");
    assert_eq!(fields(status), ["page_token"]);
}

/// Three finished batches of three, and the tokens of the first pages of one.
async fn tokens(client: &mut Client) -> (String, String) {
    for id in ["a", "b", "c"] {
        client.create(id, vec![item("x"); 3]).await.unwrap();
        client.batch_when_over(id).await;
    }
    let of_batches = client.list_batches(first_batch()).await.unwrap();
    let of_items = client.list_items(first_item()).await.unwrap();
    (of_batches.next_page_token, of_items.next_page_token)
}

fn first_batch() -> ListBatchesRequest {
    ListBatchesRequest {
        page_size: 1,
        ..ListBatchesRequest::default()
    }
}

fn first_item() -> ListItemsRequest {
    ListItemsRequest {
        batch_id: "a".into(),
        page_size: 1,
        ..ListItemsRequest::default()
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_question_alone() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let (of_batches, of_items) = tokens(&mut client).await;
    let completed: i32 = BatchState::Completed.into();
    let label = HashMap::from([("k".into(), "v".into())]);
    for (token, states, labels) in [
        (&*of_items, vec![], HashMap::new()),
        (&*of_batches, vec![completed], HashMap::new()),
        (&*of_batches, vec![], label),
        ("AQAAAAE", vec![], HashMap::new()),
        ("!", vec![], HashMap::new()),
    ] {
        let request = ListBatchesRequest {
            page_token: token.into(),
            states,
            labels,
            ..first_batch()
        };
        assert_foreign(&client.list_batches(request).await.unwrap_err());
    }
    for (token, batch_id, states) in [
        (&of_batches, "a", vec![]),
        (&of_items, "b", vec![]),
        (&of_items, "a", vec![Succeeded.into()]),
    ] {
        let request = ListItemsRequest {
            page_token: token.clone(),
            batch_id: batch_id.into(),
            states,
            ..first_item()
        };
        assert_foreign(&client.list_items(request).await.unwrap_err());
    }
    // Another page size is no other question.
    let request = ListBatchesRequest {
        page_token: of_batches,
        page_size: 9,
        ..first_batch()
    };
    let rest = client.list_batches(request).await.unwrap();
    assert_eq!(ids(&rest.batches), ["b", "a"]);
}

#[tokio::test]
async fn a_token_of_a_deleted_batch_is_not_good_for_a_new_one_of_its_name() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let (_, of_items) = tokens(&mut client).await;
    client.delete_batch("a").await.unwrap();
    client.create("a", vec![item("x"); 3]).await.unwrap();
    client.batch_when_over("a").await;
    let request = ListItemsRequest {
        page_token: of_items,
        ..first_item()
    };
    assert_foreign(&client.list_items(request).await.unwrap_err());
}
