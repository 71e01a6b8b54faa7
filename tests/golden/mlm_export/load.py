#!/usr/bin/env python3
"""Loads a BERT that the `mlm` objective exported into transformers itself.

usage: .deps/bench-venv/bin/python tests/golden/mlm_export/load.py FOLDER [TEXT WITH A [MASK]]

Fails if a weight is missing, unknown or of another shape, and shows what the model puts for the
mask. (Not part of `make test`, which does without PyTorch for Python: run it by hand.)
"""

import sys

import torch
from transformers import AutoTokenizer, BertForMaskedLM, logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def main():
    folder, *text = sys.argv[1:]
    model, report = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: names for kind, names in report.items() if names}
    if wrong:
        sys.exit(f"{folder}: {wrong}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) != model.config.vocab_size:
        sys.exit(f"{folder}: {len(tokenizer)} words, but vocab_size {model.config.vocab_size}")
    print(f"loads: {sum(weight.numel() for weight in model.parameters())} parameters")
    if text:
        ids = tokenizer(" ".join(text), return_tensors="pt", return_token_type_ids=False)
        places = ids["input_ids"][0] == tokenizer.mask_token_id
        with torch.inference_mode():
            logits = model.eval()(**ids).logits[0, places]
        for best in logits.topk(5).indices:
            print(" ".join(tokenizer.convert_ids_to_tokens(best.tolist())))


if __name__ == "__main__":
    main()
