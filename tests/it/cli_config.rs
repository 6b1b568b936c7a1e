//! `sooner config show`: what is in effect, and who said so.

use std::process::Command;

use crate::harness::run::Place;
use crate::harness::{Ended, ended};

fn show(place: &Place, arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    command
        .args(["config", "show"])
        .args(arguments)
        .current_dir(place.path("here"))
        .env_remove("RUST_LOG")
        .env("SOONER_QUEUES__DEFAULT__ITEM_TIMEOUT", "90s")
        .env("SOONER_SERVER", "http://elsewhere:1");
    ended(&mut command, b"")
}

#[test]
fn every_setting_is_shown_with_its_origin() {
    let place = Place::new();
    let file = "[limits]\ninput_bytes = \"1MiB\"\n\n[queues.default]\nslots = 2\nhandler = { exec = [\"cat\"] }\nenv = { API_KEY = \"s3cret\" }\n";
    place.write("sooner.toml", file);
    let run = show(
        &place,
        &[
            "--origin",
            "--listen",
            "127.0.0.1:7",
            "-j",
            "5",
            "--",
            "wc",
            "-l",
        ],
    );
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .map(|line| line.split(" # ").map(str::trim).collect())
        .collect();
    for expected in [
        ["server.listen = \"127.0.0.1:7\"", "--listen"],
        ["server.drain_grace = \"30s\"", "default"],
        ["limits.input_bytes = \"1MiB\"", "sooner.toml:2"],
        ["queues.default.slots = 5", "-j"],
        [
            "queues.default.item_timeout = \"1m 30s\"",
            "SOONER_QUEUES__DEFAULT__ITEM_TIMEOUT",
        ],
        ["queues.default.handler.exec = [\"wc\", \"-l\"]", "-- CMD"],
    ] {
        assert!(
            lines.contains(&expected.to_vec()),
            "{expected:?} is not in\n{}",
            run.stdout
        );
    }
    assert!(!run.stdout.contains("s3cret"), "{}", run.stdout);

    let plain = show(&place, &[]).stdout;
    assert!(
        plain.contains("queues.default.env.API_KEY = \"(hidden)\"\n"),
        "{plain}"
    );
    assert!(!plain.contains("s3cret") && !plain.contains('#'), "{plain}");
}

#[test]
fn a_wrong_setting_is_told_as_serve_tells_it() {
    let place = Place::new();
    place.write("sooner.toml", "[queues.default]\nslots = 0\n");
    let run = show(&place, &["--origin"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    let says = "error: sooner.toml: queues.default.slots: 0 is not between 1 and 65536\n";
    assert_eq!(run.stderr, says);
    assert_eq!(show(&place, &["--port", "1"]).code, Some(2));
    for (settings, says) in [
        ("max_crashes = 0", "max_crashes: 0 is not between 1 and 100"),
        (
            "retry = { jitter = 2.0 }",
            "retry.jitter: 2 is not between 0 and 1",
        ),
        (
            "retry = { non_retryable_reasons = [\"exit 1\"] }",
            "retry.non_retryable_reasons[0]: is not one of at most 64 names of A-Z, 0-9 and underscore",
        ),
    ] {
        place.write("sooner.toml", format!("[queues.default]\n{settings}\n"));
        let run = show(&place, &[]);
        let says = format!("error: sooner.toml: queues.default.{says}\n");
        assert_eq!((run.code, run.stderr), (Some(2), says));
    }
    place.write("sooner.toml", "[serve]\n");
    let run = show(&place, &[]);
    assert!(
        run.stderr
            .starts_with("error: sooner.toml:1: unknown field `serve`"),
        "{}",
        run.stderr
    );
}
