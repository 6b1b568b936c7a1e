//! Many watchers of one batch: what they get, what they cost, and whether execution feels them.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use clap::Parser as _;
use harness::arguments::{Common, Scale, runtime};
use harness::client::{self, Client};
use harness::figures::{Figures, number, rate};
use harness::report::{Bar, Report};
use harness::server::Server;
use sooner::base::clock;
use sooner::base::tasks::Tasks;
use sooner::wire::{Batch, WatchBatchRequest, WatchBatchResponse};
use tonic::Streaming;

const NAME: &str = "fanout";
const QUESTION: &str = "what do many watchers of one batch get, and what do they cost?";

/// A queue that is quick, one that takes its time, and one that nobody serves.
const CONFIG: &str = r#"
[queues.default]
handler = { echo = {} }
slots = 512
[queues.paced]
handler = { echo = { delay = "10ms" } }
slots = 4
[queues.waiting]
"#;

/// The batch that is read again and again.
const FINISHED: &str = "finished";

/// Bytes of each input and each output.
const BYTES: usize = 1024;

/// Connections that the watchers share: one may carry a thousand streams, and no more.
const CONNECTIONS: usize = 8;

/// What 1, 10, 100 and 1,000 watchers of one batch get, and what they cost
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Results that all watchers together read in one measurement [default: 200000]
    #[arg(long, value_name = "N")]
    results: Option<usize>,
}

/// The figures of one number of watchers.
#[derive(Default)]
struct Found {
    watchers: usize,
    /// Results per second that all together read of a batch that is over.
    read: Figures,
    /// How long a paced batch runs while all follow it, in milliseconds.
    ran: Figures,
    /// Bytes of a watcher that waits for results, and of one that does not read what is there.
    waiting: Figures,
    stalled: Figures,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let most = scale.size(None, 1000, 10);
    let results = scale.size(arguments.results, 200_000, 2000).max(most);
    let repetitions = scale.size(arguments.common.repetitions, 3, 1);
    let mut all: Vec<_> = [1, 10, 100, 1000]
        .into_iter()
        .filter(|watchers| *watchers <= most)
        .map(|watchers| Found {
            watchers,
            ..Found::default()
        })
        .collect();
    let (runtime, tasks) = runtime();
    for repetition in 0..repetitions {
        runtime.block_on(async {
            let bench = Bench::start(&tasks, scale, results).await;
            for found in &mut all {
                found.read.add(bench.read(found.watchers).await);
                let name = format!("paced-{repetition}-{}", found.watchers);
                found.ran.add(bench.run(&name, found.watchers).await);
            }
        });
        for found in all.iter_mut().filter(|found| found.watchers == most) {
            runtime.block_on(memory(&tasks, scale, results, found));
        }
    }
    let setting =
        format!("{results} results of {BYTES} bytes each time, {repetitions} repetitions");
    report(&all, setting).print(arguments.common.json);
}

/// A server with a finished batch, and connections to it.
struct Bench {
    server: Server,
    clients: Vec<Client>,
    tasks: Tasks,
    /// Items of the finished batch.
    items: usize,
    /// Items of each paced batch.
    paced: usize,
    /// Results that all watchers together read.
    results: usize,
}

impl Bench {
    async fn start(tasks: &Tasks, scale: Scale, results: usize) -> Self {
        let server = Server::new(CONFIG);
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(client::client(&server.channel().await));
        }
        let bench = Self {
            server,
            clients,
            tasks: tasks.clone(),
            items: scale.size(None, 5000, 200),
            paced: scale.size(None, 400, 20),
            results,
        };
        let (mut client, items) = (bench.client(0), client::items(bench.items, BYTES));
        client::create(&mut client, "", FINISHED, items).await;
        over(&mut client, FINISHED).await;
        bench
    }

    fn client(&self, number: usize) -> Client {
        self.clients[number % CONNECTIONS].clone()
    }

    /// So many watches that the request describes.
    async fn watch(
        &self,
        watchers: usize,
        request: WatchBatchRequest,
    ) -> Vec<Streaming<WatchBatchResponse>> {
        let mut open = Vec::new();
        for number in 0..watchers {
            let mut client = self.client(number);
            open.push(client::watch(&mut client, request.clone()).await);
        }
        open
    }

    /// Results per second that so many watchers read together, as many each time.
    async fn read(&self, watchers: usize) -> f64 {
        let each = (self.results / watchers).clamp(1, self.items);
        let rounds = (self.results / watchers / each).max(1);
        let began = clock::instant();
        for _ in 0..rounds {
            let request = WatchBatchRequest {
                after_sequence: (self.items - each) as u64,
                ..of(FINISHED)
            };
            let open = self.watch(watchers, request).await;
            let reading = open.into_iter().map(|watch| async move {
                assert_eq!(client::follow(watch).await, each, "all that is there");
            });
            let reading: Vec<_> = reading.map(|it| self.tasks.spawn(it)).collect();
            for reader in reading {
                reader.await.expect("a watcher does not panic");
            }
        }
        rate(watchers * each * rounds, clock::instant() - began)
    }

    /// How long a paced batch runs, by the server's own clock, while so many follow it.
    async fn run(&self, name: &str, watchers: usize) -> f64 {
        let mut client = self.client(0);
        let items = client::items(self.paced, BYTES);
        client::create(&mut client, "paced", name, items).await;
        // Without the outputs: the client's share of the machine is not what is measured.
        let request = WatchBatchRequest {
            omit_output: true,
            ..of(name)
        };
        let open = self.watch(watchers, request).await;
        let reading: Vec<_> = open
            .into_iter()
            .map(|watch| self.tasks.spawn(client::follow(watch)))
            .collect();
        for reader in reading {
            let count = reader.await.expect("a watcher does not panic");
            assert_eq!(count, self.paced, "a watcher sees all");
        }
        let batch = over(&mut client, name).await;
        let time = |at: Option<prost_types::Timestamp>| {
            let at = at.expect("a batch that is over has both times");
            at.seconds * 1000 + i64::from(at.nanos) / 1_000_000
        };
        let ran = time(batch.finish_time) - time(batch.create_time);
        number(usize::try_from(ran).expect("it ends after it begins"))
    }
}

/// Bytes per watcher, of those that wait and of those that do not read. A server of its own each
/// time: memory that was used once stays.
async fn memory(tasks: &Tasks, scale: Scale, results: usize, found: &mut Found) {
    let bench = Bench::start(tasks, scale, results).await;
    let mut client = bench.client(0);
    client::create(&mut client, "waiting", "waiting", client::items(1, BYTES)).await;
    let per_watcher = |before: usize| {
        number(bench.server.usage().resident.saturating_sub(before)) / number(found.watchers)
    };
    let before = bench.server.usage().resident;
    let mut waiting = bench.watch(found.watchers, of("waiting")).await;
    for watch in &mut waiting {
        // The first message: now it waits.
        watch.message().await.expect("the watch goes on");
    }
    found.waiting.add(per_watcher(before) / 1e3);
    drop(waiting);
    let before = bench.server.usage().resident;
    let stalled = bench.watch(found.watchers, of(FINISHED)).await;
    // Once the server has done all it can for them it does nothing any more.
    let mut used = bench.server.usage().cpu;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let now = bench.server.usage().cpu;
        if now == used {
            break;
        }
        used = now;
    }
    found.stalled.add(per_watcher(before) / 1e3);
    drop(stalled);
}

/// A watch of a batch from its start.
fn of(name: &str) -> WatchBatchRequest {
    WatchBatchRequest {
        batch_id: name.into(),
        ..WatchBatchRequest::default()
    }
}

/// The batch once it is over.
async fn over(client: &mut Client, name: &str) -> Batch {
    loop {
        let batch = client::batch(client, name, 60).await;
        if batch.finish_time.is_some() {
            return batch;
        }
    }
}

fn report(all: &[Found], setting: String) -> Report {
    let mut report = Report::new(NAME, QUESTION, setting);
    for found in all {
        let watchers = format!("{} watchers", found.watchers);
        report.scale(
            format!("{watchers}, together"),
            found.read.median(),
            "results/s",
        );
    }
    for found in all {
        let what = format!("a paced batch that {} follow", found.watchers);
        report.scale(what, found.ran.median(), "ms");
    }
    let (one, most) = (&all[0], &all[all.len() - 1]);
    for (what, figures) in [("waits", &most.waiting), ("does not read", &most.stalled)] {
        let what = format!("memory of a watcher that {what}");
        report.scale(what, figures.median(), "kB");
    }
    for found in &all[1..] {
        let what = format!("{} watchers / 1, results per second", found.watchers);
        report.ratio(what, &found.read.over(&one.read), Bar::None);
    }
    for found in &all[1..] {
        let what = format!("a batch that {} follow / 1, time", found.watchers);
        report.ratio(what, &found.ran.over(&one.ran), Bar::AtMost(1.1));
    }
    report
}
