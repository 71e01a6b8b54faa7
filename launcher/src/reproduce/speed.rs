//! The speed of a row's model, measured with untrained weights, once.

use tandem_cluster::process::say;
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::io_error::IoContext;
use tandem_cluster::run::records::Latency;
use tandem_cluster::topology::{Topology, TopologyError};
use tandem_config::RunConfig;
use tandem_config::composition::Composition;
use tandem_config::parameters;

use super::results::{Measured, Outcome};
use crate::coordinator::evaluation;
use crate::coordinator::session::Session;
use crate::prepare;
use crate::prepare::changes;
use crate::prepare::hub;
use crate::prepare::worker::Work;
use crate::score::Scoring;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

const SPLIT: &str = "test";

/// What was measured of a row, if that was done with its settings.
pub(crate) fn outcome(config: &RunConfig) -> Outcome {
    let run = RunFolder::new(config.run.path());
    let folder = run.untrained_evaluation();
    let Some(evaluation) = evaluation::read(&folder) else {
        return Outcome::Nothing("its speed has not been measured".into());
    };
    let mut config = config.clone();
    hub::find(&mut config);
    let other = match prepare::launched(&run) {
        Err(error) => Some(error.to_string()),
        Ok(old) => changes::timed(&old, &config).map(|change| format!("with {change}")),
    };
    if let Some(other) = other {
        let again = folder.path().display();
        let reason = format!("its speed was measured {other}; remove {again} to measure it again");
        return Outcome::Other { reason, resumes: false };
    }
    let trained = Composition::open(&config).map(|composition| {
        let parameters = parameters::model(&composition);
        parameters::trained_count(&parameters) as u64
    });
    let latency = evaluation::latency(&folder);
    Outcome::Measured(Measured {
        parameters: trained.ok(),
        latency_ms: latency.as_ref().map(|latency| latency.median_ms),
        notes: latency.iter().map(hardware).collect(),
        sentences_per_second: evaluation.figures.get("sentences_per_second").copied(),
        ..Measured::default()
    })
}

/// Describes the hardware of a measurement.
fn hardware(latency: &Latency) -> String {
    let threads = match latency.threads {
        1 => "1 thread".into(),
        threads => format!("{threads} threads"),
    };
    match latency.device.as_str() {
        "gpu" => format!("on a GPU, with {threads}"),
        _ => format!("on {threads} of a CPU"),
    }
}

/// Whether a config asks for a GPU and this machine has none.
pub(crate) fn lacks_gpu(config: &RunConfig) -> bool {
    let found = Topology::find_now(&config.cluster);
    matches!(found, Err(TopologyError::NoGpu { .. }))
}

/// Measures the speed of a row's model with random weights.
///
/// # Errors
/// A run folder in use, a BERT that cannot be fetched, or workers that cannot be started.
pub(crate) fn measure(mut config: RunConfig, interrupts: &Interrupts) -> anyhow::Result<Exit> {
    let run = RunFolder::new(config.run.path());
    let lock = run.lock()?;
    hub::resolve(&mut config, &mut |text| say(text))?;
    let output = run.untrained_evaluation();
    // Before the config is another: what an interrupted measurement leaves is nobody's figures.
    atomic::remove_folder(output.path()).tried("remove", output.path())?;
    prepare::write_config(&run, &config)?;
    let work = Work::Evaluate {
        model: Some(run.path().to_owned()),
        checkpoint: None,
        split: SPLIT.into(),
        output: output.path().to_owned(),
        decoding: None,
    };
    let scoring = Scoring::from(&config.evaluation);
    let interrupts = interrupts.or_request(lock.stop_request());
    match Session::new(&run, config, interrupts)?.work(&work)? {
        Ok(done) => evaluation::finish(&output, SPLIT, 0, &done.parts, scoring)?,
        Err(exit) => return Ok(exit),
    };
    Ok(Exit::Done)
}
