//! What a group of workers translates: a file that the coordinator writes and every rank reads.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tandem_config::schema::data::Text;
use tandem_config::schema::decoding::Decoding;

use crate::run::atomic;
use crate::run::chunks::Chunks;
use crate::run::store::hash_file;

const CHUNKS: &str = "chunks";
const CACHE: &str = "cache";
const CHOSEN: &str = "chosen.txt";

/// What a group of workers translates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The folder of the run whose model translates.
    pub model: PathBuf,
    /// The config that it is used with, where that is not the run's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Its verified checkpoint.
    pub checkpoint: PathBuf,
    /// How translations are found.
    pub decoding: Decoding,
    /// What is translated.
    pub input: Input,
    /// What is done with sentences that are too long for the model.
    pub too_long: TooLong,
    /// Sentences in a chunk, at least; a chunk ends with a batch.
    pub chunk: usize,
    /// The hash of all that decides what the translations are.
    pub key: String,
}

/// What is translated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The lines of a file.
    Lines(PathBuf),
    /// The sources of pairs, whose targets are the references.
    Sources(Text),
    /// An even choice of the lines of a file.
    Choice {
        /// The file.
        path: PathBuf,
        /// So many lines for each good pair of `of`.
        ratio: f64,
        /// The pairs.
        of: Text,
    },
}

/// What is done with a sentence that is too long for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Its beginning is translated.
    Cut,
    /// It has an empty translation.
    Skip,
}

impl Input {
    /// The SHA-256 of its text.
    ///
    /// # Errors
    /// A text that cannot be read.
    pub fn hash(&self) -> io::Result<String> {
        let mut key = Sha256::new();
        self.update(&mut key)?;
        Ok(hex::encode(key.finalize()))
    }

    fn update(&self, key: &mut Sha256) -> io::Result<()> {
        let files: Vec<&Path> = match self {
            Self::Lines(path) => vec![path],
            Self::Sources(text) => text.files(),
            Self::Choice { path, of, .. } => [vec![&**path], of.files()].concat(),
        };
        for file in files {
            key.update(hash_file(file)?.1);
        }
        Ok(())
    }
}

impl Task {
    /// Writes the task into the folder in which it is done.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(self)?;
        atomic::replace(&path(folder), |file| file.write_all(text.as_bytes()))
    }

    /// The task of a folder.
    ///
    /// # Errors
    /// It is not there, or is not what [`Task::write`] writes.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path(folder))?)?)
    }

    /// The task's key: the SHA-256 of itself, of its text, and of what it does not say about the
    /// model.
    ///
    /// # Errors
    /// A text that cannot be read.
    pub fn hash(&self, model: &serde_json::Value) -> io::Result<String> {
        let mut key = Sha256::new();
        key.update(serde_json::to_vec(self)?);
        key.update(serde_json::to_vec(model)?);
        self.input.update(&mut key)?;
        Ok(hex::encode(key.finalize()))
    }

    /// Where the translations of the task in `folder` lie.
    pub fn chunks(&self, folder: &Path) -> Chunks {
        Chunks::new(folder.join(CHUNKS), self.key.clone())
    }

    /// Where they lie in `cache` for other runs.
    pub fn kept(&self, cache: &Path) -> Chunks {
        Chunks::new(cache.join(format!("{}.translations", self.key)), self.key.clone())
    }
}

/// The tokenised sentences of the task in `folder`.
pub fn cache(folder: &Path) -> PathBuf {
    folder.join(CACHE)
}

/// The chosen lines of an [`Input::Choice`].
pub fn chosen(folder: &Path) -> PathBuf {
    folder.join(CHOSEN)
}

/// What is not needed any more when the task in `folder` is done.
pub fn scaffold(folder: &Path) -> [PathBuf; 3] {
    [CHUNKS, CACHE, CHOSEN].map(|name| folder.join(name))
}

fn path(folder: &Path) -> PathBuf {
    folder.join("task.json")
}
