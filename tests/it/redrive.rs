//! `RedriveDeadLetters`: what failed runs again, in a new batch, once its handler is mended.

use std::collections::HashMap;

use sooner::wire::{
    BatchOptions, BatchState, CreateBatchRequest, ItemSpec, ItemState, ListDeadLettersRequest,
    PurgeDeadLettersRequest, RedriveDeadLettersRequest,
};
use tonic::Code;

use crate::harness::client::{fact, fields, milliseconds, output, reason};
use crate::harness::{Client, Gates, ServerSetup, UploadCall, item, upload_start, within};

fn named(id: &str, text: &str) -> ItemSpec {
    ItemSpec {
        item_id: id.into(),
        attributes: HashMap::from([("colour".to_owned(), "red".to_owned())]),
        timeout: Some(milliseconds(50_000)),
        finish_by: Some(in_an_hour()),
        ..item(text)
    }
}

fn redrive_of(batch_id: &str, item_ids: &[&str]) -> RedriveDeadLettersRequest {
    RedriveDeadLettersRequest {
        batch_id: batch_id.into(),
        item_ids: item_ids.iter().map(ToString::to_string).collect(),
        ..RedriveDeadLettersRequest::default()
    }
}

/// Batch "old" of the items a (fails 65), b (succeeds), c (fails 66) and d (fails 65).
async fn broken(client: &mut Client) {
    let codes = [("a", "65"), ("b", "0"), ("c", "66"), ("d", "65")];
    let options = BatchOptions {
        priority: 3,
        labels: HashMap::from([("team".to_owned(), "maps".to_owned())]),
        deadline: Some(in_an_hour()),
        max_duration: Some(milliseconds(3_600_000)),
        max_parallelism: Some(2),
        ..BatchOptions::default()
    };
    let request = CreateBatchRequest {
        batch_id: "old".into(),
        items: codes.map(|(id, code)| named(id, code)).into(),
        options: Some(options),
        ..CreateBatchRequest::default()
    };
    within(client.stub.create_batch(request)).await.unwrap();
    client.batch_when_over("old").await;
}

fn in_an_hour() -> prost_types::Timestamp {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    prost_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap() + 3600,
        nanos: 0,
    }
}

#[tokio::test]
async fn redrive_dead_letters_runs_them_again_in_a_batch_of_the_same_settings() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    broken(&mut client).await;
    let old = client.batch("old").await.unwrap();
    setup.mend();
    let new = client.redrive(redrive_of("old", &[])).await.unwrap();
    assert_eq!(
        (&*new.source_batch_id, new.counts.unwrap().total),
        ("old", 3)
    );
    assert_eq!(
        new.state(),
        BatchState::Running,
        "few letters are copied at once"
    );
    let (kept, was) = (new.options.clone().unwrap(), old.options.clone().unwrap());
    assert_eq!(
        kept,
        BatchOptions {
            deadline: None,
            ..was
        }
    );
    assert_eq!((&new.queue, &new.labels), (&old.queue, &old.labels));

    let over = client.batch_when_over(&new.batch_id).await;
    assert_eq!(over.counts.unwrap().succeeded, 3);
    let again = client.results(&new.batch_id, 0).await;
    let mut keys: Vec<_> = again
        .iter()
        .map(|result| (result.item_id.clone(), output(result).trim_end().to_owned()))
        .collect();
    keys.sort_unstable();
    let key = |id: &str, index: u32| (id.to_owned(), format!("{}/{index}", old.batch_uid));
    assert_eq!(
        keys,
        [key("a", 0), key("c", 2), key("d", 3)],
        "keys are inherited"
    );
    let spec = |batch: &str, item: &str| sooner::wire::GetItemRequest {
        batch_id: batch.into(),
        item_id: item.into(),
        include_spec: true,
        ..sooner::wire::GetItemRequest::default()
    };
    for id in ["a", "c", "d"] {
        let mut specs = Vec::new();
        for batch in ["old", &new.batch_id] {
            let found = within(client.stub.get_item(spec(batch, id))).await.unwrap();
            specs.push(found.into_inner().item.unwrap().spec.unwrap());
        }
        let mut all_but_times = specs[0].clone();
        assert!(all_but_times.finish_by.take().is_some());
        assert_eq!(specs[1], all_but_times, "all else of the item is copied");
    }
}

#[tokio::test]
async fn the_old_batch_stays_as_it_was_and_its_letters_are_none_any_more() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    broken(&mut client).await;
    let old = client.batch("old").await.unwrap();
    let results = client.results("old", 0).await;
    let new = client.redrive(redrive_of("old", &[])).await.unwrap();
    client.batch_when_over(&new.batch_id).await;
    assert_eq!(client.batch("old").await.unwrap(), old);
    assert_eq!(client.results("old", 0).await, results);
    let of_old = || ListDeadLettersRequest {
        batch_id: "old".into(),
        ..ListDeadLettersRequest::default()
    };
    let none = client.letters(of_old()).await;
    assert_eq!((none.letters, none.reasons), (vec![], vec![]));
    let all = ListDeadLettersRequest {
        include_redriven: true,
        ..of_old()
    };
    let all = client.letters(all).await;
    assert_eq!(all.letters.len(), 3);
    assert!(
        all.letters
            .iter()
            .all(|letter| letter.redriven_to == new.batch_id)
    );
    let refused = client.redrive(redrive_of("old", &[])).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "NOTHING_TO_REDRIVE")
    );
    server
        .metric_becomes("sooner_dead_letters_redriven_total", |it| it == "3")
        .await;
}

#[tokio::test]
async fn a_redrive_of_a_redrive_keeps_the_first_keys() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    // Without ids: the copies have those that the items were known by.
    client
        .create("old", vec![item("0"), item("65")])
        .await
        .unwrap();
    let uid = client.batch_when_over("old").await.batch_uid;
    let mut source = "old".to_owned();
    for _ in 0..2 {
        let new = client.redrive(redrive_of(&source, &["1"])).await.unwrap();
        let over = client.batch_when_over(&new.batch_id).await;
        assert_eq!(
            (over.counts.unwrap().failed, over.source_batch_id),
            (1, source)
        );
        source = new.batch_id;
    }
    server.kill();
    setup.mend();
    let server = setup.start();
    let mut client = server.client().await;
    let last = client.redrive(redrive_of(&source, &[])).await.unwrap();
    let results = client.results(&last.batch_id, 0).await;
    assert_eq!(
        (results.len(), &*results[0].item_id, results[0].index),
        (1, "1", 0)
    );
    assert_eq!(output(&results[0]).trim_end(), format!("{uid}/1"));
    assert_eq!(results[0].state(), ItemState::Succeeded);
}

#[tokio::test]
async fn items_or_a_reason_say_which_letters_run_again() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    broken(&mut client).await;
    setup.mend();
    let of = |reason: &str, queue: &str, ids: &[&str]| RedriveDeadLettersRequest {
        reason: reason.into(),
        queue: queue.into(),
        ..redrive_of("old", ids)
    };
    for nothing in [
        of("EXIT_1", "", &[]),
        of("", "other", &[]),
        of("EXIT_66", "", &["a", "d"]),
    ] {
        let refused = client.redrive(nothing.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), "NOTHING_TO_REDRIVE", "{nothing:?}");
    }
    let first = client
        .redrive(of("EXIT_65", "default", &["d", "c", "d"]))
        .await
        .unwrap();
    let results = client.results(&first.batch_id, 0).await;
    assert_eq!((results.len(), &*results[0].item_id), (1, "d"));
    let second = client.redrive(of("EXIT_66", "", &[])).await.unwrap();
    let results = client.results(&second.batch_id, 0).await;
    assert_eq!((results.len(), &*results[0].item_id), (1, "c"));

    let purge = PurgeDeadLettersRequest {
        batch_id: "old".into(),
        ..PurgeDeadLettersRequest::default()
    };
    assert_eq!(client.purge(purge).await.unwrap(), 1);
    for (id, why) in [
        ("a", "purged"),
        ("b", "not failed"),
        ("d", &*first.batch_id),
    ] {
        let refused = client.redrive(of("", "", &[id])).await.unwrap_err();
        let told = (
            refused.code(),
            &*reason(&refused),
            fact(&refused, "item_id"),
        );
        let expected = (
            Code::FailedPrecondition,
            "NOT_A_DEAD_LETTER",
            Some(id.to_owned()),
        );
        assert_eq!(told, expected);
        assert!(refused.message().contains(why), "{refused:?}");
    }
    let refused = client
        .redrive(of("", "", &["c", "nobody"]))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::NotFound, "ITEM_NOT_FOUND")
    );
}

#[tokio::test]
async fn a_redrive_repeated_with_its_key_makes_no_second_batch() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    broken(&mut client).await;
    let of = |ids: &[&str]| RedriveDeadLettersRequest {
        request_id: "again".into(),
        ..redrive_of("old", ids)
    };
    let first = client.redrive(of(&["a", "c"])).await.unwrap();
    client.batch_when_over(&first.batch_id).await;
    server.kill();
    let server = setup.start();
    let mut client = server.client().await;
    let again = client.redrive(of(&["c", "a", "c"])).await.unwrap();
    assert_eq!(again.batch_uid, first.batch_uid);
    assert_eq!(again.counts.unwrap().failed, 2, "as it stands");
    for other in [
        of(&["a"]),
        of(&[]),
        RedriveDeadLettersRequest {
            reason: "EXIT_65".into(),
            ..of(&["a", "c"])
        },
    ] {
        let refused = client.redrive(other.clone()).await.unwrap_err();
        let told = (refused.code(), &*reason(&refused));
        assert_eq!(
            told,
            (Code::AlreadyExists, "REQUEST_ID_CONFLICT"),
            "{other:?}"
        );
    }
    // The same key for a submit is other content too, and the other way round.
    let submit = |id: &str| CreateBatchRequest {
        request_id: id.into(),
        items: vec![item("0")],
        ..CreateBatchRequest::default()
    };
    let refused = within(client.stub.create_batch(submit("again")))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "REQUEST_ID_CONFLICT");
    within(client.stub.create_batch(submit("taken")))
        .await
        .unwrap();
    let taken = RedriveDeadLettersRequest {
        request_id: "taken".into(),
        ..redrive_of("old", &[])
    };
    let refused = client.redrive(taken).await.unwrap_err();
    assert_eq!(reason(&refused), "REQUEST_ID_CONFLICT");
    let rest = client.redrive(redrive_of("old", &[])).await.unwrap();
    assert_eq!(
        rest.counts.unwrap().total,
        1,
        "nothing was taken by what was refused"
    );
}

#[tokio::test]
async fn letters_of_a_batch_that_still_runs_are_redriven_as_far_as_it_has_come() {
    let setup = ServerSetup::broken();
    let gates = Gates::new(&setup, ["late"]);
    let server = setup.start();
    let mut client = server.client().await;
    let items = vec![named("early", "65"), named("late", &gates.path("late"))];
    client.create("old", items).await.unwrap();
    let gate = gates.arrival("late").await;
    client.item_when_over("old", "early").await;
    let refused = client
        .redrive(redrive_of("old", &["late"]))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "NOT_A_DEAD_LETTER");
    let new = client.redrive(redrive_of("old", &[])).await.unwrap();
    assert_eq!(new.counts.unwrap().total, 1);
    gate.open();
    client.batch_when_over("old").await;
    let over = client.batch_when_over(&new.batch_id).await;
    assert_eq!(over.counts.unwrap().failed, 1, "it is not mended");
    let letters = client.letters(ListDeadLettersRequest::default()).await;
    assert_eq!(letters.items(), [format!("{}/early", new.batch_id)]);
}

#[tokio::test]
async fn a_redrive_is_no_upload() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    broken(&mut client).await;
    let new = client.redrive(redrive_of("old", &[])).await.unwrap();
    for resume in [true, false] {
        let mut start = upload_start(&new.batch_id);
        start.resume = resume;
        let refused = UploadCall::open(&client, start)
            .await
            .map(|_| ())
            .unwrap_err();
        let told = (refused.code(), &*reason(&refused));
        assert_eq!(told, (Code::AlreadyExists, "BATCH_ID_CONFLICT"), "{resume}");
    }
}

#[tokio::test]
async fn a_redrive_that_makes_no_sense_is_refused_with_its_fields() {
    let setup = ServerSetup::broken();
    let server = setup.start();
    let mut client = server.client().await;
    let request = RedriveDeadLettersRequest {
        request_id: "a b".into(),
        queue: "a b".into(),
        reason: "exit".into(),
        ..RedriveDeadLettersRequest::default()
    };
    let refused = client.redrive(request).await.unwrap_err();
    let mut at_fault = fields(&refused);
    at_fault.sort_unstable();
    assert_eq!(at_fault, ["batch_id", "queue", "reason", "request_id"]);
    let many = RedriveDeadLettersRequest {
        item_ids: vec!["a".into(); 10_001],
        ..redrive_of("old", &[])
    };
    let refused = client.redrive(many).await.unwrap_err();
    assert_eq!(reason(&refused), "TOO_MANY_ITEMS");
    let nobody = client.redrive(redrive_of("nobody", &[])).await.unwrap_err();
    assert_eq!(
        (nobody.code(), &*reason(&nobody)),
        (Code::NotFound, "BATCH_NOT_FOUND")
    );
}
