//! Keys that are right one by one and wrong together.
//!
//! Each check is one function that reports at the key which has to change.

mod decoding;
mod soft_labels;
mod transformer;

use std::collections::BTreeSet;

use crate::load::inputs::Shapes;
use crate::load::report::Report;
use crate::pretrained::network::Shape;
use crate::pretrained::{Kind, Side};
use crate::schema::cluster::{Bounds, Device, Engine, GradientDtype, Reduction, Workers};
use crate::schema::data::Text;
use crate::schema::evaluation::Metric;
use crate::schema::json::{Rule, schema};
use crate::schema::model::{
    BertEncoder, Corruption, Ctc, Encoder, Layers, Mlm, Objective, PretrainedDecoder, Train,
    Vocabulary, joined, longest_of_joined,
};
use crate::schema::run::{Run, RunConfig};
use crate::schema::training::{Optimizer, Schedule};

/// Reports every conflict.
pub(super) fn check(run: &RunConfig, shapes: &Shapes, report: &mut Report) {
    run_name(run, report);
    texts(run, report);
    teachers(run, report);
    objective(run, report);
    encoder_source(run, report);
    encoder_adapters(run, shapes, report);
    cross_attention(run, shapes, report);
    transformer::check(run, shapes, report);
    soft_labels::check(run, report);
    decoding::check(run, report);
    corruption(run, report);
    lengths(run, shapes, report);
    optimizer(run, report);
    warmup(run, report);
    evaluation(run, report);
    averaging(run, report);
    workers(run, report);
    gradient_dtype(run, report);
}

/// The run's name is the name of its folder.
fn run_name(run: &RunConfig, report: &mut Report) {
    let name = &run.run.name;
    if !Run::is_name(name) {
        let message = format!(
            "found the text `{name}`, must be letters, digits, `.`, `_` and `-`, and begin with a \
             letter or digit"
        );
        report.conflict("run.name", message);
    }
}

/// One language for `mlm`, two for translation and what is conditional; two columns are two.
fn texts(run: &RunConfig, report: &mut Report) {
    let mlm = match &run.model.objective {
        Objective::Mlm(mlm) => Some(mlm),
        Objective::Masked(_) | Objective::Autoregressive(_) | Objective::Ctc(_) => None,
    };
    for (split, text) in run.data.splits() {
        let path = format!("data.{split}");
        match (mlm.is_some_and(|mlm| !mlm.conditional), text) {
            (true, Text::Tsv { .. } | Text::Files { .. } | Text::Jsonl { .. }) => {
                let message = "the mlm objective reads one language, must be {lines: ...}";
                report.conflict(&path, message.into());
            }
            (false, Text::Lines { .. }) => {
                let reader = match mlm {
                    Some(_) => "and `conditional: true` reads pairs",
                    None => "which only the mlm objective reads",
                };
                let message = format!(
                    "lines are one language, {reader}, must be one of {{tsv: ...}} | \
                     {{files: ...}} | {{jsonl: ...}}"
                );
                report.conflict(&path, message);
            }
            (_, Text::Tsv { source, target, .. }) if source == target => {
                let message = format!("{target} is the source's column too, must be another one");
                report.conflict(&format!("{path}.tsv.target"), message);
            }
            (_, Text::Files { source, target }) if source == target => {
                let message = "the source's file too, must be another one".into();
                report.conflict(&format!("{path}.files.target"), message);
            }
            (_, Text::Jsonl { source, target, .. }) if source == target => {
                let message = format!("`{target}` is the source's key too, must be another one");
                report.conflict(&format!("{path}.jsonl.target"), message);
            }
            _ => {}
        }
    }
}

/// Only translations have a teacher.
fn teachers(run: &RunConfig, report: &mut Report) {
    if !matches!(run.model.objective, Objective::Mlm(_)) {
        return;
    }
    let data = &run.data;
    let given = [
        ("distillation", data.distillation.is_some()),
        ("back_translation", data.back_translation.is_some()),
    ];
    for (name, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        let message = format!("the mlm objective does not translate, leave {name} out");
        report.conflict(&format!("data.{name}"), message);
    }
}

/// Translation needs both sides; `mlm` trains an encoder and nothing else.
fn objective(run: &RunConfig, report: &mut Report) {
    let decoder = run.model.decoder.as_ref();
    match (&run.model.objective, &run.model.encoder) {
        (Objective::Masked(_) | Objective::Autoregressive(_) | Objective::Ctc(_), encoder) => {
            if decoder.is_none() {
                let name = run.model.objective.key();
                let choices = Rule::of(&schema()["$defs"]["Decoder"]).words();
                let message =
                    format!("missing, the {name} objective needs a decoder, must be {choices}");
                report.conflict("model.decoder", message);
            }
            if let Encoder::Bert(encoder) = encoder {
                translating_bert(encoder, report);
            }
        }
        (Objective::Mlm(mlm), encoder) => {
            if decoder.is_some() {
                let message = "the mlm objective trains an encoder alone, leave the decoder out";
                report.conflict("model.decoder", message.into());
            }
            match encoder {
                Encoder::Bert(encoder) => pre_trained_bert(mlm, encoder, report),
                Encoder::Transformer(_) => {
                    let message = "the mlm objective makes a BERT, must be {bert: ...}";
                    report.conflict("model.encoder.transformer", message.into());
                }
            }
        }
    }
}

fn translating_bert(encoder: &BertEncoder, report: &mut Report) {
    if encoder.new.is_some() {
        let message = "only the mlm objective makes a BERT, give `pretrained` instead";
        report.conflict("model.encoder.bert.new", message.into());
    }
    let path = "model.encoder.bert.adapters";
    adapters(encoder.train, encoder.adapters.is_some(), "dim | layers", path, report);
}

/// `train: adapters` trains some, `train: frozen` has none.
fn adapters(train: Train, are_there: bool, keys: &str, path: &str, report: &mut Report) {
    if train == Train::Adapters && !are_there {
        let message = format!(
            "missing, `train: adapters` has nothing else to train, must be a map of {keys}"
        );
        report.conflict(path, message);
    }
    if train == Train::Frozen && are_there {
        let message =
            "`train: frozen` trains nothing here, leave this out or set train to adapters";
        report.conflict(path, message.into());
    }
}

fn pre_trained_bert(mlm: &Mlm, encoder: &BertEncoder, report: &mut Report) {
    if mlm.conditional && encoder.new.is_some() {
        let message = "with `conditional: true` a BERT is trained on, not made, give `pretrained` \
                       instead: it may be the export of an mlm run on text of both languages";
        report.conflict("model.encoder.bert.new", message.into());
    }
    if encoder.adapters.is_some() {
        let message = "the mlm objective trains the BERT itself, leave the adapters out";
        report.conflict("model.encoder.bert.adapters", message.into());
    }
    if matches!(encoder.train, Train::Adapters | Train::Frozen) && encoder.new.is_none() {
        let message = "the mlm objective trains the BERT itself, must be all | scratch";
        report.conflict("model.encoder.bert.train", message.into());
    }
}

/// A BERT is either there or made, and what is made starts from scratch.
fn encoder_source(run: &RunConfig, report: &mut Report) {
    let Encoder::Bert(encoder) = &run.model.encoder else { return };
    match (&encoder.pretrained, &encoder.new) {
        (Some(_), Some(_)) => {
            let message = "found `pretrained` too, must be one of pretrained | new";
            report.conflict("model.encoder.bert.new", message.into());
        }
        (None, None) => {
            let message = "found neither `pretrained` nor `new`, must be one of pretrained | new";
            report.conflict("model.encoder.bert", message.into());
        }
        (None, Some(new)) => {
            if encoder.train != Train::Scratch {
                let message = "a new BERT has no weights to start from, must be scratch";
                report.conflict("model.encoder.bert.train", message.into());
            }
            if !new.hidden.is_multiple_of(new.heads) {
                let message = format!("{} heads must divide hidden: {}", new.heads, new.hidden);
                report.conflict("model.encoder.bert.new.heads", message);
            }
            if let Vocabulary::Bert(_) = &new.vocabulary {
                let message = "only a Transformer takes a BERT's vocabulary, must be one of \
                               {file: ...} | {learn: ...}";
                report.conflict("model.encoder.bert.new.vocabulary.bert", message.into());
            }
        }
        (Some(_), None) => {}
    }
}

fn encoder_adapters(run: &RunConfig, shapes: &Shapes, report: &mut Report) {
    let Encoder::Bert(encoder) = &run.model.encoder else { return };
    if let Some(adapters) = &encoder.adapters {
        let path = "model.encoder.bert.adapters.layers";
        layers(&adapters.layers, shapes.encoder, path, report);
    }
}

fn cross_attention(run: &RunConfig, shapes: &Shapes, report: &mut Report) {
    let Some(Side::Pretrained(kind, decoder)) = run.model.decoder.as_ref().map(Side::of) else {
        return;
    };
    let path = &format!("model.decoder.{}.cross_attention", kind.key);
    kind_of_decoder(run, kind, decoder, path, report);
    let keys = "heads | feed_forward | layers | dropout";
    adapters(decoder.train, decoder.cross_attention.is_some(), keys, path, report);
    let Some(adapters) = &decoder.cross_attention else {
        // With length prediction there is still something that depends on the source.
        if !matches!(run.model.objective, Objective::Masked(_)) {
            let message = format!(
                "missing, without it the {} objective never sees the source, must be a map of {keys}",
                run.model.objective.key()
            );
            report.conflict(path, message);
        }
        return;
    };
    layers(&adapters.layers, shapes.decoder, &format!("{path}.layers"), report);
    if let Some(Shape { kind, width, .. }) = shapes.decoder
        && !width.is_multiple_of(adapters.heads)
    {
        let message = format!("{} heads must divide the {kind}'s width {width}", adapters.heads);
        report.conflict(&format!("{path}.heads"), message);
    }
}

/// What a kind of pre-trained decoder can do, and what it has of its own.
fn kind_of_decoder(
    run: &RunConfig,
    kind: &Kind,
    decoder: &PretrainedDecoder,
    path: &str,
    report: &mut Report,
) {
    let (name, objective) = (kind.name, run.model.objective.key());
    let is_parallel = matches!(run.model.objective, Objective::Masked(_) | Objective::Ctc(_));
    if kind.sees_left_context_only && is_parallel {
        let message = format!(
            "{name} sees only what stands before a token, which the {objective} objective cannot do \
             with, must be {{autoregressive: ...}}"
        );
        report.conflict(&format!("model.objective.{objective}"), message);
    }
    if kind.has_inner_cross_attention
        && decoder.cross_attention.as_ref().is_some_and(|cross| cross.feed_forward > 0)
    {
        let message =
            format!("{name}'s own feed-forward block comes behind the attention, must be 0");
        report.conflict(&format!("{path}.feed_forward"), message);
    }
}

/// Layers must be there, each once.
fn layers(layers: &Layers, shape: Option<Shape>, path: &str, report: &mut Report) {
    let (count, kind) = shape.map_or((usize::MAX, "BERT"), |shape| (shape.layers, shape.kind));
    match layers {
        Layers::All => {}
        Layers::Top(top) => {
            if *top > count {
                let message = format!("found {top}, the {kind} has {count} layers");
                report.conflict(&format!("{path}.top"), message);
            }
        }
        Layers::List(list) => {
            if list.is_empty() {
                let message = "found an empty list, must have at least one layer";
                report.conflict(&format!("{path}.list"), message.into());
            }
            let mut seen = BTreeSet::new();
            for (index, &layer) in list.iter().enumerate() {
                let path = format!("{path}.list[{index}]");
                if layer >= count {
                    let last = count.saturating_sub(1);
                    let message = format!("found {layer}, the {kind} has layers 0 to {last}");
                    report.conflict(&path, message);
                }
                if !seen.insert(layer) {
                    report.conflict(&path, format!("layer {layer} is given twice, remove one"));
                }
            }
        }
    }
}

/// Shares of one whole.
fn corruption(run: &RunConfig, report: &mut Report) {
    let (name, Corruption { mask, random }) = match &run.model.objective {
        Objective::Masked(masked) => ("masked", &masked.corruption),
        Objective::Mlm(mlm) => ("mlm", &mlm.corruption),
        Objective::Autoregressive(_) | Objective::Ctc(_) => return,
    };
    if mask + random > 1.0 + 1e-9 {
        let message = format!("mask {mask} and random {random} are together more than 1");
        report.conflict(&format!("model.objective.{name}.corruption"), message);
    }
}

/// The side of a BERT that reads what the encoder reads.
const BESIDE: &str = "BERT beside";

/// Sentences fit into the sides' positions, the length classes and a micro-batch.
fn lengths(run: &RunConfig, shapes: &Shapes, report: &mut Report) {
    let joins = run.model.joins_pairs();
    let is_ctc = matches!(run.model.objective, Objective::Ctc(_));
    let sides = [("encoder", shapes.encoder), ("decoder", shapes.decoder), (BESIDE, shapes.beside)];
    for (side, shape) in sides {
        let (Some(length), Some(shape)) = (run.data.max_length, shape) else { continue };
        let Shape { kind, positions, .. } = shape;
        let most = longest_of_joined(positions);
        if joins && length > most {
            let message = format!(
                "found {length}, must be at most {most}: [CLS] and both sides fit into the \
                 {side}'s {kind}, which has {positions} positions"
            );
            report.conflict("data.max_length", message);
        } else if side == BESIDE && length >= positions {
            let message = format!(
                "found {length}, must be less than {positions}: the BERT beside the encoder, which \
                 has so many positions, reads [CLS] before a sentence"
            );
            report.conflict("data.max_length", message);
        } else if length > positions && !(side == "decoder" && is_ctc) {
            let message = format!("found {length}, the {side}'s {kind} has {positions} positions");
            report.conflict("data.max_length", message);
        }
    }
    if let Objective::Ctc(Ctc { upsampling, .. }) = run.model.objective
        && let (Some(length), Some(Shape { kind, positions, .. })) =
            (run.data.max_length, shapes.decoder)
        && length * upsampling > positions
    {
        let message = format!(
            "found {length}, must be at most {}: the ctc objective's decoder reads {upsampling} [MASK]s \
             for each source token, and its {kind} has {positions} positions",
            positions / upsampling
        );
        report.conflict("data.max_length", message);
    }
    let positions =
        sides[..2].iter().filter_map(|(_, shape)| shape.map(|shape| shape.positions)).max();
    let Some(length) = run.data.max_length.or(positions) else { return };
    if let Objective::Masked(masked) = &run.model.objective
        && length >= masked.length_classes
    {
        let message = format!(
            "found {}, must be at least {}: more than the longest sentence, {length} tokens by \
             data.max_length or the model's positions",
            masked.length_classes,
            length + 1
        );
        report.conflict("model.objective.masked.length_classes", message);
    }
    let (what, length) = match (run.data.max_length, &run.model.objective) {
        (Some(length), _) if joins => ("pair", joined(length, length)),
        (Some(length), Objective::Ctc(ctc)) => {
            ("sentence in decoder positions", length * ctc.upsampling)
        }
        _ => ("sentence", length),
    };
    if run.training.max_tokens < length {
        let message = format!(
            "found {}, must be at least {length}: the longest {what} by data.max_length or the \
             model's positions",
            run.training.max_tokens
        );
        report.conflict("training.max_tokens", message);
    }
}

/// Decays of moving averages are below 1.
fn optimizer(run: &RunConfig, report: &mut Report) {
    let Optimizer::Adam { betas, .. } = &run.training.optimizer;
    for (index, beta) in betas.iter().enumerate() {
        if !(0.0..1.0).contains(beta) {
            let path = format!("training.optimizer.adam.betas[{index}]");
            report.conflict(&path, format!("found {beta}, must be from 0 to below 1"));
        }
    }
}

/// The warm-up ends within the run.
fn warmup(run: &RunConfig, report: &mut Report) {
    let steps = run.training.steps;
    let (name, warmup, most) = match run.training.schedule {
        Schedule::InverseSqrt { warmup, .. } => ("inverse_sqrt", warmup, steps),
        // At the last step it has fallen to 0.
        Schedule::Linear { warmup, .. } => ("linear", warmup, steps - 1),
        Schedule::Constant { warmup, .. } => ("constant", warmup, steps),
    };
    if warmup > most {
        let message =
            format!("found {warmup}, must be at most {most}, since training.steps is {steps}");
        report.conflict(&format!("training.schedule.{name}.warmup"), message);
    }
}

/// Scoring needs text, and BLEU needs translations.
fn evaluation(run: &RunConfig, report: &mut Report) {
    let evaluation = &run.evaluation;
    if evaluation.every > 0 && run.data.valid.is_none() {
        let message = format!(
            "found {} without data.valid, give data.valid or set this to 0",
            evaluation.every
        );
        report.conflict("evaluation.every", message);
    }
    let chooses = evaluation.every > 0 && run.checkpoints.keep_best > 0;
    if chooses && evaluation.metric == Metric::Bleu && evaluation.sentences == 0 {
        let message = "found 0, but `metric: bleu` decides which checkpoint is best, must be at \
                       least 1; or set evaluation.metric to loss";
        report.conflict("evaluation.sentences", message.into());
    }
}

/// Only what is kept can be averaged.
fn averaging(run: &RunConfig, report: &mut Report) {
    let checkpoints = &run.checkpoints;
    if checkpoints.average > checkpoints.keep_last {
        let message = format!(
            "found {}, must be at most {}, since checkpoints.keep_last is {}",
            checkpoints.average, checkpoints.keep_last, checkpoints.keep_last
        );
        report.conflict("checkpoints.average", message);
    }
}

/// Every worker has a micro-batch in each step, and several need MPI.
fn workers(run: &RunConfig, report: &mut Report) {
    let workers = run.cluster.workers.most();
    if let Workers::Within(Bounds { min, max }) = run.cluster.workers
        && min > max
    {
        let message = format!("found {min}, must be at most {max}, since max is {max}");
        report.conflict("cluster.workers.min", message);
    }
    if run.cluster.engine == Engine::Solo && workers > 1 {
        let message = format!(
            "solo is one worker and cluster.workers is {workers}, must be one of auto | mpirun | srun"
        );
        report.conflict("cluster.engine", message);
    }
    if run.training.micro_batches < workers {
        let message = format!(
            "found {}, must be at least {workers}, one for each of cluster.workers",
            run.training.micro_batches
        );
        report.conflict("training.micro_batches", message);
    }
}

/// NCCL adds bf16, MPI does not; and sums in a fixed order are for their last bits.
fn gradient_dtype(run: &RunConfig, report: &mut Report) {
    if run.cluster.gradient_dtype != GradientDtype::Bf16 {
        return;
    }
    let must_be_f32 = match (run.cluster.device, run.cluster.reduction) {
        (Device::Cpu, _) => "workers on CPUs sum gradients in f32",
        (_, Reduction::Reproducible) => "cluster.reduction is reproducible, which sums in f32",
        _ => return,
    };
    report.conflict("cluster.gradient_dtype", format!("{must_be_f32}, must be f32"));
}
