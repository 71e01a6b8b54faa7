//! Drops unsuitable sentence pairs, like Moses' clean-corpus-n but on untokenised text.

use std::collections::BTreeMap;

use super::recipe::{Clean, Part};
use super::texts::Pair;

/// The most characters of a word, as in clean-corpus-n.
const MAX_WORD: usize = 1000;

/// Why a pair is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A side is not UTF-8.
    NotUtf8,
    /// A side has no text.
    Empty,
    /// A side has fewer words than allowed.
    TooShort,
    /// A side has more words than allowed.
    TooLong,
    /// The sides' numbers of words differ too much.
    Ratio,
    /// A word has more than 1000 characters.
    LongWord,
}

impl Reason {
    /// The reason's name in the manifest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not UTF-8",
            Self::Empty => "empty side",
            Self::TooShort => "too short",
            Self::TooLong => "too long",
            Self::Ratio => "ratio of lengths",
            Self::LongWord => "overlong word",
        }
    }
}

/// Normalizes and filters pairs as a part of a recipe says.
#[derive(Debug)]
pub(crate) struct Cleaner<'a> {
    replace: &'a BTreeMap<String, String>,
    lowercase: bool,
    clean: Option<Clean>,
    languages: &'a [String; 2],
}

impl<'a> Cleaner<'a> {
    /// The cleaner for a part of a recipe, for the languages of its two columns.
    pub(crate) fn new(part: &'a Part, languages: &'a [String; 2]) -> Self {
        let Part { replace, lowercase, clean, .. } = part;
        Self { replace, lowercase: *lowercase, clean: *clean, languages }
    }

    /// The pair as it will be written. Without limits in the recipe, only pairs that are not UTF-8 are
    /// dropped.
    ///
    /// # Errors
    /// Why the pair is dropped.
    pub(crate) fn clean(&self, pair: Pair) -> Result<[String; 2], Reason> {
        let [first, second] = pair.map(String::from_utf8);
        let (Ok(first), Ok(second)) = (first, second) else { return Err(Reason::NotUtf8) };
        let pair = [first, second].map(|side| self.normalize(side));
        match self.clean.and_then(|clean| problem(&pair, self.languages, clean)) {
            Some(reason) => Err(reason),
            None => Ok(pair),
        }
    }

    /// Applies replacements, then turns whitespace and control characters into single spaces, so that
    /// nothing can end a cell or line of the table.
    fn normalize(&self, mut text: String) -> String {
        for (from, to) in self.replace {
            if text.contains(from.as_str()) {
                text = text.replace(from.as_str(), to);
            }
        }
        if self.lowercase {
            text = text.to_lowercase();
        }
        let words = text.split(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}');
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

fn problem(pair: &[String; 2], languages: &[String; 2], clean: Clean) -> Option<Reason> {
    if pair.iter().any(String::is_empty) {
        return Some(Reason::Empty);
    }
    let counts = [0, 1].map(|side| count_words(&pair[side], &languages[side]));
    let (fewest, most) = (counts[0].min(counts[1]), counts[0].max(counts[1]));
    if most > clean.max_words {
        return Some(Reason::TooLong);
    }
    if fewest < clean.min_words {
        return Some(Reason::TooShort);
    }
    if most as f64 > clean.max_ratio * fewest as f64 {
        return Some(Reason::Ratio);
    }
    let overlong = |side: &String| side.split(' ').any(|word| word.chars().count() > MAX_WORD);
    pair.iter().any(overlong).then_some(Reason::LongWord)
}

/// Counts the words that Moses' tokenizer makes of a text, except that abbreviations are not known:
/// `Dr.` counts as two words, since its full stop is taken for the end of a sentence.
///
/// Punctuation marks are words of their own, unless they are inside of a word: hyphens, points and commas
/// between digits, and apostrophes in languages with elision or clitics, which belong to one side.
pub(crate) fn count_words(text: &str, language: &str) -> usize {
    let characters: Vec<char> = text.chars().collect();
    let at = |place: usize| characters.get(place).copied().unwrap_or(' ');
    let mut words = Words::default();
    let mut place = 0;
    while place < characters.len() {
        let c = characters[place];
        let (before, after) = (at(place.wrapping_sub(1)), at(place + 1));
        let mut next = place + 1;
        match c {
            '.' if after == '.' => {
                while at(next) == '.' {
                    next += 1;
                }
                words.push_mark(c);
            }
            ',' if !(before.is_numeric() && after.is_numeric()) => words.push_mark(c),
            '\'' => match apostrophe(before, after, language) {
                Apostrophe::Word => words.push_mark(c),
                Apostrophe::Split => {
                    words.end();
                    words.push(c);
                }
                Apostrophe::Letter => words.push(c),
            },
            c if c.is_alphabetic() || c.is_ascii_digit() => words.push(c),
            '.' | ',' | '-' | '`' => words.push(c),
            c if c.is_whitespace() => words.end(),
            c => words.push_mark(c),
        }
        place = next;
    }
    words.count()
}

/// The role of an apostrophe.
enum Apostrophe {
    /// It is a word of its own.
    Word,
    /// It splits a word in two and belongs to one of them.
    Split,
    /// It is part of a word.
    Letter,
}

fn apostrophe(before: char, after: char, language: &str) -> Apostrophe {
    let clitics = language == "en";
    if !(clitics || matches!(language, "fr" | "it" | "ga" | "ca")) {
        return Apostrophe::Word;
    }
    match (before.is_alphabetic(), after.is_alphabetic()) {
        (true, true) => Apostrophe::Split,
        (false, true) if clitics && before.is_numeric() => match after {
            's' => Apostrophe::Split,
            _ => Apostrophe::Letter,
        },
        _ => Apostrophe::Word,
    }
}

/// Collects words, one character at a time.
#[derive(Default)]
struct Words {
    /// For each finished word: its first character, and whether it ends with a full stop that may count
    /// as a word of its own.
    finished: Vec<(char, bool)>,
    current: String,
}

impl Words {
    fn push(&mut self, c: char) {
        self.current.push(c);
    }

    fn end(&mut self) {
        if let Some(first) = self.current.chars().next() {
            let stem = self.current.strip_suffix('.').filter(|stem| !stem.is_empty());
            self.finished.push((first, stem.is_some_and(|stem| !is_initial(stem))));
            self.current.clear();
        }
    }

    /// Adds a mark that is a word of its own.
    fn push_mark(&mut self, mark: char) {
        self.end();
        self.finished.push((mark, false));
    }

    /// Counts the words. A full stop before a lowercase letter belongs to its word.
    fn count(mut self) -> usize {
        self.end();
        let following = self.finished.iter().skip(1).map(|(first, _)| first.is_lowercase());
        let stops = self.finished.iter().zip(following.chain([false]));
        self.finished.len() + stops.filter(|((_, stop), small)| *stop && !small).count()
    }
}

/// Whether a word before a full stop is an initial or acronym: `A` of `A.`, `U.S` of `U.S.`
fn is_initial(stem: &str) -> bool {
    let one_letter = stem.chars().count() == 1 && stem.chars().all(char::is_uppercase);
    one_letter || (stem.contains('.') && stem.contains(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_moses_does() {
        for (text, language, expected) in [
            // Das | Haus | - | nicht | : | " | klein | " | !
            ("Das Haus - nicht: \"klein\"!", "de", 9),
            // Es | kostet | 1.234,50 | Euro | , | z.B. | in | Köln-Deutz | .
            ("Es kostet 1.234,50 Euro, z.B. in Köln-Deutz.", "de", 9),
            // Die | Nr. | der | 5 | .
            ("Die Nr. der 5.", "de", 5),
            // Und | dann | ... | nichts | ..
            ("Und dann... nichts..", "de", 5),
            // I | don | 't | know | John | 's | 1990 | 's | ' | car | '
            ("I don't know John's 1990's 'car'", "en", 11),
            // L' | uomo | dell' | acqua
            ("L'uomo dell'acqua", "it", 4),
            // wie | ' | s | geht
            ("wie's geht", "de", 4),
            // Într-o | ţară | ( | mică | ) | , | 5 | % | .
            ("Într-o ţară (mică), 5%.", "ro", 9),
            ("U.S.A. rules by George W. Bush", "en", 6),
            ("  ", "en", 0),
            (".", "en", 1),
        ] {
            assert_eq!(count_words(text, language), expected, "{text}");
        }
    }

    fn cleaned(part: &Part, first: &[u8], second: &[u8]) -> Result<[String; 2], Reason> {
        let languages = ["de".to_owned(), "en".to_owned()];
        Cleaner::new(part, &languages).clean([first.to_vec(), second.to_vec()])
    }

    #[test]
    fn pairs_are_dropped_as_by_clean_corpus_n() {
        let clean = Some(Clean { min_words: 1, max_words: 4, max_ratio: 1.5 });
        let part = Part { clean, ..Part::default() };
        assert!(cleaned(&part, b"a b", b"a b c").is_ok(), "3/2 is not above 1.5");
        for (first, second, reason) in [
            (&b"a b"[..], &b"a b c d"[..], Reason::Ratio),
            (b"a b c d e", b"a b c d e", Reason::TooLong),
            (b"", b"a", Reason::Empty),
            (b" \t\xc2\x85", b"a", Reason::Empty),
            (b"a\xff", b"a", Reason::NotUtf8),
            (&[b'x'; 1001], b"x", Reason::LongWord),
        ] {
            assert_eq!(cleaned(&part, first, second), Err(reason));
        }
        assert!(cleaned(&part, &[b'x'; 1000], b"x").is_ok());
        let clean = Some(Clean { min_words: 2, max_words: 4, max_ratio: 9.0 });
        assert_eq!(cleaned(&Part { clean, ..part }, b"a", b"a b"), Err(Reason::TooShort));
    }

    #[test]
    fn invisible_characters_become_spaces() {
        let part = Part::default();
        let [first, second] =
            cleaned(&part, "\u{feff} Größe\t\u{a0}und\u{2028}Maß\u{0} ".as_bytes(), b"").unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("Größe und Maß", ""));
    }

    #[test]
    fn replacements_come_before_lowercasing() {
        let replace = [("Ş", "Ș"), ("ţ", "ț"), ("\u{2019}", "'")];
        let replace = replace.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let part = Part { replace, lowercase: true, ..Part::default() };
        let pair = cleaned(&part, "Şi ţară".as_bytes(), "It\u{2019}s ÜBER".as_bytes()).unwrap();
        assert_eq!(pair, ["și țară", "it's über"]);
    }
}
