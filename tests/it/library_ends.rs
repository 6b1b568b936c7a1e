//! A program with Sooner inside: how attempts, programs and lives of a data directory end.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sooner::domain::attempt::Reason;
use sooner::{
    Attempt, BatchId, BatchState, ErrorKind, HandlerFn, ItemError, ItemSpec, LetterQuery,
    OpenError, Order, Outcome, Payload, Queue, RedriveRequest, Results, RetrySettings, Sooner,
    Submission, TerminalState, blocking, handler_fn,
};

use crate::harness::gate::{Gate, OpenAtEnd, place};
use crate::harness::{PATIENCE, within};

type Done = Result<String, ItemError>;

async fn opened(dir: &Path, queue: Queue) -> Sooner {
    let builder = Sooner::builder(dir).queue("default", queue);
    builder.drain_grace(Duration::ZERO).open().await.unwrap()
}

fn batch(count: usize) -> Submission {
    let items = (0..count).map(|n| ItemSpec::new(n.to_string()));
    Submission::new(items).with_batch_id("b").unwrap()
}

fn id() -> BatchId {
    BatchId::parse("b").unwrap()
}

fn echo() -> HandlerFn {
    handler_fn(|attempt: Attempt| async move { Done::Ok(attempt.text()?.to_owned()) })
}

/// All results, as sequence, index and output.
async fn rest(mut results: Results) -> Vec<(u32, u32, Option<Payload>)> {
    let mut all = Vec::new();
    while let Some(record) = within(results.next()).await {
        let record = record.unwrap();
        let output = record.ending.output().cloned();
        all.push((record.sequence.0, record.index, output));
    }
    all
}

// A handler that gave items back under a reason of the server's own had them tried for ever.
#[tokio::test]
async fn what_a_handler_gives_back_counts_whatever_reason_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let gives_back = move |attempt: Attempt| {
        let times = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            assert_eq!(attempt.number, times + 1);
            let error = ItemError::of(Reason::NO_THREAD, "says the handler");
            let wait = Duration::ZERO;
            Outcome::Released { error, wait }
        }
    };
    let sooner = opened(dir.path(), Queue::new(handler_fn(gives_back))).await;
    let mut results = sooner.submit(batch(1)).await.unwrap();
    let record = within(results.next()).await.unwrap().unwrap();
    let error = record.ending.error().unwrap();
    assert_eq!(&*error.reason, "RELEASED_TOO_OFTEN");
    assert!(error.message.contains("says the handler"), "{error:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 100);
    within(sooner.close()).await;
}

#[tokio::test]
async fn a_panic_fails_its_attempt_and_nothing_else() {
    let panics = |attempt: &Attempt| -> Done {
        assert_ne!(attempt.text()?, "1", "not this one");
        Ok("fine".to_owned())
    };
    let retry = RetrySettings {
        max_attempts: Some(2),
        initial_backoff: Some(Duration::ZERO),
        ..RetrySettings::default()
    };
    let queues = [
        Queue::new(blocking(panics)),
        Queue::new(handler_fn(move |attempt| async move { panics(&attempt) })),
    ];
    for queue in queues {
        let dir = tempfile::tempdir().unwrap();
        let sooner = opened(dir.path(), queue.slots(1).retry(retry.clone())).await;
        let mut results = sooner.submit(batch(3)).await.unwrap();
        while let Some(record) = within(results.next()).await {
            let record = record.unwrap();
            let Some(error) = record.ending.error() else {
                continue;
            };
            assert_eq!((record.index, record.attempts), (1, 2));
            assert_eq!(&*error.reason, "PANIC");
            assert!(error.message.contains("not this one"), "{error:?}");
        }
        assert_eq!(results.batch().tally.succeeded, 2);
        sooner.close().await;
    }
}

#[tokio::test]
async fn a_handler_names_its_reasons_and_waits() {
    let dir = tempfile::tempdir().unwrap();
    // A policy whose backoff no test waits for: the handlers' own waits count.
    let retry = RetrySettings {
        initial_backoff: Some(Duration::from_secs(3600)),
        max_backoff: Some(Duration::from_secs(3600)),
        ..RetrySettings::default()
    };
    let handler = handler_fn(|attempt: Attempt| async move {
        let failed_for = |millis| Outcome::FailedFor {
            error: ItemError::retryable("UPSTREAM_BUSY", "come again"),
            wait: Duration::from_millis(millis),
        };
        match attempt.index {
            0 if attempt.number < 3 => failed_for(1),
            0 => Outcome::Succeeded("at last".into()),
            1 => Outcome::Failed(ItemError::permanent("bad picture!", "no eyes")),
            2 => Err::<Payload, _>(std::io::Error::other("a pipe")).into(),
            _ => failed_for(7_200_000),
        }
    });
    let sooner = opened(dir.path(), Queue::new(handler).slots(4).retry(retry)).await;
    let mut results = sooner.submit(batch(4)).await.unwrap();
    let mut ended = Vec::new();
    for _ in 0..2 {
        let record = within(results.next()).await.unwrap().unwrap();
        let reason = record.ending.error().map(|error| error.reason.to_string());
        ended.push((record.index, record.attempts, reason));
    }
    ended.sort();
    let bad_picture = Some("BAD_PICTURE_".to_owned());
    assert_eq!(ended, [(0, 3, None), (1, 1, bad_picture)]);

    let waits = |item: &'static str| {
        let sooner = sooner.clone();
        within(async move {
            loop {
                let view = sooner.item(&id(), item, Duration::ZERO).await.unwrap().item;
                if let ([past], Some(due)) = (&*view.past, view.next_due) {
                    let error = past.error.clone().expect("it failed");
                    return (error, due.since(past.ended.unwrap()));
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let (error, wait) = waits("2").await;
    assert_eq!(
        (&*error.reason, &*error.message),
        ("HANDLER_ERROR", "a pipe")
    );
    assert!(wait <= Duration::from_secs(3600), "the policy's: {wait:?}");
    let (error, wait) = waits("3").await;
    assert_eq!(&*error.reason, "UPSTREAM_BUSY");
    assert!(wait > Duration::from_secs(3600), "its own: {wait:?}");
    drop(results);
    sooner.close().await;
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_handler_that_never_returns() {
    let gate = Gate::default();
    let _open = OpenAtEnd(gate.clone());
    let (waits, blocks, computes) = (gate.clone(), gate.clone(), gate.clone());
    let queues = [
        // Waits for ever, and lets go of its thread.
        Queue::new(handler_fn(move |_| {
            waits.open_below(0);
            pending::<Outcome>()
        })),
        // Never lets go of its thread.
        Queue::new(handler_fn(move |attempt: Attempt| {
            let gate = blocks.clone();
            async move {
                gate.pass(place(&attempt));
                Done::Ok("too late".to_owned())
            }
        })),
        Queue::new(
            blocking(move |attempt: &Attempt| {
                computes.pass(place(attempt));
                Done::Ok("too late".to_owned())
            })
            .with_stop_grace(Duration::ZERO),
        ),
    ];
    for queue in queues {
        let dir = tempfile::tempdir().unwrap();
        let sooner = opened(dir.path(), queue.slots(2)).await;
        let mut results = sooner.submit(batch(3)).await.unwrap();
        within(async {
            while sooner.batch(&id()).await.unwrap().running < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (gone, ()) = tokio::join!(within(results.next()), within(sooner.close()));
        // Whoever reads is told where to go on.
        let error = gone.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let refused = sooner.submit(batch(1)).await.unwrap_err();
        assert_eq!(refused.reason(), "SERVER_DRAINING");

        // The same process takes the directory again, although a handler of the first still hangs.
        let sooner = opened(dir.path(), Queue::new(echo())).await;
        assert_eq!(sooner.found().unfinished_items, 3);
        let all = rest(sooner.watch(&id(), results.cursor()).await.unwrap()).await;
        assert_eq!(all.len(), 3);
        let view = sooner.item(&id(), "0", Duration::ZERO).await.unwrap().item;
        let record = view.record.unwrap();
        // Interrupted, not charged; or an interruption that could not even be noted.
        assert_eq!(record.attempts, 1, "{:?}", view.past);
        sooner.close().await;
    }
}

#[tokio::test]
async fn what_was_accepted_goes_on_after_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let _open = OpenAtEnd(gate.clone());
    gate.open_below(2);
    let stays = gate.clone();
    let gated = blocking(move |attempt: &Attempt| {
        stays.pass(place(attempt));
        Done::Ok(format!("first life, {}", attempt.index))
    });
    let sooner = opened(dir.path(), Queue::new(gated).slots(2)).await;
    let mut results = sooner.submit(batch(6)).await.unwrap();
    assert!(results.is_new());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let record = within(results.next()).await.unwrap().unwrap();
        seen.push((
            record.sequence.0,
            record.index,
            record.ending.output().cloned(),
        ));
    }
    let cursor = results.cursor();
    // Two of its items run, and nobody waits for them.
    gate.arrivals(4).await;
    drop((results, sooner));

    let sooner = opened(dir.path(), Queue::new(echo())).await;
    assert_eq!(sooner.found().unfinished_items, 4);
    // Submitted again it is the same batch, whose results are what they were.
    let again = sooner.submit(batch(6)).await.unwrap();
    assert!(!again.is_new());
    let all = rest(again).await;
    assert_eq!(all[..2], seen, "what was seen stays");
    let sequences: Vec<_> = all.iter().map(|record| record.0).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
    let behind = rest(sooner.watch(&id(), cursor).await.unwrap()).await;
    assert_eq!(behind, all[2..], "from the cursor on");
    let batch = sooner.batch(&id()).await.unwrap();
    assert_eq!(
        (batch.state, batch.tally.succeeded),
        (BatchState::Completed, 6)
    );
    for item in ["2", "3"] {
        let view = sooner.item(&id(), item, Duration::ZERO).await.unwrap().item;
        assert_eq!(
            view.record.unwrap().attempts,
            1,
            "uncharged: {:?}",
            view.past
        );
    }
    sooner.close().await;
}

#[tokio::test]
async fn a_computation_that_is_cancelled_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let began = Gate::default();
    began.open();
    let begins = began.clone();
    let patient = blocking(move |attempt: &Attempt| -> Done {
        begins.pass(0);
        while !attempt.is_stopped() && attempt.time_left() > Duration::ZERO {
            std::thread::yield_now();
        }
        Ok("stopped".to_owned())
    });
    let queue = Queue::new(patient).slots(1).item_timeout(PATIENCE);
    let sooner = opened(dir.path(), queue).await;
    let mut results = sooner.submit(batch(2)).await.unwrap();
    began.arrivals(1).await;
    let (_, counts) = sooner.cancel(&id(), "enough").await.unwrap();
    assert_eq!((counts.stopping, counts.never_started), (1, 1));
    while let Some(record) = within(results.next()).await {
        let record = record.unwrap();
        // What was begun and finished within its grace counts; only the other one is cancelled.
        let expected = match record.index {
            0 => TerminalState::Succeeded,
            _ => TerminalState::Cancelled,
        };
        assert_eq!(record.ending.state(), expected, "{record:?}");
    }
    assert_eq!(results.batch().state, BatchState::Cancelled);
    sooner.close().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let open = async |name: &str, queue: Queue| {
        let builder = Sooner::builder(dir.path().join("data"));
        let opened = builder.queue(name, queue).open().await;
        opened.unwrap_err().to_string()
    };
    let cases = [
        ("a b", Queue::new(echo()), "the name: "),
        (
            "a",
            Queue::new(echo()).slots(0),
            "slots: 0 is not between 1",
        ),
        (
            "a",
            Queue::new(echo()).threads(0),
            "threads: 0 is not between 1",
        ),
        (
            "a",
            Queue::waiting().item_timeout(Duration::ZERO),
            "item_timeout: ",
        ),
    ];
    for (name, queue, expected) in cases {
        let refusal = open(name, queue).await;
        assert!(refusal.contains(expected), "{refusal}");
    }
    assert!(!dir.path().join("data").exists(), "nothing was touched");

    let sooner = opened(dir.path(), Queue::waiting()).await;
    let second = Sooner::builder(dir.path()).queue("default", Queue::waiting());
    let refusal = second.open().await.unwrap_err();
    assert!(matches!(refusal, OpenError::Start(_)), "{refusal}");
    let nobody = Submission::new(["x"]).with_queue("nobody").unwrap();
    let refusal = sooner.submit(nobody).await.unwrap_err();
    assert_eq!(refusal.reason(), "NO_HANDLER");
    let nothing = sooner.submit(Submission::default()).await.unwrap_err();
    assert_eq!(nothing.violations()[0].field, "items");
    let unknown = sooner.watch(&id(), Order::default()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    sooner.close().await;
}

#[tokio::test]
async fn what_failed_is_listed_and_run_again_under_its_first_key() {
    let dir = tempfile::tempdir().unwrap();
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let handler = blocking(move |attempt: &Attempt| {
        if is_mended.load(Ordering::Relaxed) {
            return Done::Ok(attempt.idempotency_key());
        }
        let broken = ItemError::permanent("BROKEN", "not yet");
        Err(broken)
    });
    let sooner = opened(dir.path(), Queue::new(handler)).await;
    let results = sooner.submit(batch(3)).await.unwrap();
    let uid = results.batch().head.uid;
    rest(results).await;
    let query = LetterQuery::default();
    let page = sooner.dead_letters(&query, None, 2).await.unwrap();
    assert_eq!((page.letters.len(), page.reasons.reasons["BROKEN"]), (2, 3));
    let page = sooner.dead_letters(&query, page.next, 2).await.unwrap();
    assert_eq!((page.letters.len(), page.next), (1, None));

    mended.store(true, Ordering::Relaxed);
    let request = RedriveRequest {
        item_ids: vec!["2".into(), "1".into()],
        ..RedriveRequest::all_of(id())
    };
    let again = sooner.redrive(request).await.unwrap();
    assert_eq!(again.batch().head.source, Some(id()));
    let mut keys: Vec<_> = rest(again)
        .await
        .into_iter()
        .map(|(_, _, output)| output.unwrap().as_text().unwrap().to_owned())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, [format!("{uid}/1"), format!("{uid}/2")]);
    assert_eq!(sooner.purge_dead_letters(&query).await.unwrap(), 1);
    let refused = sooner.redrive(RedriveRequest::all_of(id())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Precondition);
    sooner.close().await;
}
