//! The contract with programs, each rule against real ones.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::base::clock::Timestamp;
use crate::domain::attempt::ItemError;
use crate::domain::ids::{BatchId, BatchNo, BatchUid, ItemKey, LeaseToken};
use crate::domain::item::ItemSpec;
use crate::domain::payload::{Body, Payload};
use crate::engine::Trace;

/// Longer than anything takes that works.
const SOON: Duration = Duration::from_secs(30);

fn settings(argv: &[&str]) -> ExecSettings {
    ExecSettings {
        command: argv.iter().map(ToString::to_string).collect(),
        environment: Environment::Inherit,
        kill_grace: SOON,
        output_bytes_max: 3 << 20,
        stderr_bytes_max: 4 << 10,
        content_type: String::new(),
    }
}

fn exec(argv: &[&str]) -> Exec {
    Exec::new(settings(argv)).unwrap()
}

fn shell(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

fn attempt(input: Payload) -> Attempt {
    let spec = ItemSpec {
        id: Some("pages/7".into()),
        input,
        ..ItemSpec::default()
    };
    let token = LeaseToken {
        item: ItemKey {
            batch: BatchNo(1),
            index: 6,
        },
        attempt: 2,
        nonce: 3,
    };
    Attempt {
        spec: Arc::new(spec),
        batch_id: BatchId::parse("nightly").unwrap(),
        batch_uid: BatchUid(Uuid::from_u128(9)),
        index: 6,
        number: 2,
        deadline: Timestamp(1_500),
        stop: CancellationToken::new(),
        trace: Trace { store: None, token },
    }
}

async fn outcome(exec: &Exec, input: Payload) -> Outcome {
    timeout(SOON, exec.handle(attempt(input)))
        .await
        .expect("the attempt ends")
}

async fn output(exec: &Exec, input: Payload) -> Body {
    succeeded(outcome(exec, input).await)
}

async fn output_text(exec: &Exec, input: &str) -> String {
    match output(exec, Payload::text(input)).await {
        Body::Text(text) => text.into(),
        Body::Data(data) => panic!("not text: {data:?}"),
    }
}

async fn error(exec: &Exec, input: Payload) -> ItemError {
    failed(outcome(exec, input).await)
}

fn succeeded(outcome: Outcome) -> Body {
    match outcome {
        Outcome::Succeeded(output) => output.body,
        other @ (Outcome::Failed(_) | Outcome::Released { .. }) => panic!("{other:?}"),
    }
}

fn failed(outcome: Outcome) -> ItemError {
    match outcome {
        Outcome::Failed(error) => error,
        other @ (Outcome::Succeeded(_) | Outcome::Released { .. }) => panic!("{other:?}"),
    }
}

/// A pipe that programs open as descriptor 3. It tells what they say there, and when all of them
/// are gone.
struct Witness {
    dir: tempfile::TempDir,
    pipe: pipe::Receiver,
}

impl Witness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        mknodat(CWD, Self::path(&dir), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let pipe = pipe::OpenOptions::new()
            .open_receiver(Self::path(&dir))
            .unwrap();
        Self { dir, pipe }
    }

    fn path(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("fifo")
    }

    /// A shell that holds the pipe and passes it on to its children.
    fn shell(&self, script: &str) -> Exec {
        shell(&self.script(script))
    }

    fn script(&self, script: &str) -> String {
        format!("exec 3>'{}'; {script}", Self::path(&self.dir).display())
    }

    /// Waits for the next line.
    async fn hears(&mut self, expected: &str) {
        let mut line = vec![0; expected.len() + 1];
        timeout(SOON, self.pipe.read_exact(&mut line))
            .await
            .expect(expected)
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&line), format!("{expected}\n"));
    }

    /// Waits until nobody holds the pipe any more, and returns what they still said.
    async fn is_alone(mut self) -> String {
        let mut last = String::new();
        timeout(SOON, self.pipe.read_to_string(&mut last))
            .await
            .expect("they leave")
            .unwrap();
        last
    }
}

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
async fn arguments_are_passed_as_they_are_and_never_through_a_shell() {
    let exec = exec(&["printf", "%s|", "$HOME", "a b", "; exit 3", "*", "", "x{}"]);
    assert_eq!(output_text(&exec, "").await, "$HOME|a b|; exit 3|*||x{}|");
    let named = shell("cat /proc/$$/cmdline");
    assert!(
        output_text(&named, "").await.starts_with("sh\0-c\0"),
        "the name is as given, too"
    );
}

#[tokio::test]
async fn a_placeholder_is_replaced_by_the_input_and_stdin_is_empty() {
    let exec = exec(&[
        "sh",
        "-c",
        r#"printf '%s|' "$@"; cat"#,
        "{}",
        "{}",
        "{}x",
        "{}",
    ]);
    assert_eq!(output_text(&exec, "a $b\n").await, "a $b\n|{}x|a $b\n|");
}

#[tokio::test]
async fn input_that_cannot_be_an_argument_fails_for_good() {
    let exec = exec(&["echo", "{}"]);
    for (input, reason) in [
        (Payload::text("a\0b"), "INPUT_NOT_TEXT"),
        (Payload::data(&b"a\0b"[..]), "INPUT_NOT_TEXT"),
        (Payload::data(&b"\xff"[..]), "INPUT_NOT_TEXT"),
        (Payload::text("x".repeat(1 << 20)), "INPUT_TOO_LARGE"),
    ] {
        let error = error(&exec, input).await;
        assert_eq!((&*error.reason, error.retryable), (reason, false));
    }
    assert_eq!(
        output_text(&exec, &"x".repeat(100_000)).await.len(),
        100_001
    );
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
    witness.is_alone().await;
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

#[tokio::test]
async fn a_program_learns_about_its_item_from_its_environment() {
    let mut attempt = attempt(Payload::default());
    let attributes = [("Colour", "red"), ("a.b-c", "1\n2"), ("9", "")];
    let attributes = attributes.map(|(name, value)| (name.into(), value.into()));
    let spec = ItemSpec {
        attributes: attributes.into(),
        ..(*attempt.spec).clone()
    };
    attempt.spec = Arc::new(spec);
    let listed = exec(&["env", "-0"]).handle(attempt).await;
    let Body::Text(listed) = succeeded(listed) else {
        panic!()
    };
    let of_item: Vec<&str> = listed
        .split('\0')
        .filter(|it| it.starts_with("SOONER_"))
        .collect();
    let expected = "SOONER_ATTEMPT=2|SOONER_ATTR_9=|SOONER_ATTR_A_B_C=1\n2|SOONER_ATTR_COLOUR=red|\
        SOONER_BATCH_ID=nightly|SOONER_DEADLINE=1970-01-01T00:00:01.5Z|\
        SOONER_IDEMPOTENCY_KEY=00000000-0000-0000-0000-000000000009/6|\
        SOONER_ITEM_ID=pages/7|SOONER_ITEM_INDEX=6";
    assert_eq!(of_item.join("|"), expected);
    assert!(
        listed.contains("\0CARGO_MANIFEST_DIR="),
        "the rest is inherited"
    );
}

#[tokio::test]
async fn an_attribute_with_nul_fails_for_good() {
    let mut attempt = attempt(Payload::default());
    let attributes = BTreeMap::from([("a".into(), "x\0".into())]);
    attempt.spec = Arc::new(ItemSpec {
        attributes,
        ..(*attempt.spec).clone()
    });
    let error = failed(exec(&["true"]).handle(attempt).await);
    assert_eq!((&*error.reason, error.retryable), ("INPUT_NOT_TEXT", false));
}

#[tokio::test]
async fn a_clean_environment_holds_what_is_named_and_no_more() {
    let names = |environment| async {
        let exec = Exec::new(ExecSettings {
            environment,
            ..settings(&["env"])
        })
        .unwrap();
        let text = output_text(&exec, "").await;
        text.lines()
            .filter(|it| !it.starts_with("SOONER_"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let bare = names(Environment::Clean {
        pass: Vec::new(),
        set: BTreeMap::new(),
    })
    .await;
    assert!(bare.iter().any(|it| it.starts_with("PATH=")));
    assert!(!bare.iter().any(|it| it.starts_with("CARGO")), "{bare:?}");
    let pass = ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "NOT_SET"]
        .map(str::to_owned)
        .into();
    let set = [("CARGO_PKG_NAME", "other"), ("MODE", "a=b")];
    let set = set
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let wider = names(Environment::Clean { pass, set }).await;
    let added: Vec<&String> = wider.iter().filter(|it| !bare.contains(it)).collect();
    let dir = concat!("CARGO_MANIFEST_DIR=", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(added, [dir, "CARGO_PKG_NAME=other", "MODE=a=b"]);
}

#[tokio::test]
async fn a_program_leads_a_process_group_of_its_own() {
    let text = output_text(&shell("echo $$; cut -d' ' -f5 /proc/$$/stat"), "").await;
    let numbers: Vec<&str> = text.lines().collect();
    assert_eq!(numbers[0], numbers[1]);
}

#[tokio::test]
async fn a_program_inherits_no_descriptor_of_its_neighbours() {
    let script = "ls /proc/self/fd";
    let bare = std::process::Command::new("sh")
        .args(["-c", script])
        .output()
        .unwrap();
    let mut witness = Witness::new();
    // All its pipes are open: it reads nothing, and there is more to read than they hold.
    let neighbour = witness.shell("echo up >&3; sleep 1000");
    tokio::select! {
        outcome = neighbour.handle(attempt(Payload::text("x".repeat(1 << 20)))) => panic!("{outcome:?}"),
        listed = async {
            witness.hears("up").await;
            output_text(&shell(script), "").await
        } => assert_eq!(listed.as_bytes(), bare.stdout),
    }
}

#[tokio::test]
async fn a_process_that_keeps_stdout_open_is_given_a_second_then_killed() {
    let witness = Witness::new();
    let script = "echo early; (read never < /dev/zero; sleep 1000) & exit 0";
    assert_eq!(output_text(&witness.shell(script), "").await, "early\n");
    witness.is_alone().await;
}

#[tokio::test]
async fn what_a_process_writes_within_that_second_counts() {
    // It writes when it has become an orphan: its program has ended, and been noticed or not.
    let orphan = "until grep -q \"^$$ (sh) Z\" /proc/$$/stat; do :; done; cat; echo late";
    let script = format!("echo early; exec 4<&0; ({orphan}) <&4 & exit 0");
    assert_eq!(
        output_text(&shell(&script), "input\n").await,
        "early\ninput\nlate\n"
    );
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed_even_if_it_holds_no_pipe() {
    for code in [0, 1] {
        let witness = Witness::new();
        let script = format!("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exit {code}");
        let outcome = outcome(&witness.shell(&script), Payload::default()).await;
        assert_eq!(matches!(outcome, Outcome::Succeeded(_)), code == 0);
        witness.is_alone().await;
    }
}

#[tokio::test]
async fn a_stop_asks_the_whole_group_to_leave_and_waits_for_the_last_of_it() {
    let mut witness = Witness::new();
    // The program dies of the signal at once; the process that it waited for tidies up.
    let tidy =
        "trap 'sleep 0.2; echo tidy >&3; exit' TERM; echo up >&3; while :; do sleep 0.01; done";
    let exec = witness.shell(&format!("({tidy}) >/dev/null 2>&1 & wait"));
    let attempt = attempt(Payload::default());
    let stop = attempt.stop.clone();
    let (outcome, ()) = tokio::join!(exec.handle(attempt), async {
        witness.hears("up").await;
        stop.cancel();
        witness.hears("tidy").await;
    });
    assert_eq!(&*failed(outcome).reason, "INTERRUPTED");
    assert_eq!(witness.is_alone().await, "");
}

#[tokio::test]
async fn a_program_that_is_stopped_fails_however_it_exits_and_may_say_why() {
    let mut witness = Witness::new();
    let script = "trap 'yes | head -c 4000000; echo bye >&2; exit 0' TERM; echo up >&3;
        while :; do sleep 0.01; done";
    let exec = witness.shell(script);
    let attempt = attempt(Payload::default());
    let stop = attempt.stop.clone();
    let (outcome, ()) = tokio::join!(exec.handle(attempt), async {
        witness.hears("up").await;
        stop.cancel();
    });
    let error = failed(outcome);
    assert_eq!(&*error.reason, "INTERRUPTED");
    // A shell may note there that its child was terminated, too.
    assert!(error.message.ends_with("bye"), "{}", error.message);
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
    let attempt = attempt(Payload::default());
    let stop = attempt.stop.clone();
    let (outcome, ()) = tokio::join!(exec.handle(attempt), async {
        witness.hears("up").await;
        stop.cancel();
    });
    assert_eq!(&*failed(outcome).message, "stopped before it ended");
    witness.is_alone().await;
}

#[tokio::test]
async fn a_program_that_has_exited_before_the_stop_has_its_outcome() {
    let mut witness = Witness::new();
    let orphan =
        "until grep -q \"^$$ (sh) Z\" /proc/$$/stat; do :; done; echo over >&3; sleep 1000";
    let exec = witness.shell(&format!("echo early; ({orphan}) & exit 0"));
    let attempt = attempt(Payload::default());
    let stop = attempt.stop.clone();
    let (outcome, ()) = tokio::join!(exec.handle(attempt), async {
        witness.hears("over").await;
        stop.cancel();
    });
    assert_eq!(succeeded(outcome), Body::Text("early\n".into()));
    witness.is_alone().await;
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

#[tokio::test]
async fn a_dropped_attempt_leaves_nobody_alive() {
    let scripts = [
        "trap '' TERM; echo up >&3; sleep 1000",
        "trap '' TERM; (echo up >&3; sleep 1000) & wait",
        "(until grep -q \"^$$ (sh) Z\" /proc/$$/stat; do :; done; echo up >&3; sleep 1000) & exit 0",
    ];
    for script in scripts {
        let mut witness = Witness::new();
        let exec = witness.shell(script);
        tokio::select! {
            outcome = exec.handle(attempt(Payload::text("x".repeat(1 << 20)))) => panic!("{outcome:?}"),
            () = witness.hears("up") => {}
        }
        witness.is_alone().await;
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
    witness.is_alone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_attempts_at_once_do_not_mix() {
    let exec = exec(&["cat"]);
    let inputs: Vec<String> = (0..64_usize)
        .map(|at| at.to_string().repeat(at * 100))
        .collect();
    let outputs = inputs.iter().map(|input| output_text(&exec, input));
    assert_eq!(futures_util::future::join_all(outputs).await, inputs);
}

#[tokio::test]
async fn an_orphaned_group_is_ended_if_it_computes_the_item_and_only_then() {
    let mut witness = Witness::new();
    let script = witness.script("echo up >&3; sleep 1000 & exit 0");
    let mut leader = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("SOONER_IDEMPOTENCY_KEY", "uid/12")
        .process_group(0)
        .spawn()
        .unwrap();
    let group = leader.id();
    witness.hears("up").await;
    leader.wait().unwrap();
    for other in ["uid/1", "uid/123", "id/12", ""] {
        assert!(!end_orphan(group, other), "{other}");
    }
    assert!(
        !end_orphan(0, "uid/12") && !end_orphan(1, "uid/12") && !end_orphan(u32::MAX, "uid/12")
    );
    assert!(
        end_orphan(group, "uid/12"),
        "its leader has gone, but its members are there"
    );
    assert_eq!(witness.is_alone().await, "");
    assert!(!end_orphan(group, "uid/12"), "there is nobody any more");
}

#[tokio::test]
async fn a_handler_shows_its_command_and_not_its_environment() {
    let set = BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]);
    let environment = Environment::Clean {
        pass: Vec::new(),
        set,
    };
    let exec = Exec::new(ExecSettings {
        environment,
        ..settings(&["cat"])
    })
    .unwrap();
    assert_eq!(format!("{exec:?}"), r#"Exec { command: ["cat"], .. }"#);
    assert_eq!(output_text(&exec, "ok").await, "ok");
}
