//! What a vocabulary's file and the files beside it say of how text becomes ids, as far as it can be
//! known without a tokenizer. Where they disagree, transformers decides what counts.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use crate::pretrained::error::FolderError;
use crate::pretrained::family::{Family, SpecialTokens};

/// The files beside a vocabulary that transformers obeys.
pub const BESIDE: [&str; 3] =
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

/// Classes that do what their tokenizer.json says, and nothing else.
const BY_JSON: [&str; 2] = ["PreTrainedTokenizer", "TokenizersBackend"];
/// The class of GPT-2's, whose text is tokenised here, too.
const GPT2: &str = "GPT2Tokenizer";

/// What happens to letters before the vocabulary is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Casing {
    /// Whether letters become small.
    pub lowercase: bool,
    /// By default as `lowercase`.
    pub strip_accents: Option<bool>,
    /// Whether Chinese characters are words of their own.
    pub chinese: bool,
}

impl Casing {
    /// The one that reaches all entries of a vocabulary.
    pub fn reaching(entries: &str) -> Self {
        let special = |entry: &str| entry.starts_with('[') && entry.ends_with(']');
        let cased = entries
            .lines()
            .any(|entry| !special(entry.trim_end()) && entry.contains(char::is_uppercase));
        Self { lowercase: !cased, strip_accents: None, chinese: true }
    }
}

/// The lines of a vocab.txt that are entries: a text may end with blank lines.
pub fn entries(text: &str) -> &str {
    let last = text.trim_end().len();
    let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline + 1);
    &text[..end]
}

/// A vocab.txt or tokenizer.json with the files beside it.
#[derive(Debug)]
pub struct TokenizerFiles {
    /// What the files beside it decide; none where they leave it to the tokenizer.json, or where there
    /// are none.
    pub casing: Option<Casing>,
    /// Whether a tokenizer.json of bytes puts a space before a text; none where it decides itself.
    pub prefix_space: Option<bool>,
    /// One more than the largest id.
    pub size: usize,
}

impl TokenizerFiles {
    /// Reads a vocab.txt or a tokenizer.json, and what lies beside it.
    ///
    /// # Errors
    /// Unreadable files, a tokenizer of another kind, or tokens that only transformers would find.
    pub fn open(vocabulary: &Path) -> Result<Self, FolderError> {
        let config = object(&vocabulary.with_file_name(BESIDE[0]))?;
        let specials = object(&vocabulary.with_file_name(BESIDE[1]))?;
        let added = object(&vocabulary.with_file_name(BESIDE[2]))?;
        let class = class(vocabulary, config.as_ref())?;
        let by_json = class.as_deref().is_some_and(|class| BY_JSON.contains(&class));
        let casing = config.as_ref().filter(|_| !by_json).map(casing);
        let prefix_space =
            config.as_ref().and_then(|config| config.get("add_prefix_space")?.as_bool());
        let prefix_space = (!by_json).then(|| prefix_space.unwrap_or(false));

        let vocabulary = Vocabulary::read(vocabulary)?;
        let (config, specials) = (config.unwrap_or_default(), specials.unwrap_or_default());
        for (file, map) in [(BESIDE[0], &config), (BESIDE[1], &specials)] {
            vocabulary.check_special(file, map)?;
        }
        for (file, token, id) in additions(&config, &specials, &added.unwrap_or_default()) {
            vocabulary.check_added(file, token, id)?;
        }
        let size = vocabulary.ids.values().max().map_or(0, |&last| last as usize + 1);
        Ok(Self { casing, prefix_space, size })
    }
}

/// The class of a tokenizer without the `Fast` at its end: from tokenizer_config.json, or else from
/// config.json, as transformers looks for it.
fn class(
    vocabulary: &Path,
    config: Option<&Map<String, Value>>,
) -> Result<Option<String>, FolderError> {
    let in_model = vocabulary.with_file_name("config.json");
    let named = |map: &Map<String, Value>| map.get("tokenizer_class")?.as_str().map(str::to_owned);
    let (path, class) = match config.and_then(named) {
        Some(class) => (vocabulary.with_file_name(BESIDE[0]), class),
        None => match object(&in_model)?.as_ref().and_then(named) {
            Some(class) => (in_model, class),
            None => return Ok(None),
        },
    };
    let bare = class.strip_suffix("Fast").unwrap_or(&class);
    let known = || Family::all().flat_map(|family| family.tokenizers).copied().chain([GPT2]);
    if known().any(|known| known == bare)
        || BY_JSON.contains(&bare) && vocabulary.ends_with("tokenizer.json")
    {
        return Ok(Some(bare.to_owned()));
    }
    let known = known().chain(BY_JSON).collect::<Vec<_>>().join(", ");
    let reason = match BY_JSON.contains(&bare) {
        true => format!("tokenizer_class `{class}` needs a tokenizer.json, which is not there"),
        false => format!("tokenizer_class is `{class}`, only {known} are supported"),
    };
    Err(FolderError::Tokenizer { path, reason })
}

fn casing(config: &Map<String, Value>) -> Casing {
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    Casing {
        lowercase: flag("do_lower_case").unwrap_or(true),
        strip_accents: flag("strip_accents"),
        chinese: flag("tokenize_chinese_chars").unwrap_or(true),
    }
}

/// The tokens that the files add to a vocabulary to be found in text, with the file and the id.
/// Special ones are left out: in a text they are only text.
fn additions<'a>(
    config: &'a Map<String, Value>,
    specials: &Map<String, Value>,
    added: &'a Map<String, Value>,
) -> Vec<(&'static str, &'a str, u64)> {
    let usual = Family::all().flat_map(|family| family.special.by_key());
    let mut special: HashSet<&str> = usual.map(|(_, token)| token).collect();
    for value in specials.values() {
        let one = std::slice::from_ref(value);
        special.extend(value.as_array().map_or(one, Vec::as_slice).iter().filter_map(content));
    }
    let in_added = added
        .iter()
        .filter(|(token, _)| !special.contains(token.as_str()))
        .filter_map(|(token, id)| Some((BESIDE[2], token.as_str(), id.as_u64()?)));
    let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
    let in_config = decoder.into_iter().flatten().filter_map(|(id, token)| {
        let is_special = token["special"].as_bool().unwrap_or(false);
        let token = content(token).filter(|token| !is_special && !special.contains(token))?;
        Some((BESIDE[0], token, id.parse().ok()?))
    });
    in_added.chain(in_config).collect()
}

/// A token, which may be written with its properties.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// The ids of a vocabulary.
struct Vocabulary<'a> {
    path: &'a Path,
    ids: HashMap<String, u64>,
    /// Tokens that a tokenizer.json finds in text before all others.
    added: HashSet<String>,
}

impl<'a> Vocabulary<'a> {
    fn read(path: &'a Path) -> Result<Self, FolderError> {
        if path.extension().is_none_or(|extension| extension != "json") {
            let bytes = std::fs::read(path)
                .map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
            let text = String::from_utf8(bytes).map_err(|_| FolderError::Tokenizer {
                path: path.to_owned(),
                reason: "it is not UTF-8".into(),
            })?;
            let numbered = entries(&text).lines().zip(0..);
            let ids = numbered.map(|(entry, id)| (entry.trim_end().to_owned(), id)).collect();
            return Ok(Self { path, ids, added: HashSet::new() });
        }
        let json = object(path)?.unwrap_or_default();
        let mut ids = HashMap::new();
        let entries = json.get("model").map(|model| &model["vocab"]);
        for (entry, id) in entries.and_then(Value::as_object).into_iter().flatten() {
            ids.extend(id.as_u64().map(|id| (entry.clone(), id)));
        }
        // A unigram model lists its pieces, each with its score.
        for (piece, id) in entries.and_then(Value::as_array).into_iter().flatten().zip(0..) {
            ids.extend(piece[0].as_str().map(|piece| (piece.to_owned(), id)));
        }
        let mut added = HashSet::new();
        for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let Some((entry, id)) = content(token).zip(token["id"].as_u64()) else { continue };
            ids.insert(entry.to_owned(), id);
            added.insert(entry.to_owned());
        }
        Ok(Self { path, ids, added })
    }

    /// Whether the special tokens have their usual names. A GPT-2 has none of them.
    fn check_special(&self, file: &str, map: &Map<String, Value>) -> Result<(), FolderError> {
        let tokens = SpecialTokens::of(|token| self.ids.contains_key(token));
        for (key, token) in tokens.into_iter().flat_map(SpecialTokens::by_key) {
            let named = map.get(key).and_then(content).unwrap_or(token);
            if named != token {
                let reason = format!("{key} is `{named}`, only {token} is supported");
                return Err(FolderError::Tokenizer {
                    path: self.path.with_file_name(file),
                    reason,
                });
            }
        }
        Ok(())
    }

    fn check_added(&self, file: &str, token: &str, id: u64) -> Result<(), FolderError> {
        if self.added.contains(token) && self.ids.get(token) == Some(&id) {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let reason = format!(
            "it adds the token `{token}` with the id {id}, which {} does not; write a \
             tokenizer.json that has it: python -c 'from transformers import AutoTokenizer as T; \
             T.from_pretrained(\"{1}\").save_pretrained(\"{1}\")'",
            self.path.display(),
            folder.display()
        );
        Err(FolderError::Tokenizer { path: self.path.with_file_name(file), reason })
    }
}

/// A JSON object; none where there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, FolderError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path)
        .map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| FolderError::Tokenizer {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
