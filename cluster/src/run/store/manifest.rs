//! What a checkpoint's folder must hold: sizes and hashes of its files, and of the manifest itself.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tandem_config::schema::run::names;

use crate::run::io_error::{IoContext, IoError};

/// The manifest's own file.
pub const MANIFEST: &str = names::MANIFEST;

/// Changed when a reader of the old form could misread the new one.
const FORMAT: u32 = 1;

/// What a checkpoint's folder must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// The optimizer step.
    pub step: u64,
    /// The attempt that wrote it.
    #[serde(rename = "generation")]
    pub attempt: u64,
    /// The steps that it is the average of; none for a checkpoint of training.
    pub average_of: Vec<u64>,
    /// Its files, by name.
    pub files: BTreeMap<String, FileRecord>,
    /// The frozen BERTs on which the adapters stand.
    pub bases: Vec<Base>,
}

/// What one file must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal digits.
    pub sha256: String,
}

/// A frozen BERT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// `encoder` or `decoder`.
    pub side: String,
    /// SHA-256 of its model.safetensors, in hexadecimal digits.
    pub sha256: String,
}

/// The file's form: the manifest's own hash guards it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    sha256: String,
}

impl Manifest {
    pub(super) fn new(step: u64, attempt: u64, bases: Vec<Base>) -> Self {
        let (average_of, files) = (Vec::new(), BTreeMap::new());
        Self { format: FORMAT, step, attempt, average_of, files, bases }
    }

    pub(super) fn to_text(&self) -> serde_json::Result<String> {
        let sha256 = hex::encode(Sha256::digest(serde_json::to_vec(self)?));
        let sealed = Sealed { manifest: self.clone(), sha256 };
        Ok(serde_json::to_string_pretty(&sealed)? + "\n")
    }

    /// Accepts only the very bytes that [`Self::to_text`] writes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let manifest = sealed.manifest;
        if manifest.format != FORMAT {
            let found = manifest.format;
            return Err(format!("its format is {found}, and this program reads {FORMAT}"));
        }
        match manifest.to_text() {
            Ok(text) if text.as_bytes() == bytes => Ok(manifest),
            _ => Err("its hash does not fit its content".into()),
        }
    }
}

impl FileRecord {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let (size, sha256) = hash_file(path)?;
        Ok(Self { size, sha256 })
    }
}

/// A file's size and SHA-256.
///
/// # Errors
/// Where it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hex::encode(hasher.finalize()))),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The SHA-256 of the weights of pre-trained models, by their sides.
///
/// # Errors
/// Weights that cannot be read.
pub fn hash_weights<'a>(
    folders: impl Iterator<Item = (&'static str, &'a Path)>,
) -> Result<Vec<(String, String)>, IoError> {
    let mut hashes = Vec::new();
    for (side, folder) in folders {
        let path = folder.join("model.safetensors");
        let (_, sha256) = hash_file(&path).tried("read", &path)?;
        hashes.push((side.to_owned(), sha256));
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_bit_of_a_manifest_counts() {
        let bases = vec![Base { side: "encoder".into(), sha256: "a0".into() }];
        let mut manifest = Manifest::new(12, 3, bases);
        let record = FileRecord { size: 5, sha256: "0b".into() };
        manifest.files.insert("adapters.safetensors".into(), record);
        let good = manifest.to_text().unwrap().into_bytes();
        assert_eq!(Manifest::from_bytes(&good), Ok(manifest));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::from_bytes(&bad).is_err(), "bit {bit} does not count");
        }
        for length in 0..good.len() {
            assert!(Manifest::from_bytes(&good[..length]).is_err(), "{length} bytes are enough");
        }
    }

    #[test]
    fn a_manifest_of_an_older_version_is_read() {
        let manifest =
            r#"{"format":1,"step":2,"generation":3,"average_of":[],"files":{},"bases":[]}"#;
        let sha256 = hex::encode(Sha256::digest(manifest));
        let sealed = format!(r#"{{"manifest":{manifest},"sha256":"{sha256}"}}"#);
        let sealed: Sealed = serde_json::from_str(&sealed).unwrap();
        let text = serde_json::to_string_pretty(&sealed).unwrap() + "\n";
        assert_eq!(Manifest::from_bytes(text.as_bytes()).unwrap().attempt, 3);
        assert!(text.contains("generation"), "{text}");
    }

    #[test]
    fn another_format_is_named() {
        let manifest = Manifest { format: 2, ..Manifest::new(1, 1, Vec::new()) };
        let error = Manifest::from_bytes(manifest.to_text().unwrap().as_bytes()).unwrap_err();
        assert_eq!(error, "its format is 2, and this program reads 1");
    }

    #[test]
    fn the_hash_is_sha256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let (size, sha256) = hash_file(file.path()).unwrap();
        assert_eq!(size, 3);
        // FIPS 180-2, example B.1
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
