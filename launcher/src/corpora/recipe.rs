//! Recipes of corpora: the files in configs/paper/data.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::terminal::text::yaml_names;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipeError {
    /// There is no file of that name.
    #[error(
        "there is no recipe {}; available: {}", path.display(),
        if known.is_empty() { "none (start from the repository's folder, or give the path of a \
         recipe)".into() } else { known.join(", ") }
    )]
    Unknown {
        /// The file that was looked for.
        path: PathBuf,
        /// The recipes in its folder.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a recipe.
    #[error("{} is not a recipe: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause, with its line.
        source: serde_yaml::Error,
    },
    /// The recipe has mistakes.
    #[error("{} has mistakes:\n  {}", path.display(), problems.join("\n  "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All mistakes.
        problems: Vec<String>,
    },
}

/// A corpus: its archives, and how they become training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// The corpus's name for people.
    pub title: String,
    /// Remarks about it.
    #[serde(default)]
    pub about: Vec<String>,
    /// The languages of the first and second column, as in the archives' file names.
    pub languages: [String; 2],
    /// The files to download, by the name under which each is kept.
    pub archives: BTreeMap<String, Archive>,
    /// The training split.
    pub train: Part,
    /// The validation split: sources of its own, or every n-th pair of `train`.
    pub valid: Part,
    /// The test split.
    pub test: Part,
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Archive {
    /// Its http or https addresses, tried in this order.
    pub urls: Vec<String>,
    /// Its size, if known: a warning is printed if it differs.
    pub bytes: Option<u64>,
    /// Its SHA-256, or `unknown`: then the first download is trusted, and its SHA-256 required from then
    /// on.
    pub sha256: String,
    /// Its MD5, if only that was published.
    pub md5: Option<String>,
    /// A larger archive that contains it, which `--from` may offer instead.
    pub bundle: Option<Bundle>,
}

/// A member of a larger archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bundle {
    /// The larger archive's file name.
    pub file: String,
    /// The member's path in it.
    pub member: String,
    /// The web page that it can be downloaded from.
    pub page: Option<String>,
}

/// One of train, valid and test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Part {
    /// Its sources, which are concatenated in this order.
    pub sources: Vec<Source>,
    /// Only for `valid`, instead of sources: it consists of every n-th cleaned pair of `train`, which are
    /// removed there.
    pub every: Option<usize>,
    /// Text to replace in both languages, before anything else.
    pub replace: BTreeMap<String, String>,
    /// Whether to convert the text to lowercase.
    pub lowercase: bool,
    /// Which pairs are dropped; by default none.
    pub clean: Option<Clean>,
    /// The expected numbers of pairs: a warning is printed for others.
    pub expect: Expect,
}

/// A pair of files in an archive, or a file of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// The archive's name in `archives`.
    pub archive: String,
    /// The second language's archive, if each language is a compressed file of its own.
    pub second_archive: Option<String>,
    /// The members of both languages, in the order of `languages`; those that end in `.gz` are
    /// decompressed. Empty if the archives themselves are the files.
    #[serde(default)]
    pub files: Vec<String>,
    /// The files' format.
    pub format: Format,
    /// For tagged lines: lines with these tags are dropped.
    #[serde(default)]
    pub drop: Vec<String>,
    /// For tagged lines: these tags are removed from lines.
    #[serde(default)]
    pub strip: Vec<String>,
    /// Whether the archive may lack these members.
    #[serde(default)]
    pub optional: bool,
}

/// How sentences are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// One sentence a line.
    Lines,
    /// One sentence a line, among lines with XML tags, with entities (WIT3's `train.tags`).
    TaggedLines,
    /// In `<seg>` elements (mteval's SGML and XML).
    Segments,
    /// Both languages in one file of translation units (TMX).
    Tmx,
}

/// Limits for pairs, in words as counted by [`super::clean::count_words`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clean {
    /// The fewest words of each side.
    pub min_words: usize,
    /// The most words of each side.
    pub max_words: usize,
    /// The largest ratio between the sides' numbers of words.
    pub max_ratio: f64,
}

/// Expected numbers of pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    /// Pairs in the archives.
    pub read: Option<u64>,
    /// Pairs in the archives with text on both sides.
    pub filled: Option<u64>,
    /// Pairs that are kept.
    pub kept: Option<u64>,
}

/// The SHA-256 of an archive without a known checksum.
pub(crate) const UNKNOWN: &str = "unknown";

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// A file that cannot be read, or all mistakes in it.
    pub(crate) fn read(path: &Path) -> Result<Self, RecipeError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let known = yaml_names(path.parent().unwrap_or(Path::new("")));
                return Err(RecipeError::Unknown { path: path.to_owned(), known });
            }
            Err(source) => return Err(RecipeError::Read { path: path.to_owned(), source }),
        };
        let recipe: Self = serde_yaml::from_str(&text)
            .map_err(|source| RecipeError::Parse { path: path.to_owned(), source })?;
        let problems = recipe.problems();
        match problems.is_empty() {
            true => Ok(recipe),
            false => Err(RecipeError::Invalid { path: path.to_owned(), problems }),
        }
    }

    /// The parts with their names.
    pub(crate) fn parts(&self) -> [(&'static str, &Part); 3] {
        [("train", &self.train), ("valid", &self.valid), ("test", &self.test)]
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, archive) in &self.archives {
            problems.extend(archive.problems(name));
        }
        for (name, part) in self.parts() {
            problems.extend(part.problems(name));
            for source in &part.sources {
                let unknown: Vec<&str> =
                    source.archives().filter(|name| !self.archives.contains_key(*name)).collect();
                if unknown.is_empty() {
                    problems.extend(source.problems(name));
                }
                let known = || self.archives.keys().cloned().collect::<Vec<_>>().join(", ");
                problems.extend(unknown.iter().map(|archive| {
                    format!("{name}: there is no archive `{archive}`; available: {}", known())
                }));
            }
        }
        if self.languages[0] == self.languages[1] {
            problems.push("languages: must be different".into());
        }
        problems
    }
}

impl Archive {
    fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let is_hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        // The name becomes a path: nothing may lead out of the folder.
        if name.contains('/') || name.starts_with('.') || ArchiveKind::of(name).is_none() {
            problems.push(format!(
                "archives: `{name}` must be a file name that ends in .tgz, .tar.gz, .tar or .gz"
            ));
        }
        if self.urls.is_empty()
            || self
                .urls
                .iter()
                .any(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            problems.push(format!("archives.{name}.urls: must be http:// or https:// addresses"));
        }
        if self.sha256 != UNKNOWN && !is_hex(&self.sha256, 64) {
            let message = "must be 64 lowercase hexadecimal digits, or `unknown`";
            problems.push(format!("archives.{name}.sha256: {message}"));
        }
        if self.md5.as_ref().is_some_and(|md5| !is_hex(md5, 32)) {
            problems.push(format!("archives.{name}.md5: must be 32 lowercase hexadecimal digits"));
        }
        problems
    }
}

impl Part {
    fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let is_valid = name == "valid";
        match (&self.every, self.sources.is_empty()) {
            (None, true) => {
                let or = if is_valid { ", or `every`" } else { "" };
                problems.push(format!("{name}: must have `sources`{or}"));
            }
            (Some(_), _) if !is_valid => {
                problems.push(format!("{name}.every: only for `valid`"));
            }
            (Some(_), false) => {
                problems.push("valid: must have either `sources` or `every`".into());
            }
            (Some(0 | 1), true) => problems.push("valid.every: must be at least 2".into()),
            (Some(_), true) => {
                if self.clean.is_some() || self.lowercase || !self.replace.is_empty() {
                    let message = "with `every`, pairs are cleaned as part of `train`; leave out \
                                   `clean`, `lowercase` and `replace`";
                    problems.push(format!("valid: {message}"));
                }
            }
            (None, false) => {}
        }
        if let Some(clean) = self.clean
            && (clean.min_words > clean.max_words
                || clean.max_ratio.is_nan()
                || clean.max_ratio < 1.0)
        {
            let message = "min_words must not exceed max_words, max_ratio must be at least 1";
            problems.push(format!("{name}.clean: {message}"));
        }
        problems
    }
}

impl Source {
    /// The names of its archives.
    pub(crate) fn archives(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.archive).chain(self.second_archive.as_deref())
    }

    /// Whether its archives are its files, and have no members.
    pub(crate) fn is_single_file(&self) -> bool {
        ArchiveKind::of(&self.archive) == Some(ArchiveKind::Gzip)
    }

    fn problems(&self, part: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let second = self.second_archive.as_deref();
        if second.is_some_and(|name| ArchiveKind::of(name) != Some(ArchiveKind::Gzip)) {
            problems.push(format!("{part}: `second_archive` must be one file, ending in .gz"));
        }
        let (count, wanted) = match (self.format, self.is_single_file(), second) {
            (Format::Tmx, _, Some(_)) | (_, false, Some(_)) => {
                let message = "must be one file in one language to have a `second_archive`";
                problems.push(format!("{part}: {} {message}", self.archive));
                return problems;
            }
            (_, true, Some(_)) => (0, "must have no `files`: the archives are the files"),
            (Format::Tmx, true, None) => (0, "must have no `files`: the archive is the file"),
            (Format::Tmx, false, None) => (1, "must have one file in `files`"),
            (_, true, None) => {
                let message = "is one file: it must be `format: tmx`, or have a `second_archive`";
                problems.push(format!("{part}: {} {message}", self.archive));
                return problems;
            }
            (_, false, None) => (2, "must have two files in `files`, one for each language"),
        };
        if self.files.len() != count {
            problems.push(format!("{part}: a source of {} {wanted}", self.archive));
        }
        if self.format != Format::TaggedLines && !(self.drop.is_empty() && self.strip.is_empty()) {
            problems.push(format!("{part}: `drop` and `strip` are for `format: tagged_lines`"));
        }
        problems
    }
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchiveKind {
    Tar,
    /// A tar archive compressed with gzip.
    TarGzip,
    /// A single file compressed with gzip.
    Gzip,
}

impl ArchiveKind {
    /// By the name's end.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let ends = |end: &str| name.len() > end.len() && name.ends_with(end);
        match () {
            () if ends(".tgz") || ends(".tar.gz") => Some(Self::TarGzip),
            () if ends(".tar") => Some(Self::Tar),
            () if ends(".gz") => Some(Self::Gzip),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper/data")
    }

    #[test]
    fn every_recipe_is_valid() {
        let names = yaml_names(&folder());
        for name in ["iwslt14.de-en", "iwslt14.en-es", "iwslt14.en-it", "iwslt14.en-nl"] {
            assert!(names.iter().any(|known| known == name), "{name} is missing");
        }
        for name in names {
            let recipe = Recipe::read(&folder().join(&name).with_added_extension("yaml")).unwrap();
            let [first, second] = &recipe.languages;
            assert!(name.contains(first.as_str()) && name.contains(second.as_str()), "{name}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.yaml");
        let text = "title: bad\nlanguages: [de, de]\narchives:\n  \
             ../a.zip: {urls: [ftp://a], sha256: 12}\n  b.tgz: {urls: [http://b], sha256: unknown}\n  \
             d.gz: {urls: [http://d], sha256: unknown}\n  e.gz: {urls: [http://e], sha256: unknown}\n\
             train: {every: 3, sources: [{archive: c.tgz, format: lines}]}\n\
             valid: {every: 1}\n\
             test: {sources: [{archive: b.tgz, format: lines, files: [a], drop: [url]}, \
             {archive: b.tgz, second_archive: d.gz, format: lines}, \
             {archive: e.gz, format: lines}, {archive: e.gz, second_archive: b.tgz, format: lines}]}\n";
        fs::write(&path, text).unwrap();
        let error = Recipe::read(&path).unwrap_err().to_string();
        for part in [
            "must be a file name that ends in",
            "must be http://",
            "must be 64 lowercase hexadecimal digits",
            "train.every: only for `valid`",
            "there is no archive `c.tgz`; available: ../a.zip, b.tgz, d.gz, e.gz",
            "valid.every: must be at least 2",
            "must have two files in `files`",
            "`drop` and `strip` are for",
            "test: b.tgz must be one file in one language to have a `second_archive`",
            "test: e.gz is one file: it must be `format: tmx`, or have a `second_archive`",
            "test: `second_archive` must be one file, ending in .gz",
            "languages: must be different",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        fs::write(&path, "title: x\nlanguage: [a, b]\n").unwrap();
        let error = Recipe::read(&path).unwrap_err().to_string();
        assert!(error.contains("unknown field `language`") && error.contains("line 2"), "{error}");
        let error = Recipe::read(&folder.path().join("none.yaml")).unwrap_err().to_string();
        assert!(
            error.contains("there is no recipe") && error.contains("available: bad"),
            "{error}"
        );
    }
}
