//! Runs with workers that train nothing.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use tandem_cluster::run::folder::RunFolder;
use tandem_tests::live::Run;
use tandem_tests::{Tiny, copy_folder, program};

/// A run of 20 steps that has not been launched, in `runs/test` beside `run.yaml`; its workers are
/// `examples/fake_worker.rs`.
pub(crate) fn fake_run(workers: usize) -> Run {
    let tiny = Arc::new(Tiny::texts());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny-a/source_bert");
    copy_folder(&golden, &tiny.path("bert"));
    let text = "{ tsv: { path: valid.tsv, source: 1, target: 2 } }";
    let yaml = format!(
        "run: {{ name: test, folder: {runs} }}
data: {{ train: {text}, valid: {text}, test: {text} }}
model:
  encoder: {{ bert: {{ pretrained: bert, adapters: {{ dim: 2 }} }} }}
  decoder: {{ bert: {{ pretrained: bert, cross_attention: {{ heads: 1 }} }} }}
  objective: {{ masked: {{}} }}
training:
  steps: 20
  max_tokens: 100
  micro_batches: 2
  optimizer: {{ adam: {{}} }}
  schedule: {{ constant: {{ rate: 0.001 }} }}
checkpoints: {{ every: 5, keep_last: 3, average: 2 }}
cluster:
  device: cpu
  workers: {workers}
  deadlines: {{ start: 60.0, step: 60.0, stop: 30.0 }}
",
        runs = tiny.path("runs").display()
    );
    let config = tiny.write("run.yaml", &yaml);
    // By the name of the real one, so that its processes are found like those.
    let worker = tiny.path("tandem-worker");
    symlink(program("examples/fake_worker").get_program(), &worker).unwrap();
    Run::of(&tiny, config, "runs/test", &[]).with("TANDEM_WORKER", &worker.to_string_lossy())
}

/// A run's folder as the launcher knows it.
pub(crate) fn run_folder(run: &Run) -> RunFolder {
    RunFolder::new(run.folder().to_owned())
}
