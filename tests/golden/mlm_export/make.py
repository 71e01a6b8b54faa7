#!/usr/bin/env python3
"""Writes golden.json: what transformers saves of a tiny BERT with its masked-LM head.

usage: .deps/bench-venv/bin/python tests/golden/mlm_export/make.py     (after `make bench-venv`)

The export of the `mlm` objective must agree with it in names, shapes, types and configuration,
so that transformers loads it without a word. Versions are in golden.json.
"""

import json
import sys
import tempfile
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

HERE = Path(__file__).resolve().parent

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = "a b c d e ä ß A B . , - ##a ##b ##c ##d ##e ##ä ##ß ab bad ##ed dead Bad der Ab ##bau".split()
TEXTS = ["a bad ab", "Bad, der Abbau.", "dead-ed ÄSSE äb", "deß [MASK] b\u0301ad", "unknown z"]

CONFIG = {
    "vocab_size": len(SPECIAL) + len(PIECES),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}


def saved_model(folder):
    """The files, tensors and config.json that `save_pretrained` leaves in `folder`."""
    BertForMaskedLM(BertConfig(**CONFIG)).save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {}
        for name in sorted(file.keys()):
            part = file.get_slice(name)
            tensors[name] = {"dtype": part.get_dtype(), "shape": list(part.get_shape())}
        metadata = file.metadata()
    config = json.loads((folder / "config.json").read_text())
    files = sorted(path.name for path in folder.iterdir())
    return {"files": files, "metadata": metadata, "tensors": tensors, "config": config}


def saved_tokenizer(folder, lower_case):
    """The files of a BERT tokenizer over the vocabulary, and the ids that it gives."""
    (folder / "given.txt").write_text("".join(f"{piece}\n" for piece in SPECIAL + PIECES))
    given = {piece: number for number, piece in enumerate(SPECIAL + PIECES)}
    tokenizer = BertTokenizer(vocab=given, do_lower_case=lower_case, strip_accents=None)
    (folder / "given.txt").unlink()
    tokenizer.save_pretrained(folder)
    ids = [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS]
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "tokenizer_config": json.loads((folder / "tokenizer_config.json").read_text()),
        "tokenizer": json.loads((folder / "tokenizer.json").read_text()),
        "texts": ids,
    }


def main():
    torch.manual_seed(0)
    golden = {
        "made_by": {
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__.split("+")[0],
        },
        "vocabulary": SPECIAL + PIECES,
    }
    with tempfile.TemporaryDirectory() as folder:
        golden["model"] = saved_model(Path(folder))
    for name, lower_case in (("cased", False), ("uncased", True)):
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = saved_tokenizer(Path(folder), lower_case)
    text = json.dumps(golden, indent=1, ensure_ascii=False) + "\n"
    (HERE / "golden.json").write_text(text, encoding="utf-8")
    print(f"golden.json: {len(golden['model']['tensors'])} tensors", file=sys.stderr)


if __name__ == "__main__":
    main()
