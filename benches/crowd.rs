//! What a crowd costs: open batches, items that wait for another attempt, a huge batch's cancel.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::time::Duration;

use clap::Parser as _;
use harness::alone::{self, Load};
use harness::arguments::{Common, Scale, runtime};
use harness::client;
use harness::figures::{Figures, number};
use harness::report::{Bar, Report};
use harness::server::{Home, Server};
use sooner::base::clock;
use sooner::base::tasks::Tasks;
use sooner::store::Store;
use sooner::wire::CancelBatchRequest;

const NAME: &str = "crowd";
const QUESTION: &str = "what does a crowd cost that is there, and does anybody feel it?";

/// Nobody serves its queue: what is there stays there.
const UNSERVED: &str = "[queues.default]\n";

/// Few slots that each take a while, and a queue whose batch is only there to be cancelled.
const SERVED: &str = r#"
[queues.default]
handler = { echo = { delay = "5ms" } }
slots = 8
[queues.later]
"#;

/// Items leased at once, as by a pool with as many free slots.
const WANT: usize = 16;

/// How often each side is asked for that.
const ASKED: usize = 50;

/// Batches that the waiting items are spread over: none may have more than 65,536.
const WAITING_BATCHES: usize = 16;

/// The batches that are submitted beside a cancel.
const SMALL: Load = Load {
    items: 10,
    bytes: 1,
    in_flight: 1,
};

/// How long before each of them nothing small is running.
const SILENCE: Duration = Duration::from_millis(10);

/// A crowd a hundred times as large may cost so many times as much to take a turn in.
const FLAT: Bar = Bar::AtMost(2.0);

/// What a crowd costs: open batches, items that wait for another attempt, a huge batch's cancel
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Open batches of one item, at least 80,000; the other side has a hundredth [default: 100000]
    #[arg(long, value_name = "N")]
    batches: Option<usize>,

    /// Items that wait for another attempt; the other side has a hundredth [default: 200000]
    #[arg(long, value_name = "N")]
    waiting: Option<usize>,

    /// Items of the batch that is cancelled [default: 300000]
    #[arg(long, value_name = "N")]
    items: Option<usize>,
}

/// One side: a store with a crowd in it.
struct Side {
    size: usize,
    home: Home,
    store: Store,
    /// Microseconds per item leased.
    lease: Figures,
    /// Milliseconds of counting what is there, for a scraper.
    count: Figures,
}

/// What is left of a side once it was started again.
struct Restarted {
    lease: Figures,
    count: Figures,
    started: f64,
    resident: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let batches = scale.size(arguments.batches, 100_000, 2000);
    let waiting = scale.size(arguments.waiting, 200_000, 1600);
    let items = scale.size(arguments.items, 300_000, 20_000);
    let asked = if scale == Scale::Full { ASKED } else { 1 };
    let setting = format!("{batches} open batches, {waiting} waiting items, {items} cancelled");
    let mut report = Report::new(NAME, QUESTION, setting);
    let (runtime, tasks) = runtime();
    runtime.block_on(async {
        let empty = started(Home::new()).1;
        let open = [batches / 100, batches];
        let mut sides = Vec::new();
        for size in open {
            let side = Side::new(size);
            alone::create_many(&side.store, &tasks, size).await;
            sides.push(side);
        }
        let sides = measure(sides, asked).await;
        told(&mut report, "open batches", batches, empty, &sides);

        let mut sides = Vec::new();
        for size in [waiting / 100, waiting] {
            let side = Side::new(size);
            wait(&side.store, &tasks, size).await;
            sides.push(side);
        }
        let sides = measure(sides, asked).await;
        told(&mut report, "waiting items", waiting, empty, &sides);

        cancel(&mut report, items).await;
    });
    report.print(arguments.common.json);
}

impl Side {
    fn new(size: usize) -> Self {
        let home = Home::new();
        Self {
            size,
            store: alone::open(&home.data_dir()),
            home,
            lease: Figures::default(),
            count: Figures::default(),
        }
    }
}

/// Leaves so many items waiting for an attempt that comes in an hour, and others that are due.
async fn wait(store: &Store, tasks: &Tasks, size: usize) {
    let each = Load {
        items: size / WAITING_BATCHES,
        bytes: 1,
        in_flight: 512,
    };
    for _ in 0..WAITING_BATCHES {
        alone::append(store, each).await;
        alone::put_off(store, tasks, each, Duration::from_secs(3600)).await;
    }
    let due = Load {
        items: ASKED * WANT,
        ..each
    };
    alone::append(store, due).await;
}

/// Asks both sides in turns, and then starts a server on each.
async fn measure(mut sides: Vec<Side>, asked: usize) -> Vec<Restarted> {
    for _ in 0..asked {
        for side in &mut sides {
            let began = clock::instant();
            let leases = alone::lease(&side.store, WANT).await;
            let took = clock::instant() - began;
            assert_eq!(leases.len(), WANT, "so many are due");
            side.lease.add(took.as_secs_f64() * 1e6 / number(WANT));
        }
    }
    // Apart: a long count would weigh on whoever is asked next.
    for _ in 0..asked {
        for side in &mut sides {
            let began = clock::instant();
            let backlog = side.store.backlog();
            side.count.add_time(clock::instant() - began);
            let pending = usize::try_from(backlog.pending + backlog.running);
            assert!(
                pending.is_ok_and(|pending| pending >= side.size),
                "all is counted"
            );
        }
    }
    let restarted = sides.into_iter().map(|side| {
        side.store.excuse_running();
        side.store.close();
        let (started_in, resident) = started(side.home);
        Restarted {
            lease: side.lease,
            count: side.count,
            started: started_in,
            resident,
        }
    });
    restarted.collect()
}

/// How long a server takes to start on what is there, in milliseconds, and the bytes it has then.
fn started(home: Home) -> (f64, f64) {
    let server = Server::at(home, UNSERVED);
    let resident = number(server.usage().resident);
    (server.started_in.as_secs_f64() * 1e3, resident)
}

fn told(report: &mut Report, what: &str, size: usize, empty: f64, sides: &[Restarted]) {
    let [few, many] = sides else {
        unreachable!("there are two sides")
    };
    let scale = [
        (
            format!("an item leased among {size} {what}"),
            many.lease.median(),
            "us",
        ),
        (
            format!("{what} counted for a scraper, among {size}"),
            many.count.median(),
            "ms",
        ),
        (format!("start with {size} {what}"), many.started, "ms"),
        (
            format!("memory of each of {size} {what}"),
            (many.resident - empty) / number(size),
            "bytes",
        ),
    ];
    for (what, value, unit) in scale {
        report.scale(what, value, unit);
    }
    let hundredth = size / 100;
    let ratio = many.lease.median() / few.lease.median();
    report.ratio_of(
        format!("an item leased among {size} {what} / {hundredth}"),
        ratio,
        FLAT,
    );
}

/// Small batches before a huge one is cancelled and meanwhile.
async fn cancel(report: &mut Report, items: usize) {
    let server = Server::new(SERVED);
    let mut client = client::client(&server.channel().await);
    let load = Load {
        items,
        bytes: 1,
        in_flight: 8,
    };
    client::leave(&mut client, ("later", "huge"), load).await;
    let mut before = Figures::default();
    for _ in 0..ASKED {
        before.add_time(client::small(&mut client, SILENCE, SMALL).await);
    }
    let request = CancelBatchRequest {
        batch_id: "huge".into(),
        ..CancelBatchRequest::default()
    };
    let began = clock::instant();
    client.cancel_batch(request).await.expect("it is there");
    let mut meanwhile = Figures::default();
    let mut swept_in = Duration::ZERO;
    while client::batch(&mut client, "huge", 0)
        .await
        .finish_time
        .is_none()
    {
        meanwhile.add_time(client::small(&mut client, SILENCE, SMALL).await);
        swept_in = clock::instant() - began;
    }
    report.scale("small batch alone, p50", before.median(), "ms");
    report.scale("small batch beside a cancel, p50", meanwhile.median(), "ms");
    report.scale(
        "small batch beside a cancel, p90",
        meanwhile.quantile(0.9),
        "ms",
    );
    report.scale(
        "the cancel's records took",
        swept_in.as_secs_f64() * 1e3,
        "ms",
    );
    let ratio = meanwhile.median() / before.median();
    report.ratio_of(
        "small batch beside a cancel / alone, p50",
        ratio,
        Bar::AtMost(1.5),
    );
    let ratio = meanwhile.quantile(0.9) / before.quantile(0.9);
    report.ratio_of(
        "small batch beside a cancel / alone, p90",
        ratio,
        Bar::AtMost(2.0),
    );
}
