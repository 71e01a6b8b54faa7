"""Writes golden.json: what KenLM's lmplz estimates from a small text.

usage: make.py LMPLZ      (the program of github.com/kpu/kenlm, here of commit 4cb443e60b7b)

The vocabulary has 120 words, of which some never occur: `--vocab_pad` shares out among all of them what is not
given to n-grams. Each n-gram has its log10 probability and, but for the longest, its log10 backoff.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

ORDER, VOCABULARY, END = 4, 120, 3
BEGIN = VOCABULARY

rng = random.Random(5)
word = lambda: 5 + int(105 * rng.random() ** 2)  # noqa: E731
successors = [[word() for _ in range(6)] for _ in range(VOCABULARY)]
sentences = []
for _ in range(90):
    words = []
    for _ in range(rng.randrange(0, 12)):
        likely = successors[words[-1] if words else 4][int(6 * rng.random() ** 2)]
        words.append(likely if rng.random() < 0.8 else word())
    sentences.append(words + [END])

text = "".join(" ".join(f"w{word}" for word in words[:-1]) + "\n" for words in sentences)
command = [sys.argv[1], "-o", str(ORDER), "--vocab_pad", str(VOCABULARY), "-S", "100M", "-T", "/tmp"]
arpa = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

special = {"<s>": BEGIN, "</s>": END}
ngrams = []
for line in arpa.split("\\1-grams:")[1].splitlines():
    fields = line.split("\t")
    if len(fields) < 2 or fields[1] == "<unk>":
        continue
    words = [special[word] if word in special else int(word[1:]) for word in fields[1].split(" ")]
    backoff = float(fields[2]) if len(fields) > 2 else None
    ngrams.append([words, float(fields[0]), backoff])
golden = {"order": ORDER, "vocabulary": VOCABULARY, "sentences": sentences, "ngrams": ngrams}
unknown = [line for line in arpa.splitlines() if line.split("\t")[1:2] == ["<unk>"]]
golden["unknown"] = float(unknown[0].split("\t")[0])
Path(__file__).with_name("golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
