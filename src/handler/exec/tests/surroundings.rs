//! What a program is called with and what it finds around it.

use super::*;

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

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_leads_a_process_group_of_its_own() {
    let text = output_text(&shell("echo $$; cut -d' ' -f5 /proc/$$/stat"), "").await;
    let numbers: Vec<&str> = text.lines().collect();
    assert_eq!(numbers[0], numbers[1]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_inherits_no_descriptor_of_its_neighbours() {
    let script = "ls /proc/self/fd";
    let bare = Command::new("sh").args(["-c", script]).output().unwrap();
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
