//! The examples of the crate, each run to its end as its first lines say.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::ended;

/// Each checks what it shows; it must only end, and end well.
#[test]
fn every_example_runs_to_its_end() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["async_handler", "cpu_bound", "embedded", "own_server"]
    );
    for name in names {
        // Where these tests were built the examples are too, unless one test alone was asked for.
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["run", "--locked", "--quiet", "--example", &name])
            .arg("--target-dir")
            .arg(target_dir())
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let ended = ended(&mut cargo, b"");
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        assert!(!ended.stdout.is_empty(), "{name} shows nothing");
    }
}

/// This is `TARGET/debug/deps/it-…`.
fn target_dir() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.ancestors().nth(3).unwrap().to_owned()
}
