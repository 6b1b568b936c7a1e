//! `sooner run`: items in, results out as each is done.

use crate::harness::run::{Place, Running};
use crate::harness::{Gates, ended};

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn each_line_is_an_item_and_its_output_is_printed() {
    let place = Place::new();
    let run = place.run(
        &["-j", "4", "--", "cat"],
        "one\ntwo\n\nfour, without an end",
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(sorted(&run.stdout), ["four, without an end", "one", "two"]);
    assert_eq!(place.journals(), 0, "nothing is kept of a success");
    assert!(
        run.stderr.contains("4 succeeded, 0 failed"),
        "{}",
        run.stderr
    );
}

#[test]
fn nul_separated_pieces_are_items() {
    let place = Place::new();
    let run = place.run(&["-0", "-k", "--", "tr", "\\n", "+"], "a\nb\0c\0");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "a+b\nc\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn files_are_items_named_by_their_paths() {
    let place = Place::new();
    place.write("x", "of x");
    place.write("y", "of y\n");
    let run = place.run(&["--files", "--tag", "-k", "x", "y", "--", "cat"], "");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "x\tof x\ny\tof y\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn lines_of_several_inputs_are_read_in_turn() {
    let place = Place::new();
    place.write("x", "1\n2\n");
    place.write("y", "4\n");
    let run = place.run(&["-k", "x", "-", "y", "--", "cat"], "3\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "1\n2\n3\n4\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_placeholder_takes_the_input_as_one_argument() {
    let place = Place::new();
    let run = place.run(&["-k", "--", "printf", "<%s>", "{}"], "a b\n$HOME;'\"\n\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "<a b>\n<$HOME;'\">\n<>\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_command_finds_the_environment_of_the_run() {
    let place = Place::new();
    let mut command = place.command(&[
        "--",
        "sh",
        "-c",
        "echo $MARK $SOONER_ITEM_ID $SOONER_ATTEMPT",
    ]);
    let run = ended(command.env("MARK", "mine"), b"x\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "mine 0 1\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_item_is_tried_again_as_often_as_it_may() {
    let place = Place::new();
    let script = "echo x >> tries; test $(wc -l < tries) -ge 3 && cat";
    let run = place.run(&["--", "sh", "-c", script], "ok\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "ok\n"),
        "{}",
        run.stderr
    );
    let run = place.run(
        &[
            "--item-timeout",
            "100ms",
            "--max-attempts",
            "1",
            "--",
            "sleep",
            "600",
        ],
        "x\n",
    );
    assert_eq!(run.code, Some(3));
    assert!(
        run.stderr.contains("item 0 failed: ITEM_TIMEOUT"),
        "{}",
        run.stderr
    );
}

#[tokio::test]
async fn results_come_as_they_are_done() {
    let place = Place::new();
    let gates = Gates::in_directory(place.path("gates"), ["gate"]);
    let mut run = Running::start(&mut place.command(&["-j2", "--", "cat", "{}"]));
    run.say(&gates.path("gate"));
    run.say(&gates.free_path("free"));
    assert_eq!(run.next_line(), "free");
    gates.open("gate").await;
    assert_eq!(run.next_line(), "gate");
    assert_eq!(run.finish().0, Some(0));
}

#[tokio::test]
async fn results_come_in_the_order_of_the_input_on_request() {
    let place = Place::new();
    let gates = Gates::in_directory(place.path("gates"), ["first", "second"]);
    let mut run = Running::start(&mut place.command(&["-k", "-j3", "--", "cat", "{}"]));
    for path in [
        gates.path("first"),
        gates.path("second"),
        gates.free_path("third"),
    ] {
        run.say(&path);
    }
    gates.open("second").await;
    gates.open("first").await;
    assert_eq!(run.next_line(), "first");
    assert_eq!(run.next_line(), "second");
    assert_eq!(run.next_line(), "third");
    assert_eq!(run.finish().0, Some(0));
}

#[test]
fn results_come_while_the_input_is_still_open() {
    let place = Place::new();
    for arguments in [
        &["--", "cat"][..],
        &["-k", "--", "cat"],
        &["--tag", "--", "cat"],
    ] {
        let tagged = arguments.contains(&"--tag");
        let mut run = Running::start(&mut place.command(arguments));
        for number in 0..3 {
            run.say(&format!("line {number}"));
            let tag = if tagged {
                format!("{number}\t")
            } else {
                String::new()
            };
            assert_eq!(run.next_line(), format!("{tag}line {number}"));
        }
        assert_eq!(run.finish().0, Some(0));
    }
    assert_eq!(place.journals(), 0);
}

#[test]
fn json_lines_tell_all_of_a_result() {
    let place = Place::new();
    let arguments = [
        "-o",
        "jsonl",
        "-k",
        "--",
        "sh",
        "-c",
        "read n; echo out-$n; exit $n",
    ];
    let run = place.run(&arguments, "0\n65\n");
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let lines: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [good, bad] = &lines[..] else {
        panic!("{}", run.stdout)
    };
    assert_eq!(good["item_id"], "0");
    assert_eq!(
        (&good["state"], &good["output_text"]),
        (&"succeeded".into(), &"out-0\n".into())
    );
    assert_eq!(
        (&bad["item_id"], &bad["state"]),
        (&"1".into(), &"failed".into())
    );
    assert_eq!(
        (&bad["error"]["reason"], &bad["attempt_count"]),
        (&"EXIT_65".into(), &1.into())
    );
    assert_eq!(bad["error"]["retryable"], false);
    assert_eq!(good["batch_id"], bad["batch_id"]);
}

#[test]
fn an_item_over_the_cap_fails_alone() {
    let place = Place::new();
    place.write("sooner.toml", "[limits]\ninput_bytes = \"16\"\n");
    let long = "x".repeat(1 << 20);
    let run = place.run(
        &["-k", "--", "cat"],
        format!("before\n{long}\n0123456789abcdef\nafter\n"),
    );
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.stdout, "before\n0123456789abcdef\nafter\n");
    assert!(
        run.stderr.contains("item 1 failed: INPUT_TOO_LARGE"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_argument_too_long_for_the_system_fails_its_item_alone() {
    let place = Place::new();
    let long = "x".repeat(1 << 20);
    let run = place.run(
        &["-k", "--", "printf", "%.5s", "{}"],
        format!("before\n{long}\nafter\n"),
    );
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.stdout, "befor\nafter\n");
    assert!(
        run.stderr.contains("item 1 failed: INPUT_TOO_LARGE"),
        "{}",
        run.stderr
    );
}
