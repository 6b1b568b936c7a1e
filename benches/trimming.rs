//! How soon a result is at its client while a huge batch is being removed, against a quiet server.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::time::Duration;

use clap::Parser as _;
use harness::alone::Load;
use harness::arguments::{Common, runtime};
use harness::client;
use harness::figures::Figures;
use harness::report::{Bar, Report};
use harness::server::Server;
use sooner::wire::DeleteBatchRequest;

const NAME: &str = "trimming";
const QUESTION: &str = "how soon is a result at its client while a huge batch is removed?";

const CONFIG: &str = "[queues.default]\nhandler = { echo = {} }\nslots = 64\n";

/// How long before each sample nothing else happens.
const SILENCE: Duration = Duration::from_millis(5);

/// The batch whose result is waited for.
const ONE: Load = Load {
    items: 1,
    bytes: 100,
    in_flight: 1,
};

/// The huge batch, by name.
const HUGE: &str = "huge";

/// What a few milliseconds are, on top of twice the time on a quiet server.
const GRACE: f64 = 5.0;

/// How soon a result is at its client while a huge batch is being removed
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Items of the batch that is removed [default: 1000000]
    #[arg(long, value_name = "N")]
    items: Option<usize>,

    /// Results on each side [default: 300]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let huge = scale.size(arguments.items, 1_000_000, 20_000);
    let samples = scale.size(arguments.samples, 300, 3);
    let (runtime, _) = runtime();
    let server = Server::new(CONFIG);
    let (mut quiet, mut removing) = (Figures::default(), Figures::default());
    runtime.block_on(async {
        let mut client = client::client(&server.channel().await);
        let load = Load {
            items: huge,
            bytes: 100,
            in_flight: 64,
        };
        client::leave(&mut client, ("", HUGE), load).await;
        while client::batch(&mut client, HUGE, 60)
            .await
            .finish_time
            .is_none()
        {}
        for _ in 0..samples {
            quiet.add_time(client::small(&mut client, SILENCE, ONE).await);
        }
        let batch_id = HUGE.into();
        let deleted = client.delete_batch(DeleteBatchRequest { batch_id }).await;
        deleted.expect("it is over");
        // The rows begin to go within a second.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..samples {
            removing.add_time(client::small(&mut client, SILENCE, ONE).await);
        }
    });
    let setting = format!("a batch of {huge} of 100 bytes is removed, echo, {samples} results");
    let mut report = Report::new(NAME, QUESTION, setting);
    for (what, figures) in [("quiet", &quiet), ("removing", &removing)] {
        for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
            let told = format!("result at its client, {what}, {name}");
            report.scale(told, figures.quantile(share), "ms");
        }
    }
    let bar = Bar::AtMost(2.0 + GRACE / quiet.median());
    let ratio = removing.median() / quiet.median();
    report.ratio_of("removing / quiet, p50", ratio, bar);
    report.print(arguments.common.json);
}
