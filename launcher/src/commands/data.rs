//! `tandem data`: fetches and prepares a corpus of the paper.

use std::path::{Path, PathBuf};

use tandem_cluster::process::say;

use super::in_repository;
use crate::corpora::archives::{Mirror, Trust, hosts, mebibytes};
use crate::corpora::prepare::{Existing, MANIFEST, Manifest, Outcome, prepare, unexpected_counts};
use crate::corpora::recipe::Recipe;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;
use crate::terminal::progress::Progress;
use crate::terminal::text::yaml_names;

/// The folder of recipes, relative to the repository.
const RECIPES: &str = "configs/paper/data";

/// Download and prepare a corpus of the paper; without a name, list the available corpora.
///
/// The corpus is downloaded, verified, cleaned and split as in earlier papers. Archives are kept in the
/// folder `archives` next to the data; run an interrupted command again to resume its downloads. If a
/// recipe has no checksum for an archive, the first download's is recorded in `archives.lock` and
/// required from then on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of a corpus, e.g. iwslt14.de-en, or path of a recipe.
    recipe: Option<PathBuf>,
    /// Mirror to take the archives from instead of their own addresses.
    #[arg(long, value_name = "FOLDER-OR-URL")]
    from: Option<String>,
    /// Folder for the data [default: the recipe's folder].
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Prepare the data again even if they exist.
    #[arg(long)]
    again: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let recipes = in_repository(Path::new(RECIPES));
        let Some(recipe) = &self.recipe else {
            output::write(list(&recipes, self.folder.as_deref().unwrap_or(&recipes)))?;
            return Ok(Exit::Done);
        };
        let path = match recipe.extension().is_some_and(|extension| extension == "yaml") {
            true => recipe.clone(),
            false => recipes.join(recipe).with_added_extension("yaml"),
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let recipe = Recipe::read(&path).map_err(|error| Refused(error.to_string()))?;
        let folder =
            self.folder.unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned());
        let existing = if self.again { Existing::Replace } else { Existing::Keep };
        let mirror = self.from.as_deref().map(Mirror::parse);
        let mut progress = Progress::default();
        let prepared = prepare(&recipe, &name, &folder, mirror, existing, &mut progress);
        let (manifest, is_new) = match prepared {
            Ok(Outcome::Prepared(manifest)) => (manifest, true),
            Ok(Outcome::UpToDate(manifest)) => (manifest, false),
            // The message already includes the source.
            Err(error) if error.is_transient() => anyhow::bail!("{error}"),
            Err(error) => return Err(Refused(error.to_string()).into()),
        };
        output::print(summary(&manifest, &folder.join(name), is_new))?;
        for unexpected in unexpected_counts(&manifest) {
            say(format_args!("warning: {unexpected}"));
        }
        Ok(Exit::Done)
    }
}

fn list(recipes: &Path, folder: &Path) -> String {
    let mut lines = String::new();
    for name in yaml_names(recipes) {
        let path = recipes.join(&name).with_added_extension("yaml");
        match Recipe::read(&path) {
            Ok(recipe) => {
                let state = match folder.join(&name).join(MANIFEST).is_file() {
                    true => "prepared".into(),
                    false => {
                        format!(
                            "{} from {}",
                            size(&recipe),
                            hosts(recipe.archives.values()).join(", ")
                        )
                    }
                };
                lines += &format!("{name:<16} {:<26} {state}\n", recipe.title);
            }
            Err(error) => lines += &format!("{name:<16} {error}\n"),
        }
    }
    lines
}

/// The size of the download, as far as it is known.
fn size(recipe: &Recipe) -> String {
    let known = recipe.archives.values().filter_map(|archive| archive.bytes);
    match (known.clone().count(), known.sum()) {
        (0, _) => "an unknown size".into(),
        (count, bytes) if count < recipe.archives.len() => format!("over {}", mebibytes(bytes)),
        (_, bytes) => mebibytes(bytes),
    }
}

/// Describes the prepared corpus.
fn summary(manifest: &Manifest, folder: &Path, is_new: bool) -> String {
    let mut lines = vec![match is_new {
        true => format!("{} is in {}", manifest.recipe.title, folder.display()),
        false => format!("{} is already in {}", manifest.recipe.title, folder.display()),
    }];
    let [first, second] = &manifest.recipe.languages;
    for (name, table) in &manifest.parts {
        let dropped: Vec<String> =
            table.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let dropped = match dropped.is_empty() {
            true => String::new(),
            false => format!(", dropped: {}", dropped.join(", ")),
        };
        lines.push(format!(
            "  {:<10} {:>9} pairs, {first} TAB {second}, of {} read{dropped}",
            format!("{name}.tsv"),
            table.kept,
            table.read
        ));
    }
    for (name, archive) in &manifest.archives {
        if is_new && archive.trust == Trust::FirstUse {
            lines.push(format!(
                "  {name}: the recipe has no checksum, so the download was trusted; its SHA-256 {} was \
                 recorded in archives.lock and is required from now on; pin it in the recipe to share it",
                archive.sha256
            ));
        }
    }
    lines.join("\n")
}
