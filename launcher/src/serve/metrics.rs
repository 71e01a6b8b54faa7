//! What Prometheus scrapes from `tandem serve`.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

type Labels = [(&'static str, String); 2];

/// Counts of one server.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    sentences: Counter,
    cut: Counter,
    restarts: Counter,
    queue: Gauge,
    ready: Gauge,
    batches: Histogram,
    latency: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tandem_serve"),
            requests: Family::default(),
            sentences: Counter::default(),
            cut: Counter::default(),
            restarts: Counter::default(),
            queue: Gauge::default(),
            ready: Gauge::default(),
            batches: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            latency: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
        };
        let registry = &mut metrics.registry;
        let requests = metrics.requests.clone();
        registry.register("requests", "Answered requests, by path and status", requests);
        registry.register("sentences", "Translated sentences", metrics.sentences.clone());
        let help = "Translated sentences of which only the beginning fits the model";
        registry.register("cut_sentences", help, metrics.cut.clone());
        registry.register("worker_restarts", "Restarts of the worker", metrics.restarts.clone());
        registry.register("queued_sentences", "Sentences without an answer", metrics.queue.clone());
        registry.register("ready", "Whether a worker translates", metrics.ready.clone());
        registry.register("batch_sentences", "Sentences of a batch", metrics.batches.clone());
        let help = "Time from the head of a POST /translate to its answer";
        registry.register("latency_seconds", help, metrics.latency.clone());
        metrics
    }
}

impl Metrics {
    /// All of them.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A request was answered; those for translations are timed.
    pub(super) fn request(&self, path: &'static str, status: u16, took: Duration) {
        let labels = [("path", path.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        if path == "/translate" {
            self.latency.observe(took.as_secs_f64());
        }
    }

    /// A sentence was translated.
    pub(super) fn sentence(&self, is_cut: bool) {
        self.sentences.inc();
        self.cut.inc_by(is_cut.into());
    }

    /// A batch of so many sentences is being translated.
    pub(super) fn batch(&self, sentences: usize) {
        self.batches.observe(sentences as f64);
    }

    /// So many sentences have no answer yet.
    pub(super) fn queue(&self, sentences: usize) {
        self.queue.set(sentences as i64);
    }

    /// Whether a worker translates.
    pub(super) fn ready(&self, is_ready: bool) {
        self.ready.set(is_ready.into());
    }

    /// The worker is restarted.
    pub(super) fn restart(&self) {
        self.restarts.inc();
    }
}
