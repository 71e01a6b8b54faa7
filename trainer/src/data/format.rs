//! Detects the format of a file from its first bytes, checks that its name agrees, and decompresses it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content does not agree with its name.
    #[error(
        "{} is{} {found}; {advice}", path.display(), if *is_inside { ", unpacked," } else { "" }
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is, as a phrase.
        found: &'static str,
        /// Whether that describes the unpacked content.
        is_inside: bool,
        /// How to fix it.
        advice: &'static str,
    },
    /// Reading failed in the middle of the file: the disk or the compressed file is damaged.
    #[error("cannot read {} after line {line}; is the file complete?", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The number of lines read before.
        line: u64,
        /// Why.
        source: std::io::Error,
    },
}

/// The number of bytes from which the format is detected.
const START: usize = 512;
/// The size of the read buffer, in bytes.
const BUFFER: usize = 1 << 18;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Empty,
    Text,
    Gzip,
    Xz,
    Zstd,
    /// An unsupported format, as a phrase.
    Other(&'static str),
}

/// The magic numbers of formats that are not plain text.
const MARKS: [(&[u8], Format); 15] = [
    (b"\x1f\x8b", Format::Gzip),
    (b"\xfd7zXZ\0", Format::Xz),
    (b"\x28\xb5\x2f\xfd", Format::Zstd),
    (b"PK\x03\x04", Format::Other("a zip archive")),
    (b"PK\x05\x06", Format::Other("an empty zip archive")),
    (b"BZh", Format::Other("compressed by bzip2")),
    (b"7z\xbc\xaf\x27\x1c", Format::Other("a 7z archive")),
    (b"Rar!\x1a\x07", Format::Other("a rar archive")),
    (b"\x04\x22\x4d\x18", Format::Other("compressed by lz4")),
    (b"\x1f\x9d", Format::Other("compressed by compress")),
    (b"\xff\xfe", Format::Other("text in UTF-16")),
    (b"\xfe\xff", Format::Other("text in UTF-16")),
    (b"PAR1", Format::Other("a Parquet table")),
    (b"ARROW1", Format::Other("an Arrow table")),
    (b"%PDF-", Format::Other("a PDF")),
];

impl Format {
    fn of(start: &[u8]) -> Self {
        if start.is_empty() {
            return Self::Empty;
        }
        if let Some((_, format)) = MARKS.iter().find(|(mark, _)| start.starts_with(mark)) {
            return *format;
        }
        if start.get(257..262) == Some(b"ustar") {
            return Self::Other("a tar archive");
        }
        if start.contains(&0) { Self::Other("binary data") } else { Self::Text }
    }

    /// The format by a file's name.
    fn by_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("xz") => Self::Xz,
            Some("zst") => Self::Zstd,
            _ => Self::Text,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Text => "uncompressed text",
            Self::Gzip => "compressed by gzip",
            Self::Xz => "compressed by xz",
            Self::Zstd => "compressed by zstd",
            Self::Other(words) => words,
        }
    }

    /// How to fix a file whose name belongs to another format.
    fn advice(self) -> &'static str {
        match self {
            Self::Empty => "make it again",
            Self::Text => "remove the extension from its name",
            Self::Gzip => "rename it to end with .gz",
            Self::Xz => "rename it to end with .xz",
            Self::Zstd => "rename it to end with .zst",
            Self::Other("text in UTF-16") => "convert it with `iconv -f UTF-16 -t UTF-8`",
            Self::Other(_) => "unpack it to text, which may be compressed by gzip, xz or zstd",
        }
    }
}

/// Opens a file and decompresses it as its name says.
///
/// # Errors
/// The file cannot be read, or its content does not agree with its name.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, ReadError> {
    let failed = |source| ReadError::Open { path: path.to_owned(), source };
    let misnamed = |found: Format, is_inside: bool| ReadError::Format {
        path: path.to_owned(),
        is_inside,
        found: found.describe(),
        advice: found.advice(),
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let (found, reader) = peek(file).map_err(failed)?;
    let named = Format::by_name(path);
    let unpacked: Box<dyn Read + Send> = match (found, named) {
        (Format::Empty | Format::Text, Format::Text) => return Ok(Box::new(reader)),
        (Format::Gzip, Format::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        (Format::Xz, Format::Xz) => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(reader))
        }
        (Format::Zstd, Format::Zstd) => {
            Box::new(zstd::Decoder::with_buffer(reader).map_err(failed)?)
        }
        (found, _) => return Err(misnamed(found, false)),
    };
    let broken = |source| ReadError::Broken { path: path.to_owned(), line: 0, source };
    match peek(unpacked).map_err(broken)? {
        (Format::Empty | Format::Text, reader) => Ok(Box::new(reader)),
        (found, _) => Err(misnamed(found, true)),
    }
}

/// A reader of the bytes that were peeked at, and of those that follow.
type Whole<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

/// Detects the format of a reader, and returns it together with a reader of everything.
fn peek<R: Read + Send>(mut reader: R) -> io::Result<(Format, Whole<R>)> {
    let mut start = Vec::with_capacity(START);
    reader.by_ref().take(START as u64).read_to_end(&mut start)?;
    let format = Format::of(&start);
    let whole = io::Cursor::new(start).chain(reader);
    Ok((format, BufReader::with_capacity(BUFFER, whole)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn said(name: &str, bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        match open(&path) {
            Ok(mut reader) => {
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                format!("text: {text}")
            }
            Err(error) => {
                assert!(matches!(error, ReadError::Format { .. }), "{error}");
                error.to_string().replace(&format!("{}/", folder.path().display()), "")
            }
        }
    }

    #[test]
    fn a_file_is_what_its_name_says() {
        let plain = "ein Satz\ta sentence\n".repeat(40);
        assert_eq!(said("a.tsv", plain.as_bytes()), format!("text: {plain}"));
        assert_eq!(said("a.tsv.gz", &gzip(plain.as_bytes())), format!("text: {plain}"));
        assert_eq!(said("a.tsv", b""), "text: ");
        let xz = b"\xfd7zXZ\0\0\x04";
        for (name, bytes, words) in [
            ("a.gz", plain.as_bytes(), "a.gz is uncompressed text; remove the extension"),
            ("a.zst", b"", "a.zst is empty; make it again"),
            ("a.tsv", &gzip(b"a\tb\n"), "a.tsv is compressed by gzip; rename it to end with .gz"),
            ("a.gz", xz, "a.gz is compressed by xz; rename it to end with .xz"),
            ("a.tsv", b"PK\x03\x04\x0a\0", "a.tsv is a zip archive; unpack it to text"),
            ("a.tsv", b"BZh91AY", "a.tsv is compressed by bzip2; unpack it"),
            ("a.tsv", b"\xff\xfea\0\t\0", "a.tsv is text in UTF-16; convert it with `iconv"),
            ("a.tsv", b"a\tb\0", "a.tsv is binary data; unpack it"),
        ] {
            let found = said(name, bytes);
            assert!(found.starts_with(words), "{found}");
        }
    }

    #[test]
    fn what_is_inside_is_looked_at_too() {
        let mut tar = vec![0; 512];
        tar[..5].copy_from_slice(b"a.tsv");
        tar[257..262].copy_from_slice(b"ustar");
        let found = said("a.tar.gz", &gzip(&tar));
        assert!(found.starts_with("a.tar.gz is, unpacked, a tar archive; "), "{found}");
        let found = said("a.gz", &gzip(&gzip(b"a\tb\n")));
        assert!(found.starts_with("a.gz is, unpacked, compressed by gzip; "), "{found}");
    }
}
