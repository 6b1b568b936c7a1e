//! The door to metrics: what this process counts and measures, for whoever scrapes it.
//!
//! One [`Metrics`] is created with a server (or by default with a store) and handed down. Whoever
//! counts per item holds a handle that was resolved once; nothing is allocated or looked up by name
//! per item. Gauges that mirror a state are set when somebody asks, not whenever the state changes.
//! Labels have few values, all of them ours: queues, outcomes, reasons, methods; never an id.

mod queue;
mod removal;
mod returned;

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};

pub(crate) use self::queue::{AttemptEnd, QueueMetrics};
pub(crate) use self::removal::RemovalMetrics;
pub(crate) use self::returned::Returned;
pub(crate) use prometheus_client::metrics::counter::Counter;
pub(crate) use prometheus_client::metrics::gauge::Gauge;

/// A metric with labels of which only some values are known beforehand.
pub(crate) type Labelled<M, const N: usize> = Family<[(&'static str, String); N], M>;

type Histograms<const N: usize> = Family<[(&'static str, String); N], Histogram, fn() -> Histogram>;
type Number = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Everything that is counted and measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    queues: queue::Families,
    /// When handlers returned, for [`Metrics::result_latency`].
    pub(crate) returned: Returned,
    pub(crate) result_latency: Histogram,
    pub(crate) end_to_end: Histogram,
    pub(crate) items_accepted: Counter,
    pub(crate) items_terminal: Labelled<Counter, 1>,
    pub(crate) dead_letters_redriven: Counter,
    pub(crate) dead_letters_purged: Counter,
    pub(crate) watchers: Gauge,
    pub(crate) connections: Labelled<Gauge, 1>,
    connections_refused: Labelled<Counter, 1>,
    pub(crate) rejected: Labelled<Counter, 1>,
    calls: Histograms<2>,
    pub(crate) store_commit: Histogram,
    pub(crate) store_fsync_errors: Counter,
    pub(crate) removal: RemovalMetrics,
    mirrors: Mirrors,
}

/// Gauges that are set when somebody asks.
#[derive(Debug, Default)]
struct Mirrors {
    items_in_state: Labelled<Gauge, 1>,
    oldest_pending_age: Number,
    batches_open: Gauge,
    batches_paused: Labelled<Gauge, 2>,
    request: Gauge,
    store: Gauge,
    store_wal: Gauge,
    store_free: Gauge,
    store_oldest_read: Number,
}

/// How much is accepted and not over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Batches that are not over.
    pub batches: usize,
    /// Items that wait for an attempt.
    pub pending: u64,
    /// Items whose attempt runs.
    pub running: u64,
    /// How long the longest of the items has waited that no attempt has begun yet.
    pub oldest: Duration,
    /// Batches that are paused, by queue and by who paused them; 0 where none is any more.
    pub paused: BTreeMap<(Box<str>, &'static str), u64>,
}

/// What the store takes up on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// Bytes of the write-ahead log beside it.
    pub log_bytes: u64,
    /// Bytes that may still be written to its file system.
    pub free_bytes: u64,
    /// How long the longest read under way has lasted.
    pub oldest_read: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of which nothing was counted yet.
    pub fn new() -> Self {
        let mut all = Register(Registry::with_prefix("sooner"));
        let queues = queue::Families::new(&mut all);
        let flow = Flow::new(&mut all);
        let watchers = all.gauge("watchers", "Readers that follow a batch now");
        let connections = all.labelled("connections", "Open connections by port");
        let connections_refused = all.labelled(
            "connections_refused",
            "Connections that were closed as they came, because as many were open as may be, by port",
        );
        let rejected = all.labelled(
            "rejected",
            "Calls that were refused before their answer began, by reason",
        );
        let calls = Family::new_with_constructor(slow as fn() -> Histogram);
        all.seconds(
            "rpc_server_call_duration",
            "From a call's arrival until its answer has ended, streams included, by method and code",
            &calls,
        );
        let store_commit = fast();
        all.seconds(
            "store_commit",
            "How long the transaction of one group of writes took, its sync included",
            &store_commit,
        );
        let store_fsync_errors = all.counter(
            "store_fsync_errors",
            "Writes and syncs of the store that failed for good; the process ends at the first",
        );
        let removal = RemovalMetrics::new(&mut all);
        let mirrors = Mirrors::new(&mut all);
        all.build_info();
        Self {
            registry: all.0,
            queues,
            returned: Returned::default(),
            result_latency: flow.result_latency,
            end_to_end: flow.end_to_end,
            items_accepted: flow.items_accepted,
            items_terminal: flow.items_terminal,
            dead_letters_redriven: flow.dead_letters_redriven,
            dead_letters_purged: flow.dead_letters_purged,
            watchers,
            connections,
            connections_refused,
            rejected,
            calls,
            store_commit,
            store_fsync_errors,
            removal,
            mirrors,
        }
    }

    /// The handles of one queue. Ask once and keep them.
    pub(crate) fn queue(&self, name: &str) -> QueueMetrics {
        self.queues.of(name)
    }

    /// Notes that items ended in this way.
    pub(crate) fn ended(&self, outcome: &str, items: u32) {
        if items > 0 {
            let counter = self
                .items_terminal
                .get_or_create(&label("outcome", outcome));
            counter.inc_by(items.into());
        }
    }

    /// Notes that items of a queue became dead letters.
    pub(crate) fn died(&self, queue: &str, items: u64) {
        self.queues.died(queue, items);
    }

    /// Notes that a call was refused.
    pub(crate) fn refused(&self, reason: &str) {
        self.rejected.get_or_create(&label("reason", reason)).inc();
    }

    /// Notes how long a call took and how it ended.
    pub(crate) fn called(&self, method: &str, code: &str, took: Duration) {
        let labels = [
            ("rpc_method", method.to_owned()),
            ("rpc_response_status_code", code.to_owned()),
        ];
        self.calls
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// The open connections of one port. Ask once and keep it.
    pub(crate) fn connections(&self, port: &str) -> Gauge {
        self.connections.get_or_create_owned(&label("port", port))
    }

    /// Those of them that were closed as they came. Ask once and keep it.
    pub(crate) fn connections_refused(&self, port: &str) -> Counter {
        self.connections_refused
            .get_or_create_owned(&label("port", port))
    }

    /// Takes over what is accepted and not over, for the next [`Metrics::text`].
    pub fn set_backlog(&self, backlog: &Backlog) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, count) in [("pending", backlog.pending), ("running", backlog.running)] {
            let gauge = self
                .mirrors
                .items_in_state
                .get_or_create(&label("state", state));
            gauge.set(number(count));
        }
        self.mirrors
            .batches_open
            .set(number(backlog.batches as u64));
        let oldest = backlog.oldest.as_secs_f64();
        self.mirrors.oldest_pending_age.set(oldest);
        for ((queue, reason), &batches) in &backlog.paused {
            let labels = [
                ("queue", queue.to_string()),
                ("reason", (*reason).to_owned()),
            ];
            let gauge = self.mirrors.batches_paused.get_or_create(&labels);
            gauge.set(number(batches));
        }
    }

    /// Takes over how many bytes of requests are in memory, for the next [`Metrics::text`].
    pub fn set_request_bytes(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.mirrors.request.set(bytes);
    }

    /// Takes over what the store takes up, for the next [`Metrics::text`].
    pub fn set_footprint(&self, footprint: Footprint) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.mirrors.store.set(number(footprint.database_bytes));
        self.mirrors.store_wal.set(number(footprint.log_bytes));
        self.mirrors.store_free.set(number(footprint.free_bytes));
        let oldest = footprint.oldest_read.as_secs_f64();
        self.mirrors.store_oldest_read.set(oldest);
    }

    /// All of it as `OpenMetrics` text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A string takes whatever is written.
        text::encode(&mut text, &self.registry).ok();
        text
    }
}

/// What happens to items as a whole.
struct Flow {
    result_latency: Histogram,
    end_to_end: Histogram,
    items_accepted: Counter,
    items_terminal: Labelled<Counter, 1>,
    dead_letters_redriven: Counter,
    dead_letters_purged: Counter,
}

impl Flow {
    fn new(all: &mut Register) -> Self {
        let (result_latency, end_to_end) = (fast(), slow());
        all.seconds(
            "result_latency",
            "From the return of an item's handler until its durable result is handed to a reader that \
             follows the batch, without the time for which the reader's connection had no room; what \
             a reader catches up on is not counted",
            &result_latency,
        );
        all.seconds(
            "end_to_end",
            "From the accept of an item until its result is durable, for items that an attempt ended",
            &end_to_end,
        );
        Self {
            result_latency,
            end_to_end,
            items_accepted: all.counter("items_accepted", "Items durably accepted"),
            items_terminal: all
                .labelled("items_terminal", "Items that got their result, by outcome"),
            dead_letters_redriven: all.counter(
                "dead_letters_redriven",
                "Dead letters that were run again in a new batch",
            ),
            dead_letters_purged: all.counter(
                "dead_letters_purged",
                "Dead letters that were taken off the list without being run again",
            ),
        }
    }
}

impl Mirrors {
    fn new(all: &mut Register) -> Self {
        let mirrors = Self::default();
        let Self {
            items_in_state,
            oldest_pending_age,
            batches_open,
            batches_paused,
            request,
            store,
            store_wal,
            store_free,
            store_oldest_read,
        } = &mirrors;
        all.plain(
            "items_in_state",
            "Items of open batches by state: pending or running",
            items_in_state,
        );
        all.seconds(
            "oldest_pending_age",
            "How long the longest of the items has waited that no attempt has begun yet",
            oldest_pending_age,
        );
        all.plain("batches_open", "Batches that are not over", batches_open);
        all.plain(
            "batches_paused",
            "Batches that are paused, by queue and reason: hand or failure_policy",
            batches_paused,
        );
        all.bytes(
            "request",
            "Request messages in memory, out of limits.request_bytes and an eighth more for small ones",
            request,
        );
        all.bytes("store", "Size of the database file", store);
        all.bytes(
            "store_wal",
            "Size of the write-ahead log beside it",
            store_wal,
        );
        all.bytes(
            "store_free",
            "Room left on the file system of the data directory",
            store_free,
        );
        all.seconds(
            "store_oldest_read",
            "How long the longest read of the store under way has lasted; while it lasts the log cannot shrink",
            store_oldest_read,
        );
        mirrors
    }
}

/// A registry that is being filled.
struct Register(Registry);

impl Register {
    fn plain(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0.register(name, help, metric.clone());
    }

    fn seconds(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0
            .register_with_unit(name, help, Unit::Seconds, metric.clone());
    }

    fn bytes(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0
            .register_with_unit(name, help, Unit::Bytes, metric.clone());
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.plain(name, help, &counter);
        counter
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.plain(name, help, &gauge);
        gauge
    }

    fn labelled<M, const N: usize>(&mut self, name: &str, help: &str) -> Labelled<M, N>
    where
        Labelled<M, N>: Metric + Clone + Default,
    {
        let family = Labelled::default();
        self.plain(name, help, &family);
        family
    }

    /// A gauge and not an `Info`: readers of the older text format know no such type.
    fn build_info(&mut self) {
        let family: Labelled<Gauge, 1> = self.labelled(
            "build_info",
            "Always 1; the version of this program is in the label",
        );
        family
            .get_or_create(&label("version", env!("CARGO_PKG_VERSION")))
            .set(1);
    }
}

fn label(name: &'static str, value: &str) -> [(&'static str, String); 1] {
    [(name, value.to_owned())]
}

/// Buckets for what should take milliseconds: 0.5 ms to 1 s.
fn fast() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 12))
}

/// Buckets for what takes as long as the work does: 5 ms to two hours.
fn slow() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0,
        60.0, 300.0, 1800.0, 7200.0,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_was_counted_and_what_was_set() {
        let metrics = Metrics::default();
        metrics.items_accepted.inc_by(3);
        metrics.ended("succeeded", 2);
        metrics.ended("failed", 0);
        metrics.refused("QUEUE_FULL");
        metrics.called("a.B/C", "OK", Duration::from_millis(20));
        metrics.set_backlog(&Backlog {
            batches: 4,
            pending: 5,
            running: 6,
            oldest: Duration::from_millis(1500),
            paused: BTreeMap::from([(("q".into(), "hand"), 2)]),
        });
        metrics.set_footprint(Footprint {
            database_bytes: 7,
            log_bytes: 8,
            free_bytes: 9,
            oldest_read: Duration::ZERO,
        });
        metrics
            .queue("a\"b")
            .ended(AttemptEnd::TimedOut, Duration::from_secs(2));
        let text = metrics.text();
        for line in [
            "sooner_items_accepted_total 3",
            "sooner_items_terminal_total{outcome=\"succeeded\"} 2",
            "sooner_rejected_total{reason=\"QUEUE_FULL\"} 1",
            "sooner_rpc_server_call_duration_seconds_bucket{le=\"0.025\",rpc_method=\"a.B/C\",rpc_response_status_code=\"OK\"} 1",
            "sooner_batches_open 4",
            "sooner_batches_paused{queue=\"q\",reason=\"hand\"} 2",
            "sooner_items_in_state{state=\"pending\"} 5",
            "sooner_items_in_state{state=\"running\"} 6",
            "sooner_oldest_pending_age_seconds 1.5",
            "sooner_store_bytes 7",
            "sooner_store_wal_bytes 8",
            "sooner_store_free_bytes 9",
            "sooner_attempts_total{queue=\"a\\\"b\",outcome=\"timed_out\"} 1",
            "sooner_attempts_total{queue=\"a\\\"b\",outcome=\"succeeded\"} 0",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(!text.contains("failed\"} 0\nsooner_items"), "{text}");
    }
}
