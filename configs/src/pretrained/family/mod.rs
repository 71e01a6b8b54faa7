//! Kinds of pre-trained models that are BERTs in all but their names and where positions begin. What a
//! kind differs in stands in a file of its own here; everywhere else it is a BERT, by BERT's names.

mod bert;
mod roberta;

/// A kind of BERT.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// What its `model_type` can be in config.json.
    pub model_types: &'static [&'static str],
    /// Its tensors' names where they are not BERT's: the beginning of BERT's, and its own.
    names: &'static [(&'static str, &'static str)],
    /// The files that can be its vocabulary, in the order in which they are looked for.
    pub vocabularies: &'static [&'static str],
    /// The tokenizers of transformers, without the `Fast` at the end, whose text is tokenised here.
    pub tokenizers: &'static [&'static str],
    /// What its special tokens are called.
    pub special: SpecialTokens,
    /// The padding's id where config.json does not say it, if positions count from behind that and not
    /// from 0.
    positions_from: Option<u64>,
}

/// What a vocabulary's special tokens are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Fills up short rows.
    pub pad: &'static str,
    /// Stands for what the vocabulary cannot spell.
    pub unk: &'static str,
    /// Begins a text.
    pub cls: &'static str,
    /// Ends a text.
    pub sep: &'static str,
    /// Stands where a token is to be predicted.
    pub mask: &'static str,
}

/// All of them.
static FAMILIES: [&Family; 2] = [&bert::BERT, &roberta::ROBERTA];

impl Family {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        FAMILIES.into_iter()
    }

    /// BERT itself.
    pub fn bert() -> &'static Self {
        &bert::BERT
    }

    /// The one of a `model_type`; a config.json without one is a BERT's.
    pub(crate) fn of(model_type: Option<&str>) -> Option<&'static Self> {
        let wanted = model_type.unwrap_or(bert::BERT.model_types[0]);
        Self::all().find(|family| family.model_types.contains(&wanted))
    }

    /// All `model_type`s, for people.
    pub(crate) fn known() -> String {
        let types: Vec<&str> =
            FAMILIES.iter().flat_map(|family| family.model_types).copied().collect();
        types.join(", ")
    }

    /// The row of the position embeddings that a text begins with, by the padding's id in config.json.
    pub(crate) fn first_position(&self, padding: Option<u64>) -> usize {
        self.positions_from.map_or(0, |usual| padding.unwrap_or(usual) as usize + 1)
    }

    /// Its name of a tensor of `BertForMaskedLM`.
    pub fn name(&self, bert: &str) -> String {
        let renamed =
            |(theirs, own): &(&str, &str)| Some(format!("{own}{}", bert.strip_prefix(theirs)?));
        self.names.iter().find_map(renamed).unwrap_or_else(|| bert.to_owned())
    }
}

impl SpecialTokens {
    /// Those that a vocabulary has; none of a GPT-2's, which has one token for all purposes.
    pub fn of(has: impl Fn(&str) -> bool) -> Option<Self> {
        Family::all().map(|family| family.special).find(|tokens| has(tokens.pad))
    }

    /// Each with its key in the files beside a vocabulary.
    pub(crate) fn by_key(self) -> [(&'static str, &'static str); 5] {
        let Self { pad, unk, cls, sep, mask } = self;
        [
            ("pad_token", pad),
            ("unk_token", unk),
            ("cls_token", cls),
            ("sep_token", sep),
            ("mask_token", mask),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_names() {
        let roberta = Family::of(Some("xlm-roberta")).unwrap();
        for (bert, own) in [
            ("bert.encoder.layer.0.output.dense.bias", "roberta.encoder.layer.0.output.dense.bias"),
            ("cls.predictions.transform.dense.weight", "lm_head.dense.weight"),
            ("cls.predictions.transform.LayerNorm.bias", "lm_head.layer_norm.bias"),
            ("cls.predictions.bias", "lm_head.bias"),
        ] {
            assert_eq!(roberta.name(bert), own);
            assert_eq!(Family::of(None).unwrap().name(bert), bert);
        }
        assert_eq!(Family::of(Some("t5")), None);
        assert_eq!(Family::known(), "bert, roberta, xlm-roberta, camembert");
    }
}
