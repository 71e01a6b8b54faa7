//! Transformers, the autoregressive objective and beam search: what goes together and what does not.

use tandem_config::schema::decoding::{BeamSearch, CtcSearch, Decoding, MaskPredict};
use tandem_config::schema::model::{Decoder, Encoder, Vocabulary};

use crate::support::{Case, Folder, VALID, check_changes};

/// A Transformer that is valid beside what [`Folder`] makes.
const TRANSFORMER: &str = include_str!("transformer.yaml");

/// The run of a valid file.
fn run(folder: &Folder, text: &str) -> tandem_config::RunConfig {
    assert_eq!(folder.load(text, &[]), Ok(()));
    tandem_config::load(&folder.path("run.yaml"), &[]).unwrap()
}

#[test]
fn the_file_itself_is_valid() {
    let folder = Folder::new();
    let run = run(&folder, TRANSFORMER);
    let Encoder::Transformer(encoder) = &run.model.encoder else { panic!("{:?}", run.model) };
    assert_eq!((encoder.dropout, encoder.max_length), (0.1, 16));
    let Some(Decoder::Transformer(decoder)) = &run.model.decoder else { panic!("no decoder") };
    let english = folder.path("english").to_string_lossy().into_owned();
    assert_eq!(decoder.vocabulary, Vocabulary::Bert(english), "paths become absolute");
}

#[test]
fn the_objective_decides_how_translations_are_found() {
    let folder = Folder::new();
    let without = TRANSFORMER.replace("decoding:\n  beam_search: {width: 4}\n", "");
    let beam = Decoding::BeamSearch(BeamSearch::default());
    assert_eq!(run(&folder, &without).decoding, beam);
    let masked = without.replace("autoregressive: {label_smoothing: 0.1}", "masked: {}");
    let mask_predict = Decoding::MaskPredict(MaskPredict::default());
    assert_eq!(run(&folder, &masked).decoding, mask_predict);
    let ctc = without.replace("autoregressive: {label_smoothing: 0.1}", "ctc: {upsampling: 1}");
    assert_eq!(run(&folder, &ctc).decoding, Decoding::Ctc(CtcSearch::default()));
}

#[test]
fn both_sides_can_be_mixed() {
    let folder = Folder::new();
    let block = |text: &str, start: &str, end: &str| {
        let from = text.find(start).unwrap();
        text[from..from + text[from..].find(end).unwrap()].to_owned()
    };
    let bert_encoder = block(VALID, "  encoder:", "  decoder:");
    let bert_decoder = block(VALID, "  decoder:", "  objective:");
    let encoder = block(TRANSFORMER, "  encoder:", "  decoder:");
    let decoder = block(TRANSFORMER, "  decoder:", "  objective:");
    for text in [
        TRANSFORMER.replace(&encoder, &bert_encoder),
        TRANSFORMER.replace(&decoder, &bert_decoder),
        TRANSFORMER.replace(&decoder, &bert_decoder).replace(&encoder, &bert_encoder),
        VALID.replace(&bert_decoder, &decoder),
    ] {
        run(&folder, &text);
    }
}

#[test]
fn conflicts() {
    check_changes(TRANSFORMER, CONFLICTS);
}

#[test]
fn ranges_and_choices() {
    check_changes(TRANSFORMER, SCHEMA);
}

#[test]
fn conflicts_of_berts() {
    check_changes(VALID, BERTS);
}

const CONFLICTS: &[Case] = &[
    (
        &[("beam_search: {width: 4}", "ctc: {width: 4}")],
        &[
            "35:3: decoding.ctc: only the ctc objective's decoder predicts blanks, must be one of {mask_predict: ...} for the masked objective | {beam_search: ...} for the autoregressive one",
        ],
    ),
    (
        &[
            ("autoregressive: {label_smoothing: 0.1}", "ctc: {upsampling: 1}"),
            ("beam_search: {width: 4}", "ctc: {width: 1, token_bonus: 0.5}"),
        ],
        &[
            "35:9: decoding.ctc.width: found 1, which searches for nothing, but token_bonus is 0.5, must be at least 2, or set decoding.ctc.token_bonus to 0",
        ],
    ),
    (
        &[
            ("autoregressive: {label_smoothing: 0.1}", "ctc: {upsampling: 1}"),
            ("beam_search: {width: 4}", "ctc: {language_model: {}}"),
        ],
        &[
            "35:3: decoding.ctc.width: found 1, which searches for nothing, but there is a language_model, must be at least 2, or set decoding.ctc.language_model to null",
        ],
    ),
    (
        &[
            ("autoregressive: {label_smoothing: 0.1}", "ctc: {upsampling: 2}"),
            ("beam_search: {width: 4}", "ctc: {}"),
            ("  max_length: 12", "  max_length: 8"),
            ("max_tokens: 400", "max_tokens: 15"),
        ],
        &[
            "30:3: training.max_tokens: found 15, must be at least 16: the longest sentence in decoder positions by data.max_length or the model's positions",
        ],
    ),
    (
        &[("autoregressive: {label_smoothing: 0.1}", "ctc: {upsampling: 4}")],
        &[
            "7:3: data.max_length: found 12, must be at most 4: the ctc objective's decoder reads 4 [MASK]s for each source token, and its Transformer has 16 positions",
            "35:3: decoding.beam_search: the ctc objective's decoder writes all tokens at once, with blanks between them, must be {ctc: ...}",
        ],
    ),
    (
        &[("beam_search: {width: 4}", "mask_predict: {}")],
        &[
            "35:3: decoding.mask_predict: the autoregressive objective's decoder is causal and cannot fill in masks, must be {beam_search: ...}",
        ],
    ),
    (
        &[("autoregressive: {label_smoothing: 0.1}", "masked: {}")],
        &[
            "35:3: decoding.beam_search: the masked objective's decoder is not causal and cannot write token by token, must be {mask_predict: ...}",
        ],
    ),
    (
        &[("heads: 2", "heads: 3")],
        &["13:7: model.encoder.transformer.heads: 3 heads must divide hidden: 8"],
    ),
    (
        &[("heads: 3", "heads: 5")],
        &["21:7: model.decoder.transformer.heads: 5 heads must divide hidden: 12"],
    ),
    (
        &[("max_length: 12", "max_length: 17")],
        &[
            "7:3: data.max_length: found 17, the encoder's Transformer has 16 positions",
            "7:3: data.max_length: found 17, the decoder's Transformer has 16 positions",
        ],
    ),
    (
        &[("  max_length: 12\n", ""), ("max_tokens: 400", "max_tokens: 15")],
        &[
            "29:3: training.max_tokens: found 15, must be at least 16: the longest sentence by data.max_length or the model's positions",
        ],
    ),
    (
        &[("autoregressive: {label_smoothing: 0.1}", "mlm: {}")],
        &[
            "5:3: data.train: the mlm objective reads one language, must be {lines: ...}",
            "10:5: model.encoder.transformer: the mlm objective makes a BERT, must be {bert: ...}",
            "17:3: model.decoder: the mlm objective trains an encoder alone, leave the decoder out",
        ],
    ),
    (
        &[("{bert: english}", "{bert: ./nowhere}")],
        &[
            "25:20: model.decoder.transformer.vocabulary.bert: there is no folder nowhere, must be a Hugging Face folder (beside this file, or an absolute path) or a model's name on the hub",
        ],
    ),
    (
        &[("{learn: {size: 100, lowercase: true}}", "{file: {path: vocab.txt, lowercase: true}}")],
        &["16:27: model.encoder.transformer.vocabulary.file.path: there is no file vocab.txt"],
    ),
    (
        &[(
            "vocabulary: {bert: english}",
            "vocabulary: {bert: english}\n      bert_fused: {pretrained: english}",
        )],
        &[
            "26:20: model.decoder.transformer.bert_fused.pretrained: this BERT reads the encoder's ids, the encoder must be a Transformer with `vocabulary: {bert: english}`",
        ],
    ),
    (
        &[
            (
                "{learn: {size: 100, lowercase: true}}",
                "{bert: german}\n      bert_fused: {pretrained: german}",
            ),
            ("{bert: english}", "{bert: english}\n      bert_fused: {pretrained: english}"),
        ],
        &[
            "27:20: model.decoder.transformer.bert_fused.pretrained: the encoder is fused with german, must be the same BERT",
            "27:20: model.decoder.transformer.bert_fused.pretrained: this BERT reads the encoder's ids, the encoder must be a Transformer with `vocabulary: {bert: english}`",
        ],
    ),
    (
        &[
            (
                "{learn: {size: 100, lowercase: true}}",
                "{bert: german}\n      bert_fused: {pretrained: german}",
            ),
            ("max_length: 12", "max_length: 16"),
        ],
        &[
            "7:3: data.max_length: found 16, must be less than 16: the BERT beside the encoder, which has so many positions, reads [CLS] before a sentence",
        ],
    ),
    (
        &[
            (
                "{learn: {size: 100, lowercase: true}}",
                "{bert: german}\n      ct_nmt: {pretrained: english, rate: {peak: 5, end: 5}}",
            ),
            ("hidden: 8", "hidden: 10"),
        ],
        &[
            "12:7: model.encoder.transformer.hidden: found 10, must be 8: as wide as the BERT of ct_nmt",
            "17:16: model.encoder.transformer.ct_nmt.pretrained: this BERT reads the encoder's ids, which must have `vocabulary: {bert: english}`",
            "17:53: model.encoder.transformer.ct_nmt.rate.end: found 5, must be more than the peak's step 5",
        ],
    ),
    (
        &[
            (
                "{learn: {size: 100, lowercase: true}}",
                "{bert: german}\n      ct_nmt: {pretrained: german}\n      bert_fused: {pretrained: german}",
            ),
            ("{bert: english}", "{bert: english}\n      ct_nmt: {pretrained: english}"),
        ],
        &[
            "18:7: model.encoder.transformer.bert_fused: the encoder has a BERT of ct_nmt already, leave one of the two out",
            "28:7: model.decoder.transformer.ct_nmt: the BERT reads the source: leave this out, or give it to the encoder",
        ],
    ),
    (
        &[("objective:\n", "init: ./nowhere\n  objective:\n")],
        &[
            "26:3: model.init: there is no nowhere, must be a trained run's folder, an exported model's, or a run file",
        ],
    ),
    (
        &[("objective:\n", "init: english\n  objective:\n")],
        &["26:3: model.init: english is neither a trained run's folder nor an exported model"],
    ),
    (
        &[("objective:\n", "init: train.tsv\n  objective:\n")],
        &["26:3: model.init: train.tsv does not say where its run lies, must be a run file"],
    ),
];

const SCHEMA: &[Case] = &[
    (
        &[(
            "vocabulary: {bert: english}",
            "vocabulary: {bert: english}\n      bert_fused: {pretrained: english, drop_net: 2}",
        )],
        &[
            "26:51: model.decoder.transformer.bert_fused.drop_net: found 2, must be a number from 0 to 1",
        ],
    ),
    (
        &[("width: 4", "width: 0")],
        &["35:24: decoding.beam_search.width: found 0, must be a whole number from 1 to 64"],
    ),
    (
        &[("beam_search: {width: 4}", "ctc: {language_model: {order: 7, weight: -1, beta: 1}}")],
        &[
            "35:33: decoding.ctc.language_model.order: found 7, must be a whole number from 1 to 6",
            "35:44: decoding.ctc.language_model.weight: found -1, must be a number from 0 to 10",
            "35:48: decoding.ctc.language_model.beta: unknown key, allowed: order | weight",
        ],
    ),
    (
        &[("width: 4", "beam: 4")],
        &[
            "35:17: decoding.beam_search.beam: unknown key, allowed: width | score | length_penalty | max_len_a | max_len_b | max_tokens, did you mean `data.distillation.beam`?",
        ],
    ),
    (
        &[("positions: learned", "positions: learnt")],
        &[
            "23:18: model.decoder.transformer.positions: found the text `learnt`, must be one of sinusoidal | learned, did you mean `learned`?",
        ],
    ),
    (
        &[("      feed_forward: 16\n", "")],
        &[
            "10:5: model.encoder.transformer.feed_forward: missing, must be a whole number of at least 1",
        ],
    ),
    (
        &[("{bert: english}", "english")],
        &[
            "25:19: model.decoder.transformer.vocabulary: found the text `english`, must be one of {file: ...} | {learn: ...} | {bert: ...}",
        ],
    ),
    (
        &[("label_smoothing: 0.1", "length_loss: 0.1")],
        &[
            "27:22: model.objective.autoregressive.length_loss: unknown key, allowed: label_smoothing | soft_labels, did you mean `model.objective.masked.length_loss`?",
        ],
    ),
    (
        &[("beam_search: {width: 4}", "beam: {}")],
        &[
            "35:3: decoding.beam: unknown choice, must be one of {mask_predict: ...} | {beam_search: ...} | {ctc: ...}, did you mean `beam_search`?",
        ],
    ),
];

const BERTS: &[Case] = &[
    (
        &[(
            "    masked:\n      label_smoothing: 0.1\n      corruption: {mask: 0.8, random: 0.1}\n",
            "    autoregressive: {}\n",
        )],
        &[
            "45:3: decoding.mask_predict: the autoregressive objective's decoder is causal and cannot fill in masks, must be {beam_search: ...}",
        ],
    ),
    (
        &[(
            "      pretrained: german\n      adapters:\n        dim: 4\n        layers: all\n",
            "      train: scratch\n      new: {layers: 2, hidden: 8, heads: 2, feed_forward: 16, vocabulary: {bert: german}}\n",
        )],
        &[
            "20:7: model.encoder.bert.new: only the mlm objective makes a BERT, give `pretrained` instead",
            "20:76: model.encoder.bert.new.vocabulary.bert: only a Transformer takes a BERT's vocabulary, must be one of {file: ...} | {learn: ...}",
        ],
    ),
];
