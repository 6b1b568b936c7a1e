//! How `sooner run` ends: what its exit code says, and what it leaves behind.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::Gates;
use crate::harness::run::{Place, Running, lines, wait};

#[test]
fn a_failed_item_is_told_and_counts_in_the_exit_code() {
    let place = Place::new();
    let script = "read n; echo out-$n; echo err-$n >&2; exit $n";
    let run = place.run(
        &["--max-attempts", "1", "--", "sh", "-c", script],
        "0\n7\n65\n",
    );
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.stdout, "out-0\n");
    for told in [
        "item 1 failed: EXIT_7 err-7",
        "item 2 failed: EXIT_65 err-65",
        "journal kept",
    ] {
        assert!(
            run.stderr.contains(told),
            "{told:?} is not in {}",
            run.stderr
        );
    }
    assert!(
        run.stderr
            .contains("1 succeeded, 2 failed (EXIT_65 1, EXIT_7 1)"),
        "{}",
        run.stderr
    );
    assert_eq!(place.journals(), 1);
    let again = place.run(&["--max-attempts", "1", "--", "sh", "-c", script], "0\n");
    assert_eq!(again.code, Some(0));
    // It is over: there is nothing to go on with.
    assert!(!again.stderr.contains("--resume"), "{}", again.stderr);
    assert_eq!(place.journals(), 1, "the earlier one stays");
}

#[test]
fn quiet_says_failures_only() {
    let place = Place::new();
    assert_eq!(place.run(&["-q", "--", "cat"], "x\n").stderr, "");
    let run = place.run(&["-q", "--", "sh", "-c", "exit 65"], "x\n");
    assert!(
        run.stderr.starts_with("item 0 failed: EXIT_65"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_empty_input_is_a_success() {
    let place = Place::new();
    let run = place.run(&["--", "cat"], "");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), ""),
        "{}",
        run.stderr
    );
    assert_eq!(place.journals(), 0);
}

#[test]
fn a_mistake_leaves_no_journal() {
    let place = Place::new();
    place.write("there", "x\n");
    for (arguments, code, says) in [
        (&["--", "no-such-program"][..], 2, "no-such-program"),
        (&["--", "./no-such-program"], 2, "no-such-program"),
        (&["there"], 2, "--"),
        (&["missing", "--", "cat"], 66, "missing"),
        (&["there", "missing", "--", "cat"], 66, "missing"),
        (&["--files", "there", "missing", "--", "cat"], 66, "missing"),
        (&["--files", "there", "there", "--", "cat"], 2, "there"),
        (&[".", "--", "cat"], 2, "directory"),
        (&["-j0", "--", "cat"], 2, "-j"),
        (
            &["--config", "missing.toml", "--", "cat"],
            2,
            "missing.toml",
        ),
    ] {
        let run = place.run(arguments, "x\n");
        assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.stderr);
        assert_eq!(
            run.stderr.lines().count(),
            1,
            "{arguments:?}: {}",
            run.stderr
        );
        assert!(
            run.stderr.starts_with("error: ") && run.stderr.contains(says),
            "{}",
            run.stderr
        );
        assert_eq!(run.stdout, "");
        assert!(!place.path("state").exists(), "{arguments:?}");
    }
}

#[test]
fn a_journal_of_ones_own_is_kept_and_held_by_one_run_at_a_time() {
    let place = Place::new();
    let arguments = ["--data-dir", "journal", "--", "cat"];
    let mut first = Running::start(&mut place.command(&arguments));
    first.say("x");
    assert_eq!(first.next_line(), "x");
    let second = place.run(&arguments, "y\n");
    assert_eq!(
        (second.code, second.stdout.as_str()),
        (Some(69), ""),
        "{}",
        second.stderr
    );
    assert!(second.stderr.contains("journal"), "{}", second.stderr);
    first.say("z");
    assert_eq!(first.next_line(), "z");
    assert_eq!(first.finish().0, Some(0));
    assert!(place.path("here/journal/sooner.db").exists());
    assert!(!place.path("state").exists());
}

#[tokio::test]
async fn a_signal_lets_what_runs_finish_and_keeps_the_journal() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let place = Place::new();
        let gates = Gates::in_directory(place.path("gates"), ["gate"]);
        let mut run = Running::start(&mut place.command(&["-j1", "--", "cat", "{}"]));
        run.say(&gates.path("gate"));
        run.say(&gates.free_path("free"));
        let gate = gates.arrival("gate").await;
        run.signal(signal);
        assert!(run.next_remark().contains("stopping"));
        gate.open();
        let (ended, stderr) = run.end();
        assert_eq!(ended, Some(code), "{stderr}");
        assert!(stderr.contains("journal kept"), "{stderr}");
        assert_eq!(place.journals(), 1);
    }
}

#[tokio::test]
async fn a_second_signal_leaves_at_once() {
    let place = Place::new();
    let gates = Gates::in_directory(place.path("gates"), ["gate"]);
    let mut run = Running::start(&mut place.command(&["--", "cat", "{}"]));
    run.say(&gates.path("gate"));
    let held = gates.arrival("gate").await;
    run.signal(Signal::INT);
    assert!(run.next_remark().contains("stopping"));
    run.signal(Signal::INT);
    let (ended, stderr) = run.end();
    assert_eq!(ended, Some(130), "{stderr}");
    assert_eq!(place.journals(), 1);
    drop(held);
}

/// Like any filter: the input is still open, and the run ends all the same.
#[test]
fn a_closed_output_ends_the_run_quietly() {
    let place = Place::new();
    let mut command = place.command(&["-q", "--", "cat"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let remarks = lines(child.stderr.take().unwrap());
    drop(stdout);
    writeln!(stdin, "x").unwrap();
    let status = wait(&mut child);
    assert_eq!(status.signal(), Some(Signal::PIPE.as_raw()), "{status}");
    let stderr: Vec<_> = remarks.iter().collect();
    let loud = stderr
        .iter()
        .any(|line| line.contains("error") || line.contains("panic"));
    assert!(!loud, "{stderr:?}");
}
