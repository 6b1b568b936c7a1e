//! The store alone: the ceiling for everything else, held against a bare log on the same disk.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::io::Write as _;
use std::time::Duration;

use clap::Parser as _;
use harness::alone::{self, Alone, IdleCommits, Load};
use harness::arguments::{Common, Scale, runtime};
use harness::figures::{Figures, rate};
use harness::report::{Bar, Report};
use sooner::base::clock;
use sooner::base::tasks::Tasks;
use sooner::domain::ids::Sequence;

const NAME: &str = "store";
const QUESTION: &str = "what does the store do by itself, and a bare log on its disk?";

/// How long nothing happens before an idle commit.
const SILENCE: Duration = Duration::from_millis(10);

/// What the store does by itself: append, finish, read a page, get an item, commit after a silence
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Items of each repetition [default: 100000]
    #[arg(long, value_name = "N")]
    items: Option<usize>,

    /// Bytes of each input and each output
    #[arg(long, value_name = "N", default_value_t = 1024)]
    bytes: usize,

    /// Items leased at once
    #[arg(long, value_name = "N", default_value_t = 512)]
    in_flight: usize,
}

/// The figures of all repetitions.
#[derive(Default)]
struct Found {
    whole: Figures,
    bare: Figures,
    appended: Figures,
    finished: Figures,
    read: Figures,
    got: Figures,
    idle: Figures,
    idle_sync: Figures,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let load = Load {
        items: scale.size(arguments.items, 100_000, 1000),
        bytes: arguments.bytes,
        in_flight: arguments.in_flight,
    };
    let repetitions = scale.size(arguments.common.repetitions, 5, 1);
    let (runtime, tasks) = runtime();
    let mut found = Found::default();
    for _ in 0..repetitions {
        runtime.block_on(repetition(&tasks, load, scale, &mut found));
    }
    let setting = format!(
        "{} items of {} bytes in and out, {} in flight, {repetitions} repetitions",
        load.items, load.bytes, load.in_flight
    );
    found.report(setting).print(arguments.common.json);
}

async fn repetition(tasks: &Tasks, load: Load, scale: Scale, found: &mut Found) {
    found.bare.add(rate(load.items, bare_log(load)));
    let whole = Alone::new().run(tasks, load).await;
    found.whole.add(rate(load.items, whole));

    let alone = Alone::new();
    let began = clock::instant();
    let batch = alone::append(&alone.store, load).await;
    let appended = clock::instant();
    alone::finish(&alone.store, tasks, load).await;
    let finished = clock::instant();
    found.appended.add(rate(load.items, appended - began));
    found.finished.add(rate(load.items, finished - appended));

    let (mut cursor, mut count) = (Sequence(0), 0);
    loop {
        let page = alone.store.read_log(batch.head.no, cursor).await;
        let records = page.expect("it is read").records;
        let Some(last) = records.last() else { break };
        (cursor, count) = (last.sequence, count + records.len());
    }
    assert_eq!(count, load.items, "every item has its record");
    found.read.add(rate(count, clock::instant() - finished));

    let (asked, gets) = (clock::instant(), load.items.min(10_000));
    for at in 0..gets {
        // A step that is prime to the count visits all, far from each other.
        let index = u32::try_from(at * 7919 % load.items).expect("a batch counts in 32 bits");
        let item = alone.store.item(batch.head.no, index, false).await;
        item.expect("it is read");
    }
    found.got.add(rate(gets, clock::instant() - asked));
    drop(alone);
    idle(load.bytes, scale.size(None, 100, 5), found).await;
}

/// Commits after a silence and syncs of a bare file after a silence, in turns.
async fn idle(bytes: usize, count: usize, found: &mut Found) {
    let mut commits = IdleCommits::new(count, bytes).await;
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    for _ in 0..count {
        tokio::time::sleep(SILENCE).await;
        found.idle.add_time(commits.next().await);
        tokio::time::sleep(SILENCE).await;
        let began = clock::instant();
        write_and_sync(&mut file, &vec![b'o'; bytes]);
        found.idle_sync.add_time(clock::instant() - began);
    }
}

/// The upper bound: every input and every output appended to a file, a group at a time.
fn bare_log(load: Load) -> Duration {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    let group = vec![b'x'; load.bytes * load.in_flight];
    let began = clock::instant();
    let mut left = 2 * load.items * load.bytes;
    while left > 0 {
        let part = left.min(group.len());
        write_and_sync(&mut file, &group[..part]);
        left -= part;
    }
    clock::instant() - began
}

fn write_and_sync(file: &mut std::fs::File, bytes: &[u8]) {
    file.write_all(bytes).expect("there is room on the disk");
    file.sync_data().expect("the disk takes it");
}

impl Found {
    fn report(&self, setting: String) -> Report {
        let mut report = Report::new(NAME, QUESTION, setting);
        for (what, figures, unit) in [
            ("bare log, inputs and outputs", &self.bare, "items/s"),
            ("append and finish at once", &self.whole, "items/s"),
            ("append", &self.appended, "items/s"),
            ("lease and finish", &self.finished, "items/s"),
            ("read pages of the journal", &self.read, "results/s"),
            ("get one item after the other", &self.got, "items/s"),
            ("idle commit, p50", &self.idle, "ms"),
            ("idle sync of a bare file, p50", &self.idle_sync, "ms"),
        ] {
            report.scale(what, figures.median(), unit);
        }
        report.scale("idle commit, p99", self.idle.quantile(0.99), "ms");
        let whole = self.whole.over(&self.bare);
        report.ratio("append and finish / bare log", &whole, Bar::None);
        let finished = self.finished.over(&self.whole);
        report.ratio("lease and finish / append and finish", &finished, Bar::None);
        let read = self.read.over(&self.whole);
        report.ratio("read pages / append and finish", &read, Bar::None);
        let idle = self.idle.median() / self.idle_sync.median();
        report.ratio_of("idle commit / idle sync, p50", idle, Bar::None);
        report
    }
}
