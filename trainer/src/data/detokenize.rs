//! Joins words to readable text, by restoring the spacing that is lost when BERT splits at every punctuation
//! mark.
//!
//! Each mark is attached to the word before it, to the word after it, to both or to none. Where languages differ
//! (French spaces before `!`, German hyphens between nouns, quotation marks), the language is recognised by the
//! sentence's function words. Case is not restored.

/// Joins words that are separated by spaces to readable text.
pub fn detokenize(words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut marks = Marks::new(&words);
    let leans: Vec<Lean> = (0..words.len()).map(|place| marks.lean(place)).collect();
    let mut text = String::new();
    for (place, word) in words.iter().enumerate() {
        if place > 0 && !leans[place - 1].right && !leans[place].left {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// The sides on which a mark has no space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lean {
    left: bool,
    right: bool,
}

const NONE: Lean = Lean { left: false, right: false };
const LEFT: Lean = Lean { left: true, right: false };
const RIGHT: Lean = Lean { left: false, right: true };
const BOTH: Lean = Lean { left: true, right: true };

/// The language of a sentence, as far as its spacing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    French,
    German,
    Other,
}

const FRENCH: &str = "le la les des du est et une dans pour vous cette ce qui que au aux sur avec \
    ne pas ou par il";
const GERMAN: &str = "der die das und ist ein eine einen den dem mit für von sie nicht auf zu im \
    wird werden zum zur oder als";
const OTHERS: &str = "the of to and a for el los las en het een il di che e per con se un è y i \
    della van dat is in op voor la lo que una por del se su como más sono si";
/// Ends of file and host names.
const EXTENSIONS: &str = "com org net edu gov io de fr es it nl ro uk eu txt html htm xml png jpg \
    jpeg gif svg pdf gz bz2 xz zip tar deb rpm conf cfg ini sh py js css php odt ods odp odb doc \
    docx xls xlsx ppt exe dll so h c cpp rs java json yaml yml md log iso img mp3 mp4 ogg avi wav \
    dat db sql bak tmp desktop";
/// Beginnings of absolute paths.
const FOLDERS: &str =
    "usr etc home dev var proc tmp bin lib opt sys boot mnt media root sbin srv run";
/// After an apostrophe.
const CONTRACTIONS: &str = "s t re ve ll d m";
/// Before an apostrophe.
const ELISIONS: &str = "l d j m n s t c qu jusqu lorsqu puisqu quelqu aujourd dell nell all dall \
    sull quell un coll senz";
/// After a hyphen that stands for the rest of a word: `Ein- und Ausgabe`.
const CONJUNCTIONS: &str = "und oder bzw sowie en of and or";
/// In brackets right after a word: `file(s)`.
const ENDINGS: &str = "s es n en e r in innen nen";

fn is_in(list: &str, word: &str) -> bool {
    list.split(' ').any(|entry| entry == word)
}

fn is_word(token: &str) -> bool {
    token.contains(char::is_alphanumeric)
}

fn starts_with_digit(token: &str) -> bool {
    token.starts_with(|first: char| first.is_ascii_digit())
}

fn ends_with_digit(token: &str) -> bool {
    token.ends_with(|last: char| last.is_ascii_digit())
}

fn is_capitalised(token: &str) -> bool {
    token.starts_with(char::is_uppercase)
}

/// `A12`: a cell of a table.
fn is_cell(token: &str) -> bool {
    let digits = token.trim_start_matches(|letter: char| letter.is_ascii_uppercase());
    let letters = token.len() - digits.len();
    (1..=2).contains(&letters)
        && !digits.is_empty()
        && digits.bytes().all(|digit| digit.is_ascii_digit())
}

fn guess(words: &[&str]) -> Language {
    let count = |list| words.iter().filter(|word| is_in(list, &word.to_lowercase())).count();
    let (french, german, others) = (count(FRENCH), count(GERMAN), count(OTHERS));
    if french > german.max(others) {
        Language::French
    } else if german > french.max(others) {
        Language::German
    } else {
        Language::Other
    }
}

/// The state of a pass over a sentence: which quotation marks are open.
struct Marks<'a> {
    words: &'a [&'a str],
    language: Language,
    /// `"`
    straight: bool,
    /// `'` or `’` as a quotation mark.
    single: Option<&'a str>,
    /// `„` without its end.
    low: usize,
    /// `‚` or `‘` without its end.
    low_single: bool,
    /// ``` or `»` without its end.
    angle: bool,
    /// Whether the comma before the current number is a decimal comma.
    decimal_comma: bool,
}

impl<'a> Marks<'a> {
    fn new(words: &'a [&'a str]) -> Self {
        Self {
            words,
            language: guess(words),
            straight: false,
            single: None,
            low: 0,
            low_single: false,
            angle: false,
            decimal_comma: false,
        }
    }

    /// The word at an offset from the current one; empty beyond the ends.
    fn word(&self, place: usize, distance: isize) -> &'a str {
        place.checked_add_signed(distance).and_then(|place| self.words.get(place)).unwrap_or(&"")
    }

    fn lean(&mut self, place: usize) -> Lean {
        match self.words[place] {
            "(" => self.bracket(place),
            "[" | "{" | "¿" | "¡" | "$" | "#" | "~" | "<" | "`" => RIGHT,
            ")" | "]" | "}" | "…" | "%" | ">" => LEFT,
            "_" | "@" | "\\" | "‐" | "‑" => BOTH,
            "!" | "?" | ";" => self.sentence_mark(place),
            "," => self.comma(place),
            "." => self.full_stop(place),
            ":" => self.colon(place),
            "/" => self.slash(place),
            "-" => self.hyphen(place),
            "–" | "—" => self.dash(place),
            "+" => self.plus(place),
            "*" if self.word(place, 1) == "." => RIGHT,
            "'" | "’" => self.apostrophe(place),
            quote @ ("\"" | "„" | "“" | "”" | "«" | "»" | "‚" | "‘") => {
                self.quote(quote)
            }
            _ => NONE,
        }
    }

    fn bracket(&self, place: usize) -> Lean {
        let (before, inside, after) =
            (self.word(place, -1), self.word(place, 1), self.word(place, 2));
        let is_ending = after == ")" && is_in(ENDINGS, inside);
        // `printf(3)`, `main()`
        let is_page = after == ")"
            && inside.len() == 1
            && starts_with_digit(inside)
            && before.chars().all(char::is_alphabetic);
        Lean { left: is_ending || is_page || inside == ")", right: true }
    }

    fn sentence_mark(&self, place: usize) -> Lean {
        match self.language {
            Language::French if is_word(self.word(place, -1)) => NONE,
            _ => LEFT,
        }
    }

    fn comma(&mut self, place: usize) -> Lean {
        let (before, after) = (self.word(place, -1), self.word(place, 1));
        let is_between_digits = ends_with_digit(before) && starts_with_digit(after);
        // `1, 2, 3` is a list: another number with a comma follows or precedes.
        let list_goes_on = self.word(place, 2) == "," && starts_with_digit(self.word(place, 3));
        let list_ends = self.word(place, -2) == "," && !self.decimal_comma;
        self.decimal_comma = is_between_digits && !list_goes_on && !list_ends;
        Lean { left: true, right: self.decimal_comma }
    }

    fn full_stop(&self, place: usize) -> Lean {
        let (before, after) = (self.word(place, -1), self.word(place, 1));
        let is_extension = is_in(EXTENSIONS, &after.to_lowercase());
        if before == "," && after == "." {
            return RIGHT; // `a, ...`
        }
        let is_letter = |word: &str| {
            let mut letters = word.chars();
            letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none()
        };
        // `www.example.org`: an extension comes one word later.
        let is_host = self.word(place, 2) == "."
            && is_in(EXTENSIONS, self.word(place, 3))
            && after.chars().all(char::is_lowercase);
        let right = after == "."
            || before == "www"
            || is_host
            || is_extension && (is_word(before) || before == "*")
            || ends_with_digit(before) && starts_with_digit(after)
            || starts_with_digit(after) && is_word(before) && before.chars().count() <= 2
            || is_letter(before) && is_letter(after) && self.word(place, 2) == "." // `e.g.`
            || is_word(after) && (before == "/" || before == "~");
        Lean { left: is_word(before) || !is_extension, right }
    }

    fn colon(&self, place: usize) -> Lean {
        let (before, after) = (self.word(place, -1), self.word(place, 1));
        let is_time = ends_with_digit(before) && starts_with_digit(after);
        let is_range = is_cell(before) && is_cell(after);
        let is_address = after == "/" && self.word(place, 2) == "/";
        let is_path = after == ":" || before == ":";
        let right = is_time || is_range || is_address || is_path;
        let is_french = self.language == Language::French && is_word(before);
        Lean { left: right || !is_french, right }
    }

    fn slash(&self, place: usize) -> Lean {
        let begins_path = is_in(FOLDERS, self.word(place, 1))
            && !matches!(self.word(place, -1), "/" | ":" | "." | "~");
        Lean { left: !begins_path, right: true }
    }

    fn hyphen(&self, place: usize) -> Lean {
        let (before, after) = (self.word(place, -1), self.word(place, 1));
        let is_german = self.language == Language::German;
        if before == "-" || after == "-" {
            return if before == "-" && is_word(after) { BOTH } else { RIGHT }; // `--option`
        }
        if is_word(before) && is_in(CONJUNCTIONS, &after.to_lowercase()) {
            return LEFT;
        }
        if is_word(before) && is_word(after) {
            // `Tools - Options`, but `CD-ROM` and `Boot-Image`
            let is_title =
                |word: &str| is_capitalised(word) && word.chars().any(char::is_lowercase);
            let is_menu = is_capitalised(after)
                && !is_capitalised(before)
                && before.chars().all(char::is_lowercase)
                || is_title(before) && is_title(after);
            return if is_menu && !is_german { NONE } else { BOTH };
        }
        if is_german && matches!(before, "«" | "“" | ")" | "+") && is_word(after) {
            return BOTH; // `»Details«-Ansicht`
        }
        if matches!(before, "" | "(" | "[" | "\"" | "," | "'") {
            return if is_word(after) { RIGHT } else { NONE }; // `-v`
        }
        if matches!(after, "," | "." | ")") { LEFT } else { NONE }
    }

    fn dash(&self, place: usize) -> Lean {
        let is_range =
            ends_with_digit(self.word(place, -1)) && starts_with_digit(self.word(place, 1));
        if is_range { BOTH } else { NONE }
    }

    fn plus(&self, place: usize) -> Lean {
        let (before, after) = (self.word(place, -1), self.word(place, 1));
        let is_name = before.len() > 1 && before.chars().all(char::is_uppercase);
        if is_name && after.chars().all(char::is_lowercase) {
            LEFT // `GTK+ library`
        } else if before.eq_ignore_ascii_case("u") {
            BOTH // `U+0020`
        } else if is_word(before) && is_word(after) {
            let is_sum = starts_with_digit(before) || starts_with_digit(after);
            if is_sum { NONE } else { BOTH } // `Ctrl+C`
        } else if before == "+" || after == "+" {
            LEFT // `C++`
        } else {
            NONE
        }
    }

    /// An apostrophe, or a single quotation mark.
    fn apostrophe(&mut self, place: usize) -> Lean {
        let mark = self.words[place];
        let (before, after) = (self.word(place, -1), self.word(place, 1));
        let is_contraction = is_word(before) && is_in(CONTRACTIONS, &after.to_lowercase());
        if self.single == Some(mark) && !(is_contraction && mark == "'") {
            self.single = None;
            return LEFT;
        }
        let is_elision =
            is_word(before) && is_word(after) && is_in(ELISIONS, &before.to_lowercase());
        if is_contraction || is_elision {
            return BOTH;
        }
        if mark == "’" {
            return if is_word(before) && is_word(after) && !self.low_single {
                BOTH
            } else {
                self.low_single = false;
                LEFT
            };
        }
        let later = self.words[place + 1..].iter().filter(|&&word| word == mark).count();
        let is_plural = before.ends_with('s') && later % 2 == 0;
        if is_word(before) && !is_word(after) && later % 2 == 0 || is_plural {
            LEFT // `the users' names`
        } else if later > 0 {
            self.single = Some(mark);
            RIGHT
        } else {
            Lean { left: is_word(before), right: is_word(after) }
        }
    }

    fn quote(&mut self, mark: &str) -> Lean {
        let ends = match mark {
            "\"" => toggle(&mut self.straight),
            "„" => {
                self.low += 1;
                false
            }
            "“" | "”" => {
                let ends = self.low > 0 || mark == "”";
                self.low = self.low.saturating_sub(1);
                ends
            }
            "«" | "»" => {
                let ends = toggle(&mut self.angle);
                if self.language == Language::French {
                    return NONE;
                }
                ends
            }
            // ‘ closes ‚ and opens before ’.
            _ => {
                let ends = mark == "‘" && self.low_single;
                self.low_single = !ends;
                ends
            }
        };
        if ends { LEFT } else { RIGHT }
    }
}

/// Opens or closes a quotation, and returns whether it was open.
fn toggle(is_open: &mut bool) -> bool {
    *is_open = !*is_open;
    !*is_open
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn split(text: &str) -> String {
        let mut words = PreTokenizedString::from(text);
        BertPreTokenizer.pre_tokenize(&mut words).unwrap();
        let words = words.get_splits(OffsetReferential::Original, OffsetType::None);
        words.into_iter().map(|(word, ..)| word).collect::<Vec<_>>().join(" ")
    }

    fn check(texts: &[&str]) {
        let wrong: Vec<(&str, String)> = texts
            .iter()
            .map(|&text| (text, detokenize(&split(text))))
            .filter(|(text, found)| text != found)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn sentences_come_back() {
        check(&[
            "Hello, world!",
            "Is it 10:30 (or 1.5 hours later)? I don't know; it's 50% of $20...",
            "Version 2.4.1, released in 1.000,50 parts, costs 1, 2, 3 or 4 euros.",
            "Wait... no, wait.",
            "Choose the file(s) and press Ctrl+C, e.g. on a well-known CD-ROM.",
            "Choose Tools - Options and the well-known Y axis.",
            "",
            "one",
            "...",
        ]);
    }

    #[test]
    fn quotation_marks_come_back() {
        check(&[
            "He said \"yes\" and \"no\" and left.",
            "The 'save' button isn't the users' button.",
            "Er sagte „ja“ und “sic” und »doch« nicht.",
            "Use the “Save” and ‘Open’ buttons (“both”).",
            "La opción «auto» hace lo mismo.",
            "L'image est « fausse » et c’est la fin !",
            "Which one: ‚a‘ or ‚b‘?",
        ]);
    }

    #[test]
    fn german_compounds_come_back() {
        check(&[
            "Die Ein- und Ausgabe der Boot-Images ist für den Android-Nutzer.",
            "Eine »Details«-Ansicht und die 32-Bit-Version.",
            "Das wird z.B. am Ende gezeigt.",
        ]);
    }

    #[test]
    fn french_and_italian_apostrophes_come_back() {
        check(&[
            "Qu'est-ce que c'est ? Je l'ai vu : voilà !",
            "Il nome dell'utente e l'indirizzo.",
            "¿Qué es? ¡Nada!",
        ]);
    }

    #[test]
    fn names_of_files_and_hosts_come_back() {
        check(&[
            "See http://www.example.org/a_b.html or mail me@example.org now.",
            "Edit /etc/hosts and /usr/share/doc, or ~/.config for printf(3) and main().",
            "Run it with --verbose (-v), then open file.txt or *.png.",
            "The range A1:B12 in std::io uses U+0020 in C++ and the GTK+ library.",
        ]);
    }

    /// Exported models come with these rules in Python, which made the golden.
    #[test]
    fn python_has_the_same_rules() {
        let golden = include_str!("../../../tests/golden/detokenize/golden.json");
        let cases: Vec<(String, String)> = serde_json::from_str(golden).unwrap();
        assert!(cases.len() > 1000);
        for (words, text) in cases {
            assert_eq!(detokenize(&words), text, "{words}");
        }
    }

    #[test]
    fn any_words_keep_their_letters_and_order() {
        let marks =
            "a B 1 . , ; : ! ? ' ’ \" „ “ ” « » ‚ ‘ ( ) [ ] - – / \\ + * $ % _ @ ### … [UNK]";
        let marks: Vec<&str> = marks.split(' ').collect();
        for seed in 0..2000 {
            let purpose = crate::random::Purpose::Order;
            let mut rng = crate::random::stream(seed, purpose, &[]);
            let words: Vec<&str> =
                (0..rng.below(12)).map(|_| marks[rng.below(marks.len() as u64) as usize]).collect();
            let text = detokenize(&words.join(" "));
            assert_eq!(text.replace(' ', ""), words.concat(), "{words:?}");
            assert!(!text.contains("  ") && text.trim() == text);
        }
    }
}
