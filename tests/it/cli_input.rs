//! Inputs in every format, and outputs in files.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::harness::run::{Place, Running};

#[test]
fn json_lines_describe_items() {
    let place = Place::new();
    let lines = "{\"item_id\":\"a\",\"input\":{\"n\": 1.10},\"attributes\":{\"who\":\"me\"}}\n\
                 {\"item_id\":\"b\",\"input_text\":\"x\\ny\"}\n\n\
                 {\"item_id\":\"c\",\"input_base64\":\"emVybw==\"}";
    let script = "cat; echo \" $SOONER_ITEM_ID $SOONER_ATTR_WHO\"";
    let run = place.run(&["--jsonl", "-k", "--", "sh", "-c", script], lines);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "{\"n\": 1.10} a me\nx\ny b \nzero c \n"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_field_of_each_line_may_be_the_input() {
    let place = Place::new();
    place.write("list", "{\"url\":\"u1\",\"x\":1}\n{\"url\":[1,2]}\n");
    let run = place.run(
        &[
            "--jsonl", "--field", "url", "-k", "list", "--", "echo", "{}",
        ],
        "",
    );
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "u1\n[1,2]\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn csv_rows_are_json_objects() {
    let place = Place::new();
    place.write("t.csv", "item_id,b\nx,\"1,\n2\"\ny,3\n");
    let run = place.run(&["--csv", "-k", "--tag", "t.csv", "--", "cat"], "");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (
            Some(0),
            "x\t{\"item_id\":\"x\",\"b\":\"1,\\n2\"}\ny\t{\"item_id\":\"y\",\"b\":\"3\"}\n"
        ),
        "{}",
        run.stderr
    );
    let run = place.run(&["--csv", "--field", "b", "-k", "t.csv", "--", "cat"], "");
    assert_eq!(run.stdout, "1,\n2\n3\n", "{}", run.stderr);
}

#[test]
fn a_bad_line_is_named_and_what_stood_before_it_is_done() {
    let place = Place::new();
    place.write("list", "{\"input\":1}\n{\"input\":\n");
    for (arguments, input, says) in [
        (
            &["--jsonl", "list"][..],
            "",
            "error: list:2: EOF while parsing",
        ),
        (
            &["--jsonl"],
            "{\"input\":1}\n{\"inputs\":1}\n",
            "error: stdin:2: unknown field `inputs`",
        ),
        (
            &["--csv", "--field", "a"],
            "a,b\n1,2\n3\n",
            "error: stdin:3: the row has 1 fields",
        ),
    ] {
        let arguments = [arguments, &["--", "cat"]].concat();
        let run = place.run(&arguments, input);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(2), "1\n"),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(says),
            "{}\n  does not say {says}",
            run.stderr
        );
    }
    for arguments in [
        &["--jsonl", "--csv", "--", "cat"][..],
        &["--field", "a", "--", "cat"],
        &["--field", "a", "--lines", "--", "cat"],
    ] {
        assert_eq!(place.run(arguments, "x\n").code, Some(2));
    }
}

#[test]
fn a_row_is_an_item_before_the_next_one_is_there() {
    let place = Place::new();
    for (arguments, lines) in [
        (&["--csv", "--", "cat"][..], ["a", "1", "2"]),
        (
            &["--jsonl", "--", "cat"],
            ["", "{\"input\":{\"a\":\"1\"}}", "{\"input\":{\"a\":\"2\"}}"],
        ),
    ] {
        let mut run = Running::start(&mut place.command(arguments));
        run.say(lines[0]);
        for (i, line) in lines[1..].iter().enumerate() {
            run.say(line);
            assert_eq!(run.next_line(), format!("{{\"a\":\"{}\"}}", i + 1));
        }
        assert_eq!(run.finish().0, Some(0));
    }
}

#[test]
fn outputs_go_to_files_whose_names_lead_nowhere_else() {
    let place = Place::new();
    let ids = ["plain.txt", "../up", "/abs", "a/b", "."];
    let lines: Vec<_> = ids
        .iter()
        .map(|id| format!("{{\"item_id\":\"{id}\",\"input_text\":\"of {id}\"}}\n"))
        .collect();
    let run = place.run(
        &["--jsonl", "--out-dir", "new/out", "--", "cat"],
        lines.concat(),
    );
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), ""),
        "{}",
        run.stderr
    );
    let out = place.path("here/new/out");
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["%2E", "%2E.%2Fup", "%2Fabs", "a%2Fb", "plain.txt"]);
    assert_eq!(fs::read_to_string(out.join("a%2Fb")).unwrap(), "of a/b");

    let both = [
        "--out-dir",
        "two",
        "-o",
        "name",
        "--",
        "sh",
        "-c",
        "cat; test $SOONER_ITEM_ID = 0 || exit 65",
    ];
    let run = place.run(&both, "good\nbad\n");
    assert_eq!(run.code, Some(3));
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
    assert!(
        run.stderr.contains("item 1 failed: EXIT_65"),
        "{}",
        run.stderr
    );
    assert!(place.path("here/two/0").exists() && !place.path("here/two/1").exists());
    place.write("file", "");
    let run = place.run(&["--out-dir", "file/x", "--", "cat"], "x\n");
    assert_eq!(run.code, Some(73), "{}", run.stderr);
}

#[test]
fn a_reader_that_leaves_ends_the_run_like_any_filter() {
    let place = Place::new();
    let mut command = place.command(&["-o", "jsonl", "--", "cat"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // The run may be gone already.
    stdin.write_all(b"x\n").ok();
    let status = crate::harness::run::wait(&mut child);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(13)
    );
}
