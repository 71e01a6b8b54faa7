//! README.md, the model card.

use std::path::{Path, PathBuf};

use tandem_config::composition::Composition;
use tandem_config::schema::data::{Data, Text};
use tandem_config::schema::model::{Decoder, Encoder, Model, Vocabulary};

use super::Export;
use crate::coordinator::finish::{averaged, table};

/// The card of a model.
pub(super) fn card(export: &Export) -> String {
    let Export { config, launched, model, evaluation, command, .. } = export;
    let scores = match evaluation {
        Some(evaluation) => {
            let other = match config.decoding == launched.decoding {
                true => "",
                false => {
                    "With the `decoding` that it was trained with, which is not config.json's:\n\n"
                }
            };
            format!("{other}```\n{}\n```\n", table(evaluation))
        }
        None => "It has not been scored on a test set.\n".into(),
    };
    let seed = launched.seed;
    format!(
        "---\nlibrary_name: transformers\npipeline_tag: translation\ntags: [tandem, translation]\n---\n\n\
         # {name}\n\n\
         A translation model, trained by Tandem: {what}. It needs nothing but this folder, PyTorch and \
         transformers:\n\n\
         ```python\n\
         from transformers import AutoModel\n\n\
         model = AutoModel.from_pretrained(\"FOLDER\", trust_remote_code=True)\n\
         print(model.translate([\"...\"]))\n\
         ```\n\n\
         Translations are found as the run's `decoding` in config.json says. All weights, frozen and \
         trained, are in model.safetensors, in 32-bit floats whatever precision they were trained in. \
         `source/` and `target/` are the tokenizers; \
         `AutoTokenizer.from_pretrained(\"FOLDER/source\")` ends a text as the model wants it.\n\n\
         ## Scores\n\n{scores}\n\
         ## Built on\n\n{bases}\n\
         ## Data\n\n{data}\n\
         ## How it was made\n\n\
         `tandem launch tandem.yaml`, the file beside this one, with seed {seed}; then `{command}`.\n\n\
         ## Licence\n\n\
         The Python files are Tandem's, under MIT or Apache-2.0. The weights are bound by the licences of \
         the models and texts above, as far as those say.\n",
        name = launched.run.name,
        what = averaged(model.manifest()),
        bases = bases(export),
        data = data(&launched.data),
    )
}

/// The pre-trained models, a line each.
fn bases(export: &Export) -> String {
    let names = names(&export.launched.model);
    let folders = Composition::open(export.config).map(|composition| {
        composition.folders().map(|(side, path)| (side, path.to_owned())).collect::<Vec<_>>()
    });
    let folders: Vec<(&str, PathBuf)> = folders.unwrap_or_default();
    let lines = names.into_iter().map(|(side, name)| {
        let folder = folders.iter().find(|(known, _)| *known == side).map(|(_, path)| path);
        let licence = folder.map_or_else(|| "not known".into(), |folder| licence(folder));
        let hash = export.model.bases().iter().find(|base| base.side == side);
        let hash = hash
            .map(|base| format!(", SHA-256 of its weights `{}`", base.sha256))
            .unwrap_or_default();
        format!("- {side}: {name}{hash}; licence: {licence}\n")
    });
    let lines: String = lines.collect();
    if lines.is_empty() { "Nothing: it was trained from random weights.\n".into() } else { lines }
}

/// The names of the pre-trained models whose weights are in the model, by the beginnings of their weights'
/// names.
fn names(model: &Model) -> Vec<(&'static str, String)> {
    let mut names = Vec::new();
    match &model.encoder {
        Encoder::Bert(bert) => {
            names.extend(bert.pretrained.as_deref().map(|name| ("encoder", short(name))));
        }
        Encoder::Transformer(transformer) => {
            names.extend(vocabulary("encoder", &transformer.vocabulary))
        }
    }
    match &model.decoder {
        Some(Decoder::Bert(side) | Decoder::Gpt2(side)) => {
            names.push(("decoder", short(&side.pretrained)));
        }
        Some(Decoder::Transformer(transformer)) => {
            names.extend(vocabulary("decoder", &transformer.vocabulary));
        }
        None => {}
    }
    let beside = model.besides().into_iter().next();
    names.extend(beside.map(|(_, beside)| ("fused", short(&beside.pretrained))));
    names
}

fn vocabulary(side: &'static str, vocabulary: &Vocabulary) -> Option<(&'static str, String)> {
    match vocabulary {
        Vocabulary::Bert(name) => Some((side, format!("the vocabulary of {}", short(name)))),
        Vocabulary::File { .. } | Vocabulary::Learn { .. } => None,
    }
}

/// A name on the hub; of a folder its last two parts.
fn short(name: &str) -> String {
    let path = Path::new(name);
    if !path.is_absolute() {
        return format!("`{name}`");
    }
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    format!("`{}`", parts[parts.len().saturating_sub(2)..].join("/"))
}

/// What the folder of a model, or of texts, says of its licence.
fn licence(folder: &Path) -> String {
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    let head =
        card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map(|(head, _)| head);
    let said = head.into_iter().flat_map(str::lines).find_map(|line| line.strip_prefix("license:"));
    let file = || {
        let names = ["LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING"];
        names.into_iter().find(|name| folder.join(name).is_file())
    };
    match (said, file()) {
        (Some(said), _) => format!("{}, by its README.md", said.trim()),
        (None, Some(file)) => format!("in its {file}"),
        (None, None) => "not said in its folder".into(),
    }
}

/// The texts, a line each.
fn data(data: &Data) -> String {
    let line = |(split, text): (&str, &Text)| {
        let paths = text.files();
        let names: Vec<String> = paths.iter().map(|path| short(&path.to_string_lossy())).collect();
        let folder = paths.first().and_then(|path| path.parent());
        let licence = folder.map_or_else(|| "not known".into(), licence);
        format!("- {split}: {}; licence: {licence}\n", names.join(" and "))
    };
    let mut text: String = data.splits().map(line).collect();
    if data.distillation.is_some() {
        text += "- the targets of train were replaced by a teacher's translations\n";
    }
    if let Some(back_translation) = &data.back_translation {
        let name = short(&back_translation.text.to_string_lossy());
        text += &format!("- train has, besides, {name} with sources that a teacher wrote\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_found_where_they_are_said() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(licence(folder.path()), "not said in its folder");
        std::fs::write(folder.path().join("LICENSE"), "MPL").unwrap();
        assert_eq!(licence(folder.path()), "in its LICENSE");
        let card = "---\nlanguage: de\nlicense: apache-2.0\n---\n# BERT\nlicense: no\n";
        std::fs::write(folder.path().join("README.md"), card).unwrap();
        assert_eq!(licence(folder.path()), "apache-2.0, by its README.md");
    }

    #[test]
    fn folders_of_this_machine_are_named_by_their_ends() {
        assert_eq!(short("bert-base-cased"), "`bert-base-cased`");
        assert_eq!(short("/home/me/runs/bert-de/export"), "`bert-de/export`");
    }
}
