//! One mistake at a time in a valid run file, and several at once: what is printed, to the letter.
//!
//! Each change is a text of `valid.yaml` and what takes its place; each problem begins with its line
//! and column.

use crate::support::{Case, Folder, VALID, check_changes};

/// Overrides of the valid file, and the problems that they make.
type OverrideCase = (&'static [&'static str], &'static [&'static str]);

fn check(cases: &[Case]) {
    check_changes(VALID, cases);
}

#[test]
fn the_file_itself_is_valid() {
    assert_eq!(Folder::new().load(VALID, &[]), Ok(()));
}

#[test]
fn keys() {
    check(KEYS);
}

#[test]
fn types() {
    check(TYPES);
}

#[test]
fn ranges() {
    check(RANGES);
}

#[test]
fn choices() {
    check(CHOICES);
}

#[test]
fn broken_yaml() {
    check(YAML);
}

#[test]
fn conflicts() {
    check(CONFLICTS);
}

#[test]
fn inputs() {
    check(INPUTS);
}

#[test]
fn several_at_once() {
    check(SEVERAL);
}

#[test]
fn overrides() {
    let folder = Folder::new();
    for (overrides, problems) in OVERRIDES {
        let expected: Vec<String> = problems
            .iter()
            .map(|problem| match problem.starts_with("--set") {
                true => problem.to_string(),
                false => format!("run.yaml:{problem}"),
            })
            .collect();
        assert_eq!(folder.load(VALID, overrides), Err(expected.join("\n")), "{overrides:?}");
    }
}

const KEYS: &[Case] = &[
    (
        &[("  name: valid\n", "  nam: valid\n")],
        &[
            "2:1: run.name: missing, must be text",
            "3:3: run.nam: unknown key, allowed: name | folder, did you mean `name`?",
        ],
    ),
    (
        &[("run:\n  name: valid\n", "run:\n")],
        &["2:1: run: found nothing, must be a map of name | folder"],
    ),
    (&[("run:\n  name: valid\n", "run: {}\n")], &["2:1: run.name: missing, must be text"]),
    (&[("run:\n  name: valid\n", "")], &["2:1: run: missing, must be a map of name | folder"]),
    (
        &[("seed: 7", "sede: 7")],
        &[
            "4:1: sede: unknown key, allowed: run | seed | data | model | training | decoding | evaluation | checkpoints | cluster, did you mean `seed`?",
        ],
    ),
    (
        &[("too_long", "too-long")],
        &[
            "15:3: data.too-long: unknown key, allowed: train | valid | test | distillation | back_translation | max_length | too_long | max_ratio | bad_lines | max_bad | allow_changed | cache, did you mean `too_long`?",
        ],
    ),
    (
        &[("      pretrained: ./english\n", "")],
        &["24:5: model.decoder.bert.pretrained: missing, must be text"],
    ),
    (
        &[("        dim: 4\n", "")],
        &["20:7: model.encoder.bert.adapters.dim: missing, must be a whole number of at least 1"],
    ),
    (
        &[("  steps: 100\n", "")],
        &["34:1: training.steps: missing, must be a whole number of at least 1"],
    ),
    (
        &[("  precision: bf16", "  warmup: 10")],
        &[
            "45:3: training.warmup: unknown key, allowed: steps | max_tokens | micro_batches | optimizer | schedule | clip_norm | precision | max_non_finite | log_every, did you mean `training.schedule.inverse_sqrt.warmup`?",
        ],
    ),
    (
        &[("  precision: bf16", "  length_penalty: 1.0")],
        &[
            "45:3: training.length_penalty: unknown key, allowed: steps | max_tokens | micro_batches | optimizer | schedule | clip_norm | precision | max_non_finite | log_every, did you mean `decoding.mask_predict.length_penalty`?",
        ],
    ),
    (
        &[("      peak: 5e-4\n", "      paek: 5e-4\n")],
        &[
            "42:5: training.schedule.inverse_sqrt.peak: missing, must be a number of at least 0",
            "43:7: training.schedule.inverse_sqrt.paek: unknown key, allowed: peak | warmup | initial, did you mean `peak`?",
        ],
    ),
    (
        &[("  device: cpu", "  gpus: 2")],
        &[
            "57:3: cluster.gpus: unknown key, allowed: engine | workers | workers_per_gpu | hostfile | device | threads | reduction | gradient_dtype | bucket_mib | preflight | max_restarts | deadlines | slurm",
        ],
    ),
    (
        &[("  workers: 2", "  Workers: 2")],
        &[
            "56:3: cluster.Workers: unknown key, allowed: engine | workers | workers_per_gpu | hostfile | device | threads | reduction | gradient_dtype | bucket_mib | preflight | max_restarts | deadlines | slurm, did you mean `workers`?",
        ],
    ),
    (
        &[("source: valid.de", "src: valid.de")],
        &[
            "9:5: data.valid.files.source: missing, must be text",
            "10:7: data.valid.files.src: unknown key, allowed: source | target",
        ],
    ),
    (&[("seed: 7", "seed: 7\nseed: 8")], &["5:1: seed: given twice, first on line 4, remove one"]),
    (
        &[("  steps: 100\n", "  steps: 100\n  steps: 200\n")],
        &["36:3: training.steps: given twice, first on line 35, remove one"],
    ),
    (
        &[("  device: cpu", "  device: cpu\n  deadlines: {start: 60, start: 70}")],
        &["58:26: cluster.deadlines.start: given twice, first on line 58, remove one"],
    ),
    (
        &[("seed: 7", "1: 7")],
        &[
            "4:1: 1: unknown key, allowed: run | seed | data | model | training | decoding | evaluation | checkpoints | cluster",
        ],
    ),
    (
        &[("seed: 7", "<<: 7")],
        &["4:1: <<: must be a map that has a name, as in `<<: *name`, or a list of such"],
    ),
];

const TYPES: &[Case] = &[
    (
        &[("workers: 2", "workers: 2.0")],
        &[
            "56:12: cluster.workers: found 2.0, must be a whole number of at least 0, or a map of min | max, did you mean `2`?",
        ],
    ),
    (
        &[("workers: 2", "workers: [1, 2]")],
        &[
            "56:12: cluster.workers: found a list of 2, must be a whole number of at least 0, or a map of min | max",
        ],
    ),
    (
        &[("workers: 2", "workers: { min: 0, most: 2 }")],
        &[
            "56:3: cluster.workers.max: missing, must be a whole number of at least 1",
            "56:19: cluster.workers.min: found 0, must be a whole number of at least 1",
            "56:22: cluster.workers.most: unknown key, allowed: min | max",
        ],
    ),
    (&[("seed: 7", "seed: -1")], &["4:7: seed: found -1, must be a whole number of at least 0"]),
    (&[("seed: 7", "seed: 1.5")], &["4:7: seed: found 1.5, must be a whole number of at least 0"]),
    (
        &[("seed: 7", "seed: \"7\"")],
        &["4:7: seed: found the text `7`, must be a whole number of at least 0, did you mean `7`?"],
    ),
    (
        &[("seed: 7", "seed: seven")],
        &["4:7: seed: found the text `seven`, must be a whole number of at least 0"],
    ),
    (&[("seed: 7", "seed:")], &["4:1: seed: found nothing, must be a whole number of at least 0"]),
    (
        &[("seed: 7", "seed: [7]")],
        &["4:7: seed: found a list of 1, must be a whole number of at least 0"],
    ),
    (
        &[("seed: 7", "seed: 99999999999999999999")],
        &["4:7: seed: found 99999999999999999999, must be a whole number of at least 0"],
    ),
    (
        &[("name: valid", "name: 2024")],
        &["3:9: run.name: found 2024, must be text, did you mean `\"2024\"`?"],
    ),
    (
        &[("name: valid", "name: true")],
        &["3:9: run.name: found true, must be text, did you mean `\"true\"`?"],
    ),
    (
        &[("steps: 100", "steps: 1e5")],
        &[
            "35:10: training.steps: found 1e5, must be a whole number of at least 1, did you mean `100000`?",
        ],
    ),
    (
        &[("steps: 100", "steps: 100_000")],
        &[
            "35:10: training.steps: found the text `100_000`, must be a whole number of at least 1, did you mean `100000`?",
        ],
    ),
    (
        &[("max_tokens: 400", "max_tokens: 4 000")],
        &[
            "36:15: training.max_tokens: found the text `4 000`, must be a whole number of at least 2, did you mean `4000`?",
        ],
    ),
    (
        &[("      peak: 5e-4", "      peak: fast")],
        &[
            "43:13: training.schedule.inverse_sqrt.peak: found the text `fast`, must be a number of at least 0",
        ],
    ),
    (
        &[("      peak: 5e-4", "      peak: .nan")],
        &[
            "43:13: training.schedule.inverse_sqrt.peak: found the text `.nan`, must be a number of at least 0",
        ],
    ),
    (
        &[("  precision: bf16", "  precision: 16")],
        &["45:14: training.precision: found 16, must be one of f32 | tf32 | bf16"],
    ),
    (
        &[("  precision: bf16", "  clip_norm: .inf")],
        &["45:14: training.clip_norm: found the text `.inf`, must be a number of at least 0"],
    ),
    (
        &[("[0.9, 0.98]", "[0.9]")],
        &["40:14: training.optimizer.adam.betas: found a list of 1, must be a list of 2 numbers"],
    ),
    (
        &[("[0.9, 0.98]", "[0.9, x]")],
        &["40:20: training.optimizer.adam.betas[1]: found the text `x`, must be a number"],
    ),
    (
        &[("[0.9, 0.98]", "0.9")],
        &["40:14: training.optimizer.adam.betas: found 0.9, must be a list of 2 numbers"],
    ),
    (
        &[("        layers: all", "        layers: {list: 3}")],
        &[
            "22:24: model.encoder.bert.adapters.layers.list: found 3, must be a list of whole numbers",
        ],
    ),
    (
        &[("        layers: all", "        layers: {list: [0, -1]}")],
        &[
            "22:28: model.encoder.bert.adapters.layers.list[1]: found -1, must be a whole number of at least 0",
        ],
    ),
    (
        &[("cluster:\n  engine: mpirun\n  workers: 2\n  device: cpu\n", "cluster: local\n")],
        &[
            "54:10: cluster: found the text `local`, must be a map of engine | workers | workers_per_gpu | hostfile | device | threads | reduction | gradient_dtype | bucket_mib | preflight | max_restarts | deadlines | slurm",
        ],
    ),
    (
        &[("      label_smoothing: 0.1\n      corruption: {mask: 0.8, random: 0.1}\n", "")],
        &[
            "31:5: model.objective.masked: found nothing, must be a map of length_loss | label_smoothing | length_classes | corruption | source_noise | correction, did you mean `{}`?",
        ],
    ),
];

const RANGES: &[Case] = &[
    (
        &[("  steps: 100", "  steps: 0")],
        &["35:10: training.steps: found 0, must be a whole number of at least 1"],
    ),
    (
        &[("max_tokens: 400", "max_tokens: 1")],
        &["36:15: training.max_tokens: found 1, must be a whole number of at least 2"],
    ),
    (
        &[("max_length: 12", "max_length: 1")],
        &["14:15: data.max_length: found 1, must be a whole number of at least 2"],
    ),
    (
        &[("too_long: cut", "max_ratio: 0.5")],
        &["15:14: data.max_ratio: found 0.5, must be a number of at least 1"],
    ),
    (
        &[("label_smoothing: 0.1", "label_smoothing: 1.5")],
        &[
            "32:24: model.objective.masked.label_smoothing: found 1.5, must be a number from 0 to 0.99",
        ],
    ),
    (
        &[("mask: 0.8", "mask: -0.1")],
        &[
            "33:26: model.objective.masked.corruption.mask: found -0.1, must be a number from 0 to 1",
        ],
    ),
    (
        &[("        dim: 4", "        dim: 0")],
        &["21:14: model.encoder.bert.adapters.dim: found 0, must be a whole number of at least 1"],
    ),
    (
        &[("iterations: 4", "iterations: 1001")],
        &[
            "48:17: decoding.mask_predict.iterations: found 1001, must be a whole number from 1 to 1000",
        ],
    ),
    (
        &[("iterations: 4", "threshold: 1.0\n    prune_after: 0")],
        &[
            "48:16: decoding.mask_predict.threshold: found 1.0, must be a number from 0.01 to 0.999",
            "49:18: decoding.mask_predict.prune_after: found 0, must be a whole number from 1 to 1000",
        ],
    ),
    (
        &[("      label_smoothing: 0.1", "      correction: {share: 0, weigh: 1}")],
        &[
            "32:27: model.objective.masked.correction.share: found 0, must be a number from 0.01 to 1",
            "32:30: model.objective.masked.correction.weigh: unknown key, allowed: share | weight, did you mean `weight`?",
        ],
    ),
    (
        &[("      peak: 5e-4", "      peak: -5e-4")],
        &[
            "43:13: training.schedule.inverse_sqrt.peak: found -5e-4, must be a number of at least 0",
        ],
    ),
    (
        &[("source: 1,", "source: 0,")],
        &["7:36: data.train.tsv.source: found 0, must be a whole number of at least 1"],
    ),
    (
        &[("        layers: all", "        layers: {top: 0}")],
        &[
            "22:23: model.encoder.bert.adapters.layers.top: found 0, must be a whole number of at least 1",
        ],
    ),
    (
        &[("  device: cpu", "  workers_per_gpu: 0")],
        &["57:20: cluster.workers_per_gpu: found 0, must be a whole number of at least 1"],
    ),
    (
        &[("  device: cpu", "  bucket_mib: 0")],
        &["57:15: cluster.bucket_mib: found 0, must be a number of at least 0.001"],
    ),
    (
        &[("  device: cpu", "  deadlines: {step: 0.5}")],
        &["57:21: cluster.deadlines.step: found 0.5, must be a number of at least 1"],
    ),
    (
        &[("  device: cpu", "  slurm: { margin: 0 }")],
        &["57:20: cluster.slurm.margin: found 0, must be a number of at least 1"],
    ),
];

const CHOICES: &[Case] = &[
    (
        &[("too_long: cut", "too_long: truncate")],
        &["15:13: data.too_long: found the text `truncate`, must be one of drop | cut | refuse"],
    ),
    (
        &[("too_long: cut", "too_long: Cut")],
        &[
            "15:13: data.too_long: found the text `Cut`, must be one of drop | cut | refuse, did you mean `cut`?",
        ],
    ),
    (
        &[("train: adapters", "train: adaptors")],
        &[
            "26:14: model.decoder.bert.train: found the text `adaptors`, must be one of adapters | all | scratch | frozen, did you mean `adapters`?",
        ],
    ),
    (
        &[("precision: bf16", "precision: fp16")],
        &["45:14: training.precision: found the text `fp16`, must be one of f32 | tf32 | bf16"],
    ),
    (
        &[("  device: cpu", "  gradient_dtype: f16")],
        &[
            "57:19: cluster.gradient_dtype: found the text `f16`, must be one of f32 | bf16, did you mean `bf16`?",
        ],
    ),
    (
        &[("  device: cpu", "  reduction: exact")],
        &["57:14: cluster.reduction: found the text `exact`, must be one of plain | reproducible"],
    ),
    (
        &[("engine: mpirun", "engine: mpi-run")],
        &[
            "55:11: cluster.engine: found the text `mpi-run`, must be one of auto | solo | mpirun | srun, did you mean `mpirun`?",
        ],
    ),
    (
        &[("  device: cpu", "  slurm: { continue: chains }")],
        &[
            "57:22: cluster.slurm.continue: found the text `chains`, must be one of chain | requeue | never, did you mean `chain`?",
        ],
    ),
    (
        &[("engine: mpirun", "engine: {mpirun: {}}")],
        &[
            "55:12: cluster.engine.mpirun: unknown choice, must be one of auto | solo | mpirun | srun, did you mean `mpirun`?",
        ],
    ),
    (
        &[("        layers: all", "        layers: top")],
        &[
            "22:17: model.encoder.bert.adapters.layers: found the text `top`, must be one of all | {top: ...} | {list: ...}, did you mean `{top: ...}`?",
        ],
    ),
    (
        &[("        layers: all", "        layers: {bottom: 2}")],
        &[
            "22:18: model.encoder.bert.adapters.layers.bottom: unknown choice, must be one of all | {top: ...} | {list: ...}",
        ],
    ),
    (
        &[("    bert:\n      pretrained: german", "    brt:\n      pretrained: german")],
        &[
            "18:5: model.encoder.brt: unknown choice, must be one of {bert: ...} | {transformer: ...}, did you mean `bert`?",
        ],
    ),
    (
        &[("  decoder:\n    bert:", "  decoder:\n    gpt:")],
        &[
            "24:5: model.decoder.gpt: unknown choice, must be one of {bert: ...} | {transformer: ...} | {gpt2: ...}, did you mean `gpt2`?",
        ],
    ),
    (
        &[("    masked:", "    contrastive:")],
        &[
            "31:5: model.objective.contrastive: unknown choice, must be one of {masked: ...} | {autoregressive: ...} | {ctc: ...} | {mlm: ...}",
        ],
    ),
    (
        &[("    masked:\n", "    mlm: {}\n    masked:\n")],
        &[
            "32:5: model.objective: found 2 choices (`mlm`, `masked`), must be one of {masked: ...} | {autoregressive: ...} | {ctc: ...} | {mlm: ...}",
        ],
    ),
    (
        &[("  train:\n    tsv: {path: train.tsv, source: 1, target: 2}", "  train: train.tsv")],
        &[
            "6:10: data.train: found the text `train.tsv`, must be one of {tsv: ...} | {files: ...} | {jsonl: ...} | {lines: ...}",
        ],
    ),
    (
        &[("  train:\n    tsv: {path: train.tsv, source: 1, target: 2}", "  train: {}")],
        &[
            "6:10: data.train: found an empty map, must be one of {tsv: ...} | {files: ...} | {jsonl: ...} | {lines: ...}",
        ],
    ),
    (
        &[(
            "    tsv: {path: train.tsv, source: 1, target: 2}",
            "    tsv: {path: train.tsv, source: 1, target: 2}\n    lines: {path: mono.de}",
        )],
        &[
            "8:5: data.train: found 2 choices (`tsv`, `lines`), must be one of {tsv: ...} | {files: ...} | {jsonl: ...} | {lines: ...}",
        ],
    ),
    (
        &[("    inverse_sqrt:", "    inverse-sqrt:")],
        &[
            "42:5: training.schedule.inverse-sqrt: unknown choice, must be one of {inverse_sqrt: ...} | {linear: ...} | {constant: ...}, did you mean `inverse_sqrt`?",
        ],
    ),
    (
        &[("  mask_predict:\n    iterations: 4", "  beam: 5")],
        &[
            "47:3: decoding.beam: unknown choice, must be one of {mask_predict: ...} | {beam_search: ...} | {ctc: ...}, did you mean `beam_search`?",
        ],
    ),
];

const YAML: &[Case] = &[
    (
        &[("training:\n  steps: 100\n", "training:\n  - steps: 100\n")],
        &["36:3: not YAML: while parsing a block collection, did not find expected '-' indicator"],
    ),
    (
        &[("run:\n  name", "run:\n\tname")],
        &[
            "3:2: not YAML: tabs disallowed within this context (block indentation), indent with spaces instead of tabs",
        ],
    ),
    (
        &[("  name: valid", "  name: \"valid")],
        &["3:9: not YAML: invalid indentation in quoted scalar, is a closing quote missing?"],
    ),
    (
        &[("{path: train.tsv, source: 1, target: 2}", "{path: train.tsv, source: 1, target: 2")],
        &["8:8: not YAML: while parsing a flow mapping, did not find expected ',' or '}'"],
    ),
    (
        &[("too_long: cut", "too_long: cut: off")],
        &[
            "15:16: not YAML: mapping values are not allowed in this context, text with `: ` in it needs quotes",
        ],
    ),
    (
        &[("  name: valid", "  name: valid\n folder: runs")],
        &["4:2: not YAML: while parsing a block mapping, did not find expected key"],
    ),
    (
        &[("  too_long: cut", "  too_long: cut\n ---\n")],
        &["16:2: not YAML: unexpected end of plain scalar"],
    ),
    (
        &[("  device: cpu\n", "  device: cpu\n---\nrun: {}\n")],
        &["60:1: a second document, a run file has one"],
    ),
    (
        &[("    bert:\n      pretrained: german", "    !bert\n      pretrained: german")],
        &[
            "19:7: a YAML tag (`!...`), run files have none: write choices as one-key maps such as `bert: {...}`",
        ],
    ),
    (
        &[("engine: mpirun", "engine: *fastest")],
        &["55:11: not YAML: while parsing node, found unknown anchor"],
    ),
    (&[("seed: 7", "? [1, 2]\n: 7")], &["4:8: a key that is a list or a map, keys are words"]),
    (&[("seed: 7", "@seed: 7")], &["4:1: not YAML: unexpected character: `@'"]),
];

const CONFLICTS: &[Case] = &[
    (
        &[("iterations: 4", "iterations: 4\n    prune_after: 5")],
        &[
            "49:5: decoding.mask_predict.prune_after: found 5, but there are at most 4 passes with 4 iterations, must be a whole number from 1 to 4, or null",
        ],
    ),
    (
        &[("name: valid", "name: my run")],
        &[
            "3:3: run.name: found the text `my run`, must be letters, digits, `.`, `_` and `-`, and begin with a letter or digit",
        ],
    ),
    (
        &[("name: valid", "name: ../valid")],
        &[
            "3:3: run.name: found the text `../valid`, must be letters, digits, `.`, `_` and `-`, and begin with a letter or digit",
        ],
    ),
    (
        &[("name: valid", "name: .hidden")],
        &[
            "3:3: run.name: found the text `.hidden`, must be letters, digits, `.`, `_` and `-`, and begin with a letter or digit",
        ],
    ),
    (
        &[("target: 2}", "target: 1}")],
        &["7:39: data.train.tsv.target: 1 is the source's column too, must be another one"],
    ),
    (
        &[("target: valid.en", "target: valid.de")],
        &["11:7: data.valid.files.target: the source's file too, must be another one"],
    ),
    (
        &[("source: de, target: en", "source: de, target: de")],
        &["13:43: data.test.jsonl.target: `de` is the source's key too, must be another one"],
    ),
    (
        &[("    tsv: {path: train.tsv, source: 1, target: 2}", "    lines: {path: mono.de}")],
        &[
            "6:3: data.train: lines are one language, which only the mlm objective reads, must be one of {tsv: ...} | {files: ...} | {jsonl: ...}",
        ],
    ),
    (
        &[(
            "  decoder:\n    bert:\n      pretrained: ./english\n      train: adapters\n      cross_attention:\n        heads: 2\n        layers: {list: [0, 2]}\n",
            "",
        )],
        &[
            "16:1: model.decoder: missing, the masked objective needs a decoder, must be one of {bert: ...} | {transformer: ...} | {gpt2: ...}",
        ],
    ),
    (
        &[
            ("    bert:\n      pretrained: ./english", "    gpt2:\n      pretrained: ./gpt2"),
            ("heads: 2\n", "heads: 3\n        feed_forward: 4\n"),
        ],
        &[
            "28:9: model.decoder.gpt2.cross_attention.heads: 3 heads must divide the GPT-2's width 8",
            "29:9: model.decoder.gpt2.cross_attention.feed_forward: GPT-2's own feed-forward block comes behind the attention, must be 0",
            "30:28: model.decoder.gpt2.cross_attention.layers.list[1]: found 2, the GPT-2 has layers 0 to 1",
            "32:5: model.objective.masked: GPT-2 sees only what stands before a token, which the masked objective cannot do with, must be {autoregressive: ...}",
        ],
    ),
    (
        &[("    bert:\n      pretrained: ./english", "    gpt2:\n      pretrained: ./english")],
        &[
            "25:7: model.decoder.gpt2.pretrained: english/config.json does not describe a GPT-2: model_type is `bert`, only `gpt2` is supported",
            "31:5: model.objective.masked: GPT-2 sees only what stands before a token, which the masked objective cannot do with, must be {autoregressive: ...}",
        ],
    ),
    (
        &[("train: adapters", "train: frozen")],
        &[
            "27:7: model.decoder.bert.cross_attention: `train: frozen` trains nothing here, leave this out or set train to adapters",
        ],
    ),
    (
        &[("pretrained: german\n", "pretrained: german\n      train: frozen\n")],
        &[
            "21:7: model.encoder.bert.adapters: `train: frozen` trains nothing here, leave this out or set train to adapters",
        ],
    ),
    (
        &[("      cross_attention:\n        heads: 2\n        layers: {list: [0, 2]}\n", "")],
        &[
            "24:5: model.decoder.bert.cross_attention: missing, `train: adapters` has nothing else to train, must be a map of heads | feed_forward | layers | dropout",
        ],
    ),
    (
        &[
            (
                "train: adapters\n      cross_attention:\n        heads: 2\n        layers: {list: [0, 2]}\n",
                "train: frozen\n",
            ),
            (
                "    masked:\n      label_smoothing: 0.1\n      corruption: {mask: 0.8, random: 0.1}",
                "    autoregressive: {}",
            ),
            ("decoding:\n  mask_predict:\n    iterations: 4\n", ""),
        ],
        &[
            "24:5: model.decoder.bert.cross_attention: missing, without it the autoregressive objective never sees the source, must be a map of heads | feed_forward | layers | dropout",
        ],
    ),
    (
        &[
            (
                "train: adapters\n      cross_attention:\n        heads: 2\n        layers: {list: [0, 2]}\n",
                "train: frozen\n",
            ),
            (
                "    masked:\n      label_smoothing: 0.1\n      corruption: {mask: 0.8, random: 0.1}",
                "    ctc: {upsampling: 9, glancing: {start: 2, begin: 1}}",
            ),
        ],
        &[
            "28:23: model.objective.ctc.upsampling: found 9, must be a whole number from 1 to 8",
            "28:44: model.objective.ctc.glancing.start: found 2, must be a number from 0 to 1",
            "28:47: model.objective.ctc.glancing.begin: unknown key, allowed: start | end",
        ],
    ),
    (
        &[
            (
                "train: adapters\n      cross_attention:\n        heads: 2\n        layers: {list: [0, 2]}\n",
                "train: frozen\n",
            ),
            (
                "    masked:\n      label_smoothing: 0.1\n      corruption: {mask: 0.8, random: 0.1}",
                "    ctc: {}",
            ),
        ],
        &[
            "14:3: data.max_length: found 12, must be at most 8: the ctc objective's decoder reads 2 [MASK]s for each source token, and its BERT has 16 positions",
            "24:5: model.decoder.bert.cross_attention: missing, without it the ctc objective never sees the source, must be a map of heads | feed_forward | layers | dropout",
            "42:3: decoding.mask_predict: the ctc objective's decoder writes all tokens at once, with blanks between them, must be {ctc: ...}",
        ],
    ),
    (
        &[("      adapters:\n        dim: 4\n        layers: all\n", "")],
        &[
            "18:5: model.encoder.bert.adapters: missing, `train: adapters` has nothing else to train, must be a map of dim | layers",
        ],
    ),
    (
        &[("      pretrained: german\n", "")],
        &[
            "18:5: model.encoder.bert: found neither `pretrained` nor `new`, must be one of pretrained | new",
        ],
    ),
    (
        &[(
            "      pretrained: german\n",
            "      pretrained: german\n      new: {layers: 2, hidden: 8, heads: 2, feed_forward: 16, vocabulary: {learn: {size: 100, lowercase: false}}}\n",
        )],
        &[
            "20:7: model.encoder.bert.new: only the mlm objective makes a BERT, give `pretrained` instead",
            "20:7: model.encoder.bert.new: found `pretrained` too, must be one of pretrained | new",
        ],
    ),
    (
        &[("        layers: all", "        layers: {top: 4}")],
        &["22:18: model.encoder.bert.adapters.layers.top: found 4, the BERT has 3 layers"],
    ),
    (
        &[("        layers: all", "        layers: {list: []}")],
        &[
            "22:18: model.encoder.bert.adapters.layers.list: found an empty list, must have at least one layer",
        ],
    ),
    (
        &[("[0, 2]", "[0, 3]")],
        &[
            "29:28: model.decoder.bert.cross_attention.layers.list[1]: found 3, the BERT has layers 0 to 2",
        ],
    ),
    (
        &[("[0, 2]", "[2, 2]")],
        &[
            "29:28: model.decoder.bert.cross_attention.layers.list[1]: layer 2 is given twice, remove one",
        ],
    ),
    (
        &[("heads: 2\n", "heads: 3\n")],
        &["28:9: model.decoder.bert.cross_attention.heads: 3 heads must divide the BERT's width 8"],
    ),
    (
        &[("max_length: 12", "max_length: 17")],
        &[
            "14:3: data.max_length: found 17, the encoder's BERT has 16 positions",
            "14:3: data.max_length: found 17, the decoder's BERT has 16 positions",
        ],
    ),
    (
        &[("label_smoothing: 0.1", "length_classes: 12")],
        &[
            "32:7: model.objective.masked.length_classes: found 12, must be at least 13: more than the longest sentence, 12 tokens by data.max_length or the model's positions",
        ],
    ),
    (
        &[("  max_length: 12\n", ""), ("label_smoothing: 0.1", "length_classes: 16")],
        &[
            "31:7: model.objective.masked.length_classes: found 16, must be at least 17: more than the longest sentence, 16 tokens by data.max_length or the model's positions",
        ],
    ),
    (
        &[("max_tokens: 400", "max_tokens: 11")],
        &[
            "36:3: training.max_tokens: found 11, must be at least 12: the longest sentence by data.max_length or the model's positions",
        ],
    ),
    (
        &[("random: 0.1", "random: 0.3")],
        &[
            "33:7: model.objective.masked.corruption: mask 0.8 and random 0.3 are together more than 1",
        ],
    ),
    (
        &[("[0.9, 0.98]", "[0.9, 1.0]")],
        &["40:20: training.optimizer.adam.betas[1]: found 1, must be from 0 to below 1"],
    ),
    (
        &[("warmup: 10", "warmup: 101")],
        &[
            "44:7: training.schedule.inverse_sqrt.warmup: found 101, must be at most 100, since training.steps is 100",
        ],
    ),
    (
        &[(
            "inverse_sqrt:\n      peak: 5e-4\n      warmup: 10",
            "linear:\n      peak: 5e-4\n      warmup: 100",
        )],
        &[
            "44:7: training.schedule.linear.warmup: found 100, must be at most 99, since training.steps is 100",
        ],
    ),
    (
        &[(
            "inverse_sqrt:\n      peak: 5e-4\n      warmup: 10",
            "constant:\n      rate: 5e-4\n      warmup: 101",
        )],
        &[
            "44:7: training.schedule.constant.warmup: found 101, must be at most 100, since training.steps is 100",
        ],
    ),
    (
        &[("  valid:\n    files:\n      source: valid.de\n      target: valid.en\n", "")],
        &["46:3: evaluation.every: found 50 without data.valid, give data.valid or set this to 0"],
    ),
    (
        &[("sentences: 10", "sentences: 0")],
        &[
            "51:3: evaluation.sentences: found 0, but `metric: bleu` decides which checkpoint is best, must be at least 1; or set evaluation.metric to loss",
        ],
    ),
    (
        &[("average: 3", "average: 11")],
        &[
            "53:3: checkpoints.average: found 11, must be at most 10, since checkpoints.keep_last is 10",
        ],
    ),
    (
        &[("average: 3", "keep_last: 5")],
        &[
            "52:1: checkpoints.average: found 10, must be at most 5, since checkpoints.keep_last is 5",
        ],
    ),
    (
        &[("  device: cpu", "  device: cpu\n  gradient_dtype: bf16")],
        &["58:3: cluster.gradient_dtype: workers on CPUs sum gradients in f32, must be f32"],
    ),
    (
        &[("  device: cpu", "  reduction: reproducible\n  gradient_dtype: bf16")],
        &[
            "58:3: cluster.gradient_dtype: cluster.reduction is reproducible, which sums in f32, must be f32",
        ],
    ),
    (
        &[("engine: mpirun", "engine: solo")],
        &[
            "55:3: cluster.engine: solo is one worker and cluster.workers is 2, must be one of auto | mpirun | srun",
        ],
    ),
    (
        &[("workers: 2", "workers: { min: 3, max: 2 }")],
        &["56:14: cluster.workers.min: found 3, must be at most 2, since max is 2"],
    ),
    (
        &[("workers: 2", "workers: 3")],
        &[
            "37:3: training.micro_batches: found 2, must be at least 3, one for each of cluster.workers",
        ],
    ),
];

const INPUTS: &[Case] = &[
    (
        &[("path: train.tsv", "path: tarin.tsv")],
        &["7:11: data.train.tsv.path: there is no file tarin.tsv"],
    ),
    (
        &[("source: valid.de", "source: /nowhere/valid.de")],
        &["10:7: data.valid.files.source: there is no file /nowhere/valid.de"],
    ),
    (
        &[("path: test.jsonl", "path: german")],
        &["13:13: data.test.jsonl.path: german is a folder, must be a file"],
    ),
    (
        &[("pretrained: german", "pretrained: ./germany")],
        &[
            "19:7: model.encoder.bert.pretrained: there is no folder germany, must be a Hugging Face folder (beside this file, or an absolute path) or a model's name on the hub",
        ],
    ),
    (
        &[("pretrained: german", "pretrained: models/german/bert")],
        &[
            "19:7: model.encoder.bert.pretrained: there is no folder models/german/bert, must be a Hugging Face folder (beside this file, or an absolute path) or a model's name on the hub",
        ],
    ),
    (
        &[("  too_long: cut", "  distillation: {teacher: student.yaml, beam: 0}")],
        &["15:47: data.distillation.beam: found 0, must be a whole number from 1 to 64"],
    ),
    (
        &[("  too_long: cut", "  distillation: {teacher: student.yaml}")],
        &[
            "15:18: data.distillation.teacher: there is no student.yaml, must be a run's folder or a run file",
        ],
    ),
    (
        &[("  too_long: cut", "  back_translation: {teacher: german, text: mono.en, ratio: 0}")],
        &["15:61: data.back_translation.ratio: found 0, must be a number of at least 0.001"],
    ),
    (
        &[("  too_long: cut", "  back_translation: {teacher: german, text: mono.en}")],
        &[
            "15:22: data.back_translation.teacher: german is no run folder: it has no config.yaml",
            "15:39: data.back_translation.text: there is no file mono.en",
        ],
    ),
    (
        &[("  too_long: cut", "  distillation: {beam: 5}")],
        &["15:3: data.distillation.teacher: missing, must be text"],
    ),
];

const SEVERAL: &[Case] = &[
    // Conflicts and missing files besides keys that the schema does not know.
    (
        &[
            ("path: train.tsv", "path: nothing.tsv"),
            ("heads: 2\n", "heads: 3\n"),
            ("  steps: 100", "  stepz: 100"),
        ],
        &[
            "7:11: data.train.tsv.path: there is no file nothing.tsv",
            "28:9: model.decoder.bert.cross_attention.heads: 3 heads must divide the BERT's width 8",
            "34:1: training.steps: missing, must be a whole number of at least 1",
            "35:3: training.stepz: unknown key, allowed: steps | max_tokens | micro_batches | optimizer | schedule | clip_norm | precision | max_non_finite | log_every, did you mean `steps`?",
        ],
    ),
    // Nothing is told that may only follow from another problem.
    (
        &[("  valid:\n", "  valdi:\n")],
        &[
            "8:3: data.valdi: unknown key, allowed: train | valid | test | distillation | back_translation | max_length | too_long | max_ratio | bad_lines | max_bad | allow_changed | cache, did you mean `valid`?",
        ],
    ),
    (
        &[
            ("train: adapters\n", "train: adaptors\n"),
            ("mask_predict:\n    iterations: 4", "beam_search: {}"),
        ],
        &[
            "26:14: model.decoder.bert.train: found the text `adaptors`, must be one of adapters | all | scratch | frozen, did you mean `adapters`?",
        ],
    ),
    (
        &[("evaluation:\n", "evaluatoin:\n"), ("average: 3", "average: 3\n  keep_last: 1")],
        &[
            "49:1: evaluatoin: unknown key, allowed: run | seed | data | model | training | decoding | evaluation | checkpoints | cluster, did you mean `evaluation`?",
        ],
    ),
    // mlm
    (
        &[(
            "    masked:\n      label_smoothing: 0.1\n      corruption: {mask: 0.8, random: 0.1}",
            "    mlm: {}",
        )],
        &[
            "6:3: data.train: the mlm objective reads one language, must be {lines: ...}",
            "8:3: data.valid: the mlm objective reads one language, must be {lines: ...}",
            "12:3: data.test: the mlm objective reads one language, must be {lines: ...}",
            "18:5: model.encoder.bert.train: the mlm objective trains the BERT itself, must be all | scratch",
            "20:7: model.encoder.bert.adapters: the mlm objective trains the BERT itself, leave the adapters out",
            "23:3: model.decoder: the mlm objective trains an encoder alone, leave the decoder out",
        ],
    ),
    // mlm new
    (
        &[(
            "      pretrained: german\n      adapters:\n        dim: 4\n        layers: all\n",
            "      new:\n        layers: 2\n        hidden: 8\n        heads: 3\n        feed_forward: 16\n        vocabulary: {file: {path: words.txt, lowercase: true}}\n",
        )],
        &[
            "18:5: model.encoder.bert.adapters: missing, `train: adapters` has nothing else to train, must be a map of dim | layers",
            "18:5: model.encoder.bert.train: a new BERT has no weights to start from, must be scratch",
            "19:7: model.encoder.bert.new: only the mlm objective makes a BERT, give `pretrained` instead",
            "22:9: model.encoder.bert.new.heads: 3 heads must divide hidden: 8",
            "24:29: model.encoder.bert.new.vocabulary.file.path: there is no file words.txt",
        ],
    ),
    // far apart
    (
        &[
            ("  name: valid", "  nme: valid"),
            ("steps: 100", "steps: 1e2"),
            ("    masked:", "    mask:"),
            ("engine: mpirun", "engine: slurm"),
            ("  device: cpu", "  device: gpu"),
        ],
        &[
            "2:1: run.name: missing, must be text",
            "3:3: run.nme: unknown key, allowed: name | folder, did you mean `name`?",
            "31:5: model.objective.mask: unknown choice, must be one of {masked: ...} | {autoregressive: ...} | {ctc: ...} | {mlm: ...}, did you mean `masked`?",
            "35:10: training.steps: found 1e2, must be a whole number of at least 1, did you mean `100`?",
            "55:11: cluster.engine: found the text `slurm`, must be one of auto | solo | mpirun | srun",
            "57:11: cluster.device: found the text `gpu`, must be one of auto | cpu | cuda",
        ],
    ),
    // shape before conflicts
    (
        &[("steps: 100", "steps: many"), ("average: 3", "average: 30")],
        &["35:10: training.steps: found the text `many`, must be a whole number of at least 1"],
    ),
    // conflicts in order
    (
        &[
            ("name: valid", "name: my run"),
            ("path: train.tsv", "path: x.tsv"),
            ("[0, 2]", "[3, 3]"),
            ("warmup: 10", "warmup: 1000"),
            ("average: 3", "average: 30"),
            ("workers: 2", "workers: 9"),
        ],
        &[
            "3:3: run.name: found the text `my run`, must be letters, digits, `.`, `_` and `-`, and begin with a letter or digit",
            "7:11: data.train.tsv.path: there is no file x.tsv",
            "29:25: model.decoder.bert.cross_attention.layers.list[0]: found 3, the BERT has layers 0 to 2",
            "29:28: model.decoder.bert.cross_attention.layers.list[1]: found 3, the BERT has layers 0 to 2",
            "29:28: model.decoder.bert.cross_attention.layers.list[1]: layer 3 is given twice, remove one",
            "37:3: training.micro_batches: found 2, must be at least 9, one for each of cluster.workers",
            "44:7: training.schedule.inverse_sqrt.warmup: found 1000, must be at most 100, since training.steps is 100",
            "53:3: checkpoints.average: found 30, must be at most 10, since checkpoints.keep_last is 10",
        ],
    ),
    // twice and unknown
    (
        &[("seed: 7", "seed: 7\nseed: x\nsed: 1")],
        &[
            "5:1: seed: given twice, first on line 4, remove one",
            "6:1: sed: unknown key, allowed: run | seed | data | model | training | decoding | evaluation | checkpoints | cluster, did you mean `seed`?",
        ],
    ),
];

const OVERRIDES: &[OverrideCase] = &[
    (
        &["training.steps=0"],
        &["--set training.steps=0: training.steps: found 0, must be a whole number of at least 1"],
    ),
    (
        &["training.stpes=5"],
        &[
            "--set training.stpes=5: training.stpes: unknown key, allowed: steps | max_tokens | micro_batches | optimizer | schedule | clip_norm | precision | max_non_finite | log_every, did you mean `steps`?",
        ],
    ),
    (&["training"], &["--set training: must be path.to.key=value, such as training.steps=1000"]),
    (&["=5"], &["--set =5: must be path.to.key=value, such as training.steps=1000"]),
    (
        &["training..steps=5"],
        &["--set training..steps=5: must be path.to.key=value, such as training.steps=1000"],
    ),
    (
        &["training.steps=[1"],
        &[
            "--set training.steps=[1: training.steps: not YAML: while parsing a flow sequence, expected ',' or ']'",
        ],
    ),
    (
        &["training.schedule.linear.peak=1e-3"],
        &[
            "--set training.schedule.linear.peak=1e-3: training.schedule: `inverse_sqrt` is chosen; to choose `linear` instead, set all of it: training.schedule='{linear: {...}}'",
        ],
    ),
    (
        &["training.schedule.lineer.peak=1e-3"],
        &[
            "--set training.schedule.lineer.peak=1e-3: training.schedule: found 2 choices (`inverse_sqrt`, `lineer`), must be one of {inverse_sqrt: ...} | {linear: ...} | {constant: ...}",
        ],
    ),
    (&["seed.x=1"], &["--set seed.x=1: seed.x: `seed` is not a map, so it has no key `x`"]),
    (
        &["data.train={lines: {path: mono.de}}"],
        &[
            "--set data.train={lines: {path: mono.de}}: data.train: lines are one language, which only the mlm objective reads, must be one of {tsv: ...} | {files: ...} | {jsonl: ...}",
        ],
    ),
    (
        &["cluster.workers=3"],
        &[
            "37:3: training.micro_batches: found 2, must be at least 3, one for each of cluster.workers",
        ],
    ),
    (
        &["data.valid=null"],
        &["50:3: evaluation.every: found 50 without data.valid, give data.valid or set this to 0"],
    ),
    (
        &["training={}"],
        &[
            "--set training={}: training.steps: missing, must be a whole number of at least 1",
            "--set training={}: training.max_tokens: missing, must be a whole number of at least 2",
            "--set training={}: training.micro_batches: missing, must be a whole number of at least 1",
            "--set training={}: training.schedule: missing, must be one of {inverse_sqrt: ...} | {linear: ...} | {constant: ...}",
        ],
    ),
    (
        &["model.encoder.bert.adapters.layers={top: 9}"],
        &[
            "--set model.encoder.bert.adapters.layers={top: 9}: model.encoder.bert.adapters.layers.top: found 9, the BERT has 3 layers",
        ],
    ),
    (
        &["seed=a", "training.steps=b"],
        &[
            "--set seed=a: seed: found the text `a`, must be a whole number of at least 0",
            "--set training.steps=b: training.steps: found the text `b`, must be a whole number of at least 1",
        ],
    ),
    (
        &["data.train.lines.path=mono.de"],
        &[
            "--set data.train.lines.path=mono.de: data.train: `tsv` is chosen; to choose `lines` instead, set all of it: data.train='{lines: {...}}'",
        ],
    ),
];
