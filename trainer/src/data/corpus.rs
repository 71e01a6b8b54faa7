//! The samples of one split: read, checked, tokenised and cached.
//!
//! Training lines with a problem are dropped or refused, depending on the config. Held-out sentences are never
//! dropped, so that scores include all of them and translations stay aligned with their sources: long sentences
//! are truncated, and missing ones are empty.

use std::ops::Range;
use std::path::Path;

use tandem_cluster::run::records::DataReport;
use tandem_config::schema::data::{Data, Text};

use super::batches::Lengths;
use super::build::Builder;
use super::cache::{Cache, CacheError, Key};
use super::split::{DataError, Sides, Split};

/// One split's samples, in the order of its file.
#[derive(Debug)]
pub struct Corpus {
    cache: Cache,
    report: DataReport,
}

impl Corpus {
    /// Opens a split, and tokenises it with `threads` threads if it is not yet in the folder `cache`.
    ///
    /// # Errors
    /// Unreadable files, a line that the config refuses, nothing usable, or an unwritable cache.
    pub fn open(
        data: &Data,
        texts: &[Text],
        split: Split,
        sides: Sides<'_>,
        cache: &Path,
        threads: usize,
    ) -> Result<Self, DataError> {
        let builder = Builder { data, texts, split, sides };
        builder.check_kind()?;
        let key = builder.key(cache)?;
        let cache = Cache::open_or_make(cache, &key, |draft| builder.build(threads, draft))?;
        let report = serde_json::from_slice(cache.report());
        let mut report: DataReport = report.map_err(|source| {
            let file = builder.first_file().to_owned();
            DataError::Report { file, source }
        })?;
        // The same bytes may lie elsewhere today.
        report.files = builder.files().map(Path::to_owned).collect();
        report.split = split.name().into();
        if cache.is_empty() {
            let file = builder.first_file().to_owned();
            return Err(DataError::Nothing { file, report: Box::new(report) });
        }
        if let Some(what) = builder.is_too_bad(&report) {
            let file = builder.first_file().to_owned();
            return Err(DataError::TooManyBad { file, what, report: Box::new(report) });
        }
        Ok(Self { cache, report })
    }

    /// The key that a split would have; see [`Corpus::key`].
    ///
    /// # Errors
    /// Unreadable files.
    pub fn key_of(
        data: &Data,
        texts: &[Text],
        split: Split,
        sides: Sides<'_>,
        cache: &Path,
    ) -> Result<Key, DataError> {
        Builder { data, texts, split, sides }.key(cache)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// The report on the split's lines.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// The line that a sample comes from, counted from 1. It is for messages.
    pub fn line(&self, sample: usize) -> u64 {
        self.cache.line(sample)
    }

    /// A sample's source with `[SEP]`, or a passage from `[CLS]` to `[SEP]`.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn source(&self, sample: usize) -> Result<&[u32], CacheError> {
        self.cache.source(sample)
    }

    /// A sample's target with `[SEP]`; nothing for a passage.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn target(&self, sample: usize) -> Result<&[u32], CacheError> {
        self.cache.target(sample)
    }

    /// How many tokens of a sample's target, without `[SEP]`, equal the one before.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn repeats(&self, sample: usize) -> Result<u32, CacheError> {
        self.cache.repeats(sample)
    }

    /// The full text of a held-out pair; empty for training samples.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn texts(&self, sample: usize) -> Result<(&str, &str), CacheError> {
        self.cache.texts(sample)
    }

    /// The hash of everything that the samples depend on.
    pub fn key(&self) -> Key {
        self.cache.key()
    }

    /// The range of a sample's target among the tokens of all targets.
    pub fn target_range(&self, sample: usize) -> Range<usize> {
        self.cache.target_range(sample)
    }

    /// A sample's lengths.
    pub fn length(&self, sample: usize) -> Lengths {
        let (source, target) = (self.cache.source_range(sample), self.target_range(sample));
        (source.len() as u32, target.len() as u32)
    }

    /// All samples' lengths.
    pub fn lengths(&self) -> Vec<Lengths> {
        (0..self.len()).map(|sample| self.length(sample)).collect()
    }
}

#[cfg(test)]
mod tests {
    use tandem_config::schema::data::{BadLines, TooLong};

    use super::super::split::Side;
    use super::super::tokenizer::Tokenizer;
    use super::*;
    use crate::data::build::CHUNK_LINES;
    use std::path::PathBuf;
    use tandem_cluster::run::records::Problem;

    /// `[PAD]` is not 0, to detect code that assumes so.
    const VOCABULARY: &str = "[UNK]\n[CLS]\n[PAD]\n[SEP]\n[MASK]\na\nb\nc\n##b\n";
    const SEP: u32 = 3;

    struct Fixture {
        folder: tempfile::TempDir,
        tokenizer: Tokenizer,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("vocab.txt");
            std::fs::write(&path, VOCABULARY).unwrap();
            Self { tokenizer: Tokenizer::open(&path).unwrap(), folder }
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }

        fn side(&self, max_length: usize) -> Side<'_> {
            Side { tokenizer: &self.tokenizer, max_length }
        }

        fn pair(&self, max_length: usize) -> Sides<'_> {
            Sides::Pair { source: self.side(max_length), target: self.side(max_length) }
        }

        fn open(
            &self,
            data: &Data,
            split: Split,
            sides: Sides<'_>,
            threads: usize,
        ) -> Result<Corpus, DataError> {
            let cache = self.folder.path().join("cache");
            Corpus::open(data, std::slice::from_ref(&data.train), split, sides, &cache, threads)
        }

        fn pairs(&self, lines: impl AsRef<[u8]>) -> Data {
            let path = self.write("pairs.tsv", lines);
            data(Text::Tsv { path, source: 1, target: 2 })
        }
    }

    fn data(train: Text) -> Data {
        Data {
            train,
            valid: None,
            test: None,
            distillation: None,
            back_translation: None,
            max_length: None,
            too_long: TooLong::Drop,
            max_ratio: 2.0,
            bad_lines: BadLines::Drop,
            max_bad: 1.0,
            allow_changed: false,
            cache: None,
        }
    }

    /// Lines 2 to 7 each have another problem.
    const BAD: &[u8] = b"a b\ta\nalone\n\tb\na\xff\tb\na a a a a\ta\na\ta\ta\n\x01\tb\na a a a a a a a\ta a a a a a\nc\tc\n";

    fn counts(corpus: &Corpus) -> Vec<(Problem, u64, u64)> {
        let problems = &corpus.report().problems;
        problems.iter().map(|(&kind, found)| (kind, found.count, found.examples[0].line)).collect()
    }

    #[test]
    fn training_drops_bad_lines_and_reports_them() {
        let fixture = Fixture::new();
        let data = fixture.pairs(BAD);
        let corpus = fixture.open(&data, Split::Train, fixture.pair(8), 2).unwrap();
        let expected = [
            (Problem::NotUtf8, 1, 4),
            (Problem::MissingColumn, 1, 2),
            (Problem::Empty, 2, 3),
            (Problem::Ratio, 1, 5),
            (Problem::TooLong, 1, 8),
        ];
        assert_eq!(counts(&corpus), expected);
        let report = corpus.report();
        assert_eq!((report.read, report.dropped, report.kept, report.cut), (9, 6, 3, 0));
        assert_eq!((report.source_tokens, report.target_tokens), (3 + 2 + 2, 2 + 2 + 2));
        assert_eq!(corpus.source(0).unwrap(), [5, 6, SEP]);
        assert_eq!(corpus.target(0).unwrap(), [5, SEP]);
        assert_eq!([0, 1, 2].map(|sample| corpus.line(sample)), [1, 6, 9]);
        assert_eq!(corpus.lengths(), [(3, 2), (2, 2), (2, 2)]);
        assert_eq!(corpus.texts(0).unwrap(), ("", ""));
    }

    #[test]
    fn too_many_bad_lines_are_refused_each_time_unless_allowed() {
        let fixture = Fixture::new();
        let lines = |bad: usize| "a\tb\n".repeat(95) + &"a,b\n".repeat(bad);
        let mut data = fixture.pairs(lines(5));
        data.max_bad = 0.05;
        assert_eq!(fixture.open(&data, Split::Train, fixture.pair(8), 1).unwrap().len(), 95);
        fixture.pairs(lines(6));
        for _ in 0..2 {
            let error = fixture.open(&data, Split::Train, fixture.pair(8), 1).unwrap_err();
            let said = error.to_string();
            let parts = [
                "pairs.tsv does not look as the config says: 6 of 101 lines are bad, and \
                 data.max_bad is 0.05\ntrain: 101 lines read, 6 dropped",
                "\n  6 too few columns\n    line 96: a,b\n",
                "or set data.max_bad to 1 to drop these lines",
            ];
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
        fixture.open(&data, Split::Test, fixture.pair(8), 1).unwrap();
        data.max_bad = 1.0;
        assert_eq!(fixture.open(&data, Split::Train, fixture.pair(8), 1).unwrap().len(), 95);
    }

    #[test]
    fn empty_lines_of_synthetic_data_do_not_count_as_bad() {
        let fixture = Fixture::new();
        let mut data = fixture.pairs("a\tb\n".repeat(95) + &"a,b\n".repeat(5));
        data.max_bad = 0.05;
        let made = fixture.write("made.tsv", "\tb\n".repeat(900));
        let made = Text::Tsv { path: made, source: 1, target: 2 };
        let open = |data: &Data| {
            let (texts, cache) = ([data.train.clone(), made.clone()], fixture.folder.path());
            Corpus::open(data, &texts, Split::Train, fixture.pair(8), cache, 1)
        };
        assert_eq!(open(&data).unwrap().len(), 95);
        data.max_bad = 0.04;
        let said = open(&data).unwrap_err().to_string();
        assert!(said.contains("5 of 100 lines are bad, and data.max_bad is 0.04"), "{said}");
    }

    #[test]
    fn long_lines_are_not_bad_and_passages_may_have_blank_lines_between_them() {
        let fixture = Fixture::new();
        let mut data = fixture.pairs("a a a a\tb\na\tb\n");
        data.max_bad = 0.0;
        assert_eq!(fixture.open(&data, Split::Train, fixture.pair(3), 1).unwrap().len(), 1);
        data.train = Text::Lines { path: fixture.write("a.txt", "a\n\nb\n\n") };
        let sides = Sides::Passages(fixture.side(5));
        assert_eq!(fixture.open(&data, Split::Train, sides, 1).unwrap().len(), 2);
    }

    #[test]
    fn files_of_different_lengths_are_refused_in_every_split_unless_allowed() {
        let fixture = Fixture::new();
        let (source, target) = (fixture.write("s", "a\n".repeat(99)), "b\n".repeat(100));
        let mut data = data(Text::Files { source, target: fixture.write("t", target) });
        data.max_bad = 0.99;
        for split in [Split::Train, Split::Valid, Split::Test] {
            let said = fixture.open(&data, split, fixture.pair(8), 1).unwrap_err().to_string();
            let what = "its two files have different numbers of lines: 1 line has no partner";
            assert!(said.contains(what) && said.contains("line 100:  | b"), "{said}");
        }
        data.max_bad = 1.0;
        assert_eq!(fixture.open(&data, Split::Train, fixture.pair(8), 1).unwrap().len(), 99);
    }

    #[test]
    fn held_out_lines_are_all_kept() {
        let fixture = Fixture::new();
        let data = fixture.pairs(BAD);
        let corpus = fixture.open(&data, Split::Test, fixture.pair(8), 2).unwrap();
        assert_eq!(corpus.len(), 9);
        assert_eq!((0..9).map(|i| corpus.line(i)).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        assert_eq!(
            (corpus.source(1).unwrap(), corpus.target(1).unwrap()),
            (&[0, SEP][..], &[SEP][..])
        );
        assert_eq!(
            (corpus.source(2).unwrap(), corpus.target(2).unwrap()),
            (&[SEP][..], &[6, SEP][..])
        );
        assert_eq!(corpus.source(7).unwrap().len(), 8); // 8 tokens and [SEP], cut to 8
        assert_eq!(corpus.texts(7).unwrap(), ("a a a a a a a a", "a a a a a a"));
        assert_eq!(corpus.texts(3).unwrap(), ("a\u{fffd}", "b"));
        assert_eq!((corpus.report().dropped, corpus.report().cut), (0, 1));
    }

    #[test]
    fn texts_are_concatenated() {
        let fixture = Fixture::new();
        let data = fixture.pairs("a\tb\nb\ta\n");
        let more = fixture.write("more.jsonl", "{\"s\": \"c\", \"t\": \"a\"}\n");
        let more = Text::Jsonl { path: more, source: "s".into(), target: "t".into() };
        let open = |texts: &[Text]| {
            let cache = fixture.folder.path().join("cache");
            Corpus::open(&data, texts, Split::Train, fixture.pair(8), &cache, 2).unwrap()
        };
        let corpus = open(&[data.train.clone(), more.clone()]);
        let sources: Vec<u32> = (0..corpus.len()).map(|i| corpus.source(i).unwrap()[0]).collect();
        assert_eq!(sources, [5, 6, 7]);
        assert_eq!((corpus.report().read, corpus.report().files.len()), (3, 2));
        assert_eq!(open(&[more]).len(), 1, "another list of texts is another cache");
    }

    #[test]
    fn refusals_name_file_line_and_key() {
        let fixture = Fixture::new();
        let mut data = fixture.pairs("a\tb\nb\n");
        data.bad_lines = BadLines::Refuse;
        let refuse = |data: &Data, split| {
            fixture.open(data, split, fixture.pair(3), 1).unwrap_err().to_string()
        };
        for split in [Split::Train, Split::Test] {
            let message = refuse(&data, split);
            let expected =
                "pairs.tsv:2: too few columns: b; correct the line, or set data.bad_lines to drop";
            assert!(message.ends_with(expected), "{message}");
        }
        let mut data = fixture.pairs("a\tb\na a a\tb\n");
        data.too_long = TooLong::Refuse;
        let message = refuse(&data, Split::Train);
        assert!(message.contains("pairs.tsv:2: too long: a a a | b"), "{message}");
    }

    #[test]
    fn too_long_lines_can_be_truncated() {
        let fixture = Fixture::new();
        let mut data = fixture.pairs("a b c a\ta b c\n");
        data.too_long = TooLong::Cut;
        let corpus = fixture.open(&data, Split::Train, fixture.pair(3), 1).unwrap();
        assert_eq!(
            (corpus.source(0).unwrap(), corpus.target(0).unwrap()),
            (&[5, 6, SEP][..], &[5, 6, SEP][..])
        );
        assert_eq!((corpus.report().cut, corpus.report().dropped), (1, 0));
    }

    #[test]
    fn the_order_is_the_files_for_any_number_of_threads() {
        let fixture = Fixture::new();
        let lines: String = (0..CHUNK_LINES + 100)
            .map(|i| if i % 3 == 0 { "a\tb\n" } else { "b c\ta\n" })
            .collect();
        let data = fixture.pairs(lines);
        for threads in [1, 3] {
            let cache = fixture.folder.path().join(format!("cache-{threads}"));
            let sides = fixture.pair(8);
            let corpus = Corpus::open(
                &data,
                std::slice::from_ref(&data.train),
                Split::Train,
                sides,
                &cache,
                threads,
            )
            .unwrap();
            assert_eq!(corpus.len(), CHUNK_LINES + 100);
            for sample in 0..corpus.len() {
                assert_eq!(corpus.line(sample), sample as u64 + 1);
                assert_eq!(
                    corpus.source(sample).unwrap().len(),
                    if sample % 3 == 0 { 2 } else { 3 }
                );
            }
        }
    }

    #[test]
    fn long_passages_are_split_evenly_and_nothing_is_lost() {
        let fixture = Fixture::new();
        let path = fixture.write("a.txt", "a b c a b\n\nc\n");
        let data = data(Text::Lines { path });
        let sides = Sides::Passages(fixture.side(5));
        let corpus = fixture.open(&data, Split::Train, sides, 1).unwrap();
        let found: Vec<&[u32]> =
            (0..corpus.len()).map(|sample| corpus.source(sample).unwrap()).collect();
        let expected: [&[u32]; 3] = [&[1, 5, 6, SEP], &[1, 7, 5, 6, SEP], &[1, 7, SEP]];
        assert_eq!(found, expected);
        assert!(corpus.target(0).unwrap().is_empty());
        assert_eq!([0, 1, 2].map(|sample| corpus.line(sample)), [1, 1, 3]);
        assert_eq!(counts(&corpus), [(Problem::Empty, 1, 2)]);
    }

    #[test]
    fn what_the_samples_depend_on_is_in_the_key() {
        let fixture = Fixture::new();
        let base = fixture.pairs("a a a\tb\n");
        let key = |data: &Data, split, max_length| {
            let sides = fixture.pair(max_length);
            let texts = std::slice::from_ref(&data.train);
            Builder { data, texts, split, sides }.key(fixture.folder.path()).unwrap()
        };
        let mut other = base.clone();
        other.max_ratio = 3.0;
        let mut cut = base.clone();
        cut.too_long = TooLong::Cut;
        let mut keys = vec![
            key(&base, Split::Train, 8),
            key(&base, Split::Train, 9),
            key(&base, Split::Test, 8),
            key(&other, Split::Train, 8),
            key(&cut, Split::Train, 8),
        ];
        assert_eq!(key(&base, Split::Valid, 8), keys[2]);
        let changed = fixture.pairs("a a a\tc\n");
        keys.push(key(&changed, Split::Train, 8));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn pairs_and_passages_are_distinguished() {
        let fixture = Fixture::new();
        let lines = data(Text::Lines { path: fixture.write("a.txt", "a\n") });
        let error = fixture.open(&lines, Split::Train, fixture.pair(8), 1).unwrap_err();
        assert!(error.to_string().contains("needs pairs"), "{error}");
        let pairs = fixture.pairs("a\tb\n");
        let sides = Sides::Passages(fixture.side(8));
        let error = fixture.open(&pairs, Split::Train, sides, 1).unwrap_err();
        assert!(error.to_string().contains("needs passages"), "{error}");
    }

    #[test]
    fn nothing_usable_is_an_error_with_the_report() {
        let fixture = Fixture::new();
        let data = fixture.pairs("a\nb\n");
        for _ in 0..2 {
            let error = fixture.open(&data, Split::Train, fixture.pair(8), 1).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("pairs.tsv can be used"), "{message}");
            assert!(message.contains("2 too few columns\n    line 1: a"), "{message}");
        }
    }

    #[test]
    fn sentences_to_translate_are_all_kept_in_order() {
        let fixture = Fixture::new();
        let path = fixture.write("in.txt", b"a b\r\n\nb\xff\na a a a a\n");
        let data = data(Text::Lines { path });
        let sides = Sides::Sentences(fixture.side(4));
        let corpus = fixture.open(&data, Split::Test, sides, 2).unwrap();
        let ids: Vec<&[u32]> = (0..corpus.len()).map(|i| corpus.source(i).unwrap()).collect();
        let expected: [&[u32]; 4] = [&[5, 6, SEP], &[SEP], &[6, SEP], &[5, 5, 5, SEP]];
        assert_eq!(ids, expected);
        let expected = [(Problem::NotUtf8, 1, 3), (Problem::Empty, 1, 2), (Problem::TooLong, 1, 4)];
        assert_eq!(counts(&corpus), expected);
        assert_eq!(corpus.texts(0).unwrap(), ("a b", ""));
    }
}
