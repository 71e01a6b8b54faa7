//! A model as one folder that transformers loads: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`.
//!
//! - `weights`: model.safetensors, the frozen weights and the trained ones.
//! - `shape`: config.json. `tokenizers`: a tokenizer for each side. `card`: README.md.
//! - modeling_tandem.py is the model once more, in plain PyTorch, with both ways of decoding;
//!   detokenize_tandem.py beside it makes word pieces readable.

mod card;
mod shape;
mod tokenizers;
mod weights;

use std::fs;
use std::path::Path;

use anyhow::Context;
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::ngrams::NgramsFile;
use tandem_cluster::run::store::{Checkpoint, hash_weights};
use tandem_config::RunConfig;
use tandem_config::composition::Composition;
use tandem_config::schema::decoding::Decoding;

use crate::coordinator::evaluation::Evaluation;
use crate::terminal::exit::Refused;

/// The Python that goes along, by its files' names.
const PYTHON: [(&str, &str); 2] = [
    ("modeling_tandem.py", include_str!("modeling_tandem.py")),
    ("detokenize_tandem.py", include_str!("detokenize_tandem.py")),
];

/// A model that is to be written.
#[derive(Debug)]
pub(crate) struct Export<'a> {
    /// Where its run lies, or its exported folder.
    pub run: &'a RunFolder,
    /// The run's config, with the folders of its BERTs on this machine.
    pub config: &'a RunConfig,
    /// The same as it was launched, with the names of its BERTs.
    pub launched: &'a RunConfig,
    /// The trained weights.
    pub model: &'a Checkpoint,
    /// What the model was scored with, if it was.
    pub evaluation: Option<Evaluation>,
    /// The command that writes it, for people.
    pub command: String,
}

impl Export<'_> {
    /// Writes the folder; what else lies there stays.
    ///
    /// # Errors
    /// BERTs or vocabularies that are missing or are not those of the training, or where the file
    /// system refuses.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let composition = Composition::open(self.config)?;
        check_bases(&composition, self.model)?;
        let [source, target] = tokenizers::both(self.run, &composition, self.config)?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let shape = shape::config(self.config, &composition, source.special, target.special);
        let (longest, _) = composition.max_lengths(self.config);
        for (side, tokenizer) in [("source", &source), ("target", &target)] {
            let folder = folder.join(side);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            write(&folder.join("tokenizer.json"), &tokenizer.json.to_string())?;
            let config = format!("{:#}\n", tokenizer.config(longest));
            write(&folder.join("tokenizer_config.json"), &config)?;
        }
        let language_model = folder.join("language_model.ngrams");
        copy_language_model(self.run, &self.config.decoding, &language_model)?;
        weights::write(&folder.join("model.safetensors"), &composition, self.model)?;
        for (name, text) in PYTHON {
            write(&folder.join(name), text)?;
        }
        write(&folder.join("tandem.yaml"), &self.launched.to_yaml()?)?;
        write(&folder.join("README.md"), &card::card(self))?;
        write(&folder.join("config.json"), &format!("{shape:#}\n"))
    }
}

/// Copies the language model that a decoding needs, if any, out of a run.
///
/// # Errors
/// There is none, it is damaged, or the file system refuses.
pub(crate) fn copy_language_model(
    run: &RunFolder,
    decoding: &Decoding,
    to: &Path,
) -> anyhow::Result<()> {
    let Some(config) = decoding.language_model() else { return Ok(()) };
    let from = run.language_model(config.order);
    if NgramsFile::open(&from)?.is_none() {
        return Err(Refused(format!(
            "{} is not there, which decoding.ctc.language_model needs: `tandem evaluate` with this decoding \
             estimates it where the training data are",
            from.display()
        ))
        .into());
    }
    let folder = to.parent().map_or(Ok(()), fs::create_dir_all);
    folder
        .and_then(|()| atomic::copy(&from, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(atomic::write(path, text)?)
}

/// Refuses BERTs that are not those on which the trained weights stand.
fn check_bases(composition: &Composition, model: &Checkpoint) -> anyhow::Result<()> {
    let hashes = hash_weights(composition.folders())?;
    let here = |side: &str| hashes.iter().find(|(known, _)| known == side);
    Ok(model.check_bases(|side| here(side).map(|(_, hash)| hash.as_str())).map_err(|other| {
        Refused(format!("{other}; name the right folder with --set model...pretrained=FOLDER"))
    })?)
}
