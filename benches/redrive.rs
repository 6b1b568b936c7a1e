//! What a redrive of very many dead letters costs, and whether anybody feels it.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::time::Duration;

use clap::Parser as _;
use harness::alone::{self, Load};
use harness::arguments::{Common, Scale, runtime};
use harness::client;
use harness::figures::{Figures, number, rate};
use harness::report::{Bar, Report};
use harness::server::{Home, Server};
use sooner::base::clock;
use sooner::wire::admin_service_client::AdminServiceClient;
use sooner::wire::{Batch, BatchState, RedriveDeadLettersRequest};

const NAME: &str = "redrive";
const QUESTION: &str =
    "what does a redrive of very many dead letters cost, and does anybody feel it?";

/// Nobody serves the queue of the letters: what is measured is their copies. Small batches have another.
const CONFIG: &str = r#"
[queues.default]
[queues.small]
handler = { echo = { delay = "5ms" } }
slots = 8
"#;

/// Small batches before the redrive.
const ASKED: usize = 50;

/// What each is.
const SMALL: Load = Load {
    items: 10,
    bytes: 1,
    in_flight: 8,
};

/// How long before each of them nothing small is running.
const SILENCE: Duration = Duration::from_millis(10);

/// What a redrive of very many dead letters costs, and whether anybody feels it
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Dead letters that are run again [default: 1000000]
    #[arg(long, value_name = "N")]
    letters: Option<usize>,

    /// Bytes of each of their inputs [default: 100]
    #[arg(long, value_name = "BYTES")]
    bytes: Option<usize>,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let load = Load {
        items: scale.size(arguments.letters, 1_000_000, 2500),
        bytes: arguments.bytes.unwrap_or(100),
        in_flight: 512,
    };
    let asked = if scale == Scale::Full { ASKED } else { 1 };
    let Load { items, bytes, .. } = load;
    let setting = format!(
        "{items} letters of {bytes} bytes, small batches of {} items",
        SMALL.items
    );
    let mut report = Report::new(NAME, QUESTION, setting);
    let (runtime, tasks) = runtime();
    runtime.block_on(async {
        let home = Home::new();
        let store = alone::open(&home.data_dir());
        let source = alone::append(&store, load).await;
        alone::fail(&store, &tasks, load).await;
        store.close();
        drop(store);
        let server = Server::at(home, CONFIG);
        redrive(
            &mut report,
            &server,
            (source.head.id.to_string(), load),
            asked,
        )
        .await;
    });
    report.print(arguments.common.json);
}

/// Small batches before the redrive and meanwhile.
async fn redrive(
    report: &mut Report,
    server: &Server,
    (source, letters): (String, Load),
    asked: usize,
) {
    let channel = server.channel().await;
    let mut client = client::client(&channel);
    let mut before = Figures::default();
    for _ in 0..asked {
        before.add_time(client::small_on(&mut client, "small", SILENCE, SMALL).await);
    }
    let resident = server.usage().resident;
    let request = RedriveDeadLettersRequest {
        batch_id: source,
        ..RedriveDeadLettersRequest::default()
    };
    let began = clock::instant();
    let mut admin = AdminServiceClient::new(channel);
    let redriven = admin.redrive_dead_letters(request).await;
    let redriven = redriven.expect("there are letters").into_inner().batch;
    let new = redriven.expect("it made a batch").batch_id;
    let mut meanwhile = Figures::default();
    let mut took;
    loop {
        meanwhile.add_time(client::small_on(&mut client, "small", SILENCE, SMALL).await);
        took = clock::instant() - began;
        let batch = client::batch(&mut client, &new, 0).await;
        if batch.state() != BatchState::Open {
            assert_eq!(copied(&batch), letters.items, "each is copied once");
            break;
        }
    }
    let grown = server.usage().peak.saturating_sub(resident);
    report.scale("letters copied", rate(letters.items, took), "letters/s");
    report.scale("memory that it took at most", number(grown) / 1e6, "MB");
    report.scale("small batch alone, p50", before.median(), "ms");
    report.scale("small batch beside it, p50", meanwhile.median(), "ms");
    for (share, name, bar) in [(0.5, "p50", 1.5), (0.9, "p90", 2.0)] {
        report.ratio_of(
            format!("small batch beside a redrive / alone, {name}"),
            meanwhile.quantile(share) / before.quantile(share),
            Bar::AtMost(bar),
        );
    }
}

fn copied(batch: &Batch) -> usize {
    let counts = batch.counts.unwrap_or_default();
    usize::try_from(counts.total).expect("it fits into memory")
}
