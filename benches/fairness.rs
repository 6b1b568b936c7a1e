//! How long a small batch takes behind a huge one, against the same batch alone.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::time::Duration;

use clap::Parser as _;
use harness::alone::Load;
use harness::arguments::{Common, runtime};
use harness::client::{self, Client};
use harness::figures::{Figures, number};
use harness::report::{Bar, Report};
use harness::server::Server;

const NAME: &str = "fairness";
const QUESTION: &str = "how long does a small batch take behind a huge one?";

/// Few slots that each take a while: what is measured is the turns, not the machine.
const CONFIG: &str = r#"
[queues.default]
handler = { echo = { delay = "5ms" } }
slots = 8
"#;

/// The small batch.
const SMALL: Load = Load {
    items: 10,
    bytes: 1,
    in_flight: 1,
};

/// How long before each small batch nothing small is running.
const SILENCE: Duration = Duration::from_millis(30);

/// What "a few milliseconds" are, on top of twice the time alone.
const GRACE: f64 = 5.0;

/// The huge batch, by name.
const HUGE: &str = "huge";

/// How long a small batch takes behind a huge one, against the same batch alone
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Items of the huge batch [default: 100000]
    #[arg(long, value_name = "N")]
    items: Option<usize>,

    /// Small batches on each side [default: 50]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let huge = scale.size(arguments.items, 100_000, 5000);
    let samples = scale.size(arguments.samples, 50, 2);
    let (runtime, _) = runtime();
    let (calm, busy) = (Server::new(CONFIG), Server::new(CONFIG));
    let (mut alone, mut behind, mut meanwhile) =
        (Figures::default(), Figures::default(), Figures::default());
    let left = runtime.block_on(async {
        let mut calm = client::client(&calm.channel().await);
        let mut busy = client::client(&busy.channel().await);
        let load = Load {
            items: huge,
            bytes: 1,
            in_flight: 8,
        };
        client::leave(&mut busy, ("", HUGE), load).await;
        for _ in 0..samples {
            alone.add_time(client::small(&mut calm, SILENCE, SMALL).await);
            tokio::time::sleep(SILENCE).await;
            let ended = ended(&mut busy).await;
            behind.add_time(client::small(&mut busy, Duration::ZERO, SMALL).await);
            meanwhile.add(number(self::ended(&mut busy).await - ended));
        }
        huge - ended(&mut busy).await
    });
    assert!(left > 0, "the huge batch was over before the small ones");
    let setting = format!(
        "{} items behind {huge}, echo after 5 ms, 8 slots, {samples} times",
        SMALL.items
    );
    let mut report = Report::new(NAME, QUESTION, setting);
    for (what, figures) in [("alone", &alone), ("behind the huge one", &behind)] {
        report.scale(format!("last result {what}, p50"), figures.median(), "ms");
        report.scale(
            format!("last result {what}, p90"),
            figures.quantile(0.9),
            "ms",
        );
    }
    let what = "items of the huge batch that ended meanwhile, p50";
    report.scale(what, meanwhile.median(), "");
    let bar = Bar::AtMost(2.0 + GRACE / alone.median());
    let ratio = behind.median() / alone.median();
    report.ratio_of("behind / alone, p50", ratio, bar);
    report.print(arguments.common.json);
}

/// How many items of the huge batch have ended.
async fn ended(client: &mut Client) -> usize {
    let batch = client::batch(client, HUGE, 0).await;
    usize::try_from(batch.last_sequence).expect("a batch counts in 32 bits")
}
