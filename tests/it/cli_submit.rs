//! `sooner submit`: any input becomes a batch, whatever happens on the way.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::cli::{Relay, asked, sooner};
use crate::harness::run::{Place, Running, wait};
use crate::harness::{Ended, Gates, Server, ServerSetup, ended};

fn submitted(server: &Server, arguments: &[&str], input: &str) -> Ended {
    let mut command = sooner(server.address(), &["submit"]);
    ended(command.args(arguments), input.as_bytes())
}

/// The numbers below `count`, a line each.
fn numbers(count: u32) -> String {
    let lines: Vec<_> = (0..count).map(|n| format!("{n}\n")).collect();
    lines.concat()
}

fn sorted(text: &str) -> Vec<u32> {
    let mut numbers: Vec<_> = text.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn the_id_is_printed_once_every_item_is_durable() {
    let setup = ServerSetup::new("[queues.default]\nhandler = { echo = {} }\n[queues.none]\n");
    let server = setup.start();
    let arguments = [
        "--queue",
        "none",
        "--batch-id",
        "b",
        "--label",
        "a=1",
        "--max-attempts",
        "7",
    ];
    let run = submitted(&server, &arguments, "one\ntwo\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "b\n"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr, "batch b\n");
    let batch = server.client().await.batch("b").await.unwrap();
    assert_eq!(batch.counts.unwrap().total, 2);
    assert_eq!(batch.queue, "none");
    assert_eq!(batch.labels["a"], "1");
    let options = batch.options.clone().unwrap();
    assert_eq!(options.retry_policy.unwrap().max_attempts, Some(7));
    assert_eq!(
        batch.state(),
        sooner::wire::BatchState::Running,
        "it is sealed"
    );

    let chosen = submitted(&server, &["-q"], "one\n");
    assert_eq!((chosen.code, chosen.stderr.as_str()), (Some(0), ""));
    let shown = asked(
        &server,
        &["get", chosen.stdout.trim(), "--wait", "-o", "name"],
    );
    assert_eq!(shown.stdout, chosen.stdout);
}

#[tokio::test]
async fn what_a_batch_is_asked_for_is_what_it_is_told_to_have() {
    let setup = ServerSetup::new("[queues.none]\n");
    let server = setup.start();
    let arguments = [
        "--batch-id=b",
        "--queue=none",
        "--priority=-3",
        "--max-parallelism=2",
        "--not-before=2001-02-03T04:05:06.5+01:00",
        "--deadline=+2h",
        "--max-duration=90m",
        "--enough=4",
        "--max-failed=5",
        "--max-failed-ratio=0.25",
        "--on-failures=cancel",
    ];
    let run = submitted(&server, &arguments, "x\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let got = asked(&server, &["get", "b", "-o", "json"]);
    let mut got: serde_json::Value = serde_json::from_str(&got.stdout).unwrap();
    let deadline = got["options"]["deadline"].take();
    assert_eq!(
        got["options"],
        serde_json::json!({
            "priority": -3,
            "not_before": "2001-02-03T03:05:06.5Z",
            "max_parallelism": 2,
            "deadline": null,
            "max_duration": "5400.0s",
            "enough": 4,
            "failure_policy": {
                "max_failed_items": 5, "max_failed_ratio": 0.25, "action": "cancel"
            },
        })
    );
    let moment =
        |time: &serde_json::Value| time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(moment(&deadline) > moment(&got["create_time"]), "{got}");

    let plain = submitted(&server, &["--batch-id=plain", "--queue=none"], "x\n");
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    let batch = server.client().await.batch("plain").await.unwrap();
    let unset = sooner::wire::BatchOptions::default();
    assert_eq!(batch.options, Some(unset), "only what is given is set");

    for wrong in [
        "--priority=high",
        "--max-parallelism=0",
        "--not-before=tomorrow",
        "--not-before=2001-02-03T04:05:06",
        "--deadline=+soon",
        "--enough=0",
        "--max-failed=0",
        "--max-failed-ratio=1.5",
        "--max-failed-ratio=nan",
        "--on-failures=pause",
    ] {
        let run = submitted(&server, &[wrong], "x\n");
        assert_eq!(run.code, Some(2), "{wrong}");
        let flag = wrong.split('=').next().unwrap();
        assert!(run.stderr.contains(flag), "{wrong}: {}", run.stderr);
    }
}

/// The same words would mean another time, and the batch would not be the same.
#[tokio::test]
async fn a_time_from_now_is_told_to_whoever_has_to_go_on() {
    let setup = ServerSetup::new("[queues.none]\n");
    let server = setup.start();
    let arguments = ["--jsonl", "--queue=none", "--batch-id=b"];
    let submit = |deadline: &str, input| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--deadline", deadline]);
        submitted(&server, &arguments, input)
    };
    let cut = submit("+2h", "{\"input\":1}\n{\n");
    assert_eq!(cut.code, Some(2));
    let (_, told) = cut.stderr.split_once("--batch-id b --deadline ").unwrap();
    let other = submit("+2h", "{\"input\":1}\n");
    assert_eq!(other.code, Some(7), "{}", other.stderr);
    let same = submit(told.trim(), "{\"input\":1}\n");
    assert_eq!(same.code, Some(0), "{}", same.stderr);
}

#[tokio::test]
async fn results_are_followed_or_summed_up() {
    let setup = ServerSetup::new(
        "[queues.default]\nhandler = { exec = [\"sh\", \"-c\", \"read x; test $x != 3 && echo $x || exit 65\"] }\n",
    );
    let server = setup.start();
    let followed = submitted(&server, &["--follow", "-o", "output"], "1\n2\n4\n");
    assert_eq!(followed.code, Some(0), "{}", followed.stderr);
    assert_eq!(sorted(&followed.stdout), [1, 2, 4]);
    let failed = submitted(&server, &["--follow", "-o", "output", "--tag"], "1\n3\n");
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(3), "0\t1\n"));
    assert!(
        failed.stderr.contains("item 1 failed: EXIT_65"),
        "{}",
        failed.stderr
    );
    let summed = submitted(&server, &["--wait", "--batch-id", "w"], "1\n3\n");
    assert_eq!((summed.code, summed.stdout.as_str()), (Some(3), "w\n"));
    assert!(
        summed.stderr.contains("1 succeeded, 1 failed (EXIT_65 1)"),
        "{}",
        summed.stderr
    );
}

#[tokio::test]
async fn every_format_of_run_is_a_format_of_submit() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    for (arguments, input, output) in [
        (
            &["--jsonl"][..],
            "{\"item_id\":\"a\",\"input\":[1]}\n",
            "[1]\n",
        ),
        (&["--csv"], "a,b\n1,2\n", "{\"a\":\"1\",\"b\":\"2\"}\n"),
        (&["-0"], "x\ny\0", "x\ny\n"),
    ] {
        let arguments = [arguments, &["--follow", "-o", "output"]].concat();
        let run = submitted(&server, &arguments, input);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(0), output),
            "{}",
            run.stderr
        );
    }
    let place = Place::new();
    place.write("f", "of f");
    let mut command = sooner(server.address(), &["submit", "--files", "f"]);
    command.args(["--follow", "-o", "output", "--tag"]);
    let run = ended(command.current_dir(place.path("here")), b"");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "f\tof f\n"),
        "{}",
        run.stderr
    );
}

#[tokio::test]
async fn results_come_while_the_input_is_still_open() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut command = sooner(server.address(), &["submit", "--follow", "-o", "output"]);
    let mut run = Running::start(&mut command);
    for line in ["one", "two"] {
        run.say(line);
        assert_eq!(run.next_line(), line);
    }
    assert_eq!(run.finish().0, Some(0));
}

#[tokio::test]
async fn an_upload_survives_cuts_and_kills_and_does_nothing_twice() {
    let setup = ServerSetup::echo();
    let mut server = setup.start();
    let relay = Relay::to(&server);
    let arguments = ["submit", "--follow", "-o", "output", "--batch-id", "b"];
    let mut run = Running::start(&mut sooner(relay.address(), &arguments));
    let mut printed = String::new();
    let mut say = |run: &mut Running, numbers: std::ops::Range<u32>| {
        for number in numbers {
            run.say(&number.to_string());
            printed += &(run.next_line() + "\n");
        }
    };
    say(&mut run, 0..50);
    assert_eq!(run.next_remark(), "batch b");
    relay.cut();
    assert!(run.next_remark().contains("trying again"));
    run.say("50");
    relay.lead_to(&server);
    say(&mut run, 51..100);
    relay.cut();
    server.kill();
    assert!(run.next_remark().contains("trying again"));
    run.say("100");
    server = setup.start();
    relay.lead_to(&server);
    say(&mut run, 101..150);
    let rest = run.rest();
    assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    assert_eq!(
        sorted(&(printed + &rest.stdout)),
        (0..150).collect::<Vec<_>>()
    );
    let batch = server.client().await.batch("b").await.unwrap();
    assert_eq!(batch.counts.unwrap().succeeded, 150);
}

#[tokio::test]
async fn kills_of_the_server_amid_a_large_upload_lose_nothing() {
    let setup = ServerSetup::echo();
    let mut server = setup.start();
    let relay = Relay::to(&server);
    let arguments = ["submit", "-q", "--batch-id", "b"];
    let mut child = sooner(relay.address(), &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut next = 0_u32;
    for _ in 0..3 {
        // More than the pipe and one message hold.
        for _ in 0..3_000 {
            writeln!(stdin, "{next:0100}").unwrap();
            next += 1;
        }
        relay.cut();
        server.kill();
        server = setup.start();
        relay.lead_to(&server);
    }
    drop(stdin);
    assert_eq!(wait(&mut child).code(), Some(0));
    let all = asked(&server, &["watch", "b", "-q", "-o", "output"]);
    assert!(sorted(&all.stdout).into_iter().eq(0..next), "each once");
}

#[tokio::test]
async fn the_same_command_goes_on_where_a_killed_one_was() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let arguments = ["submit", "--follow", "-o", "output", "--batch-id", "b"];
    let mut first = Running::start(&mut sooner(server.address(), &arguments));
    for line in ["0", "1", "2"] {
        first.say(line);
        assert_eq!(first.next_line(), line);
    }
    first.signal(Signal::KILL);
    assert_eq!(first.rest().code, None);

    let other = submitted(&server, &["--batch-id", "b"], "0\n1\nother\n3\n");
    assert_eq!((other.code, other.stdout.as_str()), (Some(2), ""));
    assert!(
        other.stderr.contains("item 2 is stored with other content"),
        "{}",
        other.stderr
    );
    assert!(other.stderr.contains("(ITEM_MISMATCH)"), "{}", other.stderr);

    let same = submitted(&server, &["--batch-id", "b"], &numbers(5));
    assert_eq!(
        (same.code, same.stdout.as_str()),
        (Some(0), "b\n"),
        "{}",
        same.stderr
    );
    let all = asked(&server, &["watch", "b", "-o", "output", "--order", "index"]);
    assert_eq!(all.stdout, numbers(5));

    // It is whole now, which changes nothing for the same input, and refuses another.
    let again = submitted(&server, &["--batch-id", "b"], &numbers(5));
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (Some(0), "b\n"),
        "{}",
        again.stderr
    );
    for input in [numbers(4), numbers(6)] {
        let other = submitted(&server, &["--batch-id", "b"], &input);
        assert!(
            matches!(other.code, Some(2 | 7)),
            "{:?} {}",
            other.code,
            other.stderr
        );
        assert!(
            other.stderr.contains("choose another --batch-id"),
            "{}",
            other.stderr
        );
        assert_eq!(other.stdout, "");
    }
}

#[tokio::test]
async fn ctrl_c_says_how_to_go_on() {
    let setup = ServerSetup::gated(1, "");
    let gates = Gates::new(&setup, ["a"]);
    let server = setup.start();
    let mut first = Running::start(&mut sooner(
        server.address(),
        &["submit", "--batch-id", "b"],
    ));
    first.say(&gates.path("a"));
    assert_eq!(first.next_remark(), "batch b");
    let gate = gates.arrival("a").await;
    first.signal(Signal::INT);
    let rest = first.rest();
    assert_eq!((rest.code, rest.stdout.as_str()), (Some(130), ""));
    assert!(
        rest.stderr.contains("has the first 1 items"),
        "{}",
        rest.stderr
    );
    assert!(rest.stderr.contains("with --batch-id b"), "{}", rest.stderr);

    let mut command = sooner(server.address(), &["submit", "--wait", "--batch-id", "b"]);
    let mut second = Running::start(&mut command);
    second.say(&gates.path("a"));
    assert_eq!(second.next_remark(), "batch b");
    second.close();
    // Sealed, and waiting for the one item.
    let sealed = asked(&server, &["get", "b", "-o", "json"]);
    assert!(!sealed.stdout.is_empty());
    crate::harness::run::until(|| {
        asked(&server, &["get", "b", "-o", "json"])
            .stdout
            .contains("\"state\": \"running\"")
    });
    second.signal(Signal::INT);
    let rest = second.rest();
    assert_eq!(rest.code, Some(130), "{}", rest.stderr);
    assert!(
        rest.stderr.contains("to go on: sooner watch b --after 0"),
        "{}",
        rest.stderr
    );
    gate.open();
    assert_eq!(
        asked(&server, &["get", "b", "--wait", "-o", "name"]).code,
        Some(0)
    );
}

#[tokio::test]
async fn a_bad_line_leaves_the_upload_open_to_be_mended() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let good = "{\"item_id\":\"a\",\"input\":1}\n";
    let arguments = ["--jsonl", "--batch-id", "b"];
    let bad = submitted(&server, &arguments, &format!("{good}{{\n"));
    assert_eq!((bad.code, bad.stdout.as_str()), (Some(2), ""));
    assert!(bad.stderr.contains("error: stdin:2: EOF"), "{}", bad.stderr);
    assert!(
        bad.stderr.contains("hint: batch b has the first 1 items"),
        "{}",
        bad.stderr
    );
    let twice = submitted(&server, &arguments, &format!("{good}{good}"));
    assert_eq!(twice.code, Some(2));
    assert!(
        twice.stderr.contains("(DUPLICATE_ITEM_ID)"),
        "{}",
        twice.stderr
    );
    let mended = submitted(
        &server,
        &arguments,
        &format!("{good}{{\"item_id\":\"b\",\"input\":2}}\n"),
    );
    assert_eq!(
        (mended.code, mended.stdout.as_str()),
        (Some(0), "b\n"),
        "{}",
        mended.stderr
    );
}

#[tokio::test]
async fn what_cannot_be_submitted_is_told_with_its_exit_code() {
    let setup = ServerSetup::new(
        "[limits]\ninput_bytes = \"10B\"\n[queues.default]\nhandler = { echo = {} }\n",
    );
    let server = setup.start();
    let whole = vec![crate::harness::item("x")];
    server.client().await.create("whole", whole).await.unwrap();
    for (arguments, input, code, says) in [
        (&[][..], "", 2, "there is no item in the input"),
        (&["--queue", "nope"], "x\n", 2, "(NO_HANDLER)\nhint: "),
        (&["--batch-id", "a:b"], "x\n", 2, "error: --batch-id: "),
        (&["--retention", "1ms"], "x\n", 2, "error: --retention: "),
        (
            &["--max-duration=0s", "--label", "a b=c"],
            "x\n",
            2,
            "\n  --max-duration: ",
        ),
        (&[], "far too long\n", 2, "error: input: "),
        (
            &["--batch-id", "whole"],
            "x\n",
            7,
            "(BATCH_ID_CONFLICT)\nhint: ",
        ),
        (&["--label", "x"], "x\n", 2, "NAME=VALUE"),
        (&["-o", "json"], "x\n", 2, "need --follow"),
        (&["--wait", "--follow"], "x\n", 2, "cannot be used with"),
        (&["/does/not/exist"], "", 66, "/does/not/exist"),
        (
            &[],
            "short\nfar too long\n",
            2,
            "(INPUT_TOO_LARGE)\n  in item 1 of the input",
        ),
    ] {
        let run = submitted(&server, arguments, input);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(code), ""),
            "{arguments:?} {}",
            run.stderr
        );
        assert!(
            run.stderr.contains(says),
            "{}\n  does not say {says}",
            run.stderr
        );
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_amid_its_upload_ends_it() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let arguments = ["submit", "--follow", "-o", "output", "--batch-id", "b"];
    let mut run = Running::start(&mut sooner(server.address(), &arguments));
    run.say("one");
    assert_eq!(run.next_line(), "one");
    assert_eq!(asked(&server, &["cancel", "b"]).code, Some(0));
    let (code, said) = run.end();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("before the end of the input"), "{said}");
}

#[tokio::test]
async fn memory_does_not_grow_with_the_input() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let peak = |lines: usize| {
        let mut command: Command = sooner(server.address(), &["submit", "-q"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let line = "x".repeat(400);
        for _ in 0..lines {
            writeln!(stdin, "{line}").unwrap();
        }
        // All but what is in the pipe was read by now.
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        drop(stdin);
        assert_eq!(wait(&mut child).code(), Some(0));
        let peak = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        peak.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    // 4 MB are within what may be kept, 40 MB are far beyond.
    let (small, large) = (peak(10_000), peak(100_000));
    assert!(
        large < small + 24_000,
        "{small} kB for 10,000 lines, {large} kB for 100,000"
    );
}
