//! What cannot start says why in one line, ends with the code that scripts know, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Ended, ServerSetup, all, ended, item};

/// A free port, and everything where the setup has it.
fn serve(setup: &ServerSetup, listen: &str) -> Command {
    // Writes the configuration.
    drop(setup.command());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    command
        .args(["serve", "--listen", listen])
        .args(["--ops-listen", "127.0.0.1:0", "--config"])
        .arg(setup.path("sooner.toml"))
        .arg("--data-dir")
        .arg(setup.data_dir())
        .current_dir(setup.path(""));
    command
}

/// Starts what cannot start; answers the one line it says.
#[track_caller]
fn refusal(command: &mut Command, code: i32) -> String {
    let Ended {
        code: ended_with,
        stdout,
        stderr,
        ..
    } = ended(command, b"");
    assert_eq!(ended_with, Some(code), "{stderr}");
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    stderr
}

/// All files under a directory with their contents.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Refused as `refusal` has it, with every file of the data directory as it was.
#[track_caller]
fn refusal_changes_nothing(setup: &ServerSetup, code: i32) -> String {
    let before = files(&setup.data_dir());
    let line = refusal(&mut serve(setup, "127.0.0.1:0"), code);
    let after = files(&setup.data_dir());
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    assert!(before == after, "{line}");
    line
}

/// A server that has computed `batches` batches of one item each, one after the other.
async fn used(setup: &ServerSetup, batches: usize) -> crate::harness::Server {
    let server = setup.start();
    let mut client = server.client().await;
    for i in 0..batches {
        let mut results = client
            .submit(&format!("batch-{i}"), vec![item("x")])
            .await
            .unwrap();
        all(&mut results).await;
    }
    server
}

async fn has_all(setup: &ServerSetup, batches: usize) {
    let server = setup.start();
    let mut client = server.client().await;
    for i in 0..batches {
        assert_eq!(client.results(&format!("batch-{i}"), 0).await.len(), 1);
    }
}

#[tokio::test]
async fn a_server_says_where_it_listens_and_where_its_data_is() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let (address, ops) = (server.address().to_owned(), server.ops_address().to_owned());
    assert_eq!(server.terminate(), Some(0));
    let line = format!(
        "listening on {address} (ops {ops}), data in {}",
        setup.data_dir().display()
    );
    assert!(setup.log().lines().any(|it| it == line), "{}", setup.log());
}

#[test]
fn a_port_in_use_is_refused_before_any_file_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = ServerSetup::echo();
    let line = refusal(&mut serve(&setup, &address), 69);
    assert!(
        line.contains(&address) && line.contains("--listen"),
        "{line}"
    );
    assert!(!setup.data_dir().exists());
}

#[test]
fn an_ops_port_in_use_is_refused_before_any_file_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = ServerSetup::new(&format!("[server]\nops_listen = \"{address}\"\n"));
    drop(setup.command());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(setup.path(""));
    let line = refusal(&mut command, 69);
    assert!(
        line.contains(&address) && line.contains("--ops-listen"),
        "{line}"
    );
    assert!(!setup.path("sooner-data").exists());
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let setup = ServerSetup::echo();
    let server = used(&setup, 3).await;
    let line = refusal_changes_nothing(&setup, 69);
    assert!(line.contains(setup.data_dir().to_str().unwrap()), "{line}");
    assert!(line.contains("in use"), "{line}");
    let mut client = server.client().await;
    assert_eq!(
        client.results("batch-2", 0).await.len(),
        1,
        "the first server serves on"
    );
}

#[test]
fn a_data_path_that_cannot_be_a_directory_is_refused() {
    let setup = ServerSetup::echo();
    fs::write(setup.data_dir(), "precious").unwrap();
    let line = refusal(&mut serve(&setup, "127.0.0.1:0"), 73);
    assert!(line.contains(setup.data_dir().to_str().unwrap()), "{line}");
    assert_eq!(fs::read_to_string(setup.data_dir()).unwrap(), "precious");

    let below = setup.data_dir().join("below");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(["--ops-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&below);
    let line = refusal(command.current_dir(setup.path("")), 73);
    assert!(line.contains(below.to_str().unwrap()), "{line}");
}

#[tokio::test]
async fn a_store_of_another_format_is_refused_until_it_is_its_own_again() {
    let setup = ServerSetup::echo();
    assert_eq!(used(&setup, 2).await.terminate(), Some(0));
    let database = setup.data_dir().join("sooner.db");
    let whole = fs::read(&database).unwrap();
    // user_version and application_id are big-endian numbers in the header.
    let (version, application) = (60..64, 68..72);
    for (place, bytes, says) in [
        (version, 99_i32, "format 99"),
        (application, 7, "another program"),
    ] {
        let mut other = whole.clone();
        other[place].copy_from_slice(&bytes.to_be_bytes());
        fs::write(&database, other).unwrap();
        let line = refusal_changes_nothing(&setup, 65);
        assert!(line.contains(says) && line.contains("sooner.db"), "{line}");
    }
    for (damaged, says) in [
        (b"hello".to_vec(), "damaged"),
        (vec![b'x'; whole.len()], "damaged"),
        (whole[..whole.len() - 4096].to_vec(), "damaged"),
    ] {
        fs::write(&database, damaged).unwrap();
        let line = refusal_changes_nothing(&setup, 65);
        assert!(line.contains(says) && line.contains("sooner.db"), "{line}");
    }
    fs::write(&database, whole).unwrap();
    has_all(&setup, 2).await;
}

#[tokio::test]
async fn a_damaged_log_is_refused_until_it_is_whole_again() {
    let setup = ServerSetup::echo();
    used(&setup, 20).await.kill();
    let log = setup.data_dir().join("sooner.db-wal");
    let whole = fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&log, damaged).unwrap();
    let line = refusal_changes_nothing(&setup, 65);
    assert!(line.contains("sooner.db-wal is damaged"), "{line}");
    fs::write(&log, whole).unwrap();
    has_all(&setup, 20).await;
}

#[tokio::test]
async fn a_log_whose_database_is_gone_is_refused() {
    let setup = ServerSetup::echo();
    used(&setup, 2).await.kill();
    let database = setup.data_dir().join("sooner.db");
    let whole = fs::read(&database).unwrap();
    fs::remove_file(&database).unwrap();
    let line = refusal_changes_nothing(&setup, 65);
    assert!(line.contains("sooner.db"), "{line}");
    fs::write(&database, whole).unwrap();
    has_all(&setup, 2).await;
}

#[test]
fn a_handler_that_does_not_exist_is_refused() {
    let setup = ServerSetup::new("[queues.thumbs]\nhandler = { exec = [\"no-such-program\"] }\n");
    let line = refusal_changes_nothing(&setup, 2);
    assert!(
        line.contains("thumbs") && line.contains("no-such-program"),
        "{line}"
    );
    assert!(!setup.data_dir().exists());

    let setup = ServerSetup::echo();
    let line = refusal(
        serve(&setup, "127.0.0.1:0").args(["--", "./no-such-program"]),
        2,
    );
    assert!(line.contains("./no-such-program"), "{line}");
    assert!(!setup.data_dir().exists());
}

#[test]
fn a_wrong_configuration_is_refused_by_file_line_and_key() {
    for (config, place, says) in [
        ("[server\n", ":1", ""),
        ("[server]\nio_threads = 1\nlissen = 1\n", ":3", "lissen"),
        ("[server]\n\n[nonsense]\n", ":3", "nonsense"),
        ("[server]\nio_threads = \"many\"\n", ":2", "many"),
        (
            "[queues.a]\nslots = 1\nhandler = { exek = [\"cat\"] }\n",
            ":3",
            "exek",
        ),
        ("[queues.a]\n[queues.a]\n", ":2", "duplicate"),
        ("[server]\nio_threads = 0\n", "", "server.io_threads"),
        ("[server]\ndrain_grace = \"soon\"\n", "", "soon"),
        (
            "[queues.a]\nitem_timeout = \"-1s\"\n",
            "",
            "queues.a.item_timeout",
        ),
        ("[queues.a]\nslots = 0\n", "", "queues.a.slots"),
        (
            "[queues.a]\nretry = { jitter = 2.0 }\n",
            "",
            "queues.a.retry.jitter",
        ),
        ("[queues.a]\nhandler = {}\n", "", "queues.a.handler"),
        (
            "[queues.a]\nhandler = { exec = [\"cat\"], echo = {} }\n",
            "",
            "queues.a.handler",
        ),
        ("[queues.\"a b\"]\n", "", "a b"),
        (
            "[limits]\ninput_bytes = \"65MiB\"\n",
            "",
            "limits.input_bytes",
        ),
        ("[limits]\nqueued_bytes = 0\n", "", "limits.queued_bytes"),
        ("[limits]\nqueued_bytes = 0.5\n", ":2", "number of bytes"),
        ("[limits]\nsubmit_items = 0\n", "", "limits.submit_items"),
        ("[log]\nitems = \"some\"\n", "", "log.items"),
        ("[log]\nfilter = \"sooner=loud\"\n", "", "log.filter"),
    ] {
        let setup = ServerSetup::new(config);
        let line = refusal_changes_nothing(&setup, 2);
        let file = setup.path("sooner.toml").display().to_string() + place;
        assert!(
            line.contains(&file) && line.contains(says),
            "{config:?}: {line}"
        );
        assert!(!setup.data_dir().exists());
    }
}

#[test]
fn a_wrong_variable_is_refused_by_its_name() {
    for (name, value) in [
        ("SOONER_SERVER__LISSEN", "x"),
        ("SOONER_SERVER__IO_THREADS", "many"),
        ("SOONER_NONSENSE__KEY", "1"),
    ] {
        let setup = ServerSetup::echo();
        let line = refusal(serve(&setup, "127.0.0.1:0").env(name, value), 2);
        assert!(line.contains(name), "{line}");
        assert!(!setup.data_dir().exists());
    }
}

#[test]
fn a_store_of_an_unknown_kind_is_refused() {
    let setup = ServerSetup::new("[store]\nurl = \"mysql:x\"\n");
    drop(setup.command());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    // Without --data-dir, which would win over the file; the file's name is the default one.
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(setup.path(""));
    let line = refusal(&mut command, 2);
    assert!(
        line.contains("sooner.toml") && line.contains("store.url"),
        "{line}"
    );
}

#[test]
fn a_configuration_that_is_not_there_is_refused() {
    let setup = ServerSetup::echo();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    let missing = setup.path("missing.toml");
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(["--ops-listen", "127.0.0.1:0", "--config"])
        .arg(&missing);
    let line = refusal(command.current_dir(setup.path("")), 2);
    assert!(line.contains(missing.to_str().unwrap()), "{line}");
    assert!(!setup.path("sooner-data").exists());
}

#[test]
fn an_address_that_others_can_reach_needs_to_be_allowed() {
    let setup = ServerSetup::echo();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let line = refusal(&mut serve(&setup, address), 2);
        assert!(
            line.contains(address) && line.contains("--insecure"),
            "{line}"
        );
    }
    let line = refusal(&mut serve(&setup, "somewhere"), 2);
    assert!(
        line.contains("somewhere") && line.contains("--listen"),
        "{line}"
    );
    let ops = ServerSetup::new("[server]\nops_listen = \"0.0.0.0:0\"\n");
    drop(ops.command());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sooner"));
    let line = refusal(command.arg("serve").current_dir(ops.path("")), 2);
    assert!(
        line.contains("server.ops_listen") && line.contains("--insecure"),
        "{line}"
    );
    // Allowed, it gets as far as the port.
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refusal(serve(&setup, &address).arg("--insecure"), 69);
    assert!(!setup.data_dir().exists());
}
