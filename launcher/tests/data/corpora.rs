//! Small archives in the formats and layouts of the real ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub(crate) fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // As it is: the crate would refuse names that lead out.
        header.as_gnu_mut().expect("GNU").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &content[..]).expect("memory");
    }
    tar.into_inner().expect("memory")
}

pub(crate) fn tgz(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    gzip(&tar(members))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Usable pairs of the training text that [`iwslt`] makes, titles and descriptions among them.
pub(crate) const USABLE: usize = 50;
/// All of its pairs.
pub(crate) const READ: usize = USABLE + 3;

/// The archive of an IWSLT14 pair, `other` to English; `tedx` says whether it has that test set.
pub(crate) fn iwslt(other: &str, tedx: bool) -> Vec<u8> {
    tgz(&iwslt_members(other, tedx))
}

pub(crate) fn iwslt_members(other: &str, tedx: bool) -> Vec<(String, Vec<u8>)> {
    let pair = format!("{other}-en");
    let mut members = vec![(format!("{pair}/README"), b"CC BY-NC-ND".to_vec())];
    for language in [other, "en"] {
        let mut text = String::new();
        for talk in 0..2 {
            text += &format!("<url>http://www.ted.com/{talk}</url>\n");
            text += "<keywords>talks, a, b</keywords>\n";
            text += &format!("<talkid>{talk}</talkid>\n<title>{language}: Titel {talk}</title>\n");
            text += &format!("<description>{language}: Größe &amp; Maß {talk}</description>\n");
        }
        for line in 0..USABLE - 4 {
            text += &format!("{language} Satz Nummer {line} .\n");
        }
        let english = language == "en";
        text += if english { "one\n" } else { "eins zwei drei vier\n" };
        text += if english { " \n" } else { "leer gegenüber\n" };
        text += &format!("{}\n", "wort ".repeat(176));
        members.push((format!("{pair}/train.tags.{pair}.{language}"), text.into_bytes()));
        let sets = ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"];
        for set in sets.iter().filter(|set| tedx || !set.starts_with("TEDX")) {
            let xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<mteval>\n<srcset setid=\"{set}\" \
                 srclang=\"{language}\">\n<doc docid=\"69\" genre=\"lectures\">\n<url>http://x</url>\n\
                 <title>not a sentence</title>\n<seg id=\"1\"> {language} {set} it\u{2019}s A </seg>\n\
                 <seg id=\"2\"> {language} {set} B &amp; C </seg>\n</doc>\n</srcset>\n</mteval>\n"
            );
            let name = format!("{pair}/IWSLT14.{set}.{pair}.{language}.xml");
            members.push((name, xml.into_bytes()));
        }
    }
    members
}

/// A set in WMT's SGML.
pub(crate) fn sgm(kind: &str, language: &str, sentences: &[&str]) -> Vec<u8> {
    let mut text = format!("<{kind}set setid=\"x\" srclang=\"any\">\n<doc docid=\"d\"><p>\n");
    for (number, sentence) in (1..).zip(sentences) {
        text += &format!("<seg id=\"{number}\">{language} {sentence}</seg>\n");
    }
    (text + &format!("</p></doc>\n</{kind}set>\n")).into_bytes()
}

/// Both sides of a corpus of lines, under names that end in the languages.
pub(crate) fn lines(stem: &str, languages: [&str; 2], count: usize) -> Vec<(String, Vec<u8>)> {
    let corpus = stem.rsplit('/').next().expect("a name");
    let text = |language: &str| -> String {
        (0..count).map(|line| format!("{language} {corpus} {line} .\n")).collect()
    };
    languages.map(|language| (format!("{stem}.{language}"), text(language).into_bytes())).into()
}
