"""Writes golden.json: what transformers makes of a text, over a matrix of tokenizer.json and the files
beside it. Needs transformers (made with 5.24); no weights."""

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

ENTRIES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] Der der Hund hund schläft schlaft Über über uber 字 符 字符 "
    "covid . co ##vid"
).split()
TEXT = "Der Hund schläft. Über 字符 covid."
MODEL = {"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
JSONS = [None, (True, None, True), (False, None, True), (True, False, True), (False, True, False)]
CONFIGS = [
    {}, {"do_lower_case": True}, {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False}, {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
    {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False},
    {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
    {"added_tokens_decoder": {"21": {"content": "covid.", "special": False}}},
]


def tokenizer_json(casing, added=()):
    lowercase, strip_accents, chinese = casing
    ids = {entry: id for id, entry in enumerate(ENTRIES)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(True, chinese, strip_accents, lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(ENTRIES[:5])
    tokenizer.add_tokens(list(added))
    return json.loads(tokenizer.to_str())


def case(files):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / file).write_text(text)
        try:
            tokens = AutoTokenizer.from_pretrained(folder).tokenize(TEXT)
        except ValueError:
            tokens = None
        return {"files": files, "tokens": tokens}


cases = []
for casing in JSONS:
    for config in CONFIGS:
        files = {"config.json": MODEL, "vocab.txt": "\n".join(ENTRIES) + "\n",
                 "tokenizer_config.json": config}
        if casing:
            files["tokenizer.json"] = tokenizer_json(casing)
        cases.append(case(files))
for casing in JSONS[:2]:
    files = {"config.json": MODEL, "tokenizer_config.json": {"do_lower_case": True}}
    files["vocab.txt"] = "\n".join(ENTRIES) + "\n"
    if casing:
        files["tokenizer.json"] = tokenizer_json(casing)
        cases.append(case(files | {"tokenizer.json": tokenizer_json(casing, ["covid."])}))
    cases.append(case(files | {"added_tokens.json": {"covid.": 21}}))
    cases.append(case(files | {"vocab.txt": files["vocab.txt"] + "\n"}))

golden = {"text": TEXT, "cases": cases}
Path(__file__).with_name("golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
