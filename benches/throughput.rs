//! Durable items per second end to end, against the store alone in the same run; and what a backlog
//! costs in memory.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::time::Duration;

use clap::Parser as _;
use harness::alone::{Alone, Load};
use harness::arguments::{Common, runtime};
use harness::client;
use harness::figures::{Figures, number, rate};
use harness::process::Usage;
use harness::report::{Bar, Report};
use harness::server::{ECHO, Server};
use sooner::base::clock;
use sooner::base::tasks::Tasks;
use tokio_util::sync::CancellationToken;

const NAME: &str = "throughput";
const QUESTION: &str = "how much of the store's own rate is left end to end?";

/// The batch whose reader lags behind, by name.
const LAGGING: &str = "lagging";

/// Durable items per second from submit to result, against the store alone
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Items of each repetition [default: 100000]
    #[arg(long, value_name = "N")]
    items: Option<usize>,

    /// Items of the backlogs whose memory is measured [default: 200000]
    #[arg(long, value_name = "N")]
    backlog: Option<usize>,

    /// Bytes of each input and each output
    #[arg(long, value_name = "N", default_value_t = 1024)]
    bytes: usize,
}

/// The figures of all repetitions.
#[derive(Default)]
struct Found {
    alone: Figures,
    uploaded: Figures,
    submitted: Figures,
    /// Of the server, in microseconds per item, and by thread.
    cpu: Figures,
    threads: Vec<(String, Figures)>,
    /// Of the server, in megabytes: before it does anything, with items that wait, and at most while
    /// a reader lags behind a small and a large batch.
    idle: Figures,
    queued: f64,
    lagging: [f64; 2],
}

/// How items reach the server.
#[derive(Clone, Copy)]
enum Way {
    Upload,
    Submit,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let load = Load {
        items: scale.size(arguments.items, 100_000, 1000),
        bytes: arguments.bytes,
        in_flight: 512,
    };
    let repetitions = scale.size(arguments.common.repetitions, 5, 1);
    let backlog = Load {
        items: scale.size(arguments.backlog, 200_000, 2000),
        ..load
    };
    let (runtime, tasks) = runtime();
    let mut found = Found::default();
    for _ in 0..repetitions {
        let alone = runtime.block_on(Alone::new().run(&tasks, load));
        found.alone.add(rate(load.items, alone));
        for way in [Way::Upload, Way::Submit] {
            runtime.block_on(end_to_end(&tasks, way, load, &mut found));
        }
    }
    found.queued = runtime.block_on(queued(backlog));
    let smaller = Load {
        items: backlog.items / 4,
        ..backlog
    };
    // A third of what the server can do: two thirds of the batch pile up before it.
    let pace = found.uploaded.median() / 3.0;
    found.lagging = [smaller, backlog].map(|load| runtime.block_on(lagging(&tasks, load, pace)));
    let setting = format!(
        "{} items of {} bytes, echo, {} slots, {repetitions} repetitions; backlogs of {} items",
        load.items, load.bytes, load.in_flight, backlog.items
    );
    found.report(setting).print(arguments.common.json);
}

/// Everything from the client's first byte to its last result.
async fn end_to_end(tasks: &Tasks, way: Way, load: Load, found: &mut Found) {
    let server = Server::new(ECHO);
    let channel = server.channel().await;
    let before = server.usage();
    match way {
        Way::Submit => {
            let took = client::run(&channel, tasks, load).await;
            found.submitted.add(rate(load.items, took));
        }
        Way::Upload => {
            let took = client::run_upload(&channel, load).await;
            found.uploaded.add(rate(load.items, took));
            found.idle.add(megabytes(before.resident));
            found.note_cpu(&before, &server.usage(), load.items);
        }
    }
}

/// The server's memory while items wait in a queue that nobody serves.
async fn queued(load: Load) -> f64 {
    let server = Server::new("[queues.default]\n");
    let mut client = client::client(&server.channel().await);
    client::leave(&mut client, ("", "waiting"), load).await;
    megabytes(server.usage().resident)
}

/// The most memory that the server takes while a reader lags behind until the batch has ended.
async fn lagging(tasks: &Tasks, load: Load, pace: f64) -> f64 {
    let server = Server::new(ECHO);
    let channel = server.channel().await;
    let mut answers = client::upload(&mut client::client(&channel), ("", LAGGING), load).await;
    let ended = CancellationToken::new();
    let watching = {
        let (ended, mut client) = (ended.clone(), client::client(&channel));
        tasks.spawn(async move {
            while client::batch(&mut client, LAGGING, 60)
                .await
                .finish_time
                .is_none()
            {}
            ended.cancel();
        })
    };
    let (began, mut count) = (clock::instant(), 0);
    while client::next_uploaded(&mut answers).await.is_some() {
        count += 1;
        let due = began + Duration::from_secs_f64(number(count) / pace);
        let early = due.saturating_duration_since(clock::instant());
        if early > Duration::from_millis(5) {
            // Once it is over there is no backlog to wait for.
            ended.run_until_cancelled(tokio::time::sleep(early)).await;
        }
    }
    assert_eq!(count, load.items, "each item has its result");
    watching.await.expect("watching does not panic");
    megabytes(server.usage().peak)
}

fn megabytes(bytes: usize) -> f64 {
    number(bytes) / 1e6
}

impl Found {
    fn note_cpu(&mut self, before: &Usage, after: &Usage, items: usize) {
        let per_item = |cpu: Duration| cpu.as_secs_f64() * 1e6 / number(items);
        self.cpu.add(per_item(after.cpu_since(before)));
        for (name, cpu) in after.threads_since(before) {
            let at = self.threads.iter().position(|(known, _)| *known == name);
            let at = at.unwrap_or_else(|| {
                self.threads.push((name, Figures::default()));
                self.threads.len() - 1
            });
            self.threads[at].1.add(per_item(cpu));
        }
    }

    fn report(&self, setting: String) -> Report {
        let mut report = Report::new(NAME, QUESTION, setting);
        report.scale("store alone", self.alone.median(), "items/s");
        report.scale("end to end, one upload", self.uploaded.median(), "items/s");
        let submitted = self.submitted.median();
        report.scale("end to end, submits of 10,000", submitted, "items/s");
        let cpu = self.cpu.median();
        let what = "server's processor time per item";
        report.bounded(what, cpu, "us", Bar::AtMost(20.0));
        for (name, cpu) in &self.threads {
            report.scale(format!("  of it in {name}"), cpu.median(), "us");
        }
        for (what, megabytes, bar) in [
            ("server's memory, idle", self.idle.median(), 30.0),
            ("server's memory, a backlog waits", self.queued, 150.0),
            (
                "server's memory at most, a reader lags",
                self.lagging[1],
                250.0,
            ),
        ] {
            report.bounded(what, megabytes, "MB", Bar::AtMost(bar));
        }
        let uploaded = self.uploaded.over(&self.alone);
        let bar = Bar::AtLeast(0.6);
        report.ratio("one upload / store alone", &uploaded, bar);
        let submitted = self.submitted.over(&self.alone);
        report.ratio("submits / store alone", &submitted, bar);
        let grown = self.lagging[1] / self.lagging[0];
        let what = "memory at most, a reader lags: four times the items";
        report.ratio_of(what, grown, Bar::AtMost(1.2));
        report
    }
}
