//! Durable items per second end to end, against the store alone in the same run.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use clap::Parser as _;
use harness::alone::{Alone, Load};
use harness::arguments::{Common, runtime};
use harness::client;
use harness::figures::{Figures, number, rate};
use harness::report::{Bar, Report};
use harness::server::{ECHO, Server};
use sooner::base::tasks::Tasks;

const NAME: &str = "throughput";
const QUESTION: &str = "how much of the store's own rate is left end to end?";

/// Durable items per second from submit to result, against the store alone
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
}

/// The figures of all repetitions.
#[derive(Default)]
struct Found {
    alone: Figures,
    whole: Figures,
    cpu: Figures,
    threads: Vec<(String, Figures)>,
    peak: Figures,
    idle: Figures,
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
    let (runtime, tasks) = runtime();
    let mut found = Found::default();
    for _ in 0..repetitions {
        let alone = runtime.block_on(Alone::new().run(&tasks, load));
        found.alone.add(rate(load.items, alone));
        runtime.block_on(end_to_end(&tasks, load, &mut found));
    }
    let setting = format!(
        "{} items of {} bytes, echo, {} slots, {repetitions} repetitions",
        load.items, load.bytes, load.in_flight
    );
    found.report(setting).print(arguments.common.json);
}

async fn end_to_end(tasks: &Tasks, load: Load, found: &mut Found) {
    let server = Server::new(ECHO);
    let channel = server.channel().await;
    let before = server.usage();
    found.idle.add(megabytes(before.resident));
    let took = client::run(&channel, tasks, load).await;
    let after = server.usage();
    found.whole.add(rate(load.items, took));
    found.peak.add(megabytes(after.peak));
    let per_item = |cpu: std::time::Duration| cpu.as_secs_f64() * 1e6 / number(load.items);
    found.cpu.add(per_item(after.cpu_since(&before)));
    for (name, cpu) in after.threads_since(&before) {
        let at = found.threads.iter().position(|(known, _)| *known == name);
        let at = at.unwrap_or_else(|| {
            found.threads.push((name, Figures::default()));
            found.threads.len() - 1
        });
        found.threads[at].1.add(per_item(cpu));
    }
}

fn megabytes(bytes: usize) -> f64 {
    number(bytes) / 1e6
}

impl Found {
    fn report(&self, setting: String) -> Report {
        let mut report = Report::new(NAME, QUESTION, setting);
        report.scale("store alone", self.alone.median(), "items/s");
        report.scale("end to end", self.whole.median(), "items/s");
        report.bounded(
            "server's processor time per item",
            self.cpu.median(),
            "us",
            Bar::AtMost(20.0),
        );
        for (name, cpu) in &self.threads {
            report.scale(format!("  of it in {name}"), cpu.median(), "us");
        }
        report.bounded(
            "server's memory, idle",
            self.idle.median(),
            "MB",
            Bar::AtMost(30.0),
        );
        report.scale("server's memory, peak", self.peak.median(), "MB");
        let whole = self.whole.over(&self.alone);
        report.ratio("end to end / store alone", &whole, Bar::AtLeast(0.6));
        report
    }
}
