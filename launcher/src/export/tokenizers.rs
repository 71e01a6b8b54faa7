//! A tokenizer for each side as one tokenizer.json, which makes of a text the ids that the model was trained
//! with, whatever lay beside the vocabulary.

use std::collections::HashMap;

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tandem_cluster::run::folder::RunFolder;
use tandem_config::RunConfig;
use tandem_config::composition::Composition;
use tandem_config::pretrained::family::{Family, SpecialTokens};
use tandem_config::pretrained::network::Network;
use tandem_config::pretrained::tokenizer::{Casing, TokenizerFiles, entries};
use tandem_config::schema::model::{Decoder, Encoder, Vocabulary};

/// GPT-2's only special token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The ids of a vocabulary's special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Special {
    pad: u64,
    unk: u64,
    cls: u64,
    sep: u64,
    mask: u64,
}

/// One side's tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    /// The text of tokenizer.json.
    pub json: Value,
    /// The ids of its special tokens.
    pub special: Special,
    names: SpecialTokens,
}

/// The tokenizers of both sides of a run's model.
///
/// # Errors
/// Vocabularies that cannot be read.
pub(super) fn both(
    run: &RunFolder,
    composition: &Composition,
    config: &RunConfig,
) -> anyhow::Result<[Tokenizer; 2]> {
    let own = match &config.model.encoder {
        Encoder::Bert(bert) => bert.new.as_ref().map(|new| &new.vocabulary),
        Encoder::Transformer(transformer) => Some(&transformer.vocabulary),
    };
    let source = tokenizer(run, composition.encoder.network(), own, "source")?;
    let own = match &config.model.decoder {
        Some(Decoder::Transformer(transformer)) => Some(&transformer.vocabulary),
        Some(Decoder::Bert(_) | Decoder::Gpt2(_)) | None => None,
    };
    let decoder = composition.decoder.as_ref().context("the model has no decoder")?;
    Ok([source, tokenizer(run, decoder.network(), own, "target")?])
}

fn tokenizer(
    run: &RunFolder,
    network: &dyn Network,
    own: Option<&Vocabulary>,
    side: &str,
) -> anyhow::Result<Tokenizer> {
    let (path, casing) = match (network.tokenizer(), own) {
        (Some(path), _) => (path.to_owned(), None),
        (None, Some(Vocabulary::File { lowercase, .. } | Vocabulary::Learn { lowercase, .. })) => {
            let casing = Casing { lowercase: *lowercase, strip_accents: None, chinese: true };
            (run.vocabulary().join(side).join("vocab.txt"), Some(casing))
        }
        (None, _) => return Err(anyhow!("the {side} of the model has no vocabulary")),
    };
    let of = || format!("cannot use {}", path.display());
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let json = if path.extension().is_some_and(|extension| extension == "json") {
        from_json(&text, &TokenizerFiles::open(&path)?).with_context(of)?
    } else {
        let casing = match casing {
            Some(casing) => Some(casing),
            None => TokenizerFiles::open(&path)?.casing,
        };
        let entries = entries(&text);
        from_entries(entries, casing.unwrap_or_else(|| Casing::reaching(entries)))
    };
    Tokenizer::new(json).with_context(of)
}

/// BERT's tokenizer over a vocabulary: an entry a line, in the order of their ids.
fn from_entries(entries: &str, casing: Casing) -> Value {
    let ids: Map<String, Value> =
        entries.lines().zip(0..).map(|(entry, id)| (entry.trim_end().into(), json!(id))).collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": casing.chinese,
            "strip_accents": casing.strip_accents,
            "lowercase": casing.lowercase,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    })
}

/// A tokenizer.json, with what the files beside it decide.
fn from_json(text: &str, files: &TokenizerFiles) -> anyhow::Result<Value> {
    let mut json: Value = serde_json::from_str(text)?;
    let own = &mut json["normalizer"];
    if let Some(casing) = files.casing
        && own["type"] == "BertNormalizer"
    {
        own["handle_chinese_chars"] = json!(casing.chinese);
        own["strip_accents"] = json!(casing.strip_accents);
        own["lowercase"] = json!(casing.lowercase);
    }
    let own = &mut json["pre_tokenizer"];
    if let Some(prefix) = files.prefix_space
        && own["type"] == "ByteLevel"
    {
        own["add_prefix_space"] = json!(prefix);
    }
    Ok(json)
}

impl Tokenizer {
    /// The tokenizer of a tokenizer.json, changed to end every text with `[SEP]` and to do no more.
    fn new(mut json: Value) -> anyhow::Result<Self> {
        let ids = ids(&json);
        let id = |token: &str| {
            ids.get(token).copied().with_context(|| format!("it has no token {token}"))
        };
        let found = SpecialTokens::of(|token| ids.contains_key(token));
        let names = match found {
            None if ids.contains_key(END_OF_TEXT) => SpecialTokens {
                pad: END_OF_TEXT,
                unk: END_OF_TEXT,
                cls: END_OF_TEXT,
                sep: END_OF_TEXT,
                mask: END_OF_TEXT,
            },
            found => found.unwrap_or(Family::bert().special),
        };
        let SpecialTokens { pad, unk, cls, sep, mask } = names;
        let special =
            Special { pad: id(pad)?, unk: id(unk)?, cls: id(cls)?, sep: id(sep)?, mask: id(mask)? };
        drop(ids);
        let sequence = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
        let end = json!({ "SpecialToken": { "id": sep, "type_id": 0 } });
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [sequence("A"), end],
            "pair": [sequence("A"), end, sequence("B"), end],
            "special_tokens": { (sep): { "id": sep, "ids": [special.sep], "tokens": [sep] } },
        });
        Ok(Self { json, special, names })
    }

    /// What lies beside it for transformers. Its longest text has so many tokens.
    pub(super) fn config(&self, longest: usize) -> Value {
        let SpecialTokens { pad, unk, cls, sep, mask } = self.names;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": longest,
            "clean_up_tokenization_spaces": false,
            "split_special_tokens": true,
            "pad_token": pad,
            "unk_token": unk,
            "eos_token": sep,
        });
        if cls != sep {
            for (key, token) in [("cls_token", cls), ("sep_token", sep), ("mask_token", mask)] {
                config[key] = json!(token);
            }
        }
        config
    }
}

/// The id of every token.
fn ids(json: &Value) -> HashMap<&str, u64> {
    let mut ids = HashMap::new();
    match &json["model"]["vocab"] {
        Value::Object(vocabulary) => {
            ids.extend(
                vocabulary.iter().filter_map(|(token, id)| Some((token.as_str(), id.as_u64()?))),
            );
        }
        // A unigram model lists its pieces, each with its score.
        Value::Array(pieces) => {
            ids.extend(
                pieces.iter().zip(0..).filter_map(|(piece, id)| Some((piece[0].as_str()?, id))),
            );
        }
        _ => {}
    }
    let added = json["added_tokens"].as_array().into_iter().flatten();
    ids.extend(added.filter_map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?))));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: &str = "[unused0]\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nder\nHund\n";

    #[test]
    fn special_ids_are_found_by_name() {
        let casing = Casing { lowercase: false, strip_accents: None, chinese: true };
        let tokenizer = Tokenizer::new(from_entries(ENTRIES, casing)).unwrap();
        assert_eq!(tokenizer.special, Special { pad: 1, unk: 2, cls: 3, sep: 4, mask: 5 });
        assert_eq!(tokenizer.json["normalizer"]["lowercase"], false);
        assert_eq!(tokenizer.config(9)["sep_token"], "[SEP]");
        let error = Tokenizer::new(from_entries("[PAD]\na\n", casing)).unwrap_err().to_string();
        assert_eq!(error, "it has no token [UNK]");
    }

    #[test]
    fn gpt2_has_one_for_all_purposes() {
        let json = json!({ "model": { "vocab": { "a": 0 } },
                           "added_tokens": [{ "content": END_OF_TEXT, "id": 7 }] });
        let tokenizer = Tokenizer::new(json).unwrap();
        assert_eq!(tokenizer.special, Special { pad: 7, unk: 7, cls: 7, sep: 7, mask: 7 });
        assert_eq!(tokenizer.config(9).get("mask_token"), None);
    }
}
