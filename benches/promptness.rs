//! How soon a result is at its client: idle, under load, beside a slow item.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::time::Duration;

use clap::Parser as _;
use harness::alone::{IdleCommits, Load};
use harness::arguments::{Common, Scale, runtime};
use harness::client::{self, Client};
use harness::figures::{Figures, number, rate};
use harness::report::{Bar, Report};
use harness::server::Server;
use sooner::base::clock;
use sooner::base::tasks::Tasks;
use sooner::wire::{CancelBatchRequest, ItemResult, ItemSpec, Payload, payload};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const NAME: &str = "promptness";
const QUESTION: &str = "how soon is a result at its client?";

/// How long nothing happens before an idle sample.
const SILENCE: Duration = Duration::from_millis(10);

/// How often the load of the second part sends a batch.
const BEAT: Duration = Duration::from_millis(5);

/// Items that share a batch with a slow one, and how long each takes.
const QUICK_ITEMS: usize = 199;
const QUICK: &str = "0.02";
const SLOW: &str = "3";

/// Echo; a program whose last word is the time; a program that takes as long as its input says, on
/// a slot more for the batch with the slow item, so that both have as many for the others.
const CONFIG: &str = r#"
[queues.default]
handler = { echo = {} }
slots = 512
[queues.stamp]
handler = { exec = ["date", "+%s%N"] }
[queues.sleep-15]
handler = { exec = ["sleep", "{}"] }
slots = 15
[queues.sleep-16]
handler = { exec = ["sleep", "{}"] }
slots = 16
"#;

/// How soon a result is at its client: idle, at half load, beside a slow item
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Samples of each kind [default: 300]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,

    /// Bytes of each input and each output
    #[arg(long, value_name = "N", default_value_t = 1024)]
    bytes: usize,
}

/// Times in milliseconds.
#[derive(Default)]
struct Found {
    /// Of one commit of the store alone.
    commit: Figures,
    /// From a submit to its one result.
    whole: Figures,
    /// From the answer that the batch is accepted to its one result.
    answered: Figures,
    /// From a program's last word to its result.
    last_word: Figures,
    /// As `whole`, at half load.
    loaded: Figures,
    /// From a submit to the last quick result, without and with a slow item in the batch.
    quick: Figures,
    beside: Figures,
    saturated: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(scale) = arguments.common.scale(NAME) else {
        return;
    };
    let samples = scale.size(arguments.samples, 300, 5);
    let repetitions = scale.size(arguments.common.repetitions, 3, 1);
    let (runtime, tasks) = runtime();
    let server = Server::new(CONFIG);
    let mut found = Found::default();
    runtime.block_on(async {
        let channel = server.channel().await;
        idle(&channel, samples, arguments.bytes, &mut found).await;
        under_load(
            &server,
            &tasks,
            (scale, samples),
            arguments.bytes,
            &mut found,
        )
        .await;
        for _ in 0..repetitions {
            beside_a_slow_item(&channel, &mut found).await;
        }
    });
    let setting = format!("{samples} samples, items of {} bytes", arguments.bytes);
    found.report(setting).print(arguments.common.json);
}

/// One sample of each kind in turns, each after a silence.
async fn idle(channel: &Channel, samples: usize, bytes: usize, found: &mut Found) {
    let mut client = client::client(channel);
    let mut commits = IdleCommits::new(samples, bytes).await;
    for _ in 0..samples {
        tokio::time::sleep(SILENCE).await;
        found.commit.add_time(commits.next().await);
        tokio::time::sleep(SILENCE).await;
        let (whole, answered) = one_item(&mut client, bytes).await;
        found.whole.add_time(whole);
        found.answered.add_time(answered);
        tokio::time::sleep(SILENCE).await;
        let mut results = client::submit(&mut client, "stamp", client::items(1, 1)).await;
        let result = client::next(&mut results).await;
        found.last_word.add_time(since_last_word(&result));
    }
}

/// Submits one item; answers the time to its result, from the submit and from the accept.
async fn one_item(client: &mut Client, bytes: usize) -> (Duration, Duration) {
    let items = client::items(1, bytes);
    let began = clock::instant();
    let mut results = client::submit(client, "", items).await;
    let accepted = clock::instant();
    client::next(&mut results).await;
    let ended = clock::instant();
    (ended - began, ended - accepted)
}

/// How long ago a program wrote the time into its output. Both clocks are this machine's.
#[expect(clippy::disallowed_methods, reason = "another process wrote its time")]
fn since_last_word(result: &ItemResult) -> Duration {
    let output = result.output.as_ref().and_then(|it| it.body.as_ref());
    let Some(payload::Body::Text(text)) = output else {
        panic!("`date` writes text, not {output:?}");
    };
    let written = text.trim().parse().expect("`date` writes nanoseconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("the clock is past 1970");
    now.saturating_sub(Duration::from_nanos(written))
}

/// Samples while batches come in at half the rate that the server reaches.
async fn under_load(
    server: &Server,
    tasks: &Tasks,
    (scale, samples): (Scale, usize),
    bytes: usize,
    found: &mut Found,
) {
    let load = Load {
        items: scale.size(None, 50_000, 500),
        bytes,
        in_flight: 512,
    };
    let channel = server.channel().await;
    found.saturated = rate(load.items, client::run(&channel, tasks, load).await);
    let enough = CancellationToken::new();
    let loading = {
        let (tasks, enough) = (tasks.clone(), enough.clone());
        let items = whole(found.saturated / 2.0 * BEAT.as_secs_f64());
        tasks.clone().spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            while enough.run_until_cancelled(beat.tick()).await.is_some() {
                let mut client = client::client(&channel);
                tasks.spawn(async move {
                    let results = client::submit(&mut client, "", client::items(items, bytes));
                    client::read(results.await).await
                });
            }
        })
    };
    let mut probe = client::client(&server.channel().await);
    for _ in 0..samples {
        tokio::time::sleep(SILENCE).await;
        let (whole, _) = one_item(&mut probe, bytes).await;
        found.loaded.add_time(whole);
    }
    enough.cancel();
    loading.await.expect("the load does not panic");
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of items, at least one"
)]
fn whole(number: f64) -> usize {
    number.max(1.0) as usize
}

/// The same batch without and with an item that takes much longer, on as many slots for the others.
async fn beside_a_slow_item(channel: &Channel, found: &mut Found) {
    let mut client = client::client(channel);
    let quick = vec![sleep(QUICK); QUICK_ITEMS];
    found
        .quick
        .add_time(quick_ones(&mut client, "sleep-15", quick.clone()).await);
    let with_slow: Vec<_> = std::iter::once(sleep(SLOW)).chain(quick).collect();
    found
        .beside
        .add_time(quick_ones(&mut client, "sleep-16", with_slow).await);
}

/// How long a batch takes until its quick items have their results. The rest is cancelled.
async fn quick_ones(client: &mut Client, queue: &str, items: Vec<ItemSpec>) -> Duration {
    let began = clock::instant();
    let mut results = client::submit(client, queue, items).await;
    let mut result = client::next(&mut results).await;
    for _ in 1..QUICK_ITEMS {
        result = client::next(&mut results).await;
    }
    let took = clock::instant() - began;
    let request = CancelBatchRequest {
        batch_id: result.batch_id,
        ..CancelBatchRequest::default()
    };
    // A batch without a slow item is over already.
    client.cancel_batch(request).await.ok();
    took
}

/// An item that takes so many seconds.
fn sleep(seconds: &str) -> ItemSpec {
    let input = Payload {
        body: Some(payload::Body::Text(seconds.to_owned())),
        content_type: String::new(),
    };
    ItemSpec {
        input: Some(input),
        ..ItemSpec::default()
    }
}

impl Found {
    fn report(&self, setting: String) -> Report {
        let mut report = Report::new(NAME, QUESTION, setting);
        for (what, figures) in [
            ("idle: one commit of the store alone", &self.commit),
            ("idle: one item, submit to result", &self.whole),
            ("idle: accepted to result", &self.answered),
            ("idle: a program's last word to result", &self.last_word),
            ("half load: one item, submit to result", &self.loaded),
        ] {
            report.scale(format!("{what}, p50"), figures.median(), "ms");
            report.scale(format!("{what}, p99"), figures.quantile(0.99), "ms");
        }
        report.scale("full load", self.saturated, "items/s");
        let quick = format!("{QUICK_ITEMS} quick items");
        report.scale(format!("{quick} alone"), self.quick.median(), "ms");
        report.scale(
            format!("{quick} beside a slow one"),
            self.beside.median(),
            "ms",
        );

        let commits = |figures: &Figures| figures.median() / self.commit.median();
        for (what, figures, bar) in [
            (
                "accepted to result / idle commit, p50",
                &self.answered,
                Bar::AtMost(3.0),
            ),
            (
                "last word to result / idle commit, p50",
                &self.last_word,
                Bar::None,
            ),
            (
                "submit to result / idle commit, p50",
                &self.whole,
                Bar::AtMost(number(5)),
            ),
        ] {
            report.ratio_of(what, commits(figures), bar);
        }
        let loaded = self.loaded.median() / self.whole.median();
        report.ratio_of("half load / idle, submit to result, p50", loaded, Bar::None);
        let beside = self.beside.over(&self.quick);
        let what = "quick items beside a slow one / alone";
        report.ratio(what, &beside, Bar::AtMost(1.1));
        report
    }
}
