//! Compares this program with what the authors' released code computed, quantity by quantity.
//!
//! A folder has `source_bert/`, `target_bert/`, `adapters.safetensors`, and the case: tensors in
//! `case.safetensors`, settings, losses and decoded ids in `case.json`.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tandem_config::composition::Composition;
use tandem_config::parameters;
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::pretrained::network::Network;
use tandem_config::schema::decoding::{MaskPredict, Stop};
use tandem_config::schema::model::{CrossAttention, EncoderAdapters, Layers};
use tandem_config::schema::training::Precision;
use tch::{Device, Kind, Tensor, no_grad};

use crate::data::tokenizer::Tokenizer;
use crate::device::precision::Kinds;
use crate::inference::mask_predict::translate;
use crate::inference::{Sources, TargetIds};
use crate::model::parameters::Weights;
use crate::model::{Batch, Parameters, Pass, Positions, Seq2Seq};
use crate::objective::loss::{cross_entropy, length_nll};

/// The settings in `case.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    model: CaseModel,
    loss: CaseLoss,
    decode: CaseDecode,
}

#[derive(Debug, Deserialize)]
struct CaseModel {
    encoder_adapter_dim: usize,
    encoder_adapter_first_layer: usize,
    decoder_cross_attention_heads: usize,
    decoder_feed_forward_dim: usize,
    max_target_lengths: usize,
}

#[derive(Debug, Deserialize)]
struct CaseLoss {
    label_smoothing: f64,
    length_loss_weight: f64,
}

#[derive(Debug, Deserialize)]
struct CaseDecode {
    rule: String,
    iterations: usize,
    length_candidates: usize,
    length_penalty: f64,
}

/// What the released code computed, in `case.json`.
#[derive(Debug, Deserialize)]
struct Expected {
    loss: ExpectedLoss,
    decode: ExpectedDecode,
}

#[derive(Debug, Deserialize)]
struct ExpectedLoss {
    total: f64,
    nll_sum: f64,
    length_nll_sum: f64,
    target_tokens: i64,
    loss_positions: i64,
}

#[derive(Debug, Deserialize)]
struct ExpectedDecode {
    expected_ids: Vec<Vec<u32>>,
}

fn read_case<T: serde::de::DeserializeOwned>(folder: &Path) -> anyhow::Result<T> {
    let path = folder.join("case.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a parity case", path.display()))
}

/// A model of the parity layout.
pub(crate) struct ParityModel {
    /// The case's settings.
    pub case: Case,
    /// The model.
    pub model: Seq2Seq,
    /// Its tensors.
    pub parameters: Parameters,
    /// The source side's BERT.
    pub source: BertConfig,
    /// The target side's BERT.
    pub target: BertConfig,
    /// `[PAD]` on the source side.
    pub source_pad: i64,
    /// The target side's special ids.
    pub target_ids: TargetIds,
}

/// What a model of the parity layout is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// To be compared, without dropout.
    Compare,
    /// To be trained, with the dropout of the BERTs' configs, and 0.1 in the adapters.
    Train,
    /// To decode with.
    Decode,
}

impl ParityModel {
    /// Opens a folder, with its tensors on `device`.
    ///
    /// # Errors
    /// A missing or damaged file, or adapters of another shape than the case says.
    pub(crate) fn open(
        folder: &Path,
        device: Device,
        kinds: Kinds,
        purpose: Use,
    ) -> anyhow::Result<Self> {
        let case: Case = read_case(folder)?;
        let source = Bert::open(&folder.join("source_bert"))?;
        let target = Bert::open(&folder.join("target_bert"))?;
        let special = |bert: &Bert| {
            let file = bert.tokenizer().context("a BERT's folder has a tokenizer")?;
            anyhow::Ok(Tokenizer::open(file)?.special())
        };
        let (source_ids, target_ids) = (special(&source)?, special(&target)?);
        let (source_config, target_config) = (source.config.clone(), target.config.clone());
        let layers = source.config.num_hidden_layers;
        let first = case.model.encoder_adapter_first_layer;
        ensure!(first <= layers, "the case's first adapter layer {first} is beyond {layers}");
        let dropout = purpose == Use::Train;
        let off = (!dropout).then_some(0.0);
        let adapters = EncoderAdapters {
            dim: case.model.encoder_adapter_dim,
            layers: Layers::Top(layers - first),
        };
        let cross_attention = CrossAttention {
            heads: case.model.decoder_cross_attention_heads,
            feed_forward: case.model.decoder_feed_forward_dim,
            layers: Layers::All,
            dropout: if dropout { 0.1 } else { 0.0 },
        };
        let (berts, classes) = ((source, target), case.model.max_target_lengths);
        let composition = Composition::ab_net(berts, adapters, cross_attention, classes, off);
        let list = parameters::model(&composition);
        let read = |(side, folder): (&'static str, &Path)| {
            anyhow::Ok((side, Weights::read(&folder.join("model.safetensors"))?))
        };
        let pretrained = composition.folders().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        let mut parameters = Parameters::new(&list, &pretrained, 0, kinds.frozen, device)?;
        let adapters = Weights::read(&folder.join("adapters.safetensors"))?;
        ensure!(
            adapters.count("") == parameters.names.len(),
            "adapters.safetensors has {} tensors, the case's model has {}",
            adapters.count(""),
            parameters.names.len()
        );
        parameters.load(&parameters.weights, &adapters, "")?;
        if let Use::Decode = purpose {
            parameters.only_used(kinds.compute);
        }
        let cls = source_ids.cls.into();
        let model = Seq2Seq::new(&composition, cls, &parameters, kinds.compute);
        Ok(Self {
            model: model.context("the case has no decoder")?,
            case,
            parameters,
            source: source_config,
            target: target_config,
            source_pad: source_ids.pad.into(),
            target_ids: target_ids.into(),
        })
    }

    /// Mask-Predict with the settings of the case.
    ///
    /// # Errors
    /// A rule that is not known.
    pub(crate) fn decoding(&self) -> anyhow::Result<MaskPredict> {
        let decode = &self.case.decode;
        let stop = match decode.rule.as_str() {
            "released" => Stop::Released,
            "paper" => Stop::Unchanged,
            other => bail!("the case has decoding rule `{other}`; known are `released`, `paper`"),
        };
        Ok(MaskPredict {
            iterations: decode.iterations,
            length_candidates: decode.length_candidates,
            stop,
            length_penalty: decode.length_penalty,
            max_tokens: 8000,
            ..MaskPredict::default()
        })
    }

    /// Weight of the length loss, and label smoothing.
    pub(crate) fn loss_settings(&self) -> (f64, f64) {
        (self.case.loss.length_loss_weight, self.case.loss.label_smoothing)
    }
}

/// Compares everything that `device` computes in f32, and prints a line per quantity. Returns whether
/// all agree.
///
/// # Errors
/// A folder that is not of this format.
pub(crate) fn run(folder: &Path, device: Device) -> anyhow::Result<bool> {
    let kinds = Kinds::new(Precision::F32, device);
    let parity = ParityModel::open(folder, device, kinds, Use::Compare)?;
    let expectation: Expected = read_case(folder)?;
    let path = folder.join("case.safetensors");
    let tensors: std::collections::HashMap<String, Tensor> = Tensor::read_safetensors(&path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_device(device)))
        .collect();
    let tensor = |name: &str| {
        tensors.get(name).with_context(|| format!("{} has no tensor `{name}`", path.display()))
    };
    let pad = parity.target_ids.pad;
    let source = tensor("input.source_ids")?;
    let decoder_input = tensor("input.decoder_input_ids")?;
    let labels = tensor("input.labels")?.view([-1]);
    // The released code takes lengths and padding from the corrupted target.
    let target_real = decoder_input.ne(pad);
    let positions = labels.ne(pad).nonzero().view([-1]);
    let batch = Batch {
        source: source.shallow_clone(),
        source_real: source.ne(parity.source_pad),
        decoder_input: decoder_input.shallow_clone(),
        lengths: target_real.sum_dim_intlist(1, false, Kind::Int64),
        target_real,
        labels: labels.index_select(0, &positions),
        positions,
    };
    let target_tokens = tensor("input.target_ids")?.ne(pad).sum(Kind::Double).double_value(&[]);

    let mut report = Comparison { agrees: true };
    let (encoded, transformed) = parity.model.forward(&batch, &Pass::eval());
    let lengths = encoded.length_log_probs.as_ref().context("no length prediction")?;
    let real = batch.source_real.unsqueeze(-1);
    let expected = tensor("expected.encoder_output")? * &real;
    report.tensor("encoder output", &(&encoded.memory * &real), &expected, 0.0);
    report.tensor("length log-probabilities", lengths, tensor("expected.length_log_probs")?, 0.0);
    let real = batch.target_real.unsqueeze(-1);
    let expected = tensor("expected.logits")? * &real;
    report.tensor("logits", &(all_logits(&parity, &batch) * &real), &expected, 0.0);

    let expected = &expectation.loss;
    let (length_weight, smoothing) = parity.loss_settings();
    let words = cross_entropy(&parity.model.head, &transformed, &batch.labels, smoothing);
    let length = length_nll(lengths, &batch.lengths);
    let total = &words.loss + &length * length_weight;
    report.number("target tokens", target_tokens, expected.target_tokens as f64);
    report.number("loss positions", batch.labels.size()[0] as f64, expected.loss_positions as f64);
    report.number("word nll", words.nll.double_value(&[]), expected.nll_sum);
    report.number("length nll", length.double_value(&[]), expected.length_nll_sum);
    report.number("total loss", total.double_value(&[]), expected.total);

    (words.surrogate + length * length_weight).backward();
    for (name, parameter) in parity.parameters.names.iter().zip(&parity.parameters.trained) {
        let expected = tensor(&format!("gradient.{name}"))?;
        report.tensor(&format!("gradient of {name}"), &parameter.grad(), expected, 1e-5);
    }
    let sources = tensor("decode.source_ids")?;
    decoded(&parity, sources, &expectation.decode.expected_ids, &mut report)?;
    let real = sources.ne(parity.source_pad);
    let encoded = no_grad(|| parity.model.encoder.forward(sources, &real, &Pass::eval()));
    report.tensor(
        "length log-probabilities in decoding",
        encoded.length_log_probs.as_ref().context("no length prediction")?,
        tensor("decode.expected_length_log_probs")?,
        0.0,
    );
    println!("{}", if report.agrees { "all quantities agree" } else { "NOT all quantities agree" });
    Ok(report.agrees)
}

/// The logits at every position: `[B, T, V]`.
fn all_logits(parity: &ParityModel, batch: &Batch) -> Tensor {
    no_grad(|| {
        let (model, pass) = (&parity.model, Pass::eval());
        let encoded = model.encoder.forward(&batch.source, &batch.source_real, &pass);
        let memory = model.decoder.memory(&encoded);
        let (ids, real) = (&batch.decoder_input, &batch.target_real);
        let (rows, columns) = ids.size2().expect("ids are [B, T]");
        let all = Tensor::arange(rows * columns, (Kind::Int64, ids.device()));
        let hidden = model.decoder.forward(ids, real, &memory, &Positions::new(&all, ids), &pass);
        model.head.project(&model.head.transform(&hidden)).view([rows, columns, -1])
    })
}

/// Decodes all sentences in one batch, and one by one.
fn decoded(
    parity: &ParityModel,
    ids: &Tensor,
    expected: &[Vec<u32>],
    report: &mut Comparison,
) -> anyhow::Result<()> {
    let pad = parity.source_pad;
    let positions = parity.target.positions();
    let decoding = parity.decoding()?;
    let decode = |ids: &Tensor| -> Vec<Vec<u32>> {
        let sources = Sources { ids: ids.shallow_clone(), real: ids.ne(pad), lengths: None };
        let (model, target_ids) = (&parity.model, parity.target_ids);
        let found = translate(model, &decoding, target_ids, positions, &sources, &mut || true);
        found.unwrap_or_default().into_iter().map(|translation| translation.ids).collect()
    };
    let batched = decode(ids);
    let single: Vec<_> = (0..ids.size()[0])
        .flat_map(|row| {
            let length = ids.get(row).ne(pad).sum(Kind::Int64).int64_value(&[]);
            decode(&ids.narrow(0, row, 1).narrow(1, 0, length))
        })
        .collect();
    report.ids("decoded ids, batched", &batched, expected);
    report.ids("decoded ids, one by one", &single, expected);
    Ok(())
}

/// Prints one line per quantity and remembers whether all agreed.
struct Comparison {
    agrees: bool,
}

impl Comparison {
    /// Tolerance: 1e-4 of the expected tensor's largest value, plus `absolute`.
    fn tensor(&mut self, name: &str, found: &Tensor, expected: &Tensor, absolute: f64) {
        let found = found.detach().to_kind(Kind::Double);
        let expected = expected.to_kind(Kind::Double);
        if found.size() != expected.size() {
            let shapes = format!("shape {:?}, expected {:?}", found.size(), expected.size());
            return self.line(name, false, &shapes);
        }
        // Equal infinities (the impossible length 0) differ by 0.
        let same = found.eq_tensor(&expected);
        let error = (&found - &expected).abs().masked_fill(&same, 0.0).max().double_value(&[]);
        let largest = expected.abs().masked_fill(&expected.isinf(), 0.0).max().double_value(&[]);
        let relative = if largest > 0.0 { error / largest } else { error };
        let agrees = error <= 1e-4 * largest + absolute;
        self.line(name, agrees, &format!("largest error {error:.2e}, relative {relative:.2e}"));
    }

    fn number(&mut self, name: &str, found: f64, expected: f64) {
        let error = (found - expected).abs();
        let agrees = error <= 1e-4 * expected.abs();
        self.line(name, agrees, &format!("{found:.6}, expected {expected:.6}, error {error:.2e}"));
    }

    fn ids(&mut self, name: &str, found: &[Vec<u32>], expected: &[Vec<u32>]) {
        let equal = found.iter().zip(expected).filter(|(a, b)| a == b).count();
        let agrees = equal == expected.len() && found.len() == expected.len();
        self.line(name, agrees, &format!("{equal} of {} sentences equal", expected.len()));
    }

    fn line(&mut self, name: &str, agrees: bool, text: &str) {
        self.agrees &= agrees;
        println!("{} {name}: {text}", if agrees { "ok  " } else { "FAIL" });
    }
}
