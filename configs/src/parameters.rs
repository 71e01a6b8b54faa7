//! Every tensor of a model, in order: name, shape, trained or frozen, initial value.
//!
//! The one list that the plan counts, the trainer allocates, checkpoints store and ranks reduce.
//! Names: Hugging Face's own below `encoder.` and `decoder.`; adapters as DESIGN names them.

use crate::bases::Bases;
use crate::bert::{BertConfig, BertFolder};
use crate::model::{CrossAttention, Decoder, Encoder, EncoderAdapters, Layers, Objective, Train};
use crate::run::RunConfig;

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name, unique in the model.
    pub name: String,
    /// Its shape, as PyTorch stores it: a linear layer's weight is `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// Whether it is trained.
    pub trained: bool,
    /// Its value before the first step.
    pub init: Init,
}

/// A parameter's value before the first step.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// The tensor of this name in the side's model.safetensors.
    Pretrained(String),
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in ±√(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
    XavierUniform {
        /// Inputs.
        fan_in: usize,
        /// Outputs.
        fan_out: usize,
    },
}

impl Parameter {
    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Number of elements of the trained parameters.
pub fn trained_count(parameters: &[Parameter]) -> usize {
    parameters.iter().filter(|parameter| parameter.trained).map(Parameter::count).sum()
}

/// Number of elements of the frozen parameters.
pub fn frozen_count(parameters: &[Parameter]) -> usize {
    parameters.iter().filter(|parameter| !parameter.trained).map(Parameter::count).sum()
}

/// The parameters of a run's model.
pub fn model(run: &RunConfig, bases: &Bases) -> Vec<Parameter> {
    let Encoder::Bert(source) = &run.model.encoder;
    let base = &bases.encoder;
    let weights = BertWeights { folder: base.folder.as_ref(), train: source.train };
    match (&run.model.objective, &run.model.decoder, &bases.decoder) {
        (Objective::Masked(masked), Some(Decoder::Bert(target)), Some(target_base)) => {
            let adapters = source.adapters.as_ref();
            let mut list = encoder(&base.config, weights, adapters, Some(masked.length_classes));
            let weights = BertWeights { folder: target_base.folder.as_ref(), train: target.train };
            let memory_width = base.config.hidden_size;
            list.extend(decoder(
                &target_base.config,
                weights,
                &target.cross_attention,
                memory_width,
            ));
            list
        }
        _ => mlm(&base.config, weights),
    }
}

/// Which initial values a BERT's own tensors have.
#[derive(Debug, Clone, Copy)]
pub struct BertWeights<'a> {
    /// The folder whose weights are loaded; none for a BERT that starts from random weights.
    pub folder: Option<&'a BertFolder>,
    /// Which are trained.
    pub train: Train,
}

/// An AB-Net encoder: BERT, adapters, length embedding.
pub fn encoder(
    bert: &BertConfig,
    weights: BertWeights,
    adapters: Option<&EncoderAdapters>,
    length_classes: Option<usize>,
) -> Vec<Parameter> {
    let mut list = List::new("encoder.");
    list.bert(bert, weights);
    let width = bert.hidden_size;
    if let Some(adapters) = adapters {
        for layer in layers(&adapters.layers, bert) {
            list.scoped(&format!("layer.{layer}.adapter."), |list| {
                list.norm("norm", width);
                // Without biases, and not near the identity: as in the released code.
                list.xavier("down.weight", adapters.dim, width);
                list.xavier("up.weight", width, adapters.dim);
            });
        }
    }
    if let Some(classes) = length_classes {
        list.add("length_embedding.weight", vec![classes, width], Init::Normal(0.02));
    }
    list.parameters
}

/// An AB-Net decoder: BERT, MLM head, cross-attention adapters over memory of `memory_width`.
pub fn decoder(
    bert: &BertConfig,
    weights: BertWeights,
    cross_attention: &CrossAttention,
    memory_width: usize,
) -> Vec<Parameter> {
    let mut list = List::new("decoder.");
    list.bert(bert, weights);
    list.mlm_head(bert, weights);
    let width = bert.hidden_size;
    for layer in layers(&cross_attention.layers, bert) {
        list.scoped(&format!("layer.{layer}."), |list| {
            for (name, inputs) in [("query", width), ("key", memory_width), ("value", memory_width)]
            {
                // The released code packs the three into one matrix and takes its fans.
                let init = Init::XavierUniform { fan_in: inputs, fan_out: 3 * width };
                list.add(&format!("cross_attention.{name}.weight"), vec![width, inputs], init);
                list.add(&format!("cross_attention.{name}.bias"), vec![width], Init::Zeros);
            }
            list.linear("cross_attention.output", width, width);
            list.norm("cross_attention.norm", width);
            if cross_attention.feed_forward > 0 {
                list.linear("feed_forward.up", cross_attention.feed_forward, width);
                list.linear("feed_forward.down", width, cross_attention.feed_forward);
                list.norm("feed_forward.norm", width);
            }
        });
    }
    list.parameters
}

/// A BERT with its MLM head, for pre-training.
pub fn mlm(bert: &BertConfig, weights: BertWeights) -> Vec<Parameter> {
    let mut list = List::new("encoder.");
    list.bert(bert, weights);
    list.mlm_head(bert, weights);
    list.parameters
}

fn layers<'a>(chosen: &'a Layers, bert: &BertConfig) -> impl Iterator<Item = usize> + 'a {
    let count = bert.num_hidden_layers;
    (0..count).filter(move |&layer| chosen.contains(layer, count))
}

/// Builds the list; `prefix` goes before each name.
struct List {
    prefix: String,
    parameters: Vec<Parameter>,
}

impl List {
    fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), parameters: Vec::new() }
    }

    fn scoped(&mut self, scope: &str, fill: impl FnOnce(&mut Self)) {
        let length = self.prefix.len();
        self.prefix.push_str(scope);
        fill(self);
        self.prefix.truncate(length);
    }

    /// Adds a trained parameter.
    fn add(&mut self, name: &str, shape: Vec<usize>, init: Init) {
        let name = format!("{}{name}", self.prefix);
        self.parameters.push(Parameter { name, shape, trained: true, init });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(&format!("{name}.weight"), vec![outputs, inputs], Init::Normal(0.02));
        self.add(&format!("{name}.bias"), vec![outputs], Init::Zeros);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), vec![width], Init::Ones);
        self.add(&format!("{name}.bias"), vec![width], Init::Zeros);
    }

    fn xavier(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = Init::XavierUniform { fan_in: inputs, fan_out: outputs };
        self.add(name, vec![outputs, inputs], init);
    }

    /// BERT without its pooler, which AB-Net never uses.
    fn bert(&mut self, bert: &BertConfig, weights: BertWeights) {
        let width = bert.hidden_size;
        let start = self.parameters.len();
        self.scoped("bert.embeddings.", |list| {
            for (name, rows) in [
                ("word_embeddings.weight", bert.vocab_size),
                ("position_embeddings.weight", bert.max_position_embeddings),
                ("token_type_embeddings.weight", bert.type_vocab_size),
            ] {
                list.add(name, vec![rows, width], Init::Normal(0.02));
            }
            list.norm("LayerNorm", width);
        });
        for layer in 0..bert.num_hidden_layers {
            self.scoped(&format!("bert.encoder.layer.{layer}."), |list| {
                for name in ["query", "key", "value"] {
                    list.linear(&format!("attention.self.{name}"), width, width);
                }
                list.linear("attention.output.dense", width, width);
                list.norm("attention.output.LayerNorm", width);
                list.linear("intermediate.dense", bert.intermediate_size, width);
                list.linear("output.dense", width, bert.intermediate_size);
                list.norm("output.LayerNorm", width);
            });
        }
        self.pretrain(start, weights);
    }

    /// The head whose last matrix is the word embeddings themselves.
    fn mlm_head(&mut self, bert: &BertConfig, weights: BertWeights) {
        let start = self.parameters.len();
        self.scoped("cls.predictions.", |list| {
            list.linear("transform.dense", bert.hidden_size, bert.hidden_size);
            list.norm("transform.LayerNorm", bert.hidden_size);
            list.add("bias", vec![bert.vocab_size], Init::Zeros);
        });
        self.pretrain(start, weights);
    }

    /// Takes values from the folder where it has them, and freezes those if so configured.
    fn pretrain(&mut self, start: usize, weights: BertWeights) {
        let Some(folder) = weights.folder.filter(|_| weights.train != Train::Scratch) else {
            return;
        };
        let side = self.prefix.len();
        for parameter in &mut self.parameters[start..] {
            let own = &parameter.name[side..];
            let stored = match own.strip_prefix("bert.") {
                Some(bare) => format!("{}{bare}", folder.prefix()),
                None => own.to_owned(),
            };
            if own.starts_with("bert.") || folder.has_mlm_head() {
                parameter.init = Init::Pretrained(stored);
                parameter.trained = weights.train == Train::All;
            }
        }
    }
}
