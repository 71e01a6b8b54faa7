//! What a corpus is made of: the files in configs/paper/data.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::terminal::text::yaml_names;

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Nothing by that name.
    #[error(
        "there is no recipe {}; there are: {}", path.display(),
        if known.is_empty() { "none (start from the repository's folder, or give the path of a \
         recipe's YAML)".into() } else { known.join(", ") }
    )]
    Unknown {
        /// Where it was looked for.
        path: PathBuf,
        /// What lies there instead.
        known: Vec<String>,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Not a recipe.
    #[error("{} is not a recipe: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_yaml::Error,
    },
    /// A recipe that cannot work.
    #[error("{} cannot work:\n  {}", path.display(), problems.join("\n  "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<String>,
    },
}

/// A corpus: where it comes from, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What people call it.
    pub title: String,
    /// What a reader has to know.
    #[serde(default)]
    pub about: Vec<String>,
    /// The languages of the first and second column, as the archives' file names say them.
    pub languages: [String; 2],
    /// What is fetched, by the name under which it is kept.
    pub archives: BTreeMap<String, Archive>,
    /// What is trained on.
    pub train: Part,
    /// What is scored while training: sources of its own, or every so many pairs of `train`.
    pub valid: Part,
    /// What the finished model is scored on.
    pub test: Part,
}

/// One file to be fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Where it is to be had: http or https, tried in this order.
    pub urls: Vec<String>,
    /// Its size, where it is known: another size is reported.
    pub bytes: Option<u64>,
    /// Its SHA-256, which binds, or `unknown`: what comes first is trusted and binds from then on.
    pub sha256: String,
    /// Its MD5, where only that was published; binds, too.
    pub md5: Option<String>,
    /// A larger archive that holds it, which may be given by `--from` instead.
    pub bundle: Option<Bundle>,
}

/// A member of a larger archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The larger archive's file name.
    pub file: String,
    /// The member's path in it.
    pub member: String,
    /// Where people get it.
    pub page: Option<String>,
}

/// One of train, valid and test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Part {
    /// What it consists of, in this order.
    pub sources: Vec<Source>,
    /// Of `valid`, instead of sources: every so many of the cleaned pairs of `train`, which then
    /// lacks them.
    pub every: Option<usize>,
    /// Text that is replaced, in both languages.
    pub replace: BTreeMap<String, String>,
    /// Whether letters become small.
    pub lowercase: bool,
    /// Which pairs are dropped; by default none.
    pub clean: Option<Clean>,
    /// How many pairs there should be: other numbers are reported.
    pub expect: Expect,
}

/// A pair of files in an archive, or a file of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The archive, as named in `archives`.
    pub archive: String,
    /// Where each language is an archive of its own, one compressed file: that of the second.
    pub second_archive: Option<String>,
    /// The members of both languages, in the order of `languages`; ending in `.gz` they are
    /// unpacked. None where the archives are the files.
    #[serde(default)]
    pub files: Vec<String>,
    /// How sentences stand in them.
    pub format: Format,
    /// Of tagged lines: those with these tags are no sentences.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Of tagged lines: sentences lose these tags.
    #[serde(default)]
    pub strip: Vec<String>,
    /// Whether an archive without these members will do.
    #[serde(default)]
    pub optional: bool,
}

/// How sentences stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One a line.
    Lines,
    /// One a line, among lines with tags of XML, with its entities (WIT3's `train.tags`).
    TaggedLines,
    /// In `<seg>` elements (mteval's SGML and XML).
    Segments,
    /// Both languages in one file of translation units (TMX).
    Tmx,
}

/// Which pairs are kept; lengths are in words, see [`super::clean::count_words`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clean {
    /// Fewest words of a side.
    pub min_words: usize,
    /// Most words of a side.
    pub max_words: usize,
    /// Largest ratio of the sides' numbers of words.
    pub max_ratio: f64,
}

/// Numbers of pairs that are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// In the archives.
    pub read: Option<u64>,
    /// In the archives, with text on both sides.
    pub filled: Option<u64>,
    /// In the result.
    pub kept: Option<u64>,
}

/// Whatever an unpinned checksum is.
pub const UNKNOWN: &str = "unknown";

impl Recipe {
    /// Reads a recipe and checks that it can work.
    ///
    /// # Errors
    /// No such file, or everything that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
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

    /// Its parts, with their names.
    pub fn parts(&self) -> [(&'static str, &Part); 3] {
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
                    format!("{name}: there is no archive `{archive}`; there are: {}", known())
                }));
            }
        }
        if self.languages[0] == self.languages[1] {
            problems.push("languages: must be two different ones".into());
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
            let message = "must be 64 small hexadecimal digits, or `unknown`";
            problems.push(format!("archives.{name}.sha256: {message}"));
        }
        if self.md5.as_ref().is_some_and(|md5| !is_hex(md5, 32)) {
            problems.push(format!("archives.{name}.md5: must be 32 small hexadecimal digits"));
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
                problems.push(format!("{name}.every: only `valid` is taken out of `train`"));
            }
            (Some(_), false) => {
                problems.push("valid: must have either `sources` or `every`".into());
            }
            (Some(0 | 1), true) => problems.push("valid.every: must be at least 2".into()),
            (Some(_), true) => {
                if self.clean.is_some() || self.lowercase || !self.replace.is_empty() {
                    let message = "with `every`, pairs are cleaned and changed as those of `train`";
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
            let message = "min_words may not exceed max_words, max_ratio must be at least 1";
            problems.push(format!("{name}.clean: {message}"));
        }
        problems
    }
}

impl Source {
    /// The archives that it takes its texts from.
    pub fn archives(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.archive).chain(self.second_archive.as_deref())
    }

    /// Whether its archives are its files, and have no members.
    pub fn is_whole(&self) -> bool {
        ArchiveKind::of(&self.archive) == Some(ArchiveKind::Gzip)
    }

    fn problems(&self, part: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let second = self.second_archive.as_deref();
        if second.is_some_and(|name| ArchiveKind::of(name) != Some(ArchiveKind::Gzip)) {
            problems.push(format!("{part}: `second_archive` must be one file, ending in .gz"));
        }
        let (count, wanted) = match (self.format, self.is_whole(), second) {
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

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// tar.
    Tar,
    /// tar, compressed with gzip.
    TarGzip,
    /// One file, compressed with gzip.
    Gzip,
}

impl ArchiveKind {
    /// By the name's end.
    pub fn of(name: &str) -> Option<Self> {
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
    fn every_recipe_works() {
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
    fn everything_that_is_wrong_is_told_at_once() {
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
            "must be 64 small hexadecimal digits",
            "train.every: only `valid`",
            "there is no archive `c.tgz`; there are: ../a.zip, b.tgz, d.gz, e.gz",
            "valid.every: must be at least 2",
            "must have two files in `files`",
            "`drop` and `strip` are for",
            "test: b.tgz must be one file in one language to have a `second_archive`",
            "test: e.gz is one file: it must be `format: tmx`, or have a `second_archive`",
            "test: `second_archive` must be one file, ending in .gz",
            "two different ones",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        fs::write(&path, "title: x\nlanguage: [a, b]\n").unwrap();
        let error = Recipe::read(&path).unwrap_err().to_string();
        assert!(error.contains("unknown field `language`") && error.contains("line 2"), "{error}");
        let error = Recipe::read(&folder.path().join("none.yaml")).unwrap_err().to_string();
        assert!(
            error.contains("there is no recipe") && error.contains("there are: bad"),
            "{error}"
        );
    }
}
