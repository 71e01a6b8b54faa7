//! The tensors of a Transformer's encoder and decoder.
//!
//! Initial values are fairseq's: word and position vectors normal with deviation `D^-0.5` (their
//! scale while training is 1), matrices Xavier-uniform, biases 0.

use super::{Init, List, Parameter};
use crate::composition::TransformerBase;
use crate::schema::transformer::{Positions, Transformer};

/// A Transformer that reads, with a length embedding where lengths are predicted.
/// `beside` is the width of a BERT that reads beside it.
pub(super) fn encoder(
    base: &TransformerBase,
    beside: Option<usize>,
    length_classes: Option<usize>,
) -> Vec<Parameter> {
    let mut list = List::new("encoder.");
    let width = base.config.hidden;
    list.length_embedding(length_classes, width);
    list.embeddings(base);
    if base.config.has_switch() {
        list.xavier("switch.bert.weight", width, width);
        list.xavier_linear("switch.own", width, width);
    }
    for layer in 0..base.config.layers {
        list.scoped(&format!("layer.{layer}."), |list| {
            list.attention("self_attention", width, width);
            list.bert_attention(&base.config, beside);
            list.feed_forward(&base.config);
        });
    }
    list.parameters
}

/// A Transformer that writes, looking at a memory of `memory_width`. The output layer's matrix is
/// the word embeddings. `beside` is the width of a BERT that reads beside the encoder.
pub(super) fn decoder(
    base: &TransformerBase,
    memory_width: usize,
    beside: Option<usize>,
) -> Vec<Parameter> {
    let mut list = List::new("decoder.");
    let width = base.config.hidden;
    list.embeddings(base);
    for layer in 0..base.config.layers {
        list.scoped(&format!("layer.{layer}."), |list| {
            list.attention("self_attention", width, width);
            list.attention("cross_attention", width, memory_width);
            list.bert_attention(&base.config, beside);
            list.feed_forward(&base.config);
        });
    }
    list.parameters
}

impl List {
    fn embeddings(&mut self, base: &TransformerBase) {
        let Transformer { hidden, max_length, positions, .. } = base.config;
        let init = Init::Normal((hidden as f64).powf(-0.5));
        self.add("embeddings.word.weight", vec![base.vocab_size, hidden], init.clone());
        if positions == Positions::Learned {
            self.add("embeddings.position.weight", vec![max_length, hidden], init);
        }
    }

    fn attention(&mut self, name: &str, width: usize, memory_width: usize) {
        self.attention_without_norm(name, width, memory_width);
        self.norm(&format!("{name}.norm"), width);
    }

    fn attention_without_norm(&mut self, name: &str, width: usize, memory_width: usize) {
        self.query_key_value(name, width, memory_width);
        self.xavier_linear(&format!("{name}.output"), width, width);
    }

    /// An attention over the BERT, where the layers have one. It shares the norm of the attention that it
    /// stands beside.
    fn bert_attention(&mut self, config: &Transformer, beside: Option<usize>) {
        if let Some(beside) = beside.filter(|_| config.attends_to_bert()) {
            self.attention_without_norm("bert_attention", config.hidden, beside);
        }
    }

    fn feed_forward(&mut self, config: &Transformer) {
        let Transformer { hidden, feed_forward, .. } = *config;
        self.xavier_linear("feed_forward.up", feed_forward, hidden);
        self.xavier_linear("feed_forward.down", hidden, feed_forward);
        self.norm("feed_forward.norm", hidden);
    }

    fn xavier_linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.xavier(&format!("{name}.weight"), outputs, inputs);
        self.add(&format!("{name}.bias"), vec![outputs], Init::Zeros);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::trained_count;
    use super::*;
    use crate::schema::model::Vocabulary;
    use crate::schema::transformer::BertFused;

    /// 6 layers; the vocabulary's folder does not matter to counts.
    fn transformer(hidden: usize, feed_forward: usize, vocab_size: usize) -> TransformerBase {
        let config = Transformer {
            layers: 6,
            hidden,
            heads: hidden / 64,
            feed_forward,
            dropout: 0.1,
            positions: Positions::Sinusoidal,
            max_length: 512,
            vocabulary: Vocabulary::Learn { size: vocab_size, lowercase: false },
            bert_fused: None,
            ct_nmt: None,
        };
        TransformerBase { config, vocab_size, vocabulary: None }
    }

    fn count(source: &TransformerBase, target: &TransformerBase, classes: Option<usize>) -> usize {
        let mut list = encoder(source, None, classes);
        list.extend(decoder(target, source.config.hidden, None));
        trained_count(&list)
    }

    /// Over the vocabularies of bert-base-cased and bert-base-german-cased.
    #[test]
    fn transformer_base_has_the_papers_count() {
        let (source, target) = (transformer(512, 2048, 28_996), transformer(512, 2048, 30_000));
        assert_eq!(trained_count(&encoder(&source, None, None)), 18_914_304 + 512 * 28_996);
        assert_eq!(trained_count(&decoder(&target, 512, None)), 25_224_192 + 512 * 30_000);
        assert_eq!(count(&source, &target, None), 74_344_448); // 74M in Table 1
        assert_eq!(count(&source, &target, Some(1024)), 74_868_736); // Mask-Predict: 75M
    }

    /// 90M in Table 1.
    #[test]
    fn bert_fused_has_an_attention_more_in_every_layer() {
        let (source, target) = (transformer(512, 2048, 28_996), transformer(512, 2048, 30_000));
        let fused = |base: &TransformerBase| {
            let mut base = base.clone();
            base.config.bert_fused = Some(BertFused { pretrained: "x".into(), drop_net: 1.0 });
            base
        };
        let mut list = encoder(&fused(&source), Some(768), None);
        list.extend(decoder(&fused(&target), 512, Some(768)));
        // Query and output 512² + 512, key and value 768 · 512 + 512.
        assert_eq!(trained_count(&list), count(&source, &target, None) + 12 * 1_312_768);
        assert_eq!(trained_count(&list), 90_097_664);
    }

    #[test]
    fn transformer_big_is_counted() {
        let (source, target) = (transformer(1024, 4096, 28_996), transformer(1024, 4096, 30_000));
        // A layer of the encoder: 4 (1024² + 1024) + 2 · 1024 · 4096 + 4096 + 1024 + 4 · 1024.
        let layer = 12_596_224;
        assert_eq!(trained_count(&encoder(&source, None, None)), 6 * layer + 1024 * 28_996);
        let cross_attention = 4 * (1024 * 1024 + 1024) + 2 * 1024;
        let decoder_count = 6 * (layer + cross_attention) + 1024 * 30_000;
        assert_eq!(trained_count(&decoder(&target, 1024, None)), decoder_count);
        assert_eq!(count(&source, &target, None), 236_769_280);
    }

    /// 78M in Table 1 if keys and values read 512 numbers; BERT's output has 768, which makes 80M.
    #[test]
    fn a_decoder_behind_a_bert_has_wider_keys_and_values() {
        let target = transformer(512, 2048, 30_000);
        let (narrow, wide) = (decoder(&target, 512, None), decoder(&target, 768, None));
        assert_eq!(trained_count(&wide) - trained_count(&narrow), 6 * 2 * 512 * (768 - 512));
        let adapters = 37_767_168;
        assert_eq!(adapters + trained_count(&narrow), 78_351_360);
        assert_eq!(adapters + trained_count(&wide), 79_924_224);
    }

    #[test]
    fn learned_positions_are_trained() {
        let mut base = transformer(512, 2048, 100);
        let without = trained_count(&encoder(&base, None, None));
        base.config.positions = Positions::Learned;
        assert_eq!(trained_count(&encoder(&base, None, None)), without + 512 * 512);
    }

    /// Checkpoints hold these names: a change here is a change of their format.
    #[test]
    fn names_and_shapes_of_a_tiny_model() {
        let mut base = transformer(64, 96, 110);
        base.config.layers = 1;
        base.config.positions = Positions::Learned;
        let mut snapshot = String::new();
        for parameter in encoder(&base, None, Some(40)).into_iter().chain(decoder(&base, 32, None))
        {
            writeln!(snapshot, "{} {:?}", parameter.name, parameter.shape).unwrap();
        }
        assert_eq!(snapshot, include_str!("../../tests/tiny-transformer-parameters.txt"));
    }
}
