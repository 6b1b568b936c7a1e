//! What passes between a program and its attempt while it runs, and what its exit means.

use super::*;

#[tokio::test]
async fn stdout_is_the_output_as_it_is() {
    let cat = exec(&["cat"]);
    assert_eq!(
        output(&cat, Payload::text(" a\n\n")).await,
        Body::Text(" a\n\n".into())
    );
    assert_eq!(
        output(&cat, Payload::data(&b"ok"[..])).await,
        Body::Text("ok".into())
    );
    assert_eq!(
        output(&cat, Payload::data(&b"\xff\0"[..])).await,
        Body::Data((&b"\xff\0"[..]).into())
    );
    assert_eq!(
        output(&cat, Payload::default()).await,
        Body::Text("".into())
    );
}

#[tokio::test]
async fn the_output_has_the_media_type_that_is_configured() {
    let content_type = "image/png".to_owned();
    let exec = Exec::new(ExecSettings {
        content_type,
        ..settings(&["cat"])
    })
    .unwrap();
    let Outcome::Succeeded(output) = outcome(&exec, Payload::text("x")).await else {
        panic!()
    };
    assert_eq!(&*output.content_type, "image/png");
}

#[tokio::test]
async fn input_and_output_larger_than_any_pipe_pass_through() {
    let input: Vec<u8> = (0..2 << 20)
        .map(|at: u32| at.to_le_bytes()[at as usize % 3])
        .collect();
    let echoed = output(&exec(&["cat"]), Payload::data(input.clone())).await;
    assert!(echoed == Body::Data(input.into()));
}

#[tokio::test]
async fn input_that_nobody_reads_is_no_failure() {
    let input = "x".repeat(2 << 20);
    for script in [
        "echo done",
        "exec <&-; echo done",
        "head -c 1 >/dev/null; echo done",
    ] {
        assert_eq!(
            output_text(&shell(script), &input).await,
            "done\n",
            "{script}"
        );
    }
}

#[tokio::test]
async fn an_exit_code_is_the_reason_and_the_end_of_stderr_the_message() {
    let boom = error(
        &shell("echo partial; echo boom >&2; exit 3"),
        Payload::default(),
    )
    .await;
    assert_eq!(boom, ItemError::handler("EXIT_3", "boom", true));
    let silent = error(&shell("exit 65"), Payload::default()).await;
    assert_eq!(
        silent,
        ItemError::handler("EXIT_65", "exited with code 65", false)
    );
    let chatty = shell("echo warning >&2; echo fine");
    assert_eq!(
        output_text(&chatty, "").await,
        "fine\n",
        "stderr does not make a failure"
    );
}

#[tokio::test]
async fn a_signal_is_the_reason_and_sigpipe_has_its_default_in_the_program() {
    for name in ["KILL", "TERM", "ABRT", "PIPE"] {
        let error = error(
            &shell(&format!("kill -{name} $$; exit 0")),
            Payload::default(),
        )
        .await;
        let (reason, message) = (format!("SIGNAL_{name}"), format!("ended by signal {name}"));
        assert_eq!(error, ItemError::handler(&reason, &message, true));
    }
}

#[tokio::test]
async fn the_last_of_a_long_stderr_is_kept_and_whole_in_its_characters() {
    let script = "yes aaaaaaa | head -c 300000 >&2; printf 'b%s\n' \"$(cat)\" >&2; exit 1";
    let error = error(&shell(script), Payload::text("ö".repeat(2_047))).await;
    // 4096 bytes: the last newline, 2047 times two bytes, and `b`.
    assert_eq!(&*error.message, format!("b{}", "ö".repeat(2_047)));
}

#[tokio::test]
async fn a_cut_character_and_wrong_bytes_do_not_cost_the_end_of_the_message() {
    let cut = error(
        &shell("cat >&2; exit 1"),
        Payload::text("ö".repeat(4_096) + "x"),
    )
    .await;
    assert_eq!(&*cut.message, "ö".repeat(2_047) + "x");
    let mut wrong = vec![0xff; 4_090];
    wrong.extend(b"reason");
    let error = error(&shell("cat >&2; exit 1"), Payload::data(wrong)).await;
    assert!(error.message.ends_with("\u{fffd}reason") && error.message.len() > 4_000);
}

#[tokio::test]
async fn output_over_its_cap_fails_for_good_and_the_program_is_killed() {
    let witness = Witness::new();
    let error = error(
        &witness.shell("trap '' TERM; cat /dev/zero"),
        Payload::default(),
    )
    .await;
    assert_eq!(
        (&*error.reason, error.retryable),
        ("OUTPUT_TOO_LARGE", false)
    );
    assert_eq!(&*error.message, "the output has more than 3145728 bytes");
    witness.alone().await;
}

#[tokio::test]
async fn the_cap_itself_is_allowed_and_one_byte_more_is_not_however_the_program_ends() {
    let capped = |cap| {
        let settings = settings(&["sh", "-c", "printf 12345; exit $(cat)"]);
        Exec::new(ExecSettings {
            output_bytes_max: cap,
            ..settings
        })
        .unwrap()
    };
    assert_eq!(output_text(&capped(5), "0").await, "12345");
    for code in ["0", "1"] {
        let error = error(&capped(4), Payload::text(code)).await;
        assert_eq!(&*error.reason, "OUTPUT_TOO_LARGE");
    }
    let capped = Exec::new(ExecSettings {
        output_bytes_max: 0,
        ..settings(&["true"])
    })
    .unwrap();
    assert_eq!(output_text(&capped, "").await, "");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_failure_worth_another_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tool");
    std::fs::copy("/bin/sh", &path).unwrap();
    let exec = exec(&[path.to_str().unwrap(), "-c", "exit 0"]);
    std::fs::remove_file(&path).unwrap();
    let error = error(&exec, Payload::default()).await;
    assert_eq!((&*error.reason, error.retryable), ("SPAWN_FAILED", true));
    assert_eq!(
        *error.message,
        format!("cannot start {path:?}: No such file or directory (os error 2)")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_attempts_at_once_do_not_mix() {
    let exec = exec(&["cat"]);
    let inputs: Vec<String> = (0..24_usize)
        .map(|at| at.to_string().repeat(at * 100))
        .collect();
    let outputs = inputs.iter().map(|input| output_text(&exec, input));
    assert_eq!(futures_util::future::join_all(outputs).await, inputs);
}
