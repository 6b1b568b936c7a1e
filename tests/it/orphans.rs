//! What a dead server left running is ended before its item runs again.

#![cfg(target_os = "linux")]

use sooner::wire::{ItemSpec, ItemState, RedriveDeadLettersRequest, RetryPolicy};

use crate::harness::client::output;
use crate::harness::{Gates, ServerSetup, item, within};

/// A queue that notes the process of each attempt, which then waits at a gate.
const NOTED: &str = r#"
[queues.default]
handler = { exec = ["sh", "-c", "echo $$ >> pids; exec cat \"$0\"", "{}"] }
slots = 1
"#;

/// The processes of the attempts, in their order.
fn pids(setup: &ServerSetup) -> Vec<u32> {
    let lines = std::fs::read_to_string(setup.path("pids")).unwrap();
    lines.lines().map(|line| line.parse().unwrap()).collect()
}

/// Whether a process is there. One that waits to be reaped has let go of everything, before not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until(is_so: impl Fn() -> bool) {
    within(async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Nothing is noted about the program, so there is no moment too early for the kill.
#[tokio::test]
async fn a_program_whose_server_was_killed_is_ended() {
    let setup = ServerSetup::new(NOTED);
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut client = server.client().await;
    client.create("batch", vec![gates.item("a")]).await.unwrap();
    // Held over the crash: nothing but a signal ends the program.
    let held = gates.arrival("a").await;
    let [orphan] = pids(&setup)[..] else {
        panic!("one attempt")
    };
    server.kill();
    assert!(is_alive(orphan));
    let notes = std::fs::read(setup.data_dir().join("in-flight")).unwrap();
    let is_noted = notes.windows(4).any(|bytes| bytes == orphan.to_le_bytes());
    assert!(!is_noted, "it is found without that");

    let server = setup.start();
    until(|| !is_alive(orphan)).await;
    // Not before the next attempt is there: it would find the gate open.
    let gate = gates.arrival("a").await;
    drop(held);
    gate.open();
    let results = server.client().await.results("batch", 0).await;
    assert_eq!((results.len(), output(&results[0])), (1, "a"));
    assert_eq!(pids(&setup).len(), 2);
}

/// It bears the key of the item that was submitted, not that of the batch it runs in.
#[tokio::test]
async fn a_redriven_program_whose_server_was_killed_is_ended_too() {
    let setup = ServerSetup::new(NOTED);
    let server = setup.start();
    let mut client = server.client().await;
    // There is no gate yet, so that it fails.
    let path = setup.path("gates").join("a");
    let once = RetryPolicy {
        max_attempts: Some(1),
        ..RetryPolicy::default()
    };
    let broken = ItemSpec {
        retry_policy: Some(once),
        ..item(path.display().to_string())
    };
    client.create("old", vec![broken]).await.unwrap();
    assert_eq!(client.results("old", 0).await[0].state(), ItemState::Failed);
    let gates = Gates::new(&setup, ["a"]);
    let redrive = RedriveDeadLettersRequest {
        batch_id: "old".into(),
        ..RedriveDeadLettersRequest::default()
    };
    let new = client.redrive(redrive).await.unwrap();
    let held = gates.arrival("a").await;
    let [_, orphan] = pids(&setup)[..] else {
        panic!("two attempts")
    };
    server.kill();
    assert!(is_alive(orphan));
    let server = setup.start();
    until(|| !is_alive(orphan)).await;
    let gate = gates.arrival("a").await;
    drop(held);
    gate.open();
    let results = server.client().await.results(&new.batch_id, 0).await;
    assert_eq!((results.len(), output(&results[0])), (1, "a"));
}
