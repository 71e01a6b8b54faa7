//! Prometheus metrics of a run: `tandem launch --metrics ADDRESS`.
//!
//! Every scrape reads the run's state.json, so the endpoint shares nothing with the coordinator and can
//! neither slow down nor stop a run. It is as old as that file, which is written every second:
//! `tandem_updated_timestamp_seconds` says when.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::Value;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::GpuMemory;
use tandem_cluster::run::store::MANIFEST;

use crate::journal::{Pace, Rank, State, read_state};
use crate::terminal::exit::Refused;

/// The media type of what [`encode`] writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/metrics` on `address`, such as `127.0.0.1:9100`, for as long as this process lives.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) fn serve(address: &str, run: RunFolder) -> Result<SocketAddr, Refused> {
    let refused = |error: io::Error| {
        Refused(format!(
            "cannot serve metrics on {address}: {error}; `--metrics` takes an address of this machine \
             and a free port, such as 127.0.0.1:9100"
        ))
    };
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let router = Router::new().route("/metrics", get(async move || scrape(&run)));
    let server =
        async move { axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await };
    thread::Builder::new()
        .name("metrics".into())
        .spawn(move || runtime.block_on(server))
        .map_err(refused)?;
    Ok(bound)
}

fn scrape(run: &RunFolder) -> Response {
    // Before the first save there is nothing to measure, which is not a failed scrape.
    response(&registry(run, &read_state(run).unwrap_or_default()))
}

/// What a scrape gets: the metrics in the text format of OpenMetrics.
pub(crate) fn response(registry: &Registry) -> Response {
    match text(registry) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Metrics that are registered with their values.
struct Metrics(Registry);

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }
}

fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

fn registry(run: &RunFolder, state: &State) -> Registry {
    let mut metrics = Metrics(Registry::with_prefix("tandem"));
    let labels = vec![("status", name(&state.status)), ("stage", name(&state.stage))];
    metrics.gauges("run", "Status and stage of the run, as labels", [(labels, 1.0)]);
    metrics.gauge("updated_timestamp_seconds", "When the other values were written", state.updated);
    metrics.gauge("step", "Finished optimizer steps", state.step as f64);
    metrics.gauge("planned_steps", "Optimizer steps of the whole run", state.steps as f64);
    let measured = [
        ("loss", "Training loss of the newest step", state.loss),
        ("step_seconds", "Mean time of the newest steps", state.step_seconds),
        ("last_step_timestamp_seconds", "When the newest step was reported", state.stepped),
        ("tokens_per_second", "Target tokens per second, all ranks", state.tokens_per_second),
        ("remaining_seconds", "Estimated time until the last step", state.seconds_left),
    ];
    for (name, help, value) in measured {
        if let Some(value) = value {
            metrics.gauge(name, help, value);
        }
    }
    metrics.gauge("attempt", "Number of the newest attempt", state.attempt as f64);
    metrics.counter("restarts", "Restarts after failures", state.restarts);
    let accounts = state.ledger.totals().into_iter();
    let accounts =
        accounts.map(|(account, seconds)| (vec![("account", account.name().into())], seconds));
    metrics.gauges("time_seconds", "Time of the run by what it was spent on", accounts);
    let marks = [("latest", state.latest), ("best", state.best)];
    let marks = marks
        .into_iter()
        .filter_map(|(mark, step)| Some((vec![("mark", mark.into())], step? as f64)));
    metrics.gauges("checkpoint_step", "Step of the latest and of the best checkpoint", marks);
    if let Some(written) = state.latest.and_then(|step| written(run, step)) {
        metrics.gauge(
            "checkpoint_timestamp_seconds",
            "When the latest checkpoint was written",
            written,
        );
    }
    let newest = state.valid.iter().next_back();
    let scores = newest.into_iter().flat_map(|(_, scores)| scores);
    let scores = scores.map(|(name, value)| (vec![("name", name.clone())], *value));
    metrics.gauges("validation", "The newest evaluation on data.valid, by name", scores);
    ranks(&mut metrics, state);
    metrics.0
}

/// What there is for each rank that trains.
fn ranks(metrics: &mut Metrics, state: &State) {
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Rank) -> Option<f64>| {
        let sample = |(rank, known): (&usize, &Rank)| {
            let labels = vec![("rank", rank.to_string()), ("host", known.host.clone())];
            Some((labels, value(known)?))
        };
        let samples: Vec<_> = state.ranks.iter().filter_map(sample).collect();
        if !samples.is_empty() {
            metrics.gauges(&format!("rank_{name}"), help, samples);
        }
    };
    let pace = |value: fn(Pace) -> f64| move |rank: &Rank| rank.pace.map(value);
    let gpu =
        |value: fn(GpuMemory) -> u64| move |rank: &Rank| Some(value(rank.pace?.memory.gpu?) as f64);
    family("compute_seconds", "Mean time of computing a micro-batch", &pace(|pace| pace.compute));
    family("data_seconds", "Mean time of waiting for a micro-batch", &pace(|pace| pace.data));
    family(
        "slowdown_ratio",
        "Time for a micro-batch over the median of the other ranks",
        &|rank| rank.slowdown,
    );
    family("straggler", "Whether the rank has been slow for some time: 1 or 0", &|rank| {
        rank.slowdown.map(|_| f64::from(u8::from(rank.is_straggler)))
    });
    let resident = pace(|pace| pace.memory.resident as f64);
    family("resident_memory_bytes", "Resident main memory of the worker", &resident);
    for (name, help, value) in [
        (
            "allocated",
            "GPU memory that the worker's tensors take",
            (|gpu| gpu.allocated) as fn(GpuMemory) -> u64,
        ),
        ("reserved", "GPU memory that the worker holds for tensors", |gpu| gpu.reserved),
        ("free", "Memory of the rank's GPU that no process holds", |gpu| gpu.free),
        ("total", "Memory of the rank's GPU", |gpu| gpu.total),
    ] {
        family(&format!("gpu_memory_{name}_bytes"), help, &gpu(value));
    }
}

/// An enum's name in state.json.
fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        other => unreachable!("a unit variant is a string, not {other:?}"),
    }
}

/// When a checkpoint was written, in seconds since 1970; none where it is gone.
fn written(run: &RunFolder, step: u64) -> Option<f64> {
    let manifest = run.store().step_folder(step).join(MANIFEST);
    let modified = fs::metadata(manifest).ok()?.modified().ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use tandem_cluster::run::records::Memory;

    fn rank(host: &str, slowdown: f64, is_straggler: bool) -> Rank {
        let gpu =
            GpuMemory { allocated: 1 << 30, reserved: 2 << 30, free: 77 << 30, total: 80 << 30 };
        let memory = Memory { resident: 3 << 30, gpu: is_straggler.then_some(gpu) };
        let pace = Pace { step: 610, data: 0.125, compute: slowdown, memory };
        let (host, device) = (host.into(), "Cpu".into());
        Rank { host, device, pace: Some(pace), slowdown: Some(slowdown), is_straggler }
    }

    #[test]
    fn a_run_in_training() {
        let state = State {
            status: Status::Running,
            stage: Stage::Train,
            step: 612,
            steps: 900,
            loss: Some(2.5),
            tokens_per_second: Some(12_345.0),
            step_seconds: Some(0.25),
            stepped: Some(1_700_000_000.25),
            ranks: [(0, rank("n1", 0.8, false)), (1, rank("n2", 1.25, true))].into(),
            seconds_left: Some(125.0),
            attempt: 3,
            restarts: 2,
            latest: Some(600),
            best: Some(400),
            valid: [(400, [("bleu".to_owned(), 12.5)].into())].into(),
            updated: 1_700_000_000.5,
            ..State::default()
        };
        let run = RunFolder::new("no/such/run".into());
        let text = text(&registry(&run, &state)).unwrap();
        // Samples of a family come in any order.
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_by_key(|line| line.trim_start_matches("# HELP ").trim_start_matches("# TYPE "));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_address_in_use_is_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = serve(&address, RunFolder::new("no/such/run".into())).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot serve metrics on {address}: ")));
        assert!(serve("nonsense", RunFolder::new("no/such/run".into())).is_err());
    }
}
