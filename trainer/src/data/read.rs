//! Reads records from text files. Bad lines are values here, not errors.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tandem_config::schema::data::Text;

use super::format;
pub use super::format::ReadError;
use tandem_cluster::run::records::{Problem, shorten};

impl ReadError {
    /// Whether the file itself is at fault, so that trying again cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Open { .. } => false,
            Self::Format { .. } => true,
            // Errors of the system have a number, those of decompression have none.
            Self::Broken { source, .. } => source.raw_os_error().is_none(),
        }
    }
}

/// One record of a split: a pair, or a passage whose target is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The line, counted from 1.
    pub line: u64,
    /// The source; if there is a problem, as much as could be read.
    pub source: String,
    /// The target; if there is a problem, as much as could be read.
    pub target: String,
    /// The line's problem, if it has one.
    pub problem: Option<Problem>,
    /// The keys of a JSON object that lacks a wanted one.
    pub keys: Vec<String>,
}

/// One of a record's two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The source language.
    Source,
    /// The target language.
    Target,
}

impl Record {
    /// The beginning of the line, or the keys that it has instead of the wanted ones, for messages.
    pub fn shown(&self) -> String {
        match &self.keys[..] {
            [] => shorten(&self.source, &self.target),
            keys => shorten(&format!("its keys are {}", keys.join(", ")), ""),
        }
    }

    /// The text of a column.
    pub fn text(&self, column: Column) -> &str {
        match column {
            Column::Source => &self.source,
            Column::Target => &self.target,
        }
    }
}

/// The lines of a file; `.gz`, `.xz` and `.zst` are decompressed. A byte order mark at the start and carriage
/// returns at the ends of lines are removed.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    line: u64,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// The file does not exist, cannot be read, or does not agree with its name.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Ok(Self { path: path.to_owned(), reader: format::open(path)?, line: 0 })
    }

    /// The next line's bytes; `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        let mut bytes = Vec::new();
        let read = self.reader.read_until(b'\n', &mut bytes).map_err(|source| {
            ReadError::Broken { path: self.path.clone(), line: self.line, source }
        })?;
        if read == 0 {
            return Ok(None);
        }
        let is_ended = bytes.last() == Some(&b'\n');
        for ending in [b'\n', b'\r'] {
            if bytes.last() == Some(&ending) {
                bytes.pop();
            }
        }
        // Everything is in one line, since a lone carriage return does not end a line here.
        if self.line == 0 && !is_ended && bytes.contains(&b'\r') {
            return Err(ReadError::Format {
                path: self.path.clone(),
                found: "text whose lines end with carriage returns only, as on old Macs",
                is_inside: false,
                advice: "convert them to newlines: tr '\\r' '\\n'",
            });
        }
        if self.line == 0 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        self.line += 1;
        Ok(Some(bytes))
    }
}

impl Iterator for Lines {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}

/// The records of a split, in the order of its files.
pub struct Records {
    text: Text,
    source: Lines,
    target: Option<Lines>,
    line: u64,
}

impl Records {
    /// Opens a split's files.
    ///
    /// # Errors
    /// A file does not exist or cannot be read.
    pub fn open(text: &Text) -> Result<Self, ReadError> {
        let mut lines = text.files().into_iter().map(Lines::open);
        let source = lines.next().expect("a split has at least one file")?;
        let target = lines.next().transpose()?;
        Ok(Self { text: text.clone(), source, target, line: 0 })
    }

    fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        let source = self.source.next_line()?;
        let target = match &mut self.target {
            Some(lines) => lines.next_line()?,
            None => None,
        };
        if source.is_none() && target.is_none() {
            return Ok(None);
        }
        self.line += 1;
        let uneven = self.target.is_some() && (source.is_none() || target.is_none());
        let (source, source_problem) = decode(source.unwrap_or_default());
        let (target, target_problem) = decode(target.unwrap_or_default());
        let mut record = Record {
            line: self.line,
            source,
            target,
            keys: Vec::new(),
            problem: source_problem.or(target_problem).or(uneven.then_some(Problem::Uneven)),
        };
        match &self.text {
            Text::Tsv { source, target, .. } => record.split_columns(*source, *target),
            Text::Jsonl { source, target, .. } => record.pick_keys(source, target),
            Text::Files { .. } | Text::Lines { .. } => {}
        }
        let pairs = !matches!(self.text, Text::Lines { .. });
        let empty = |side: &str| side.trim().is_empty();
        if record.problem.is_none() && (empty(&record.source) || pairs && empty(&record.target)) {
            record.problem = Some(Problem::Empty);
        }
        Ok(Some(record))
    }
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

impl Record {
    /// Extracts source and target from a tab-separated line.
    fn split_columns(&mut self, source: usize, target: usize) {
        let line = std::mem::take(&mut self.source);
        let column = |number: usize| line.split('\t').nth(number.saturating_sub(1));
        let (source, target) = (column(source), column(target));
        if source.is_none() || target.is_none() {
            self.problem.get_or_insert(Problem::MissingColumn);
        }
        self.source = source.unwrap_or_default().to_owned();
        self.target = target.unwrap_or_default().to_owned();
    }

    /// Extracts source and target from a JSON object. `translation.de` is the key `de` of the object
    /// `translation`, or else a key with a dot.
    fn pick_keys(&mut self, source: &str, target: &str) {
        let line = std::mem::take(&mut self.source);
        let Ok(object) = serde_json::from_str::<Map<String, Value>>(&line) else {
            self.problem.get_or_insert(Problem::BrokenJson);
            return;
        };
        let (source, target) = (at(&object, source), at(&object, target));
        if source.is_none() || target.is_none() {
            self.problem.get_or_insert(Problem::MissingKey);
            list_keys(&object, "", &mut self.keys);
        }
        self.source = source.unwrap_or_default().to_owned();
        self.target = target.unwrap_or_default().to_owned();
    }
}

/// The text at a key, whose dots select nested objects.
fn at<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    if let Some(value) = object.get(key) {
        return value.as_str();
    }
    key.match_indices('.').find_map(|(dot, _)| {
        let inner = object.get(&key[..dot])?.as_object()?;
        at(inner, &key[dot + 1..])
    })
}

/// The keys of an object and its nested objects, as in the config.
fn list_keys(object: &Map<String, Value>, before: &str, keys: &mut Vec<String>) {
    for (key, value) in object {
        match value {
            Value::Object(inner) => list_keys(inner, &format!("{before}{key}."), keys),
            _ => keys.push(format!("{before}{key}")),
        }
    }
}

/// The text of a line; bytes that are not UTF-8 become U+FFFD.
fn decode(bytes: Vec<u8>) -> (String, Option<Problem>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(Problem::NotUtf8))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn records(text: &Text) -> Vec<Record> {
        Records::open(text).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn tsv(path: PathBuf) -> Text {
        Text::Tsv { path, source: 2, target: 1 }
    }

    fn problems(text: &Text) -> Vec<Option<Problem>> {
        records(text).into_iter().map(|record| record.problem).collect()
    }

    #[test]
    fn columns_are_counted_from_one_and_lines_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "a.tsv", "\u{feff}eins\tone\r\nzwei\ttwo\tx".as_bytes());
        let found = records(&tsv(path));
        let expected = |line, source: &str, target: &str| Record {
            line,
            source: source.into(),
            target: target.into(),
            problem: None,
            keys: Vec::new(),
        };
        assert_eq!(found, [expected(1, "one", "eins"), expected(2, "two", "zwei")]);
    }

    #[test]
    fn bad_lines_are_values() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            write(folder.path(), "a.tsv", b"a\tb\nalone\n\tb\n \t \n\na\xff\tb\n\xff\nc\td\n");
        let expected = [
            None,
            Some(Problem::MissingColumn),
            Some(Problem::Empty),
            Some(Problem::Empty),
            Some(Problem::MissingColumn),
            Some(Problem::NotUtf8),
            Some(Problem::NotUtf8),
            None,
        ];
        assert_eq!(problems(&tsv(path)), expected);
    }

    #[test]
    fn uneven_files_are_noticed_on_either_side() {
        let folder = tempfile::tempdir().unwrap();
        let source = write(folder.path(), "s", b"1\n2\n3\n");
        let target = write(folder.path(), "t", b"1\n");
        let expected = [None, Some(Problem::Uneven), Some(Problem::Uneven)];
        let text = Text::Files { source: source.clone(), target: target.clone() };
        assert_eq!(problems(&text), expected);
        assert_eq!(problems(&Text::Files { source: target, target: source }), expected);
    }

    #[test]
    fn json_lines_need_their_keys_as_strings() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "{\"s\":\"a\",\"t\":\"b\"}\n{\"s\":\"a\"}\n{\"s\":1,\"t\":\"b\"}\n[1]\n{\n\n";
        let path = write(folder.path(), "a.jsonl", lines.as_bytes());
        let expected = [
            None,
            Some(Problem::MissingKey),
            Some(Problem::MissingKey),
            Some(Problem::BrokenJson),
            Some(Problem::BrokenJson),
            Some(Problem::BrokenJson),
        ];
        assert_eq!(
            problems(&Text::Jsonl { path, source: "s".into(), target: "t".into() }),
            expected
        );
    }

    #[test]
    fn keys_with_dots_lead_into_objects() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "{\"id\":1,\"translation\":{\"de\":\"a\",\"en\":\"b\"}}\n\
                     {\"translation.de\":\"c\",\"translation\":{\"en\":\"d\"}}\n";
        let path = write(folder.path(), "a.jsonl", lines.as_bytes());
        let read = |source: &str, target: &str| {
            let (source, target) = (source.into(), target.into());
            records(&Text::Jsonl { path: path.clone(), source, target })
        };
        let found = read("translation.de", "translation.en");
        let texts: Vec<_> = found.iter().map(|it| (&*it.source, &*it.target)).collect();
        assert_eq!(texts, [("a", "b"), ("c", "d")]);
        let missing = read("de", "en");
        assert_eq!(missing[0].problem, Some(Problem::MissingKey));
        assert_eq!(missing[0].shown(), "its keys are id, translation.de, translation.en");
    }

    #[test]
    fn line_ends_of_old_macs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [&b"a\tb\rc\td\r"[..], b"a\tb\rc\td"] {
            let path = write(folder.path(), "mac.tsv", bytes);
            let error = Records::open(&tsv(path)).unwrap().next().unwrap().unwrap_err();
            assert!(error.is_final());
            let said = error.to_string();
            assert!(
                said.contains("mac.tsv is text whose lines end with carriage returns"),
                "{said}"
            );
        }
        for bytes in [&b"a\tb"[..], b"a\tb\r", b"a\tb\r\nc\td", b"a\rb\tc\nd\te\n"] {
            let path = write(folder.path(), "a.tsv", bytes);
            assert!(problems(&tsv(path)).iter().all(Option::is_none));
        }
    }

    #[test]
    fn passages_have_no_target() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "a.txt", b"one\n\ntwo");
        assert_eq!(problems(&Text::Lines { path }), [None, Some(Problem::Empty), None]);
        let path = write(folder.path(), "empty.txt", b"");
        assert_eq!(problems(&Text::Lines { path }), []);
    }

    #[test]
    fn compressed_files_are_unpacked_with_all_their_members() {
        let folder = tempfile::tempdir().unwrap();
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let xz = |text: &[u8]| {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        let archives = [
            ("a.gz", [gzip(b"1\n2\n"), gzip(b"3\n")]),
            ("a.xz", [xz(b"1\n2\n"), xz(b"3\n")]),
            ("a.zst", [zstd(b"1\n2\n"), zstd(b"3\n")]),
        ];
        for (name, members) in archives {
            let path = write(folder.path(), name, &members.concat());
            let found = records(&Text::Lines { path });
            let sources: Vec<&str> = found.iter().map(|record| record.source.as_str()).collect();
            assert_eq!(sources, ["1", "2", "3"], "{name}");
        }
    }

    #[test]
    fn a_truncated_archive_is_an_error_with_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(text.as_bytes()).unwrap();
        let archive = encoder.finish().unwrap();
        let path = write(folder.path(), "a.gz", &archive[..archive.len() / 2]);
        let result: Result<Vec<Record>, _> =
            Records::open(&Text::Lines { path }).unwrap().collect();
        let message = result.unwrap_err().to_string();
        assert!(message.contains("a.gz after line "), "{message}");
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_name() {
        let error = Records::open(&Text::Lines { path: "/nowhere/a.txt".into() }).err().unwrap();
        assert_eq!(error.to_string(), "cannot open /nowhere/a.txt");
    }
}
