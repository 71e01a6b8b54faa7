//! Every tensor of a model, in order: name, shape, trained or frozen, initial value.
//! What a forward pass uses first comes first, as far as sides have it: its gradient is complete last.
//!
//! The one list that the plan counts, the trainer allocates, checkpoints store and ranks reduce.
//! [`estimate`] computes memory and disk from it; [`reduction`] counts buffers of gradients; [`limits`] are
//! the sizes that the trainer works in. Names are Hugging Face's own below `encoder.`, `decoder.` and
//! `fused.` (a BERT beside the encoder); adapters lie beside them, e.g. `decoder.layer.0.cross_attention`.

pub mod estimate;
pub mod limits;
pub mod reduction;
mod transformer;

use crate::composition::{Composition, Decoder, Encoder};
use crate::pretrained::bert::Bert;
use crate::pretrained::network::{Network, Pretrained, Role, Tensor};
use crate::schema::model::{CrossAttention, EncoderAdapters, Train};

/// What predicts lengths, where a model does.
pub const LENGTH_EMBEDDING: &str = "encoder.length_embedding.weight";

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

/// The parameters of a model.
pub fn model(composition: &Composition) -> Vec<Parameter> {
    let Composition { encoder, decoder, beside, length_classes, upsampling, .. } = composition;
    let beside_width = beside.as_ref().map(|beside| beside.bert.shape().width);
    let Some(decoder) = decoder else {
        return match encoder {
            Encoder::Bert(bert, settings) => mlm(bert, settings.train),
            Encoder::Transformer(base) => transformer::encoder(base, beside_width, None),
        };
    };
    let mut list = match encoder {
        Encoder::Bert(bert, settings) => {
            let adapters = settings.adapters.as_ref();
            pretrained_encoder(bert, settings.train, adapters, *length_classes)
        }
        Encoder::Transformer(base) => transformer::encoder(base, beside_width, *length_classes),
    };
    let memory_width = encoder.network().shape().width;
    if upsampling.is_some() {
        let mut own = List::new("decoder.");
        own.linear("blank", 1, decoder.network().shape().width);
        list.extend(own.parameters);
    }
    list.extend(match decoder {
        Decoder::Pretrained(model, settings) => {
            let adapters = settings.cross_attention.as_ref();
            pretrained_decoder(&**model, settings.train, adapters, memory_width)
        }
        Decoder::Transformer(base) => transformer::decoder(base, memory_width, beside_width),
    });
    if let Some(beside) = beside {
        let mut own = List::new("fused.");
        own.pretrained(&beside.bert, beside.bert.tensors(), beside.train());
        list.extend(own.parameters);
    }
    list
}

/// A pre-trained model that reads, with bottleneck adapters and a length embedding.
fn pretrained_encoder(
    model: &dyn Pretrained,
    train: Train,
    adapters: Option<&EncoderAdapters>,
    length_classes: Option<usize>,
) -> Vec<Parameter> {
    let mut list = List::new("encoder.");
    let width = model.shape().width;
    list.length_embedding(length_classes, width);
    list.pretrained(model, model.tensors(), train);
    if let Some(adapters) = adapters {
        for layer in adapters.layers.of(model.shape().layers) {
            list.scoped(&format!("layer.{layer}.adapter."), |list| {
                list.norm("norm", width);
                // Without biases, and not near the identity: as in the released code.
                list.xavier("down.weight", adapters.dim, width);
                list.xavier("up.weight", width, adapters.dim);
            });
        }
    }
    list.parameters
}

/// A pre-trained model that writes, with its head and with cross-attention adapters over memory of
/// `memory_width`.
fn pretrained_decoder(
    model: &dyn Pretrained,
    train: Train,
    cross_attention: Option<&CrossAttention>,
    memory_width: usize,
) -> Vec<Parameter> {
    let mut list = List::new("decoder.");
    list.pretrained(model, model.tensors(), train);
    list.pretrained(model, model.head(), train);
    let Some(cross_attention) = cross_attention else { return list.parameters };
    let width = model.shape().width;
    for layer in cross_attention.layers.of(model.shape().layers) {
        list.scoped(&format!("layer.{layer}."), |list| {
            list.cross_attention(width, memory_width);
            if cross_attention.feed_forward > 0 {
                list.linear("feed_forward.up", cross_attention.feed_forward, width);
                list.linear("feed_forward.down", width, cross_attention.feed_forward);
                list.norm("feed_forward.norm", width);
            }
        });
    }
    list.parameters
}

/// A BERT with its head for masked language modelling.
pub fn mlm(bert: &Bert, train: Train) -> Vec<Parameter> {
    let mut list = List::new("encoder.");
    list.pretrained(bert, bert.tensors(), train);
    list.pretrained(bert, bert.head(), train);
    list.parameters
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

    /// A trained attention's projections of its input and of the memory that it looks at.
    fn query_key_value(&mut self, name: &str, width: usize, memory_width: usize) {
        for (part, inputs) in [("query", width), ("key", memory_width), ("value", memory_width)] {
            // The released code packs the three into one matrix and takes its fans; fairseq scales
            // them to the same.
            let init = Init::XavierUniform { fan_in: inputs, fan_out: 3 * width };
            self.add(&format!("{name}.{part}.weight"), vec![width, inputs], init);
            self.add(&format!("{name}.{part}.bias"), vec![width], Init::Zeros);
        }
    }

    fn cross_attention(&mut self, width: usize, memory_width: usize) {
        self.query_key_value("cross_attention", width, memory_width);
        self.linear("cross_attention.output", width, width);
        self.norm("cross_attention.norm", width);
    }

    fn length_embedding(&mut self, classes: Option<usize>, width: usize) {
        if let Some(classes) = classes {
            self.add("length_embedding.weight", vec![classes, width], Init::Normal(0.02));
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), vec![width], Init::Ones);
        self.add(&format!("{name}.bias"), vec![width], Init::Zeros);
    }

    fn xavier(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = Init::XavierUniform { fan_in: inputs, fan_out: outputs };
        self.add(name, vec![outputs, inputs], init);
    }

    /// Adds tensors of a pre-trained model: with its file's values where the file has them, and frozen if
    /// so configured.
    fn pretrained(&mut self, model: &dyn Pretrained, tensors: Vec<Tensor>, train: Train) {
        for Tensor { name, shape, role } in tensors {
            let stored = model.stored_name(&name).filter(|_| train != Train::Scratch);
            let trained = stored.is_none() || train == Train::All;
            let init = match (stored, role) {
                (Some(stored), _) => Init::Pretrained(stored),
                (None, Role::Matrix) => Init::Normal(0.02),
                (None, Role::NormWeight) => Init::Ones,
                (None, Role::Bias) => Init::Zeros,
            };
            let name = format!("{}{name}", self.prefix);
            self.parameters.push(Parameter { name, shape, trained, init });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::path::PathBuf;

    use super::*;
    use crate::pretrained::bert::{self, BertConfig, BertFolder};
    use crate::schema::model::Layers;

    /// Of the size of bert-base, with `vocab_size` entries.
    fn base(vocab_size: usize) -> BertConfig {
        BertConfig {
            vocab_size,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            first_position: 0,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
        }
    }

    /// A folder that holds what a `BertForMaskedLM` of this shape holds, under its usual names.
    fn stored(config: &BertConfig, with_head: bool) -> Bert {
        let head = if with_head { bert::mlm_head(config) } else { Vec::new() };
        let tensors: BTreeMap<_, _> = bert::tensors(config)
            .into_iter()
            .chain(head)
            .map(|tensor| (tensor.name, tensor.shape))
            .collect();
        let path = PathBuf::from("/models/bert");
        let vocabulary = path.join("vocab.txt");
        let family = crate::pretrained::family::Family::bert();
        let folder = BertFolder { path, family, config: config.clone(), tensors, vocabulary };
        Bert { config: config.clone(), folder: Some(folder) }
    }

    /// German cased into English uncased, as in the paper.
    fn ab_net(
        dim: usize,
        encoder_layers: Layers,
        feed_forward: usize,
        decoder_layers: Layers,
        train: Train,
    ) -> Vec<Parameter> {
        let (source, target) = (base(30_000), base(30_522));
        let (source, target) = (stored(&source, true), stored(&target, true));
        let adapters = EncoderAdapters { dim, layers: encoder_layers };
        let mut list = pretrained_encoder(&source, train, Some(&adapters), Some(1024));
        let cross_attention =
            CrossAttention { heads: 12, feed_forward, layers: decoder_layers, dropout: 0.1 };
        list.extend(pretrained_decoder(&target, train, Some(&cross_attention), 768));
        list
    }

    fn trained(dim: usize, feed_forward: usize) -> usize {
        trained_count(&ab_net(dim, Layers::All, feed_forward, Layers::All, Train::Adapters))
    }

    #[test]
    fn the_papers_forms_have_the_papers_counts() {
        assert_eq!(trained(2048, 0), 66_920_448);
        assert_eq!(trained(512, 0), 38_608_896);
    }

    #[test]
    fn the_released_forms_have_the_released_counts() {
        assert_eq!(trained(2048, 2048), 104_721_408);
        assert_eq!(trained(512, 512), 48_079_872);
    }

    #[test]
    fn adapters_in_the_top_6_layers_are_half_of_all() {
        let count =
            |encoder, decoder| trained_count(&ab_net(512, encoder, 0, decoder, Train::Adapters));
        // A_ENC 9,455,616, length embedding 786,432, A_DEC 28,366,848.
        assert_eq!(count(Layers::Top(6), Layers::All), 4_727_808 + 786_432 + 28_366_848);
        assert_eq!(count(Layers::All, Layers::Top(6)), 9_455_616 + 786_432 + 14_183_424);
        let list = Layers::List((6..12).collect());
        assert_eq!(count(list.clone(), list), count(Layers::Top(6), Layers::Top(6)));
    }

    #[test]
    fn the_top_layers_are_the_last() {
        let list = ab_net(512, Layers::Top(2), 0, Layers::List(vec![0, 3]), Train::Adapters);
        let layers = |suffix: &str| -> Vec<String> {
            let names = list.iter().filter_map(|parameter| parameter.name.strip_suffix(suffix));
            names.map(str::to_owned).collect()
        };
        assert_eq!(layers(".adapter.up.weight"), ["encoder.layer.10", "encoder.layer.11"]);
        let query = ".cross_attention.query.bias";
        assert_eq!(layers(query), ["decoder.layer.0", "decoder.layer.3"]);
    }

    #[test]
    fn the_frozen_pair_is_both_berts_and_the_decoders_head() {
        // Layers 12 · (4·(768² + 768) + 2·768·3072 + 3072 + 768 + 4·768) = 85,054,464;
        // embeddings (vocabulary + 512 + 2 + 2) · 768; head 768² + 3·768 + vocabulary.
        let bert = |vocabulary: usize| 85_054_464 + (vocabulary + 516) * 768;
        let head = 768 * 768 + 3 * 768 + 30_522;
        let list = ab_net(2048, Layers::All, 0, Layers::All, Train::Adapters);
        assert_eq!(frozen_count(&list), bert(30_000) + bert(30_522) + head);
        assert_eq!(frozen_count(&list), 218_005_050);
    }

    #[test]
    fn training_everything_freezes_nothing() {
        let adapters = ab_net(2048, Layers::All, 0, Layers::All, Train::Adapters);
        let all = ab_net(2048, Layers::All, 0, Layers::All, Train::All);
        let scratch = ab_net(2048, Layers::All, 0, Layers::All, Train::Scratch);
        for list in [&all, &scratch] {
            assert_eq!(frozen_count(list), 0);
            assert_eq!(trained_count(list), trained_count(&adapters) + frozen_count(&adapters));
        }
        let loads = |list: &[Parameter]| {
            list.iter().any(|parameter| matches!(parameter.init, Init::Pretrained(_)))
        };
        assert!(loads(&all) && !loads(&scratch));
    }

    #[test]
    fn a_missing_head_is_trained() {
        let config = base(30_522);
        let bare = stored(&config, false);
        let cross_attention =
            CrossAttention { heads: 12, feed_forward: 0, layers: Layers::All, dropout: 0.1 };
        let list = pretrained_decoder(&bare, Train::Adapters, Some(&cross_attention), 768);
        let head = 768 * 768 + 3 * 768 + 30_522;
        assert_eq!(trained_count(&list), 28_366_848 + head);
    }

    #[test]
    fn a_wider_encoder_widens_keys_and_values() {
        let bert = Bert::new(base(30_522));
        let cross_attention =
            CrossAttention { heads: 12, feed_forward: 0, layers: Layers::Top(1), dropout: 0.1 };
        let list = pretrained_decoder(&bert, Train::Scratch, Some(&cross_attention), 1024);
        let shape = |name: &str| {
            let name = format!("decoder.layer.11.cross_attention.{name}.weight");
            list.iter().find(|parameter| parameter.name == name).map(|found| found.shape.clone())
        };
        assert_eq!(shape("query"), Some(vec![768, 768]));
        assert_eq!(shape("key"), Some(vec![768, 1024]));
        assert_eq!(shape("value"), Some(vec![768, 1024]));
        assert_eq!(shape("output"), Some(vec![768, 768]));
    }

    #[test]
    fn old_names_of_norms_are_found() {
        let config = base(100);
        let mut old = stored(&config, true);
        let rename = |name: &str| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta")
        };
        let folder = old.folder.as_mut().unwrap();
        let renamed = folder.tensors.iter().map(|(name, shape)| (rename(name), shape.clone()));
        folder.tensors = renamed.collect();
        let list = mlm(&old, Train::Adapters);
        assert_eq!(trained_count(&list), 0);
        let norm = &list[3];
        assert_eq!(norm.name, "encoder.bert.embeddings.LayerNorm.weight");
        assert_eq!(norm.init, Init::Pretrained("bert.embeddings.LayerNorm.gamma".into()));
    }

    /// Checkpoints hold these names: a change here is a change of their format.
    #[test]
    fn names_and_shapes_of_a_tiny_model() {
        let tiny = |vocab_size, intermediate_size| BertConfig {
            hidden_size: 64,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            intermediate_size,
            max_position_embeddings: 64,
            first_position: 0,
            ..base(vocab_size)
        };
        let (source, target) = (Bert::new(tiny(211, 128)), Bert::new(tiny(197, 96)));
        let train = Train::Scratch;
        let adapters = EncoderAdapters { dim: 48, layers: Layers::All };
        let mut list = pretrained_encoder(&source, train, Some(&adapters), Some(1024));
        let cross_attention =
            CrossAttention { heads: 2, feed_forward: 40, layers: Layers::All, dropout: 0.1 };
        list.extend(pretrained_decoder(&target, train, Some(&cross_attention), 64));
        let mut snapshot = String::new();
        for parameter in &list {
            writeln!(snapshot, "{} {:?}", parameter.name, parameter.shape).unwrap();
        }
        assert_eq!(snapshot, include_str!("../../tests/tiny-parameters.txt"));
    }
}
