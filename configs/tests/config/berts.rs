//! Folders that are no usable BERTs, and what is said of them.

use std::fs;

use serde_json::json;
use tandem_config::pretrained::bert::{self, BertConfig, BertFolder};

use crate::support::{Folder, VALID, write_bert, write_weights};

/// What is said of the encoder's BERT after `damage` to its folder.
fn said(damage: impl Fn(&std::path::Path)) -> String {
    let folder = Folder::new();
    damage(&folder.path("german"));
    let problem = folder.load(VALID, &[]).unwrap_err();
    let place = "run.yaml:19:7: model.encoder.bert.pretrained: ";
    problem.strip_prefix(place).unwrap_or_else(|| panic!("{problem}")).to_owned()
}

#[test]
fn config_json_of_another_model() {
    let reason = |changes: serde_json::Value| {
        let message = said(|folder| write_bert(folder, changes.clone()));
        message.trim_start_matches("german/config.json does not describe a BERT: ").to_owned()
    };
    assert_eq!(
        reason(json!({ "model_type": "albert" })),
        "model_type is `albert`, only bert, roberta, xlm-roberta, camembert are supported"
    );
    assert_eq!(
        reason(json!({ "position_embedding_type": "relative_key" })),
        "position_embedding_type is `relative_key`, only `absolute` is supported"
    );
    assert_eq!(
        reason(json!({ "hidden_act": "relu" })),
        "hidden_act is `relu`, only `gelu` is supported"
    );
    assert!(reason(json!({ "tie_word_embeddings": false })).contains("only the tied MLM head"));
    assert!(reason(json!({ "is_decoder": true })).contains("only bidirectional"));
    assert!(reason(json!({ "num_attention_heads": 3 })).contains("not a multiple"));
    assert!(reason(json!({ "vocab_size": "many" })).contains("invalid type"));
}

#[test]
fn config_json_that_does_not_fit_to_the_weights() {
    assert_eq!(
        said(|folder| write_bert(folder, json!({ "vocab_size": 13 }))),
        "german/model.safetensors: tensor `bert.embeddings.word_embeddings.weight` has shape \
         [12, 8], by config.json it is [13, 8]"
    );
    assert_eq!(
        said(|folder| write_bert(folder, json!({ "num_hidden_layers": 4 }))),
        "german/model.safetensors has no tensor \
         `bert.encoder.layer.3.attention.self.query.weight`, which a model of the shape in \
         config.json has"
    );
    assert_eq!(
        said(|folder| write_bert(folder, json!({ "vocab_size": 6 }))),
        "german/vocab.txt has 7 entries, config.json says vocab_size 6"
    );
}

#[test]
fn tokenizers_of_another_kind_or_size() {
    let class = |file: &'static str| {
        let named = json!({ "model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer" });
        said(move |folder| match file {
            "config.json" => write_bert(folder, named.clone()),
            _ => fs::write(folder.join(file), named.to_string()).unwrap(),
        })
    };
    for file in ["config.json", "tokenizer_config.json"] {
        assert_eq!(
            class(file),
            format!(
                "german/{file} does not describe a usable tokenizer: tokenizer_class is \
                 `BertJapaneseTokenizer`, only BertTokenizer, DistilBertTokenizer, \
                 ElectraTokenizer, RobertaTokenizer, XLMRobertaTokenizer, CamembertTokenizer, GPT2Tokenizer, PreTrainedTokenizer, TokenizersBackend are \
                 supported"
            )
        );
    }
    let added =
        said(|folder| fs::write(folder.join("added_tokens.json"), r#"{"covid": 7}"#).unwrap());
    let words = "it adds the token `covid` with the id 7, which german/vocab.txt does not; write a";
    assert!(added.contains(words), "{added}");
    let tokenizer = json!({
        "model": { "vocab": { "[PAD]": 0, "a": 11 } },
        "added_tokens": [{ "id": 12, "content": "<num>" }],
    });
    assert_eq!(
        said(|folder| fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap()),
        "german/tokenizer.json has 13 entries, config.json says vocab_size 12"
    );
}

#[test]
fn blank_lines_at_the_end_of_a_vocabulary_are_no_entries() {
    let folder = Folder::new();
    let blank = (0..12).map(|i| format!("{i}\n")).collect::<String>() + "\n \n";
    fs::write(folder.path("german").join("vocab.txt"), blank).unwrap();
    folder.load(VALID, &[]).unwrap();
}

#[test]
fn files_that_are_missing() {
    let parts = "the folder of a pre-trained model has config.json, model.safetensors and vocab.txt or tokenizer.json";
    for file in ["config.json", "model.safetensors"] {
        assert_eq!(
            said(|folder| fs::remove_file(folder.join(file)).unwrap()),
            format!("cannot read german/{file}; {parts}")
        );
    }
    let remedy = "; transformers writes a tokenizer.json: python -c 'from transformers import \
                  AutoTokenizer as T; T.from_pretrained(\"german\").save_pretrained(\"german\")'";
    assert_eq!(
        said(|folder| fs::remove_file(folder.join("vocab.txt")).unwrap()),
        format!("german has no tokenizer.json or vocab.txt{remedy}")
    );
    // A RoBERTa's vocabulary is no list of words.
    assert_eq!(
        said(|folder| write_bert(folder, json!({ "model_type": "roberta" }))),
        format!("german has no tokenizer.json{remedy}")
    );
}

#[test]
fn positions_of_robertas_begin_behind_the_padding() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/roberta/source");
    let roberta = BertFolder::open(golden.as_ref()).unwrap();
    let BertConfig { max_position_embeddings, first_position, .. } = roberta.config;
    assert_eq!((max_position_embeddings, first_position, roberta.config.positions()), (34, 2, 32));
    assert!(roberta.has_mlm_head());
    let bias = roberta.stored_name("cls.predictions.bias");
    assert_eq!(bias.as_deref(), Some("lm_head.bias"));
}

#[test]
fn weights_in_other_formats() {
    let rename = |name: &'static str| {
        said(move |folder| {
            fs::remove_file(folder.join("model.safetensors")).unwrap();
            fs::write(folder.join(name), "").unwrap();
        })
    };
    let pickled = rename("pytorch_model.bin");
    assert!(pickled.contains("pytorch_model.bin only, which is never loaded"), "{pickled}");
    assert!(pickled.contains("save_pretrained(\"german\")"), "{pickled}");
    let sharded = rename("model.safetensors.index.json");
    assert!(sharded.contains("its weights in several files"), "{sharded}");
}

#[test]
fn weights_that_are_damaged() {
    let cut = |length: u64| {
        said(move |folder| {
            let file = fs::OpenOptions::new().write(true).open(folder.join("model.safetensors"));
            let file = file.unwrap();
            let size = file.metadata().unwrap().len();
            file.set_len(length.min(size - 1)).unwrap();
        })
    };
    let cut_off = "german/model.safetensors is not a safetensors file: it ends too early: was the \
                   download cut off?";
    for length in [0, 7, 8, 100, u64::MAX] {
        assert_eq!(cut(length), cut_off, "{length} bytes");
    }
    let html = said(|folder| {
        fs::write(folder.join("model.safetensors"), "<html>not found</html>").unwrap();
    });
    assert!(html.ends_with("it begins with an impossible header length"), "{html}");
}

#[test]
fn all_usual_forms_of_names_are_found() {
    let folder = Folder::new();
    let path = folder.path("german");
    let shape = BertFolder::open(&path).unwrap().config;
    let tensors = || bert::tensors(&shape).into_iter().map(|tensor| (tensor.name, tensor.shape));
    let norm = "bert.encoder.layer.1.output.LayerNorm.bias";

    write_weights(&path, tensors());
    let bare = BertFolder::open(&path).unwrap();
    assert!(!bare.has_mlm_head());
    assert_eq!(bare.stored_name(norm).as_deref(), Some(norm));

    write_weights(&path, tensors().map(|(name, s)| (name.replacen("bert.", "", 1), s)));
    let stored = BertFolder::open(&path).unwrap().stored_name(norm);
    assert_eq!(stored.as_deref(), Some("encoder.layer.1.output.LayerNorm.bias"));

    let old =
        |name: String| name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta");
    write_weights(&path, tensors().map(|(name, s)| (old(name), s)));
    let stored = BertFolder::open(&path).unwrap().stored_name(norm);
    assert_eq!(stored.as_deref(), Some("bert.encoder.layer.1.output.LayerNorm.beta"));
}
