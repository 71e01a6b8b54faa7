//! BERT itself (Devlin et al. 2019).

use super::{Family, SpecialTokens};

pub(super) static BERT: Family = Family {
    model_types: &["bert"],
    names: &[],
    vocabularies: &["tokenizer.json", "vocab.txt"],
    tokenizers: &["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"],
    special: SpecialTokens {
        pad: "[PAD]",
        unk: "[UNK]",
        cls: "[CLS]",
        sep: "[SEP]",
        mask: "[MASK]",
    },
    positions_from: None,
};
