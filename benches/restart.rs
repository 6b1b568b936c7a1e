//! From exec to ready, with much on disk and with much to do, against an empty start.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use clap::Parser as _;
use harness::alone::{self, Load};
use harness::arguments::{Common, runtime};
use harness::figures::{Figures, number};
use harness::report::{Bar, Report};
use harness::server::{Home, Server};
use sooner::base::tasks::Tasks;

const NAME: &str = "restart";
const QUESTION: &str = "how long from exec to ready?";

/// Nobody serves it: what is unfinished stays unfinished, however often it is restarted.
const CONFIG: &str = "[queues.default]\n";

/// Items of one batch.
const BATCH: usize = 100_000;

/// How long a start takes with much on disk and with much to do, against an empty one
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Finished records on disk [default: 200000]
    #[arg(long, value_name = "N")]
    finished: Option<usize>,

    /// Unfinished items beside them [default: 50000]
    #[arg(long, value_name = "N")]
    unfinished: Option<usize>,

    /// Bytes of each input and each output
    #[arg(long, value_name = "N", default_value_t = 100)]
    bytes: usize,
}

/// The starts of one directory.
struct Found {
    what: String,
    home: Option<Home>,
    took: Figures,
    memory: Figures,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let finished = scale.size(arguments.finished, 200_000, 500);
    let unfinished = scale.size(arguments.unfinished, 50_000, 500);
    let repetitions = scale.size(arguments.common.repetitions, 7, 1);
    let (runtime, tasks) = runtime();
    let made = |finished, unfinished| {
        runtime.block_on(made(&tasks, (finished, unfinished), arguments.bytes))
    };
    let mut all = [
        Found::new("empty", made(0, 0)),
        Found::new(format!("{finished} finished"), made(finished, 0)),
        Found::new(
            format!("{finished} finished, {unfinished} unfinished"),
            made(finished, unfinished),
        ),
    ];
    for _ in 0..repetitions {
        all.iter_mut().for_each(Found::start);
    }
    let setting = format!(
        "items of {} bytes, {repetitions} repetitions",
        arguments.bytes
    );
    report(&all, setting).print(arguments.common.json);
}

/// A data directory with so much in it.
async fn made(tasks: &Tasks, (finished, unfinished): (usize, usize), bytes: usize) -> Home {
    let home = Home::new();
    let store = alone::open(&home.data_dir());
    for (items, done) in [(finished, true), (unfinished, false)] {
        for first in (0..items).step_by(BATCH) {
            let load = Load {
                items: BATCH.min(items - first),
                bytes,
                in_flight: 512,
            };
            alone::append(&store, load).await;
            if done {
                alone::finish(&store, tasks, load).await;
            }
        }
    }
    store.close();
    home
}

impl Found {
    fn new(what: impl Into<String>, home: Home) -> Self {
        Self {
            what: what.into(),
            home: Some(home),
            took: Figures::default(),
            memory: Figures::default(),
        }
    }

    /// Starts a server once more, and kills it.
    fn start(&mut self) {
        let home = self.home.take().expect("each start gives it back");
        let server = Server::at(home, CONFIG);
        self.took.add_time(server.started_in);
        self.memory.add(number(server.usage().resident) / 1e6);
        self.home = Some(server.kill());
    }
}

fn report(all: &[Found], setting: String) -> Report {
    let mut report = Report::new(NAME, QUESTION, setting);
    for found in all {
        report.scale(format!("start, {}", found.what), found.took.median(), "ms");
        report.scale("  memory then", found.memory.median(), "MB");
    }
    let empty = &all[0].took;
    report.ratio("finished / empty", &all[1].took.over(empty), Bar::None);
    report.ratio(
        "finished and unfinished / empty",
        &all[2].took.over(empty),
        Bar::None,
    );
    report
}
