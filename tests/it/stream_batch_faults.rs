//! One long upload that is cut at a hundred chance points, with the server killed now and then.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use sooner::wire::{BatchState, GetItemRequest, ItemResult, ItemSpec, ItemState, StreamStart};
use tonic::Code;

use crate::harness::client::{fact, fields, output, reason};
use crate::harness::load::{Dice, seed};
use crate::harness::{Client, Server, ServerSetup, UploadCall, item, upload_start, within};

/// Items of the upload.
const ITEMS: u64 = 6000;

/// Times that its call is cut.
const CUTS: u64 = 100;

/// Every so many cuts the server is killed.
const CUTS_PER_KILL: u64 = 10;

/// The item at `index`. Ids look like positions, but are those of other items.
fn planned(index: u64) -> ItemSpec {
    ItemSpec {
        item_id: (ITEMS - 1 - index).to_string(),
        ..item(format!("input {index}"))
    }
}

fn chunk(range: Range<u64>) -> Vec<ItemSpec> {
    range.map(planned).collect()
}

/// The uploader's side: what it was told, across all calls.
struct Uploader {
    dice: Dice,
    /// Items that were told to be durable.
    durable: u64,
    /// Items that were sent.
    sent: u64,
    results: BTreeMap<u64, ItemResult>,
}

impl Uploader {
    /// Opens or resumes. What was durable is there, and nothing that was not sent.
    async fn open(&mut self, client: &Client) -> UploadCall {
        let start = StreamStart {
            resume: self.dice.hits(50) && self.durable > 0,
            after_sequence: self.results.keys().next_back().copied().unwrap_or(0),
            ..upload_start("u")
        };
        let call = UploadCall::open(client, start).await.unwrap();
        let accepted = call.accepted.accepted_items;
        assert!(
            (self.durable..=self.sent).contains(&accepted),
            "{accepted} items, {} were durable and {} sent",
            self.durable,
            self.sent
        );
        assert!(!call.accepted.sealed);
        self.durable = accepted;
        call
    }

    /// Sends items from some point up to about `until`, in chunks, and may wait for them. Answers
    /// how far it came.
    async fn send(&mut self, call: &mut UploadCall, until: u64) -> u64 {
        let mut next = self.durable - self.dice.within(0, self.durable.min(40));
        while next < until {
            let end = (next + self.dice.within(1, 60)).min(ITEMS);
            self.sent = self.sent.max(end);
            call.items(next, chunk(next..end)).await;
            next = end;
            if self.dice.hits(30) {
                call.durable(next).await;
                self.durable = self.durable.max(next);
            }
        }
        next
    }

    /// Cuts the call, which has sent up to `end`, in one of several ways.
    async fn cut(&mut self, mut call: UploadCall, end: u64) {
        match self.dice.within(1, 4) {
            // In the middle of what was sent last.
            1 | 2 => {}
            // What was sent before the half-close is taken.
            3 if end > self.durable => {
                call.half_close();
                call.durable(end).await;
                self.durable = end;
            }
            // A finish that is too early, of which nobody hears.
            _ => call.finish(ITEMS).await,
        }
        self.note(&mut call);
    }

    /// A result comes once, and the next one is the next one.
    fn note(&mut self, call: &mut UploadCall) {
        for result in call.results.drain(..) {
            let due = self.results.keys().next_back().map_or(1, |last| last + 1);
            assert_eq!(result.sequence, due, "{result:?}");
            self.results.insert(result.sequence, result);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_cut_a_hundred_times_has_each_item_once() {
    let seed = seed("stream_batch_faults::an_upload_cut_a_hundred_times_has_each_item_once");
    let mut uploader = Uploader {
        dice: Dice::new(seed),
        durable: 0,
        sent: 0,
        results: BTreeMap::new(),
    };
    let setup = ServerSetup::new("[queues.default]\nhandler = { echo = {} }\nslots = 32\n");
    let mut server = setup.start();
    let mut client = server.client().await;
    for cut in 1..=CUTS {
        let mut call = uploader.open(&client).await;
        // A little is left for the last call.
        let until = (ITEMS - 100) * cut / CUTS;
        let end = uploader.send(&mut call, until).await;
        if cut % CUTS_PER_KILL == 0 {
            // Where in its work the kill meets the server, not a wait for something.
            let millis = uploader.dice.within(0, 3);
            std::thread::sleep(Duration::from_millis(millis));
            server.kill();
            uploader.note(&mut call);
            server = setup.start();
            client = server.client().await;
        } else {
            uploader.cut(call, end).await;
        }
    }
    refuses_ids_again(&mut uploader, &client).await;
    let mut call = uploader.open(&client).await;
    uploader.send(&mut call, ITEMS).await;
    call.finish(ITEMS).await;
    call.sealed().await;
    uploader.note(&mut call);
    let (batch, results) = call.ended().await;
    assert_eq!(batch.state(), BatchState::Completed);
    assert_eq!(batch.counts.unwrap().succeeded, ITEMS);
    assert_each_once(&client, &uploader, results).await;
    assert_stored_as_sent(&mut uploader.dice, &server).await;
}

/// An id that any earlier item has is refused, wherever and under whichever server that item came.
async fn refuses_ids_again(uploader: &mut Uploader, client: &Client) {
    for _ in 0..20 {
        let call = uploader.open(client).await;
        let next = call.accepted.accepted_items;
        let earlier = uploader.dice.within(0, next - 1);
        let again = ItemSpec {
            item_id: planned(earlier).item_id,
            ..planned(next + 1)
        };
        call.items(next, vec![planned(next), again]).await;
        let mut call = call;
        let refused = call.failed().await;
        uploader.note(&mut call);
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (Code::InvalidArgument, "DUPLICATE_ITEM_ID")
        );
        assert_eq!(fields(&refused), ["items.items[1].item_id"]);
        assert_eq!(
            fact(&refused, "accepted_items"),
            Some(next.to_string()),
            "nothing of the chunk was taken"
        );
    }
}

/// The results that came while uploading are those of a watch; each item has one, with its content.
async fn assert_each_once(client: &Client, uploader: &Uploader, rest: Vec<ItemResult>) {
    let mut watched = client.clone().results("u", 0).await;
    assert_eq!(watched.len() as u64, ITEMS);
    let mut seen: Vec<_> = uploader.results.values().cloned().collect();
    let noted = seen.last().map_or(0, |last| last.sequence);
    seen.extend(rest.into_iter().filter(|result| result.sequence > noted));
    for result in watched.iter_mut().chain(&mut seen) {
        result.remaining_count = None; // No part of the record: it tells how things stood.
    }
    assert_eq!(seen, watched);
    watched.sort_by_key(|result| result.index);
    for (result, index) in watched.iter().zip(0..) {
        assert_eq!(result.index, index);
        assert_eq!(result.item_id, planned(index).item_id);
        assert_eq!(result.state(), ItemState::Succeeded);
        assert_eq!(output(result), format!("input {index}"));
    }
}

async fn assert_stored_as_sent(dice: &mut Dice, server: &Server) {
    let mut client = server.client().await;
    for _ in 0..40 {
        let index = dice.within(0, ITEMS - 1);
        let request = GetItemRequest {
            batch_id: "u".to_owned(),
            item_id: planned(index).item_id,
            include_spec: true,
            ..GetItemRequest::default()
        };
        let found = within(client.stub.get_item(request)).await.unwrap();
        let found = found.into_inner().item.unwrap();
        assert_eq!(found.index, index);
        assert_eq!(found.spec, Some(planned(index)));
    }
}
