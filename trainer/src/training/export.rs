//! A pre-trained BERT as Hugging Face's library reads it.

use std::path::Path;

use anyhow::Context;
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tandem_cluster::run::atomic;
use tandem_config::composition::Composition;
use tandem_config::pretrained::bert::BertConfig;
use tandem_config::pretrained::family::Family;
use tandem_config::pretrained::tokenizer::BESIDE;
use tandem_config::schema::model::{Encoder, Objective, Stored};
use tch::Tensor;

use crate::data::tokenizer::Tokenizer;
use crate::model::Parameters;
use crate::session::worker::Worker;

/// Writes the Hugging Face folder `export/` of an `mlm` run; nothing for other objectives. A BERT
/// that was trained on keeps the precision of the folder that it came from.
///
/// # Errors
/// Files that cannot be written.
pub fn write(worker: &Worker, parameters: &Parameters) -> anyhow::Result<()> {
    let Objective::Mlm(_) = &worker.config.model.objective else { return Ok(()) };
    let Encoder::Bert(encoder) = &worker.config.model.encoder else { return Ok(()) };
    let composition = Composition::open(&worker.config)?;
    let Some(base) = composition.encoder.bert() else { return Ok(()) };
    let vocabulary = worker.run.vocabulary();
    let from = base.folder.as_ref().map_or(&vocabulary, |folder| &folder.path);
    let precision = encoder.new.as_ref().map_or_else(|| precision_of(from), |new| new.export);

    let draft = worker.run.export_draft();
    atomic::remove_folder(&draft)?;
    std::fs::create_dir_all(&draft).with_context(|| format!("cannot make {}", draft.display()))?;
    copy_tokenizer(from, &draft)?;
    let path = draft.join("config.json");
    match &base.folder {
        Some(folder) => write_config_of(&folder.path, precision, &path)?,
        None => write_new_config(&base.config, precision, &draft, &path)?,
    }
    let family = base.folder.as_ref().map_or(Family::bert(), |folder| folder.family);
    let path = draft.join("model.safetensors");
    write_weights(parameters, family, precision, &path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let (export, aside) = (worker.run.export(), worker.run.export_aside());
    Ok(atomic::replace_folder(&draft, &export, &aside)?)
}

/// The precision that a BERT's config.json names; f32 where it names none of ours.
fn precision_of(folder: &Path) -> Stored {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let is_bf16 = ["dtype", "torch_dtype"].iter().any(|key| json[key] == "bfloat16");
    if is_bf16 { Stored::Bf16 } else { Stored::F32 }
}

fn copy_tokenizer(from: &Path, to: &Path) -> anyhow::Result<()> {
    for name in ["vocab.txt", "tokenizer.json"].into_iter().chain(BESIDE) {
        let path = from.join(name);
        if path.is_file() {
            atomic::copy(&path, &to.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// The config.json of the folder that the BERT came from, with another precision.
fn write_config_of(from: &Path, precision: Stored, path: &Path) -> anyhow::Result<()> {
    let from = from.join("config.json");
    let text = std::fs::read_to_string(&from)
        .with_context(|| format!("cannot read {}", from.display()))?;
    let mut json: serde_json::Value = serde_json::from_str(&text)?;
    if let Some(json) = json.as_object_mut() {
        json.remove("torch_dtype");
    }
    json["dtype"] = dtype(precision).into();
    write_json(&json, path)
}

/// What transformers' `BertForMaskedLM` reads, for the tokenizer in `folder`.
fn write_new_config(
    bert: &BertConfig,
    precision: Stored,
    folder: &Path,
    path: &Path,
) -> anyhow::Result<()> {
    let pad = Tokenizer::open(&folder.join("tokenizer.json"))
        .or_else(|_| Tokenizer::open(&folder.join("vocab.txt")))?
        .special()
        .pad;
    let mut json = serde_json::to_value(bert)?;
    for (key, value) in [
        ("architectures", serde_json::json!(["BertForMaskedLM"])),
        ("model_type", "bert".into()),
        ("initializer_range", 0.02.into()),
        ("pad_token_id", pad.into()),
        ("bos_token_id", serde_json::Value::Null),
        ("eos_token_id", serde_json::Value::Null),
        ("add_cross_attention", false.into()),
        ("is_decoder", false.into()),
        ("classifier_dropout", serde_json::Value::Null),
        ("tie_word_embeddings", true.into()),
        ("use_cache", true.into()),
        ("dtype", dtype(precision).into()),
    ] {
        json[key] = value;
    }
    write_json(&json, path)
}

fn dtype(precision: Stored) -> &'static str {
    match precision {
        Stored::F32 => "float32",
        Stored::Bf16 => "bfloat16",
    }
}

fn write_json(json: &serde_json::Value, path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, format!("{json:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// By Hugging Face's names, with the metadata that transformers asks for.
fn write_weights(
    parameters: &Parameters,
    family: &Family,
    precision: Stored,
    path: &Path,
) -> anyhow::Result<()> {
    let dtype = match precision {
        Stored::F32 => Dtype::F32,
        Stored::Bf16 => Dtype::BF16,
    };
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = parameters
        .views(&parameters.weights)
        .map(|(name, view)| {
            let name = family.name(name.strip_prefix("encoder.").unwrap_or(name));
            let shape = view.size().iter().map(|&size| size as usize).collect();
            (name, shape, bytes(&view, precision))
        })
        .collect();
    let views = stored
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(dtype, shape.clone(), bytes)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(std::fs::write(path, safetensors::serialize(views, Some(metadata))?)?)
}

fn bytes(tensor: &Tensor, precision: Stored) -> Vec<u8> {
    let mut values = vec![0f32; tensor.numel()];
    tensor.contiguous().view([-1]).copy_data(&mut values, tensor.numel());
    match precision {
        Stored::F32 => bytemuck::cast_slice(&values).to_vec(),
        Stored::Bf16 => {
            let rounded: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            bytemuck::cast_slice(&rounded).to_vec()
        }
    }
}
