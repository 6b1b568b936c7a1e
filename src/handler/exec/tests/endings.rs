//! What is left of a program when its attempt ends: nothing, whichever way it ends.

use super::*;

/// Shell words that wait until their program has ended and is not reaped yet.
#[cfg(target_os = "linux")]
const UNTIL_ORPHANED: &str = r#"until grep -q "^$$ (sh) Z" /proc/$$/stat; do :; done"#;

#[tokio::test]
async fn a_process_that_keeps_stdout_open_is_given_a_second_then_killed() {
    let witness = Witness::new();
    let script = "echo early; sleep 1000 & exit 0";
    assert_eq!(output_text(&witness.shell(script), "").await, "early\n");
    witness.alone().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_process_writes_within_that_second_counts() {
    let orphan = format!("{UNTIL_ORPHANED}; cat; echo late");
    let script = format!("echo early; exec 4<&0; ({orphan}) <&4 & exit 0");
    assert_eq!(
        output_text(&shell(&script), "input\n").await,
        "early\ninput\nlate\n"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_has_left_the_group_cannot_hold_up_the_outcome() {
    use rustix::process::{Pid, Signal, kill_process};

    let mut witness = Witness::new();
    let exec = witness.shell("setsid sh -c 'sleep 60 & echo $! >&3'; echo early");
    assert_eq!(output_text(&exec, "").await, "early\n");
    let left = Pid::from_raw(witness.line().await.parse().unwrap()).unwrap();
    kill_process(left, Signal::KILL).expect("it is none of the group's and lives");
    witness.alone().await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed_even_if_it_holds_no_pipe() {
    for code in [0, 1] {
        let witness = Witness::new();
        let script = format!("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exit {code}");
        let outcome = outcome(&witness.shell(&script), Payload::default()).await;
        assert_eq!(matches!(outcome, Outcome::Succeeded(_)), code == 0);
        witness.alone().await;
    }
}

#[tokio::test]
async fn a_stop_asks_the_whole_group_to_leave_and_waits_for_the_last_of_it() {
    let mut witness = Witness::new();
    // The program dies of the signal at once; the process that it waited for tidies up.
    let tidy =
        "trap 'sleep 0.2; echo tidy >&3; exit' TERM; echo up >&3; while :; do sleep 0.01; done";
    let exec = witness.shell(&format!("({tidy}) >/dev/null 2>&1 & wait"));
    let error = failed(outcome_of_stop(&exec, &mut witness, "up").await);
    assert_eq!(&*error.reason, "INTERRUPTED");
    assert_eq!(witness.alone().await, "tidy\n");
}

#[tokio::test]
async fn a_program_that_fails_when_it_is_stopped_may_say_why() {
    let mut witness = Witness::new();
    let script = "trap 'yes | head -c 4000000; echo bye >&2; exit 1' TERM; echo up >&3;
        while :; do sleep 0.01; done";
    let exec = witness.shell(script);
    let outcome = outcome_of_stop(&exec, &mut witness, "up").await;
    let error = failed(outcome);
    assert_eq!(&*error.reason, "INTERRUPTED");
    // A shell may note there that its child was terminated, too.
    assert!(error.message.ends_with("bye"), "{}", error.message);
}

#[tokio::test]
async fn a_program_that_finishes_well_when_it_is_stopped_has_succeeded() {
    let mut witness = Witness::new();
    let script = "trap 'echo whole; exit 0' TERM; echo up >&3; while :; do sleep 0.01; done";
    let exec = witness.shell(script);
    let outcome = outcome_of_stop(&exec, &mut witness, "up").await;
    assert_eq!(succeeded(outcome), Body::Text("whole\n".into()));
}

#[tokio::test]
async fn a_program_that_ignores_the_request_is_killed_after_the_grace() {
    let mut witness = Witness::new();
    let script = witness.script("trap '' TERM; echo up >&3; while :; do sleep 0.01; done");
    let settings = settings(&["sh", "-c", &script]);
    let exec = Exec::new(ExecSettings {
        kill_grace: Duration::from_millis(50),
        ..settings
    })
    .unwrap();
    assert_eq!(exec.stop_grace(), Duration::from_millis(2_050));
    let outcome = outcome_of_stop(&exec, &mut witness, "up").await;
    assert_eq!(&*failed(outcome).message, "", "it said nothing");
    witness.alone().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_that_has_exited_before_the_stop_has_its_outcome() {
    let mut witness = Witness::new();
    let orphan = format!("{UNTIL_ORPHANED}; echo over >&3; sleep 1000");
    let exec = witness.shell(&format!("echo early; ({orphan}) & exit 0"));
    let outcome = outcome_of_stop(&exec, &mut witness, "over").await;
    assert_eq!(succeeded(outcome), Body::Text("early\n".into()));
    witness.alone().await;
}

#[tokio::test]
async fn an_attempt_that_is_stopped_before_it_begins_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made");
    let attempt = attempt(Payload::default());
    attempt.stop.cancel();
    let error = failed(
        exec(&["touch", path.to_str().unwrap()])
            .handle(attempt)
            .await,
    );
    assert_eq!(&*error.reason, "INTERRUPTED");
    assert!(!path.exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dropped_attempt_leaves_nobody_alive() {
    let scripts = [
        "trap '' TERM; echo up >&3; sleep 1000".to_owned(),
        "trap '' TERM; (echo up >&3; sleep 1000) & wait".to_owned(),
        format!("({UNTIL_ORPHANED}; echo up >&3; sleep 1000) & exit 0"),
    ];
    for script in scripts {
        let mut witness = Witness::new();
        let exec = witness.shell(&script);
        tokio::select! {
            outcome = exec.handle(attempt(Payload::text("x".repeat(1 << 20)))) => panic!("{outcome:?}"),
            () = witness.hears("up") => {}
        }
        witness.alone().await;
    }
}

#[tokio::test]
async fn an_attempt_that_is_dropped_during_its_grace_leaves_nobody_alive() {
    let mut witness = Witness::new();
    let exec =
        witness.shell("trap 'echo asked >&3' TERM; echo up >&3; while :; do sleep 0.01; done");
    let attempt = attempt(Payload::default());
    let stop = attempt.stop.clone();
    tokio::select! {
        outcome = exec.handle(attempt) => panic!("{outcome:?}"),
        () = async {
            witness.hears("up").await;
            stop.cancel();
            witness.hears("asked").await;
        } => {}
    }
    witness.alone().await;
}

/// Programs whose leaders have gone. One of them has left something in a session of its own.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn orphans_are_ended_if_they_compute_the_item_and_only_then() {
    use std::os::unix::process::CommandExt as _;
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    let orphaned = |script: &str, key: &str| {
        let mut leader = Command::new("sh")
            .args(["-c", script])
            .env("SOONER_IDEMPOTENCY_KEY", key)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        leader.wait().unwrap();
    };
    let end = |keys: &[&str]| end_orphans(&keys.iter().map(|&key| key.to_owned()).collect());
    let (mut one, mut other, mut left) = (Witness::new(), Witness::new(), Witness::new());
    orphaned(&one.script("echo up >&3; sleep 60 & exit 0"), "uid/12");
    orphaned(&other.script("echo up >&3; sleep 60 & exit 0"), "uid/7");
    let detach = "setsid sh -c 'sleep 60 & echo $! >&3'";
    orphaned(&left.script(detach), "uid/12");
    one.hears("up").await;
    other.hears("up").await;
    let detached = Pid::from_raw(left.line().await.parse().unwrap()).unwrap();
    assert_eq!(end(&["uid/1", "uid/123", "id/12", ""]), 0);
    assert_eq!(end(&["uid/7", "uid/12"]), 2);
    assert_eq!(one.alone().await, "");
    assert_eq!(other.alone().await, "");
    assert_eq!(end(&["uid/7", "uid/12"]), 0, "there is nobody any more");
    kill_process(detached, Signal::KILL).expect("it is none of the group's and lives");
    left.alone().await;
}
