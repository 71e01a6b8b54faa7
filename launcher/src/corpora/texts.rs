//! Reads sentence pairs from the formats in which corpora are published.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::recipe::{Format, Source};

/// Why sentence pairs could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    /// A member cannot be read.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The member.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// The two languages have different numbers of sentences.
    #[error(
        "{} has {} sentences and {} has {}: the numbers must be equal; this is not the archive that \
         the recipe describes", names[0], counts[0], names[1], counts[1]
    )]
    CountMismatch {
        /// The members.
        names: [String; 2],
        /// Their numbers of sentences.
        counts: [u64; 2],
    },
    /// Segments of the two languages have different ids.
    #[error(
        "segment {number} of {} has the id `{}` and that of {} has `{}`: they must be the same \
         sentence; this is not the archive that the recipe describes", names[0], ids[0], names[1], ids[1]
    )]
    IdMismatch {
        /// The members.
        names: [String; 2],
        /// The segment's number, from 1.
        number: usize,
        /// The ids in both members.
        ids: [String; 2],
    },
    /// Markup is truncated or has no sentences.
    #[error("{name} is not {what}")]
    Malformed {
        /// The member.
        name: String,
        /// What it should be.
        what: &'static str,
    },
}

/// A sentence in both languages: the corpus's bytes, without markup.
pub(crate) type Pair = [Vec<u8>; 2];

/// An extracted member of an archive.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Its name in the archive, for messages.
    pub name: String,
    /// The extracted file.
    pub path: PathBuf,
}

/// Calls `take` with all pairs of a source, in order.
///
/// # Errors
/// Files that cannot be read or do not match, and errors of `take`.
pub(crate) fn read<E: From<TextError>>(
    source: &Source,
    members: &[Member],
    languages: &[String; 2],
    take: &mut dyn FnMut(Pair) -> Result<(), E>,
) -> Result<(), E> {
    match (source.format, members) {
        (Format::Lines, [first, second]) => {
            parallel_lines([first, second], |line| Some(line.to_vec()), take)
        }
        (Format::TaggedLines, [first, second]) => {
            let tags = Tags::of(source);
            parallel_lines([first, second], |line| tags.sentence(line), take)
        }
        (Format::Segments, [first, second]) => paired_segments([first, second], take),
        (Format::Tmx, [only]) => translation_units(only, languages, take),
        (_, others) => {
            let what = "a source with the number of files that its format needs";
            let name = others.first().map_or("the archive", |member| &*member.name).to_owned();
            Err(TextError::Malformed { name, what }.into())
        }
    }
}

/// Reads two files line by line. `sentence` extracts the sentence of a line, if it has one.
fn parallel_lines<E: From<TextError>>(
    members: [&Member; 2],
    sentence: impl Fn(&[u8]) -> Option<Vec<u8>>,
    take: &mut dyn FnMut(Pair) -> Result<(), E>,
) -> Result<(), E> {
    let mut files = [Lines::open(members[0])?, Lines::open(members[1])?];
    let mut counts = [0, 0];
    loop {
        let [first, second] = &mut files;
        match [first.next(&sentence)?, second.next(&sentence)?] {
            [Some(first), Some(second)] => {
                counts = counts.map(|count| count + 1);
                take([first, second])?;
            }
            [None, None] => return Ok(()),
            found => {
                for ((file, count), found) in files.iter_mut().zip(&mut counts).zip(found) {
                    *count += u64::from(found.is_some());
                    while file.next(&sentence)?.is_some() {
                        *count += 1;
                    }
                }
                let names = members.map(|member| member.name.clone());
                return Err(TextError::CountMismatch { names, counts }.into());
            }
        }
    }
}

/// A file's lines, which end only at line feeds: other separators are text in some corpora.
struct Lines {
    file: BufReader<File>,
    name: String,
    line: Vec<u8>,
}

impl Lines {
    fn open(member: &Member) -> Result<Self, TextError> {
        let name = member.name.clone();
        match File::open(&member.path) {
            Ok(file) => Ok(Self { file: BufReader::new(file), name, line: Vec::new() }),
            Err(source) => Err(TextError::Read { name, source }),
        }
    }

    fn next(
        &mut self,
        sentence: &impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, TextError> {
        loop {
            self.line.clear();
            let read = self.file.read_until(b'\n', &mut self.line);
            let read =
                read.map_err(|source| TextError::Read { name: self.name.clone(), source })?;
            if read == 0 {
                return Ok(None);
            }
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            if let Some(sentence) = sentence(line.strip_suffix(b"\r").unwrap_or(line)) {
                return Ok(Some(sentence));
            }
        }
    }
}

/// The tags of a source: lines with some are dropped, the others are stripped.
struct Tags {
    drop: Vec<String>,
    strip: Vec<String>,
}

impl Tags {
    fn of(source: &Source) -> Self {
        let open = |tags: &[String]| tags.iter().map(|tag| format!("<{tag}>")).collect();
        let closing = source.strip.iter().map(|tag| format!("</{tag}>"));
        let mut strip: Vec<String> = open(&source.strip);
        strip.extend(closing);
        Self { drop: open(&source.drop), strip }
    }

    /// The sentence of a line, if it is one. Lines that are not UTF-8 are left to the cleaning.
    fn sentence(&self, line: &[u8]) -> Option<Vec<u8>> {
        let Ok(line) = str::from_utf8(line) else { return Some(line.to_vec()) };
        if self.drop.iter().any(|tag| line.contains(tag.as_str())) {
            return None;
        }
        let stripped = self.strip.iter().fold(line.to_owned(), |line, tag| line.replace(tag, ""));
        Some(decode(&stripped).into_bytes())
    }
}

/// A `<seg>` element.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    id: String,
    text: String,
}

fn paired_segments<E: From<TextError>>(
    members: [&Member; 2],
    take: &mut dyn FnMut(Pair) -> Result<(), E>,
) -> Result<(), E> {
    let [first, second] = [all_segments(members[0])?, all_segments(members[1])?];
    let names = || members.map(|member| member.name.clone());
    if first.len() != second.len() {
        let counts = [first.len() as u64, second.len() as u64];
        return Err(TextError::CountMismatch { names: names(), counts }.into());
    }
    for (number, (first, second)) in (1..).zip(first.into_iter().zip(second)) {
        if first.id != second.id {
            let ids = [first.id, second.id];
            return Err(TextError::IdMismatch { names: names(), number, ids }.into());
        }
        take([first.text.into_bytes(), second.text.into_bytes()])?;
    }
    Ok(())
}

fn all_segments(member: &Member) -> Result<Vec<Segment>, TextError> {
    let malformed = |what| TextError::Malformed { name: member.name.clone(), what };
    let text = read_text(&member.path, &member.name)?;
    let mut segments = Vec::new();
    let mut rest = Markup { rest: &text };
    while let Some(attributes) = rest.open("seg") {
        let text = rest.text("seg").ok_or_else(|| malformed("complete: a <seg> does not end"))?;
        let id = attribute(attributes, "id").unwrap_or_default();
        segments.push(Segment { id, text });
    }
    match segments.is_empty() {
        true => Err(malformed("mteval's SGML or XML: it has no <seg>")),
        false => Ok(segments),
    }
}

/// Reads the translation units of a TMX file that have both languages, including repeated ones.
fn translation_units<E: From<TextError>>(
    member: &Member,
    languages: &[String; 2],
    take: &mut dyn FnMut(Pair) -> Result<(), E>,
) -> Result<(), E> {
    let malformed = |what| TextError::Malformed { name: member.name.clone(), what };
    let text = read_text(&member.path, &member.name)?;
    let mut rest = Markup { rest: &text };
    let mut found = false;
    while rest.open("tu").is_some() {
        let unit = rest.until("tu").ok_or_else(|| malformed("complete: a <tu> does not end"))?;
        found = true;
        let mut unit = Markup { rest: unit };
        let mut sides = [None, None];
        while let Some(attributes) = unit.open("tuv") {
            let name = attribute(attributes, "xml:lang").or_else(|| attribute(attributes, "lang"));
            let name = name.unwrap_or_default().to_lowercase();
            let place = languages.iter().position(|language| {
                name.split(['-', '_']).next() == Some(language.to_lowercase().as_str())
            });
            let mut variant = Markup { rest: unit.until("tuv").unwrap_or_default() };
            if let Some(place) = place
                && variant.open("seg").is_some()
            {
                sides[place] = variant.text("seg");
            }
        }
        if let [Some(first), Some(second)] = sides {
            take([first.into_bytes(), second.into_bytes()])?;
        }
    }
    if found { Ok(()) } else { Err(malformed("TMX: it has no <tu>").into()) }
}

/// A scanner for elements. It is not an XML parser, because the SGML of some corpora is not XML.
struct Markup<'a> {
    rest: &'a str,
}

impl<'a> Markup<'a> {
    /// Skips past the next opening tag of that name outside of comments, and returns its attributes.
    fn open(&mut self, name: &str) -> Option<&'a str> {
        loop {
            self.rest = &self.rest[self.rest.find('<')?..];
            if let Some(comment) = self.rest.strip_prefix("<!--") {
                self.rest = &comment[comment.find("-->")? + 3..];
                continue;
            }
            let tag = &self.rest[1..];
            self.rest = tag;
            if let Some((head, attributes)) = tag.split_at_checked(name.len())
                && head.eq_ignore_ascii_case(name)
                && attributes.starts_with(|c: char| c == '>' || c.is_ascii_whitespace())
            {
                let end = attributes.find('>')?;
                self.rest = &attributes[end + 1..];
                return Some(&attributes[..end]);
            }
        }
    }

    /// Skips past the closing tag of that name, and returns the text before it.
    fn until(&mut self, name: &str) -> Option<&'a str> {
        let mut from = 0;
        loop {
            let at = from + self.rest[from..].find("</")?;
            let tag = &self.rest[at + 2..];
            if let Some((head, after)) = tag.split_at_checked(name.len())
                && head.eq_ignore_ascii_case(name)
                && after.trim_ascii_start().starts_with('>')
            {
                let before = &self.rest[..at];
                self.rest = &after[after.find('>')? + 1..];
                return Some(before);
            }
            from = at + 2;
        }
    }

    /// Skips past the closing tag of that name, and returns the text before it with entities decoded
    /// and CDATA sections unwrapped.
    fn text(&mut self, name: &str) -> Option<String> {
        const OPEN: &str = "<![CDATA[";
        let mut text = String::new();
        loop {
            let start = self.rest;
            let before = self.until(name)?;
            let Some(at) = before.find(OPEN) else {
                text.push_str(&decode(before));
                return Some(text);
            };
            text.push_str(&decode(&before[..at]));
            // Search again from the start: a section may contain what looks like the closing tag.
            let (section, rest) = start[at + OPEN.len()..].split_once("]]>")?;
            text.push_str(section);
            self.rest = rest;
        }
    }
}

/// The value of an attribute, in single or double quotes.
fn attribute(attributes: &str, name: &str) -> Option<String> {
    let mut rest = attributes;
    loop {
        let (before, after) = rest.split_once('=')?;
        let after = after.trim_ascii_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, next) = after[1..].split_once(quote)?;
        if before.trim_ascii().eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
}

/// Decodes XML's five entities and numeric ones; anything else that begins with `&` stays.
fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        // No entity is longer than `&#x10FFFF;`.
        let end = rest.bytes().take(10).position(|byte| byte == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((character, end)) => {
                decoded.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                decoded.push('&');
                rest = &rest[1..];
            }
        }
    }
    decoded + rest
}

fn entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
    })
}

fn read_text(path: &Path, name: &str) -> Result<String, TextError> {
    std::fs::read_to_string(path)
        .map_err(|source| TextError::Read { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(format: Format) -> Source {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        let tagged = format == Format::TaggedLines;
        Source {
            archive: "a.tgz".into(),
            second_archive: None,
            files: Vec::new(),
            format,
            drop: if tagged { words("url talkid keywords") } else { Vec::new() },
            strip: if tagged { words("title description") } else { Vec::new() },
            optional: false,
        }
    }

    fn pairs(format: Format, texts: &[&[u8]]) -> Result<Vec<[String; 2]>, TextError> {
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<Member> = (0..)
            .zip(texts)
            .map(|(number, text)| {
                let path = folder.path().join(number.to_string());
                std::fs::write(&path, text).unwrap();
                Member { name: format!("member {number}"), path }
            })
            .collect();
        let mut pairs = Vec::new();
        let languages = ["ro".to_owned(), "en".to_owned()];
        read::<TextError>(&source(format), &members, &languages, &mut |pair| {
            pairs.push(pair.map(|side| String::from_utf8_lossy(&side).into_owned()));
            Ok(())
        })?;
        Ok(pairs)
    }

    #[test]
    fn tagged_lines_lose_their_tags_and_keep_titles() {
        let german = "<url>http://ted</url>\n<keywords>talks</keywords>\n<talkid>1</talkid>\n\
            <title>Über Größe &amp; Maß</title>\r\n<description>Ein Vortrag.</description>\n\
            Er sagte: &quot;Schön&quot; &lt;leise&gt;, 3 < 4.\n";
        let english = "<url>http://ted</url>\n<talkid>1</talkid>\n<title>On size</title>\n\
            <description>A talk.</description>\nHe said \"nice\", AT&T.";
        let pairs = pairs(Format::TaggedLines, &[german.as_bytes(), english.as_bytes()]).unwrap();
        assert_eq!(
            pairs,
            [
                ["Über Größe & Maß", "On size"],
                ["Ein Vortrag.", "A talk."],
                ["Er sagte: \"Schön\" <leise>, 3 < 4.", "He said \"nice\", AT&T."],
            ]
        );
    }

    #[test]
    fn lines_end_only_at_line_feeds() {
        // A line separator and a next-line character inside of a line, as in Common Crawl.
        let pairs = pairs(
            Format::Lines,
            &["eins\u{2028}x\nzwei".as_bytes(), "one\u{85}\r\ntwo\n".as_bytes()],
        );
        assert_eq!(pairs.unwrap(), [["eins\u{2028}x", "one\u{85}"], ["zwei", "two"]]);
    }

    #[test]
    fn different_numbers_of_sentences_are_refused_with_both_counts() {
        let error = pairs(Format::Lines, &[b"1\n2\n3\n4\n", b"1\n2\n"]).unwrap_err().to_string();
        assert!(error.contains("member 0 has 4 sentences and member 1 has 2"), "{error}");
        let one = b"<seg id=\"1\">a</seg>";
        let two = b"<seg id=\"1\">a</seg><seg id=\"2\">b</seg>";
        let error = pairs(Format::Segments, &[one, two]).unwrap_err().to_string();
        assert!(error.contains("has 1 sentences and member 1 has 2"), "{error}");
    }

    #[test]
    fn segments_are_read_from_sgml_and_xml() {
        let romanian = "<?xml version=\"1.0\"?>\n<srcset setid=\"x\"><!-- <seg id=\"0\">no</seg> -->\n\
            <DOC docid='a'><title>not this</title><p>\n<seg id=\"1\"> Președinte &amp; țară </seg>\n\
            <SEG id = '2'><![CDATA[5 < 6 & </seg> rămâne]]> aşa&#46;</SEG >\n</p></DOC></srcset>";
        let english = "<refset><hl><seg id=\"1\">President &amp; country</seg></hl>\
            <seg id=\"2\">two\nlines</seg></refset>";
        let pairs = pairs(Format::Segments, &[romanian.as_bytes(), english.as_bytes()]).unwrap();
        assert_eq!(
            pairs,
            [
                [" Președinte & țară ", "President & country"],
                ["5 < 6 & </seg> rămâne aşa.", "two\nlines"]
            ]
        );
    }

    #[test]
    fn segments_with_different_ids_are_refused() {
        let error = pairs(Format::Segments, &[b"<seg id=\"1\">a</seg>", b"<seg id=\"2\">b</seg>"]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("segment 1 of member 0 has the id `1`"), "{error}");
        for text in [&b"<seg id=\"1\">a"[..], b"<html>moved</html>"] {
            let error = pairs(Format::Segments, &[text, text]).unwrap_err().to_string();
            assert!(error.contains("<seg>"), "{error}");
        }
    }

    #[test]
    fn translation_units_are_paired_by_language_in_any_order() {
        let tmx = "<tmx version=\"1.4\"><header srclang=\"en\"/><body>\n\
            <tu><tuv xml:lang=\"en\"><seg>House &amp; home</seg></tuv>\
            <tuv xml:lang=\"RO-ro\"><seg>Casă</seg></tuv></tu>\n\
            <tu><tuv xml:lang=\"en\"><seg>alone</seg></tuv></tu>\n\
            <tu tuid='3'><tuv lang='ro'><seg>ţară</seg></tuv><tuv lang='en'><seg>land</seg></tuv></tu>\n\
            </body></tmx>";
        let pairs = pairs(Format::Tmx, &[tmx.as_bytes()]).unwrap();
        assert_eq!(pairs, [["Casă", "House & home"], ["ţară", "land"]]);
    }

    #[test]
    fn only_entities_are_decoded() {
        for (text, expected) in [
            ("&lt;&gt;&quot;&apos;&amp;amp;", "<>\"'&amp;"),
            ("&#228;&#xE4;&#X2019;", "ää\u{2019}"),
            ("R&D; &nbsp; &#xD800; &;&", "R&D; &nbsp; &#xD800; &;&"),
            ("&ă;", "&ă;"),
        ] {
            assert_eq!(decode(text), expected, "{text}");
        }
    }
}
