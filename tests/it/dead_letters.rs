//! `ListDeadLetters` and `PurgeDeadLetters`: what failed or expired, until nobody wants it any more.

use sooner::wire::{
    BatchOptions, CreateBatchRequest, ItemSpec, ItemState, ListDeadLettersRequest,
    ListDeadLettersResponse, PurgeDeadLettersRequest, RedriveDeadLettersRequest,
};
use tonic::{Code, Status};

use crate::harness::client::{fields, milliseconds, reason};
use crate::harness::{Client, Server, ServerSetup, item, within};

fn named(id: &str, text: &str) -> ItemSpec {
    ItemSpec {
        item_id: id.into(),
        ..item(text)
    }
}

async fn create(client: &mut Client, request: CreateBatchRequest) {
    let id = request.batch_id.clone();
    within(client.stub.create_batch(request)).await.unwrap();
    client.batch_when_over(&id).await;
}

/// A server on which these are dead letters, oldest first: the items x (exit code 65) and z (66) of
/// batch "first", 0 of "second" in the queue "other", and 0 and 1 of "third", which expired.
async fn used(setup: &ServerSetup) -> (Server, Client) {
    let server = setup.start();
    let mut client = server.client().await;
    for (id, code) in [("x", "65"), ("y", "0"), ("z", "66")] {
        // One after the other, so that their order is known.
        let items = vec![named(id, code)];
        let start = crate::harness::upload_start("first");
        let mut upload = crate::harness::UploadCall::open(&client, start)
            .await
            .unwrap();
        let index = ["x", "y", "z"].iter().position(|it| *it == id).unwrap();
        upload.items(index as u64, items).await;
        upload.has_results(index + 1).await;
        if id == "z" {
            upload.finish(3).await;
            upload.ended().await;
        }
    }
    let second = CreateBatchRequest {
        batch_id: "second".into(),
        queue: "other".into(),
        items: vec![item("")],
        ..CreateBatchRequest::default()
    };
    create(&mut client, second).await;
    let brief = BatchOptions {
        max_duration: Some(milliseconds(1)),
        ..BatchOptions::default()
    };
    let third = CreateBatchRequest {
        batch_id: "third".into(),
        queue: "unserved".into(),
        items: vec![item(""), item("")],
        options: Some(brief),
        ..CreateBatchRequest::default()
    };
    create(&mut client, third).await;
    (server, client)
}

fn of_batch(batch_id: &str) -> ListDeadLettersRequest {
    ListDeadLettersRequest {
        batch_id: batch_id.into(),
        ..ListDeadLettersRequest::default()
    }
}

#[tokio::test]
async fn list_dead_letters_tells_what_failed_and_how_often_for_which_reason() {
    let setup = ServerSetup::broken();
    let (server, mut client) = used(&setup).await;
    let all = client.letters(ListDeadLettersRequest::default()).await;
    let newest_first = ["third/1", "third/0", "second/0", "first/z", "first/x"];
    assert_eq!(all.items(), newest_first);
    let counted = |reasons: &[(&str, u64)]| {
        let owned = reasons
            .iter()
            .map(|&(name, count)| (name.to_owned(), count));
        owned.collect::<Vec<_>>()
    };
    let reasons = [
        ("BATCH_MAX_DURATION", 2),
        ("EXIT_65", 1),
        ("EXIT_66", 1),
        ("EXIT_77", 1),
    ];
    assert_eq!(all.reasons, counted(&reasons));
    let letter = &all.letters[4];
    let error = letter.error.as_ref().unwrap();
    assert_eq!(letter.state(), ItemState::Failed);
    assert_eq!(
        (&*error.reason, &*error.message),
        ("EXIT_65", "failed with 65")
    );
    assert_eq!(
        (letter.index, letter.attempt_count, &*letter.queue),
        (0, 1, "default")
    );
    assert!(letter.finish_time.is_some() && letter.redriven_to.is_empty());
    server
        .metric_becomes("sooner_dead_letters_total{queue=\"default\"}", |it| {
            it == "2"
        })
        .await;
}

#[tokio::test]
async fn what_a_list_asks_for_must_all_be_so() {
    let setup = ServerSetup::broken();
    let (_server, mut client) = used(&setup).await;
    let all = client.letters(ListDeadLettersRequest::default()).await;
    let finish = all.letters[4].finish_time;
    let other = |set: fn(&mut ListDeadLettersRequest)| {
        let mut request = ListDeadLettersRequest::default();
        set(&mut request);
        request
    };
    let rows: [(ListDeadLettersRequest, &[&str]); 7] = [
        (of_batch("first"), &["first/z", "first/x"]),
        (other(|it| it.queue = "other".into()), &["second/0"]),
        (other(|it| it.queue = "nobody".into()), &[]),
        (other(|it| it.reason = "EXIT_66".into()), &["first/z"]),
        (
            other(|it| it.states = vec![ItemState::Expired.into()]),
            &["third/1", "third/0"],
        ),
        (
            ListDeadLettersRequest {
                before: finish,
                ..ListDeadLettersRequest::default()
            },
            &[],
        ),
        (
            ListDeadLettersRequest {
                reason: "EXIT_65".into(),
                ..of_batch("second")
            },
            &[],
        ),
    ];
    for (request, items) in rows {
        let listed = client.letters(request.clone()).await;
        assert_eq!(listed.items(), items, "{request:?}");
        let counted: u64 = listed.reasons.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, items.len() as u64, "{request:?}");
    }
}

#[tokio::test]
async fn pages_have_as_many_rows_as_asked_and_their_tokens_are_for_their_list_alone() {
    let setup = ServerSetup::broken();
    let (server, mut client) = used(&setup).await;
    let pages = ListDeadLettersRequest {
        page_size: 2,
        ..ListDeadLettersRequest::default()
    };
    let first = client.letters_page(pages.clone()).await.unwrap();
    assert_eq!((first.dead_letters.len(), first.reasons.len()), (2, 4));
    assert!(!first.reasons_partial);
    let token = first.next_page_token;
    let second = ListDeadLettersRequest {
        page_token: token.clone(),
        page_size: 9,
        ..pages.clone()
    };
    let second_page = client.letters_page(second.clone()).await.unwrap();
    assert_eq!(second_page.dead_letters[0].batch_id, "second");
    assert_eq!(second_page.dead_letters.len(), 3);
    assert!(second_page.next_page_token.is_empty() && second_page.reasons.is_empty());
    let listed = client.letters(pages).await;
    assert_eq!(listed.letters.len(), 5);

    // A token outlives the server, and is good for its own list alone.
    server.kill();
    let server = setup.start();
    let mut client = server.client().await;
    let again = client.letters_page(second.clone()).await.unwrap();
    assert_eq!(again, second_page);
    let spoilt = [
        ListDeadLettersRequest {
            page_token: format!("{token}A"),
            ..second.clone()
        },
        ListDeadLettersRequest {
            page_token: "first".into(),
            ..second.clone()
        },
        ListDeadLettersRequest {
            reason: "EXIT_65".into(),
            ..second.clone()
        },
        ListDeadLettersRequest {
            include_redriven: true,
            ..second.clone()
        },
        ListDeadLettersRequest {
            batch_id: "first".into(),
            ..second
        },
    ];
    for request in spoilt {
        let refused = client.letters_page(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{request:?}");
        assert_eq!(fields(&refused), ["page_token"], "{request:?}");
    }
}

#[tokio::test]
async fn a_list_that_makes_no_sense_is_refused_with_its_fields() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    let request = ListDeadLettersRequest {
        queue: "a b".into(),
        batch_id: ".b".into(),
        reason: "exit 1".into(),
        states: vec![ItemState::Failed.into(), ItemState::Succeeded.into(), 99],
        before: Some(prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        }),
        page_size: -1,
        ..ListDeadLettersRequest::default()
    };
    let refused = client.letters_page(request).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    let mut at_fault = fields(&refused);
    at_fault.sort_unstable();
    let expected = [
        "batch_id",
        "before",
        "page_size",
        "queue",
        "reason",
        "states[1]",
        "states[2]",
    ];
    assert_eq!(at_fault, expected);
    let nobody = client.letters_page(of_batch("nobody")).await.unwrap_err();
    assert_eq!(
        (nobody.code(), &*reason(&nobody)),
        (Code::NotFound, "BATCH_NOT_FOUND")
    );
}

#[tokio::test]
async fn purge_dead_letters_takes_them_off_the_list_and_leaves_their_results() {
    let setup = ServerSetup::broken();
    let (server, mut client) = used(&setup).await;
    let before = client.results("first", 0).await;
    let of_first = |item_ids: &[&str]| PurgeDeadLettersRequest {
        batch_id: "first".into(),
        item_ids: item_ids.iter().map(ToString::to_string).collect(),
        ..PurgeDeadLettersRequest::default()
    };
    // What is none is passed over, what is not there is not.
    assert_eq!(client.purge(of_first(&["x", "y"])).await.unwrap(), 1);
    assert_eq!(client.purge(of_first(&["x", "y"])).await.unwrap(), 0);
    let nobody = client.purge(of_first(&["x", "nobody"])).await.unwrap_err();
    assert_eq!(
        (nobody.code(), &*reason(&nobody)),
        (Code::NotFound, "ITEM_NOT_FOUND")
    );
    let listed = client.letters(of_batch("first")).await;
    assert_eq!(listed.items(), ["first/z"]);
    assert_eq!(listed.reasons, [("EXIT_66".to_owned(), 1)]);

    let expired = PurgeDeadLettersRequest {
        states: vec![ItemState::Expired.into()],
        ..PurgeDeadLettersRequest::default()
    };
    assert_eq!(client.purge(expired).await.unwrap(), 2);
    let other = PurgeDeadLettersRequest {
        queue: "other".into(),
        reason: "EXIT_1".into(),
        ..PurgeDeadLettersRequest::default()
    };
    assert_eq!(client.purge(other).await.unwrap(), 0);
    server
        .metric_becomes("sooner_dead_letters_purged_total", |it| it == "3")
        .await;

    server.kill();
    let server = setup.start();
    let mut client = server.client().await;
    let redriven_too = ListDeadLettersRequest {
        include_redriven: true,
        ..ListDeadLettersRequest::default()
    };
    for request in [ListDeadLettersRequest::default(), redriven_too] {
        let left = client.letters(request).await;
        assert_eq!(left.items(), ["second/0", "first/z"], "it is durable");
    }
    assert_eq!(client.results("first", 0).await, before, "results stay");
    let rest = client.purge(PurgeDeadLettersRequest::default()).await;
    assert_eq!(rest.unwrap(), 2);
    let none = client.letters(ListDeadLettersRequest::default()).await;
    assert_eq!(none.letters, []);
}

#[tokio::test]
async fn a_purge_that_makes_no_sense_is_refused_with_its_fields() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    let request = PurgeDeadLettersRequest {
        item_ids: vec!["a".into()],
        reason: "no".into(),
        states: vec![ItemState::Pending.into()],
        ..PurgeDeadLettersRequest::default()
    };
    let refused = client.purge(request).await.unwrap_err();
    let mut at_fault = fields(&refused);
    at_fault.sort_unstable();
    assert_eq!(at_fault, ["item_ids", "reason", "states[0]"]);
    let many = PurgeDeadLettersRequest {
        batch_id: "b".into(),
        item_ids: vec!["a".into(); 10_001],
        ..PurgeDeadLettersRequest::default()
    };
    let refused = client.purge(many).await.unwrap_err();
    assert_eq!(reason(&refused), "TOO_MANY_ITEMS");
    assert_eq!(fields(&refused), ["item_ids"]);
}

/// Three batches of as many items as one call may bring, all expired, and asked for by every reason.
#[tokio::test]
async fn a_list_of_very_many_letters_goes_on_page_by_page_and_says_that_it_has_not_counted_all() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    for id in ["1", "2", "3"] {
        let brief = BatchOptions {
            max_duration: Some(milliseconds(1)),
            ..BatchOptions::default()
        };
        let request = CreateBatchRequest {
            batch_id: id.into(),
            queue: "unserved".into(),
            items: vec![item(""); 10_000],
            options: Some(brief),
            ..CreateBatchRequest::default()
        };
        create(&mut client, request).await;
    }
    let all = ListDeadLettersRequest::default();
    let first = client.letters_page(all).await.unwrap();
    assert_eq!(
        first.dead_letters.len(),
        100,
        "unless its caller says how many"
    );
    assert!(first.reasons_partial);
    assert_eq!(first.reasons["BATCH_MAX_DURATION"], 20_000);
    let few = client.letters_page(of_batch("2")).await.unwrap();
    assert!(!few.reasons_partial);
    assert_eq!(few.reasons["BATCH_MAX_DURATION"], 10_000);
    // Nothing matches: each call looks at some, finds none, and says where to go on.
    let mut rare = ListDeadLettersRequest {
        reason: "EXIT_1".into(),
        ..ListDeadLettersRequest::default()
    };
    let mut calls = 0;
    loop {
        calls += 1;
        let page = client.letters_page(rare.clone()).await.unwrap();
        assert!(page.dead_letters.is_empty() && page.reasons.is_empty());
        if page.next_page_token.is_empty() {
            break;
        }
        rare.page_token = page.next_page_token;
    }
    assert!(calls >= 3, "one call alone looked at 30,000 letters");
    let huge = ListDeadLettersRequest {
        page_size: i32::MAX,
        ..ListDeadLettersRequest::default()
    };
    let page = client.letters_page(huge).await.unwrap();
    assert_eq!(page.dead_letters.len(), 1000);
}

#[tokio::test]
async fn each_tenant_has_dead_letters_of_its_own() {
    let setup = ServerSetup::new(
        "[server]\ntrust_tenant_header = true\n[queues.default]\n\
         handler = { exec = [\"sh\", \"-c\", \"exit 65\"] }\n",
    );
    let server = setup.start();
    let mut client = server.client().await;
    let tenants = ["acme", "zeta"];
    for tenant in tenants {
        let request = CreateBatchRequest {
            batch_id: "b".into(),
            items: vec![item(""); 3],
            ..CreateBatchRequest::default()
        };
        within(client.stub.create_batch(of(tenant, request)))
            .await
            .unwrap();
    }
    server
        .metric_becomes("sooner_dead_letters_total{queue=\"default\"}", |it| {
            it == "6"
        })
        .await;
    let mut tokens = Vec::new();
    for tenant in tenants {
        let page = ListDeadLettersRequest {
            page_size: 2,
            ..ListDeadLettersRequest::default()
        };
        let page = listed(&mut client, tenant, page).await.unwrap();
        assert_eq!(page.reasons["EXIT_65"], 3, "{tenant}");
        tokens.push(page.next_page_token);
    }
    let rest = |token: &str| ListDeadLettersRequest {
        page_token: token.into(),
        ..ListDeadLettersRequest::default()
    };
    let refused = listed(&mut client, "acme", rest(&tokens[1])).await;
    assert_eq!(fields(&refused.unwrap_err()), ["page_token"]);
    let page = listed(&mut client, "acme", rest(&tokens[0])).await.unwrap();
    assert_eq!(page.dead_letters.len(), 1);

    let redrive = RedriveDeadLettersRequest {
        batch_id: "b".into(),
        ..RedriveDeadLettersRequest::default()
    };
    let nobody = client.redrive(redrive.clone()).await.unwrap_err();
    assert_eq!(
        reason(&nobody),
        "BATCH_NOT_FOUND",
        "tenant default has none"
    );
    let redriven = client.admin.redrive_dead_letters(of("acme", redrive));
    let new = within(redriven).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(new.counts.unwrap().total, 3);
    let hidden = client.batch(&new.batch_id).await.unwrap_err();
    assert_eq!(reason(&hidden), "BATCH_NOT_FOUND", "it is acme's");
    let purge = PurgeDeadLettersRequest::default();
    assert_eq!(client.purge(purge.clone()).await.unwrap(), 0);
    let purged = client.admin.purge_dead_letters(of("zeta", purge));
    assert_eq!(within(purged).await.unwrap().into_inner().purged_count, 3);
}

fn of<T>(tenant: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = tenant.parse().unwrap();
    request.metadata_mut().insert("sooner-tenant", value);
    request
}

async fn listed(
    client: &mut Client,
    tenant: &str,
    request: ListDeadLettersRequest,
) -> Result<ListDeadLettersResponse, Status> {
    let listed = client.admin.list_dead_letters(of(tenant, request));
    Ok(within(listed).await?.into_inner())
}
