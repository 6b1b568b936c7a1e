//! What a dead server left running is ended before its item runs again.

#![cfg(target_os = "linux")]

use crate::harness::client::output;
use crate::harness::{Gates, ServerSetup, within};

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

/// Whether a process computes. What is dead, but not yet waited for, has no command line.
fn is_alive(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

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

    let server = setup.start();
    within(async {
        while is_alive(orphan) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Not before the next attempt is there: it would find the gate open.
    let gate = gates.arrival("a").await;
    drop(held);
    gate.open();
    let results = server.client().await.results("batch", 0).await;
    assert_eq!((results.len(), output(&results[0])), (1, "a"));
    assert_eq!(pids(&setup).len(), 2);
}
