//! Redrives of more dead letters than one transaction copies: they go on by themselves.

use std::collections::BTreeSet;

use sooner::wire::{
    Batch, BatchState, ItemSpec, ListDeadLettersRequest, RedriveDeadLettersRequest,
};

use crate::harness::client::{output, reason};
use crate::harness::{Client, ServerSetup, item, within};

const LETTERS: usize = 10_000;

/// A batch "old" that has expired before its items ran.
async fn expired(client: &mut Client) {
    let filler = "x".repeat(1000);
    let items = (0..LETTERS).map(|index| ItemSpec {
        item_id: name(index),
        ..item(format!("{index} {filler}"))
    });
    client.expire("old", items.collect()).await;
}

fn name(index: usize) -> String {
    format!("letter-{index}")
}

fn all_of_it() -> RedriveDeadLettersRequest {
    RedriveDeadLettersRequest {
        request_id: "all".into(),
        batch_id: "old".into(),
        ..RedriveDeadLettersRequest::default()
    }
}

async fn letters(client: &mut Client, redriven: bool) -> Vec<sooner::wire::DeadLetter> {
    let request = ListDeadLettersRequest {
        include_redriven: redriven,
        page_size: 1000,
        ..ListDeadLettersRequest::default()
    };
    client.letters(request).await.letters
}

/// Each letter ran again once, under its own name and with its own input.
async fn assert_all_ran_again(client: &mut Client, new: &Batch) {
    let over = client.batch_when_over(&new.batch_id).await;
    assert_eq!(over.counts.unwrap().succeeded, LETTERS as u64);
    let results = client.results(&new.batch_id, 0).await;
    let mut names = BTreeSet::new();
    for result in &results {
        assert!(
            names.insert(result.item_id.clone()),
            "{} ran twice",
            result.item_id
        );
        let (index, _) = output(result).split_once(' ').unwrap();
        assert_eq!(name(index.parse().unwrap()), result.item_id);
    }
    assert_eq!(names.len(), LETTERS, "none is lost");
    assert_eq!(letters(client, false).await, []);
    let redriven = letters(client, true).await;
    assert_eq!(redriven.len(), LETTERS);
    assert!(
        redriven
            .iter()
            .all(|letter| letter.redriven_to == new.batch_id)
    );
}

#[tokio::test]
async fn a_large_redrive_survives_kills_in_its_midst() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    expired(&mut client).await;
    let new = client.redrive(all_of_it()).await.unwrap();
    assert_eq!(new.state(), BatchState::Open, "the rest follows");
    assert_eq!(new.counts.unwrap().total, 1000, "items run as they come");
    let mut server = server;
    let mut was_open = 0;
    for _ in 0..4 {
        server.kill();
        server = setup.start();
        let mut client = server.client().await;
        let again = client.redrive(all_of_it()).await.unwrap();
        assert_eq!(again.batch_uid, new.batch_uid);
        was_open += usize::from(again.state() == BatchState::Open);
    }
    assert!(was_open > 0, "no kill met the copying");
    let mut client = server.client().await;
    assert_all_ran_again(&mut client, &new).await;
}

#[tokio::test]
async fn cancelling_a_redrive_leaves_what_was_not_copied_a_dead_letter() {
    let setup =
        ServerSetup::new("[queues.default]\nhandler = { echo = { delay = \"60s\" } }\nslots = 1\n");
    let server = setup.start();
    let mut client = server.client().await;
    expired(&mut client).await;
    let new = client.redrive(all_of_it()).await.unwrap();
    client.cancel(&new.batch_id, &[]).await.unwrap();
    let over = client.batch_when_over(&new.batch_id).await;
    assert_eq!(over.state(), BatchState::Cancelled);
    let copied = over.counts.unwrap().total;
    let left = letters(&mut client, false).await;
    assert_eq!(
        left.len() as u64 + copied,
        LETTERS as u64,
        "no letter is lost"
    );
    server.kill();
    let server = setup.start();
    let mut client = server.client().await;
    assert_eq!(client.batch(&new.batch_id).await.unwrap(), over);
    assert_eq!(letters(&mut client, false).await.len(), left.len());
}

/// Below the reserve of the disk nothing is copied, whatever was begun; results still land.
#[tokio::test]
async fn a_redrive_waits_while_the_disk_is_nearly_full() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    expired(&mut client).await;
    let new = client.redrive(all_of_it()).await.unwrap();
    server.kill();
    let setup = setup.with_environment("SOONER_STORE__RESERVE", "1073741824GiB");
    let server = setup.start();
    let mut client = server.client().await;
    let copied = client.batch(&new.batch_id).await.unwrap();
    let copied = copied.counts.unwrap().total;
    assert!(
        copied < LETTERS as u64,
        "the kill came too late to tell anything"
    );
    let done = async {
        loop {
            let batch = client.batch(&new.batch_id).await.unwrap();
            if batch.counts.unwrap().succeeded == copied {
                return batch;
            }
        }
    };
    let waiting = within(done).await;
    assert_eq!(waiting.state(), BatchState::Open);
    assert_eq!(
        waiting.counts.unwrap().total,
        copied,
        "nothing more is copied"
    );
    let another = RedriveDeadLettersRequest {
        request_id: "another".into(),
        ..all_of_it()
    };
    let refused = client.redrive(another).await.unwrap_err();
    assert_eq!(reason(&refused), "DISK_FULL");
    let again = client.redrive(all_of_it()).await.unwrap();
    assert_eq!(again.batch_uid, new.batch_uid, "it is no new work");
    server.kill();
    let setup = setup.with_environment("SOONER_STORE__RESERVE", "1B");
    let server = setup.start();
    let mut client = server.client().await;
    assert_all_ran_again(&mut client, &new).await;
}
