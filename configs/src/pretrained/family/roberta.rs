//! RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020) and CamemBERT (Martin et al. 2020). Positions
//! count from behind the padding's id, 1, which leaves 512 of the 514 that config.json says:
//! <https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/models/roberta/modeling_roberta.py#L139>.

use super::{Family, SpecialTokens};

pub(super) static ROBERTA: Family = Family {
    model_types: &["roberta", "xlm-roberta", "camembert"],
    names: &[
        ("bert.", "roberta."),
        ("cls.predictions.transform.dense", "lm_head.dense"),
        ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm"),
        ("cls.predictions", "lm_head"),
    ],
    vocabularies: &["tokenizer.json"],
    tokenizers: &["RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer"],
    special: SpecialTokens { pad: "<pad>", unk: "<unk>", cls: "<s>", sep: "</s>", mask: "<mask>" },
    positions_from: Some(1),
};
