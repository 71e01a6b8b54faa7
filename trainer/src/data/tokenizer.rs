//! One side's tokenizer: converts text to ids like the pre-trained model's own tokenizer, and ids to text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tandem_config::pretrained::family::{Family, SpecialTokens};
use tandem_config::pretrained::folder::FolderError;
use tandem_config::pretrained::tokenizer::{Casing, TokenizerFiles, entries};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper,
};

use super::detokenize::detokenize;

/// GPT-2's only special token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not a valid tokenizer.
    #[error("{} is not a usable tokenizer: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file next to it requires something that is not supported.
    #[error(transparent)]
    Files(#[from] FolderError),
    /// A special token is missing.
    #[error(
        "{} has no entry {token}; a BERT vocabulary has [PAD], [UNK], [CLS], [SEP] and [MASK], a \
         RoBERTa's <pad>, <unk>, <s>, </s> and <mask>, a GPT-2's {END_OF_TEXT}",
        path.display()
    )]
    MissingSpecial {
        /// The file.
        path: PathBuf,
        /// The token.
        token: &'static str,
    },
    /// A text cannot be tokenised.
    #[error("cannot tokenise `{text}`: {reason}")]
    Encode {
        /// The beginning of the text.
        text: String,
        /// Why.
        reason: String,
    },
}

/// The ids of a vocabulary's special tokens. They differ between vocabularies: the first
/// bert-base-german-cased has `[PAD]` at 1. RoBERTa has other names, GPT-2 has one token for all purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// Pads short rows.
    pub pad: u32,
    /// Replaces words that the vocabulary cannot spell.
    pub unk: u32,
    /// Begins a passage in BERT's pre-training, and the input of an autoregressive decoder; never added to
    /// sentences of a pair.
    pub cls: u32,
    /// Ends every sentence.
    pub sep: u32,
    /// Replaces a token that is to be predicted.
    pub mask: u32,
}

/// How ids spell a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// WordPiece: pieces that continue a word begin with `##` (BERT).
    WordPiece,
    /// The tokenizer's own decoder, including spaces (GPT-2, RoBERTa, XLM-R).
    Decoded,
}

/// One side's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    /// The token of each id; unused ids are empty.
    tokens: Vec<String>,
    spelling: Spelling,
    fingerprint: [u8; 32],
    /// Whether words between spaces can be tokenised one by one.
    splits_at_spaces: bool,
}

impl Tokenizer {
    /// Opens a tokenizer.json or a vocab.txt.
    ///
    /// The tokenizer_config.json in the same folder says whether text is lower-cased (`do_lower_case`) and
    /// stripped of accents (`strip_accents`), and whether bytes begin with a space (`add_prefix_space`),
    /// whatever the tokenizer.json says, as in transformers.
    /// Without one, transformers lower-cases; here a tokenizer.json decides, and with a vocab.txt text is
    /// lower-cased unless the vocabulary has entries with upper-case letters, which would then be unreachable.
    ///
    /// # Errors
    /// An unreadable or broken file, or a missing special token.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        let files = TokenizerFiles::open(path)?;
        let bytes = read(path)?;
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::from_json(path, &bytes, &files);
        }
        Self::from_entries(path, bytes, files.casing)
    }

    /// Opens a vocab.txt, for text that is lower-cased and stripped of accents first, or not.
    ///
    /// # Errors
    /// An unreadable or broken file, or a missing special token.
    pub fn from_vocabulary(path: &Path, lowercase: bool) -> Result<Self, TokenizerError> {
        let casing = Casing { lowercase, strip_accents: None, chinese: true };
        Self::from_entries(path, read(path)?, Some(casing))
    }

    fn from_json(
        path: &Path,
        bytes: &[u8],
        files: &TokenizerFiles,
    ) -> Result<Self, TokenizerError> {
        let broken = |reason: String| TokenizerError::Broken { path: path.to_owned(), reason };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| broken(error.to_string()))?;
        let mut fingerprint = Sha256::new_with_prefix(bytes);
        if let Some(casing) = files.casing
            && let Some(NormalizerWrapper::BertNormalizer(own)) = inner.get_normalizer()
        {
            let own_casing = Casing {
                lowercase: own.lowercase,
                strip_accents: own.strip_accents,
                chinese: own.handle_chinese_chars,
            };
            let mut decided = normalizer(casing);
            decided.clean_text = own.clean_text;
            if own_casing != casing {
                fingerprint.update(format!("{casing:?}\n"));
                inner.with_normalizer(Some(decided)).map_err(|error| broken(error.to_string()))?;
            }
        }
        if let Some(prefix) = files.prefix_space
            && let Some(PreTokenizerWrapper::ByteLevel(own)) = inner.get_pre_tokenizer()
            && own.add_prefix_space != prefix
        {
            fingerprint.update(format!("prefix space: {prefix}\n"));
            let decided = own.add_prefix_space(prefix);
            inner.with_pre_tokenizer(Some(decided));
        }
        Self::new(path, inner, fingerprint.finalize().into())
    }

    fn from_entries(
        path: &Path,
        bytes: Vec<u8>,
        casing: Option<Casing>,
    ) -> Result<Self, TokenizerError> {
        let broken = |reason: String| TokenizerError::Broken { path: path.to_owned(), reason };
        let text = String::from_utf8(bytes).map_err(|_| broken("it is not UTF-8".into()))?;
        let text = entries(&text);
        let casing = casing.unwrap_or_else(|| Casing::reaching(text));
        let fingerprint = Sha256::new()
            .chain_update(format!("{casing:?}\n"))
            .chain_update(text)
            .finalize()
            .into();
        Self::new(path, bert_tokenizer(text, casing).map_err(broken)?, fingerprint)
    }

    fn new(
        path: &Path,
        mut inner: tokenizers::Tokenizer,
        fingerprint: [u8; 32],
    ) -> Result<Self, TokenizerError> {
        // A tokenizer.json may truncate and pad, and would read `[MASK]` in the text as the special token. Lengths
        // are handled elsewhere, and text never has special tokens.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TokenizerError::Broken {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        inner.set_encode_special_tokens(true);
        let id = |token: &'static str| {
            inner
                .token_to_id(token)
                .ok_or_else(|| TokenizerError::MissingSpecial { path: path.to_owned(), token })
        };
        let tokens = SpecialTokens::of(|token| inner.token_to_id(token).is_some());
        let special = match (tokens, inner.token_to_id(END_OF_TEXT)) {
            (None, Some(end)) => SpecialIds { pad: end, unk: end, cls: end, sep: end, mask: end },
            (tokens, _) => {
                let SpecialTokens { pad, unk, cls, sep, mask } =
                    tokens.unwrap_or(Family::bert().special);
                SpecialIds {
                    pad: id(pad)?,
                    unk: id(unk)?,
                    cls: id(cls)?,
                    sep: id(sep)?,
                    mask: id(mask)?,
                }
            }
        };
        let spelling = match inner.get_model() {
            ModelWrapper::WordPiece(_) => Spelling::WordPiece,
            _ => Spelling::Decoded,
        };
        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&last| last as usize + 1);
        let mut tokens = vec![String::new(); size];
        for (token, id) in vocabulary {
            tokens[id as usize] = token;
        }
        let splits_at_spaces = splits_at_spaces(&inner);
        Ok(Self { inner, special, tokens, spelling, fingerprint, splits_at_spaces })
    }

    /// The ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// One more than the largest id: the least number of rows of word embeddings.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// SHA-256 of everything that the ids of a text depend on.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The ids of a text, without special tokens. Empty for a text without words. Surrounding spaces are ignored.
    ///
    /// # Errors
    /// A tokenizer whose rules fail on this text; those of BERT do not fail.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let text = match self.spelling {
            Spelling::WordPiece => text,
            Spelling::Decoded => text.trim(),
        };
        let encoding = self.inner.encode_fast(text, false).map_err(|error| {
            let text = text.chars().take(60).collect();
            TokenizerError::Encode { text, reason: error.to_string() }
        })?;
        let SpecialIds { pad, unk, cls, sep, mask } = self.special;
        // A unigram model has the special tokens as pieces, but text never has special tokens.
        let special =
            |id: &u32| self.spelling == Spelling::Decoded && [pad, cls, sep, mask].contains(id);
        Ok(encoding.get_ids().iter().map(|id| if special(id) { unk } else { *id }).collect())
    }

    /// An encoder for many texts, which caches the ids of words.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: self, known: HashMap::new() }
    }

    /// The readable text of ids.
    pub fn text(&self, ids: &[u32]) -> String {
        match self.spelling {
            Spelling::WordPiece => detokenize(&self.words(ids)),
            Spelling::Decoded => self.decoded(ids),
        }
    }

    /// The words of ids: word pieces merged, separated by spaces, up to the first `[SEP]` or `[CLS]`.
    ///
    /// The paper's BLEU compares these. `[PAD]` and `[MASK]` are left out; `[UNK]` and pieces without a
    /// beginning stay visible. Text of other tokenizers is split into the words that BERT would.
    pub fn words(&self, ids: &[u32]) -> String {
        match self.spelling {
            Spelling::WordPiece => self.merged(ids),
            Spelling::Decoded => split(&self.decoded(ids)),
        }
    }

    /// The text that ids spell, up to the first `[SEP]` or `[CLS]` and without `[PAD]` and `[MASK]`; bytes that
    /// are not UTF-8 become U+FFFD.
    fn decoded(&self, ids: &[u32]) -> String {
        let SpecialIds { pad, cls, sep, mask, .. } = self.special;
        let ended = ids.iter().copied().take_while(|id| ![cls, sep].contains(id));
        let ids: Vec<u32> = ended.filter(|id| ![pad, mask].contains(id)).collect();
        // The ids are from this vocabulary, and the decoder accepts all of them.
        self.inner.decode(&ids, false).unwrap_or_default().trim().to_owned()
    }

    fn merged(&self, ids: &[u32]) -> String {
        let special = self.special;
        let mut words = String::new();
        for &id in ids.iter().take_while(|&&id| id != special.sep && id != special.cls) {
            if id == special.pad || id == special.mask {
                continue;
            }
            let token = self.tokens.get(id as usize).map_or("", String::as_str);
            match token.strip_prefix("##") {
                Some(rest) if !words.is_empty() => words.push_str(rest),
                _ => {
                    if !words.is_empty() {
                        words.push(' ');
                    }
                    words.push_str(token);
                }
            }
        }
        words
    }

    /// The words of a text as spelt by its ids: the reference of the paper's BLEU.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn respell(&self, text: &str) -> Result<String, TokenizerError> {
        Ok(self.words(&self.encode(text)?))
    }
}

/// A text's words and punctuation marks, separated by spaces, as BERT's tokenizer splits them.
fn split(text: &str) -> String {
    let mut split = PreTokenizedString::from(text);
    if BertPreTokenizer.pre_tokenize(&mut split).is_err() {
        return text.to_owned();
    }
    let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    words.into_iter().map(|(word, ..)| word).collect::<Vec<_>>().join(" ")
}

/// Encodes many texts and caches the ids of words, which is several times as fast.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    known: HashMap<String, Vec<u32>>,
}

impl Encoder<'_> {
    /// As [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if !self.tokenizer.splits_at_spaces {
            return self.tokenizer.encode(text);
        }
        let mut ids = Vec::new();
        for word in text.split(is_space).filter(|word| !word.is_empty()) {
            match self.known.get(word) {
                Some(known) => ids.extend_from_slice(known),
                None => {
                    let new = self.tokenizer.encode(word)?;
                    ids.extend_from_slice(&new);
                    self.known.insert(word.to_owned(), new);
                }
            }
        }
        Ok(ids)
    }
}

/// Whether BERT's clean-up treats a character as a space. It removes three others that are whitespace in
/// Unicode, because they are also control characters.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() && !matches!(character, '\u{b}' | '\u{c}' | '\u{85}')
}

fn splits_at_spaces(tokenizer: &tokenizers::Tokenizer) -> bool {
    matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
        && matches!(
            tokenizer.get_normalizer(),
            Some(NormalizerWrapper::BertNormalizer(normalizer)) if normalizer.clean_text
        )
        && tokenizer.get_added_tokens_decoder().values().all(|token| token.special)
}

/// BERT's own text clean-up.
pub(super) fn normalizer(casing: Casing) -> BertNormalizer {
    BertNormalizer::new(true, casing.chinese, casing.strip_accents, casing.lowercase)
}

/// BERT's tokenizer for a vocabulary with one entry a line, in the order of ids.
pub(super) fn bert_tokenizer(
    vocabulary: &str,
    casing: Casing,
) -> Result<tokenizers::Tokenizer, String> {
    let model = WordPiece::read_bytes(vocabulary.as_bytes())
        .and_then(|entries| WordPiece::builder().vocab(entries).build())
        .map_err(|error| error.to_string())?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_normalizer(Some(normalizer(casing))).map_err(|error| error.to_string())?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(inner)
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: &str =
        "[unused0]\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nder\nhund\n##e\n.\n[\n]\nmask\n##d\n";

    fn open(vocabulary: &str, config: Option<&str>) -> Result<Tokenizer, TokenizerError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(&path, vocabulary).unwrap();
        if let Some(config) = config {
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        }
        Tokenizer::open(&path)
    }

    #[test]
    fn words_become_pieces_and_words_again() {
        let tokenizer = open(VOCABULARY, None).unwrap();
        assert_eq!(tokenizer.encode("Der  Hündex. xyz").unwrap(), [6, 2, 9, 2]);
        let ids = tokenizer.encode("Der Hünde.").unwrap();
        assert_eq!(ids, [6, 7, 8, 9]);
        assert_eq!(tokenizer.words(&ids), "der hunde .");
        assert_eq!(tokenizer.respell("Der xyz").unwrap(), "der [UNK]");
        assert_eq!(tokenizer.size(), 14);
    }

    #[test]
    fn special_ids_are_found_by_name() {
        let special = open(VOCABULARY, None).unwrap().special();
        assert_eq!(special, SpecialIds { pad: 1, unk: 2, cls: 3, sep: 4, mask: 5 });
        let message = open("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", None).err().unwrap().to_string();
        assert!(message.contains("has no entry [MASK]"), "{message}");
    }

    #[test]
    fn special_tokens_in_the_text_are_only_text() {
        let tokenizer = open(VOCABULARY, None).unwrap();
        assert_eq!(tokenizer.encode("[MASK]").unwrap(), [10, 12, 11]);
        assert!(tokenizer.encode("").unwrap().is_empty());
        assert!(tokenizer.encode(" \u{200b}\u{0} ").unwrap().is_empty());
    }

    #[test]
    fn words_stop_at_the_first_end_and_skip_padding_and_masks() {
        let tokenizer = open(VOCABULARY, None).unwrap();
        assert_eq!(tokenizer.words(&[6, 5, 1, 7, 4, 9]), "der hund");
        assert_eq!(tokenizer.words(&[6, 3, 7]), "der");
        assert_eq!(tokenizer.words(&[8, 7, 8, 99]), "##e hunde ");
        assert_eq!(tokenizer.words(&[]), "");
    }

    fn golden(name: &str) -> (PathBuf, serde_json::Value) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
        let cases = std::fs::read(folder.join("golden.json")).unwrap();
        (folder, serde_json::from_slice(&cases).unwrap())
    }

    /// Checks that texts have the same ids as with transformers' tokenizer, and that ids decode to the same text.
    fn check_cases(tokenizer: &Tokenizer, cases: &serde_json::Value) {
        let cases = cases.as_array().unwrap();
        assert!(cases.len() > 6);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.encoder().encode(text).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.text(&ids), case["decoded"].as_str().unwrap(), "{text:?}");
        }
    }

    /// tests/golden/roberta/make.py made the folders, and what transformers' tokenizers say.
    #[test]
    fn roberta_and_xlm_r_agree_with_transformers() {
        let (folder, cases) = golden("roberta");
        for side in ["source", "target"] {
            let tokenizer = Tokenizer::open(&folder.join(side).join("tokenizer.json")).unwrap();
            check_cases(&tokenizer, &cases[side]);
            let special = SpecialIds { cls: 0, pad: 1, sep: 2, unk: 3, mask: 4 };
            assert_eq!(tokenizer.special(), special);
            let ids = tokenizer.encode("one two").unwrap();
            let row = [&ids[..], &[special.mask, special.pad, special.sep], &ids[..]].concat();
            assert_eq!(tokenizer.text(&row), tokenizer.text(&ids));
        }
    }

    #[test]
    fn a_space_is_put_before_bytes_where_transformers_puts_one() {
        let (golden, cases) = golden("roberta");
        let cases = cases["prefix_space"].as_array().unwrap();
        assert_eq!(cases.len(), 14);
        let mut fingerprints = std::collections::BTreeSet::new();
        for case in cases {
            let folder = tempfile::tempdir().unwrap();
            let json = std::fs::read(golden.join("target/tokenizer.json")).unwrap();
            let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            json["pre_tokenizer"]["add_prefix_space"] = case["json"].clone();
            let path = folder.path().join("tokenizer.json");
            std::fs::write(&path, json.to_string()).unwrap();
            if !case["config"].is_null() {
                let config = folder.path().join("tokenizer_config.json");
                std::fs::write(config, case["config"].to_string()).unwrap();
            }
            let tokenizer = Tokenizer::open(&path).unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode("one two").unwrap(), ids, "{case}");
            fingerprints.insert((tokenizer.fingerprint(), ids));
        }
        assert!(fingerprints.len() > 2, "what decides about the ids decides about the fingerprint");
    }

    /// tests/golden/gpt2/make.py made the folder, and what transformers' tokenizer says.
    #[test]
    fn gpt2s_bytes_agree_with_transformers() {
        let (folder, cases) = golden("gpt2");
        let tokenizer = Tokenizer::open(&folder.join("folder/tokenizer.json")).unwrap();
        check_cases(&tokenizer, &cases);
        let ids = tokenizer.encode("Don't stop, now!").unwrap();
        assert_eq!(tokenizer.words(&ids), "Don ' t stop , now !");
        let ended = [&ids[..], &[tokenizer.special().sep], &ids[..]].concat();
        assert_eq!(tokenizer.text(&ended), "Don't stop, now!");
    }

    #[test]
    fn casing_comes_from_the_config_or_the_vocabulary() {
        let upper = VOCABULARY.replace("der", "Der");
        assert_eq!(open(&upper, None).unwrap().encode("Der der").unwrap(), [6, 2]);
        let lower = r#"{"do_lower_case": true}"#;
        assert_eq!(open(&upper, Some(lower)).unwrap().encode("Der").unwrap(), [2]);
        let cased = r#"{"do_lower_case": false}"#;
        assert_eq!(open(VOCABULARY, Some(cased)).unwrap().encode("Der der").unwrap(), [2, 6]);
        let accents = r#"{"do_lower_case": true, "strip_accents": false}"#;
        assert_eq!(open(VOCABULARY, Some(accents)).unwrap().encode("dér").unwrap(), [2]);
        assert_eq!(open(VOCABULARY, Some(lower)).unwrap().encode("dér").unwrap(), [6]);
        let message = open(VOCABULARY, Some("{")).err().unwrap().to_string();
        assert!(message.contains("tokenizer_config.json"), "{message}");
    }

    /// tests/golden/tokenizer/make.py asked transformers.
    #[test]
    fn folders_agree_with_transformers_or_are_refused() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tokenizer/golden.json");
        let golden = std::fs::read_to_string(path).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
        let text = golden["text"].as_str().unwrap();
        let mut refused = 0;
        for case in golden["cases"].as_array().unwrap() {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in case["files"].as_object().unwrap() {
                let bytes = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            let json = folder.path().join("tokenizer.json");
            let path = if json.is_file() { json } else { folder.path().join("vocab.txt") };
            let (beside, expected) = (&case["files"]["tokenizer_config.json"], &case["tokens"]);
            match Tokenizer::open(&path) {
                Ok(tokenizer) => {
                    let ids = tokenizer.encode(text).unwrap();
                    let tokens = ids.iter().map(|&id| tokenizer.tokens[id as usize].as_str());
                    let tokens: Vec<&str> = tokens.collect();
                    assert_eq!(serde_json::json!(tokens), *expected, "{beside} {}", path.display());
                    assert_eq!(tokenizer.encoder().encode(text).unwrap(), ids);
                }
                Err(TokenizerError::Files(error)) => {
                    refused += 1;
                    let error = error.to_string();
                    let adds = error.contains("it adds the token `covid.` with the id 21");
                    assert!(adds || expected.is_null(), "{beside}: {error}");
                }
                Err(error) => panic!("{beside}: {error}"),
            }
        }
        assert_eq!(refused, 8, "each added token outside a tokenizer.json, and a missing one");
    }

    #[test]
    fn another_kind_of_tokenizer_is_refused_by_name() {
        let refused = |config: &str| open(VOCABULARY, Some(config)).err().unwrap().to_string();
        let said = refused(r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#);
        assert!(said.contains("tokenizer_class is `BertJapaneseTokenizer`, only Bert"), "{said}");
        let said = refused(r#"{"unk_token": "<unk>"}"#);
        assert!(said.contains("unk_token is `<unk>`, only [UNK] is supported"), "{said}");
        let mask = r#"{"mask_token": {"content": "[MASK]", "lstrip": true}, "pad_token": null}"#;
        assert!(open(VOCABULARY, Some(mask)).is_ok());
    }

    #[test]
    fn blank_lines_at_the_end_are_ignored() {
        let blank = open(&format!("{VOCABULARY}\n \r\n"), None).unwrap();
        let plain = open(VOCABULARY, None).unwrap();
        assert_eq!((blank.size(), blank.fingerprint()), (plain.size(), plain.fingerprint()));
    }

    #[test]
    fn fingerprints_depend_on_vocabulary_and_casing() {
        let cased = r#"{"do_lower_case": false}"#;
        let fingerprint =
            |vocabulary: &str, config| open(vocabulary, config).unwrap().fingerprint();
        assert_eq!(fingerprint(VOCABULARY, None), fingerprint(VOCABULARY, None));
        assert_ne!(fingerprint(VOCABULARY, None), fingerprint(VOCABULARY, Some(cased)));
        assert_ne!(fingerprint(VOCABULARY, None), fingerprint(&format!("{VOCABULARY}x\n"), None));
    }

    #[test]
    fn caching_words_changes_no_ids() {
        let marks = "der hund hünde Der . [ ] [MASK] e\u{301} \u{301} \u{b} \u{c} \u{85} \u{a0} \u{2028} \u{200b} \t \r \u{3000} 字 ß İ ## \u{fffd} \u{1f}";
        let marks: Vec<&str> = marks.split(' ').chain([" ", " ", ""]).collect();
        let tokenizer = open(VOCABULARY, None).unwrap();
        assert!(tokenizer.splits_at_spaces);
        let mut encoder = tokenizer.encoder();
        for seed in 0..3000 {
            let mut rng = crate::random::stream(seed, crate::random::Purpose::Order, &[]);
            let text: String =
                (0..rng.below(10)).map(|_| marks[rng.below(marks.len() as u64) as usize]).collect();
            assert_eq!(
                encoder.encode(&text).unwrap(),
                tokenizer.encode(&text).unwrap(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_json_tokenizer_neither_truncates_nor_pads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let casing = Casing { lowercase: true, strip_accents: None, chinese: true };
        let mut inner = bert_tokenizer(VOCABULARY, casing).unwrap();
        inner
            .with_truncation(Some(tokenizers::TruncationParams {
                max_length: 2,
                ..Default::default()
            }))
            .unwrap();
        inner.with_padding(Some(tokenizers::PaddingParams {
            strategy: tokenizers::PaddingStrategy::Fixed(9),
            ..Default::default()
        }));
        inner.save(&path, false).unwrap();
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.encode("der hunde. der").unwrap(), [6, 7, 8, 9, 6]);
        assert_eq!(tokenizer.encoder().encode("der hunde. der").unwrap(), [6, 7, 8, 9, 6]);
        std::fs::write(&path, "{}").unwrap();
        let message = Tokenizer::open(&path).err().unwrap().to_string();
        assert!(message.contains("tokenizer.json is not a usable tokenizer"), "{message}");
    }
}
