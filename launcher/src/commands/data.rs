//! `tandem data`: a corpus of the paper, fetched and prepared.

use std::path::{Path, PathBuf};

use tandem_cluster::process::say;

use super::in_repository;
use crate::corpora::archives::{Supplier, Trust, hosts, mebibytes};
use crate::corpora::prepare::{Existing, MANIFEST, Manifest, Outcome, prepare, surprises};
use crate::corpora::recipe::Recipe;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;
use crate::terminal::progress::Progress;
use crate::terminal::text::yaml_names;

/// Where recipes are, from the repository's folder.
const RECIPES: &str = "configs/paper/data";

/// Fetch, check, clean and split a corpus, as the paper's predecessors do; without a name, list the
/// corpora that there are.
///
/// Archives are kept in the folder `archives` beside the data; a command that was interrupted goes
/// on where it ended. Checksums that are not known beforehand are noted in `archives.lock` at the
/// first use, and bind from then on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A corpus, e.g. iwslt14.de-en, or the path of a recipe.
    recipe: Option<PathBuf>,
    /// Take archives from this folder, or from below this address, instead of their own addresses.
    #[arg(long, value_name = "FOLDER-OR-URL")]
    from: Option<String>,
    /// Where the data go; by default beside the recipe.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Make data anew that are there.
    #[arg(long)]
    again: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such recipe, archives that are not to be had or are others than they should be, a full
    /// disk.
    pub fn run(self) -> anyhow::Result<Exit> {
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
        let supplier = self.from.as_deref().map(Supplier::parse);
        let mut progress = Progress::default();
        let made = prepare(&recipe, &name, &folder, supplier, existing, &mut progress);
        let (manifest, is_new) = match made {
            Ok(Outcome::Made(manifest)) => (manifest, true),
            Ok(Outcome::There(manifest)) => (manifest, false),
            // Without its source, which the message has already.
            Err(error) if error.may_pass() => anyhow::bail!("{error}"),
            Err(error) => return Err(Refused(error.to_string()).into()),
        };
        output::print(told(&manifest, &folder.join(name), is_new))?;
        for surprise in surprises(&manifest) {
            say(format_args!("warning: {surprise}"));
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
                    true => "here".into(),
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

/// What has to be fetched, as far as it is known.
fn size(recipe: &Recipe) -> String {
    let known = recipe.archives.values().filter_map(|archive| archive.bytes);
    match (known.clone().count(), known.sum()) {
        (0, _) => "an unknown size".into(),
        (count, bytes) if count < recipe.archives.len() => format!("over {}", mebibytes(bytes)),
        (_, bytes) => mebibytes(bytes),
    }
}

/// What there is now.
fn told(manifest: &Manifest, folder: &Path, is_new: bool) -> String {
    let mut lines = vec![match is_new {
        true => format!("{} is in {}", manifest.recipe.title, folder.display()),
        false => format!("{} is in {} already", manifest.recipe.title, folder.display()),
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
                "  {name} had no checksum to be held against: its SHA-256 {} is in archives.lock \
                 now and binds; pin it in the recipe to share it",
                archive.sha256
            ));
        }
    }
    lines.join("\n")
}
