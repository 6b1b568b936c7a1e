//! `sooner run` is ended again and again in the middle of its work, and resumed each time: by kills, by
//! a disk that is full or broken, by power cuts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::PATIENCE;
use crate::harness::load::{Dice, seed};
use crate::harness::run::{Mark, Place, lines, patiently, wait};
use crate::harness::shim::Shim;

/// Kills unless `SOONER_KILLS` says how many.
const KILLS: usize = 20;

/// So many that the kills find work to meet.
const ITEMS: u32 = 600;

/// Notes in which life of the run an item runs.
const SCRIPT: &str = "echo \"$LIFE $SOONER_ITEM_INDEX\" >> ran; exec cat";

/// A run over all its lives.
struct Story {
    place: Place,
    dice: Dice,
    lives: Vec<Life>,
}

/// One process.
struct Life {
    began: jiff::Timestamp,
    /// The cursor that it found, and the one that it left.
    found: u32,
    left: u32,
    /// What it printed, as (sequence, index, the whole line).
    printed: Vec<(u32, u32, serde_json::Value)>,
}

impl Story {
    fn out(&self) -> PathBuf {
        self.place.path(&format!("out-{}", self.lives.len()))
    }

    /// Starts the next life, with the whole input again, at whatever pace.
    fn start(&mut self) -> Child {
        let fixed = ["-j4", "-o", "jsonl", "-q", "--", "sh", "-c", SCRIPT];
        let mut arguments = fixed.to_vec();
        // One that was killed before it had begun leaves nothing to resume.
        if !self.place.noted().is_empty() {
            arguments.insert(0, "--resume");
        }
        let mut command = self.place.command(&arguments);
        command.env("LIFE", self.lives.len().to_string());
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        command.stdout(File::create(self.out()).unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let pace = Duration::from_micros(self.dice.within(0, 400));
        std::thread::spawn(move || {
            for number in 0..ITEMS {
                // It may be dead, or need no input any more.
                if writeln!(stdin, "line {number}").is_err() {
                    return;
                }
                std::thread::sleep(pace);
            }
        });
        child
    }

    /// Kills it at its start, or in the midst of its work.
    fn kill(&mut self, child: &mut Child) {
        if self.dice.hits(70) {
            patiently(|| self.out().metadata().unwrap().len() > 0);
        }
        // Where in its work the kill meets the run, not a wait for something.
        std::thread::sleep(Duration::from_millis(self.dice.within(0, 80)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn live(&mut self, end: impl FnOnce(&mut Self, Child)) {
        let found = self
            .place
            .noted()
            .first()
            .map_or(0, |path| Mark::of(path).printed);
        let began = jiff::Timestamp::now();
        let child = self.start();
        end(self, child);
        let text = std::fs::read_to_string(self.out()).unwrap();
        // The kill may have cut the last line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let printed = whole.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = |name: &str| u32::try_from(line[name].as_u64().unwrap()).unwrap();
            (number("sequence"), number("index"), line)
        });
        let printed: Vec<_> = printed.collect();
        let last = printed.last().map_or(found, |(sequence, ..)| *sequence);
        let left = self
            .place
            .noted()
            .first()
            .map_or(last, |path| Mark::of(path).printed);
        self.lives.push(Life {
            began,
            found,
            left,
            printed,
        });
    }
}

#[test]
fn a_run_that_is_killed_and_resumed_loses_nothing_and_runs_nothing_that_was_done() {
    let test =
        "run_kills::a_run_that_is_killed_and_resumed_loses_nothing_and_runs_nothing_that_was_done";
    let mut story = Story {
        place: Place::new(),
        dice: Dice::new(seed(test)),
        lives: Vec::new(),
    };
    let kills = std::env::var("SOONER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut hit = 0;
    for _ in 0..kills {
        story.live(|story, mut child| {
            story.kill(&mut child);
        });
        hit += usize::from(!story.lives.last().unwrap().printed.is_empty());
    }
    let met = story.lives.len();
    let mut code = None;
    story.live(|_, mut child| code = wait(&mut child).code());
    // An item that ran at three kills has failed by that, and only by that.
    let crashed = results(&story.lives)
        .values()
        .filter(|(_, line)| line["state"] != "succeeded")
        .inspect(|(_, line)| assert_eq!(line["error"]["reason"], "CRASHED_TOO_OFTEN", "{line}"))
        .count();
    assert_eq!(code, Some(if crashed == 0 { 0 } else { 3 }));
    assert_printed(&story.lives);
    let again = assert_ran(&story);
    assert!(hit > 0, "no kill met a run that had printed something");
    eprintln!(
        "{met} kills, {hit} in the midst of printing; {again} items ran again, {crashed} crashed too often"
    );
}

/// The results by sequence: of which item, and what was printed of it.
fn results(lives: &[Life]) -> BTreeMap<u32, (u32, serde_json::Value)> {
    let printed = lives.iter().flat_map(|life| life.printed.iter().cloned());
    let mut results = BTreeMap::new();
    for (sequence, index, line) in printed {
        let earlier = results.insert(sequence, (index, line.clone()));
        let is_same = earlier.is_none_or(|(_, earlier)| earlier == line);
        assert!(
            is_same,
            "sequence {sequence} was printed with other content"
        );
    }
    results
}

/// Each life prints from the cursor on that it found, without gaps, and no cursor is ahead of what
/// was printed. So all is printed, and twice only what followed a cursor.
fn assert_printed(lives: &[Life]) {
    for (number, life) in lives.iter().enumerate() {
        let sequences = life.printed.iter().map(|(sequence, ..)| *sequence);
        let expected = (life.found + 1..).take(life.printed.len());
        assert!(
            sequences.eq(expected),
            "life {number} does not print on from {}",
            life.found
        );
        let last = life.found + u32::try_from(life.printed.len()).unwrap();
        assert!(
            life.left <= last,
            "life {number} printed {last}, its cursor is {}",
            life.left
        );
        assert!(
            life.left >= life.found,
            "the cursor of life {number} went back"
        );
    }
    let results = results(lives);
    assert!(
        results.keys().copied().eq(1..=ITEMS),
        "not every result is printed"
    );
    let mut items: Vec<_> = results.values().map(|(index, _)| *index).collect();
    items.sort_unstable();
    assert!(items.into_iter().eq(0..ITEMS), "not every item is printed");
    for (index, line) in results
        .values()
        .filter(|(_, line)| line["state"] == "succeeded")
    {
        assert_eq!(line["output_text"], format!("line {index}\n").trim_end());
    }
}

/// No item runs in a life behind the one in which its result became durable. Answers how many ran
/// more than once.
fn assert_ran(story: &Story) -> usize {
    let ran = std::fs::read_to_string(story.place.path("here/ran")).unwrap();
    let mut lives_of: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for line in ran.lines() {
        let (life, index) = line.split_once(' ').unwrap();
        let lives = lives_of.entry(index.parse().unwrap()).or_default();
        lives.push(life.parse().unwrap());
    }
    for (index, line) in results(&story.lives).values() {
        let finished: jiff::Timestamp = line["finish_time"].as_str().unwrap().parse().unwrap();
        let is_before = |life: &&Life| life.began <= finished;
        let life = story.lives.iter().take_while(is_before).count() - 1;
        let ran = &lives_of[index];
        let is_last = ran.iter().all(|&ran| ran <= life);
        assert!(
            is_last,
            "item {index} was done in life {life} and ran in {ran:?}"
        );
    }
    lives_of.values().filter(|lives| lives.len() > 1).count()
}

/// A disk that is full or broken from some write on, and the power cut at one.
#[test]
fn a_run_whose_disk_failed_is_resumed_and_prints_every_result() {
    let Some(shim) = Shim::built() else { return };
    let test = "run_kills::a_run_whose_disk_failed_is_resumed_and_prints_every_result";
    let mut dice = Dice::new(seed(test));
    let input: String = (0..40).map(|number| number.to_string() + "\n").collect();
    let mut resumed = 0;
    for round in 0..12 {
        let action = ["kill", "enospc_from", "eio_from"][round % 3];
        // The first hundred and more make the store.
        let (place, at) = (Place::new(), dice.within(80, 300));
        let dir = place.path("here/journal");
        std::fs::create_dir(&dir).unwrap();
        let arguments = ["-q", "--data-dir", dir.to_str().unwrap(), "--", "cat"];
        let mut command = place.command(&arguments);
        shim.arm(&mut command, &dir, (action, at));
        let (code, stdout) = strike(&mut command, &input);
        let told = format!("{action} at {at}: {code:?}, {stdout}");
        let is_clean = [None, Some(0), Some(73), Some(74), Some(130)].contains(&code);
        assert!(is_clean, "{told}");
        if code.is_none() {
            shim.cut_power(&dir, dice.next());
        }
        let again = place.run(&[&["--resume"][..], &arguments].concat(), &input);
        let mut printed = stdout;
        let is_resumed = again.code == Some(0);
        if is_resumed {
            printed += &again.stdout;
        } else {
            // It was over, or had not begun.
            assert!(
                again.stderr.contains("nothing to resume"),
                "{told}, {again:?}"
            );
            if code != Some(0) {
                assert_eq!(printed, "", "{told}");
                printed = place.run(&arguments, &input).stdout;
            }
        }
        resumed += usize::from(is_resumed);
        let mut lines: Vec<u32> = printed.lines().map(|line| line.parse().unwrap()).collect();
        lines.sort_unstable();
        lines.dedup();
        assert!(lines.into_iter().eq(0..40), "{told}, then {again:?}");
    }
    assert!(resumed > 0, "no fault met a run under way");
    eprintln!("{resumed} of 12 runs were resumed");
}

/// Runs it until it ends. One that waits for room on its disk is asked to.
fn strike(command: &mut Command, input: &str) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = lines(child.stdout.take().unwrap());
    let stderr = lines(child.stderr.take().unwrap());
    // It may be dead by now.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    while let Ok(remark) = stderr.recv_timeout(PATIENCE) {
        if remark.contains("the disk is full") {
            kill_process(Pid::from_child(&child), Signal::INT).ok();
        }
    }
    let code = wait(&mut child).code();
    (code, stdout.iter().map(|line| line + "\n").collect())
}
