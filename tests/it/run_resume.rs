//! `sooner run --resume`: what was interrupted goes on.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::harness::Gates;
use crate::harness::run::{Mark, Place, Running, patiently, wait};

/// A command that notes the items that it runs, and waits at gates.
const NOTED: [&str; 5] = [
    "--",
    "sh",
    "-c",
    "echo $SOONER_ITEM_ID >> ran; exec cat \"$0\"",
    "{}",
];

/// A place with a run of three lines: the first is printed, the second waits at a gate, the input is
/// still open.
struct Held {
    place: Place,
    gates: Gates,
    run: Running,
    input: String,
}

impl Held {
    /// The arguments stand before the command.
    fn new(arguments: &[&str]) -> Self {
        let place = Place::new();
        let gates = Gates::in_directory(place.path("gates"), ["gate"]);
        let lines = [
            gates.free_path("first"),
            gates.path("gate"),
            gates.free_path("last"),
        ];
        let input = lines.map(|line| line + "\n").concat();
        let mut run = Running::start(&mut place.command(&[arguments, &NOTED].concat()));
        for line in input.lines().take(2) {
            run.say(line);
        }
        assert_eq!(run.next_line(), "first");
        Self {
            place,
            gates,
            run,
            input,
        }
    }

    /// kill -9, with the second item running and the first noted as printed.
    async fn kill(mut self) -> (Place, Gates, String) {
        let held = self.gates.arrival("gate").await;
        let journals = self.place.noted().into_iter();
        let journal = journals.chain([self.place.path("here/journal")]).next();
        let journal = journal.unwrap();
        patiently(|| Mark::of(&journal).printed == 1);
        self.run.kill();
        drop(held);
        (self.place, self.gates, self.input)
    }
}

fn ran(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.path("here/ran")).unwrap();
    let mut ran: Vec<_> = text.lines().map(str::to_owned).collect();
    ran.sort_unstable();
    ran
}

fn with<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &NOTED].concat()
}

/// The gate is open for whoever comes from now on.
fn lay_open(gates: &Gates) {
    fs::remove_file(gates.path("gate")).unwrap();
    gates.free_path("gate");
}

#[tokio::test]
async fn what_was_not_printed_is_printed_and_nothing_done_runs_again() {
    let (place, gates, input) = Held::new(&["-j1"]).kill().await;
    lay_open(&gates);
    let run = place.run(&with(&["--resume"]), &input);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "gate\nlast\n"),
        "{}",
        run.stderr
    );
    // How many have their result depends on how soon it looks: the gate is open.
    assert!(
        run.stderr
            .contains("items have their result, 1 are printed, of 2 read so far"),
        "{}",
        run.stderr
    );
    assert_eq!(ran(&place), ["0", "1", "1", "2"]);
    assert_eq!(place.journals(), 0, "nothing is kept of a success");
    let run = place.run(&with(&["--resume"]), &input);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert!(run.stderr.contains("nothing to resume"), "{}", run.stderr);
    assert_eq!(place.journals(), 0);
}

#[tokio::test]
async fn all_prints_what_was_printed_too() {
    let (place, gates, input) = Held::new(&["-j1"]).kill().await;
    lay_open(&gates);
    let run = place.run(&with(&["--resume", "--all"]), &input);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "first\ngate\nlast\n"),
        "{}",
        run.stderr
    );
    assert_eq!(ran(&place), ["0", "1", "1", "2"]);
    let run = place.run(&with(&["--all"]), &input);
    assert_eq!(
        run.code,
        Some(2),
        "there is nothing to add to without --resume"
    );
}

#[tokio::test]
async fn the_order_of_the_input_goes_on_at_its_index() {
    let mut held = Held::new(&["-j2", "--keep-order"]);
    let last = held.input.lines().last().unwrap().to_owned();
    held.run.say(&last);
    let (place, gates, input) = held.kill().await;
    let run = place.run(&with(&["--resume"]), &input);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert!(run.stderr.contains("--keep-order"), "{}", run.stderr);
    lay_open(&gates);
    let run = place.run(&with(&["--resume", "-k"]), &input);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "gate\nlast\n"),
        "{}",
        run.stderr
    );
}

#[tokio::test]
async fn a_changed_input_is_refused_and_the_item_named() {
    let (place, gates, input) = Held::new(&["-j1"]).kill().await;
    lay_open(&gates);
    let changed = input.replace("gates/gate", "gates/last");
    let begun = input.lines().next().unwrap();
    for (input, says) in [
        (changed.as_str(), "item 1 of the input is not what it was"),
        (begun, "item 1 of the input is missing"),
        ("", "item 0 of the input is missing"),
    ] {
        let run = place.run(&with(&["--resume", "--all"]), input);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(
            run.stderr.contains(says),
            "{says:?} is not in {}",
            run.stderr
        );
        assert!(
            run.stderr.contains("with --resume goes on"),
            "{}",
            run.stderr
        );
    }
    for option in [["--max-attempts", "7"], ["--item-timeout", "7s"]] {
        let run = place.run(&with(&[&["--resume"][..], &option].concat()), &input);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains(option[0]), "{}", run.stderr);
    }
    let run = place.run(&with(&["--resume", "--all"]), &input);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "first\ngate\nlast\n"),
        "{}",
        run.stderr
    );
    assert_eq!(ran(&place).iter().filter(|id| *id == "2").count(), 1);
}

#[tokio::test]
async fn an_input_that_was_read_to_its_end_is_not_read_again() {
    let place = Place::new();
    let gates = Gates::in_directory(place.path("gates"), ["gate"]);
    place.write(
        "list",
        [gates.free_path("first"), gates.path("gate")].join("\n"),
    );
    let mut run = Running::start(&mut place.command(&with(&["-j1", "list"])));
    assert_eq!(run.next_line(), "first");
    let held = gates.arrival("gate").await;
    // Read to its end by now: the note of it comes behind the seal, which nobody else sees.
    let journal = place.noted().remove(0);
    let mark = Mark {
        printed: 1,
        is_read: true,
    };
    patiently(|| Mark::of(&journal) == mark);
    run.kill();
    drop(held);
    lay_open(&gates);
    fs::remove_file(place.path("here/list")).unwrap();
    let run = place.run(&with(&["--resume", "list"]), "");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "gate\n"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("the input is not read again"),
        "{}",
        run.stderr
    );
}

#[tokio::test]
async fn a_new_run_begins_afresh_and_tells_of_the_interrupted_one() {
    let (place, gates, input) = Held::new(&["-j1"]).kill().await;
    lay_open(&gates);
    let run = place.run(&with(&[]), &input);
    assert_eq!(
        (run.code, run.stdout.lines().count()),
        (Some(0), 3),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr
            .starts_with("an interrupted run of this command can be resumed with --resume\n"),
        "{}",
        run.stderr
    );
    let other = place.run(&["--", "cat"], "x\n");
    assert!(
        !other.stderr.contains("--resume"),
        "that of another command: {}",
        other.stderr
    );
    let run = place.run(&with(&["--resume"]), &input);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "gate\nlast\n"),
        "{}",
        run.stderr
    );
}

#[tokio::test]
async fn two_runs_at_once_do_not_disturb_each_other() {
    let held = Held::new(&["-j1"]);
    let gate = held.gates.arrival("gate").await;
    let first = format!("{}\n", held.gates.path("first"));
    let beside = held.place.run(&with(&[]), &first);
    assert_eq!((beside.code, beside.stdout.as_str()), (Some(0), "first\n"));
    assert!(!beside.stderr.contains("--resume"), "{}", beside.stderr);
    let run = held.place.run(&with(&["--resume"]), &held.input);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert!(run.stderr.contains("still under way"), "{}", run.stderr);
    gate.open();
    assert_eq!(held.run.next_line(), "gate");
    assert_eq!(held.run.finish().0, Some(0));
    assert_eq!(held.place.journals(), 0);
}

#[tokio::test]
async fn signals_and_a_closed_output_can_be_resumed() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let held = Held::new(&["-j1"]);
        let gate = held.gates.arrival("gate").await;
        held.run.signal(signal);
        assert!(held.run.next_remark().contains("stopping"));
        gate.open();
        assert_eq!(held.run.next_line(), "gate");
        let (_, stderr) = held.run.end();
        assert!(stderr.contains("with --resume goes on"), "{stderr}");
        let run = held.place.run(&with(&["--resume"]), &held.input);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(0), "last\n"),
            "{}",
            run.stderr
        );
        assert_eq!(ran(&held.place), ["0", "1", "2"]);
    }
    let place = Place::new();
    let mut command = place.command(&["-q", "--", "cat"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    writeln!(child.stdin.as_mut().unwrap(), "x").unwrap();
    assert_eq!(wait(&mut child).signal(), Some(Signal::PIPE.as_raw()));
    let run = place.run(&["--resume", "--", "cat"], "x\ny\n");
    let printed: Vec<_> = run.stdout.lines().collect();
    assert_eq!(
        (run.code, printed),
        (Some(0), vec!["x", "y"]),
        "{}",
        run.stderr
    );
}

/// A reader that sleeps over a pipe that is full: no cursor is ahead of what it can still take.
#[test]
fn what_is_stuck_on_its_way_out_is_printed_again() {
    const ITEMS: usize = 200;
    let place = Place::new();
    let lines = |number: usize| format!("{number:0>4000}\n");
    place.write("list", (0..ITEMS).map(lines).collect::<Vec<_>>().concat());
    let arguments = ["-q", "list", "--", "sh", "-c", "echo >> ran; cat"];
    let mut command = place.command(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    patiently(|| fs::metadata(place.path("here/ran")).is_ok_and(|ran| ran.len() == ITEMS as u64));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut taken = String::new();
    stdout.read_to_string(&mut taken).unwrap();
    let printed = Mark::of(&place.noted()[0]).printed as usize;
    let whole = taken.matches('\n').count();
    assert!(
        0 < printed && printed <= whole && whole < ITEMS,
        "{printed} of {whole}"
    );
    let run = place.run(&[&["--resume"][..], &arguments].concat(), "");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let all = taken.lines().take(printed).chain(run.stdout.lines());
    let mut all: Vec<_> = all.map(|line| format!("{line}\n")).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..ITEMS).map(lines)), "each once");
}

#[test]
fn items_that_failed_before_count_in_the_exit_code() {
    let place = Place::new();
    let script = "read code; exit $code";
    let arguments = ["-j1", "--", "sh", "-c", script];
    let mut run = Running::start(&mut place.command(&arguments));
    run.say("65");
    assert!(run.next_remark().contains("item 0 failed: EXIT_65"));
    run.kill();
    let run = place.run(&[&["--resume"][..], &arguments].concat(), "65\n0\n");
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let told = run.stderr.contains("item 0 failed");
    // Told again only if the kill came before the cursor was saved.
    assert!(
        !told || run.stderr.contains("0 are printed"),
        "{}",
        run.stderr
    );
    let run = place.run(&[&["--resume"][..], &arguments].concat(), "65\n0\n");
    assert_eq!(run.code, Some(2), "it is over: {}", run.stderr);
}

/// Another command must never meet the items of an interrupted run.
#[tokio::test]
async fn a_data_directory_goes_on_with_its_own_run_only() {
    let dir = ["--data-dir", "journal"];
    let nothing = Place::new().run(&with(&[&["--resume"][..], &dir].concat()), "");
    assert_eq!(nothing.code, Some(2));
    assert!(
        nothing.stderr.contains("nothing to resume"),
        "{}",
        nothing.stderr
    );
    let (place, gates, input) = Held::new(&[&["-j1"][..], &dir].concat()).kill().await;
    lay_open(&gates);
    let resumed = [&["--resume"][..], &dir].concat();
    for (arguments, says) in [
        (
            [&resumed[..], &["--", "cat"]].concat(),
            "its command is sh -c",
        ),
        ([&resumed[..], &["list"], &NOTED].concat(), "its input is -"),
        ([&dir[..], &["--", "cat"]].concat(), "unfinished items"),
        (with(&dir), "--resume"),
    ] {
        place.write("list", &input);
        let run = place.run(&arguments, &input);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(2), ""),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(says),
            "{says:?} is not in {}",
            run.stderr
        );
    }
    assert_eq!(ran(&place), ["0", "1"]);
    let run = place.run(&with(&resumed), &input);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "gate\nlast\n"),
        "{}",
        run.stderr
    );
    let run = place.run(&with(&resumed), &input);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    // The next run in it is a run of its own.
    let run = place.run(&[&dir[..], &["--", "cat"]].concat(), "x\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "x\n"),
        "{}",
        run.stderr
    );
    assert!(!place.path("state").exists());
}

/// All that was accepted has its result, but there is input that was not read.
#[test]
fn a_data_directory_keeps_an_interrupted_run_without_unfinished_items() {
    let place = Place::new();
    let arguments = ["--data-dir", "journal", "--", "cat"];
    let mut run = Running::start(&mut place.command(&arguments));
    run.say("x");
    assert_eq!(run.next_line(), "x");
    run.kill();
    let run = place.run(&arguments, "y\n");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(2), ""),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("--resume goes on with it"),
        "{}",
        run.stderr
    );
    let run = place.run(&["--data-dir", "journal", "--", "tac"], "y\n");
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("its command is cat"), "{}", run.stderr);
    let run = place.run(&[&["--resume"][..], &arguments].concat(), "x\ny\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.ends_with("y\n"), "{}", run.stdout);
}

#[tokio::test]
async fn journals_are_trimmed_after_seven_days_unless_they_are_in_use() {
    let (place, ..) = Held::new(&["-j1"]).kill().await;
    let journal = place.noted().remove(0);
    set_age(&journal, 6);
    let run = place.run(&with(&[]), "");
    assert!(
        run.stderr.contains("--resume"),
        "six days are not seven: {}",
        run.stderr
    );
    set_age(&journal, 8);
    // Of another command, and all the same.
    assert_eq!(place.run(&["--", "cat"], "").stderr.lines().count(), 1);
    assert_eq!(place.journals(), 0);

    let mut old = Running::start(&mut place.command(&["--", "cat"]));
    old.say("x");
    assert_eq!(old.next_line(), "x");
    set_age(&place.noted()[0], 8);
    place.run(&["--", "cat"], "");
    assert_eq!(place.journals(), 1, "it is under way, however quiet");
    assert_eq!(old.finish().0, Some(0));
}

fn set_age(journal: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    for entry in fs::read_dir(journal).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.set_modified(then).unwrap();
    }
}
