#!/usr/bin/env python3
"""Makes the demo's train, valid and test texts out of English-German parallel text.

usage: select.py TRAIN.tsv.xz HELD_OUT.tsv DESTINATION

Both inputs have the columns English, German, origin; only rows whose origin is exactly
`libreoffice-help` (MPL-2.0) are taken. German becomes the first column, as the source.
Held-out rows go alternately to valid and test. A training row that a held-out row gives away,
on either side, is dropped: equal once lower-cased and stripped of digits, punctuation and
spacing, or at least 0.9 Jaccard similarity of word 3-grams.
"""

import lzma
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

ORIGIN = "libreoffice-help"
SIMILAR = 0.9


def rows(path):
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            english, german, origin = line.rstrip("\n").split("\t")
            if origin == ORIGIN:
                yield german.strip(), english.strip()


def words(text):
    """The words of `text`, lower-cased, without digits and punctuation."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c if c.isalpha() else " " for c in text).split()


def key(text):
    """What two sentences share when they differ in case, digits and punctuation only."""
    return " ".join(words(text)) or text.lower()


def trigrams(text):
    found = words(text)
    return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}


class HeldOut:
    """One language's held-out sentences, ready to be compared with others."""

    def __init__(self, sentences):
        self.keys = {key(sentence) for sentence in sentences}
        self.sets = [trigrams(sentence) for sentence in sentences]
        self.holders = defaultdict(list)
        for index, grams in enumerate(self.sets):
            for gram in grams:
                self.holders[gram].append(index)

    def gives_away(self, sentence):
        """Why `sentence` may not be trained on, if it may not."""
        if key(sentence) in self.keys:
            return "equal"
        grams = trigrams(sentence)
        shared = Counter(index for gram in grams for index in self.holders.get(gram, ()))
        for index, both in shared.items():
            if both / (len(grams) + len(self.sets[index]) - both) >= SIMILAR:
                return "similar"
        return None


def without(pairs, held_out, counts):
    """`pairs` without those that a held-out pair gives away on either side."""
    sides = [HeldOut([pair[side] for pair in held_out]) for side in (0, 1)]
    for pair in pairs:
        reasons = [sides[side].gives_away(pair[side]) for side in (0, 1)]
        reason = "equal" if "equal" in reasons else "similar" if "similar" in reasons else None
        if reason is None:
            yield pair
        else:
            counts[reason] += 1


def write(path, pairs):
    text = "".join(f"{german}\t{english}\n" for german, english in pairs)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    size = path.stat().st_size
    print(f"{path.name}: {len(pairs)} pairs, {size} bytes")


def main():
    train_path, held_out_path, destination = map(Path, sys.argv[1:])
    held_out = list(dict.fromkeys(rows(held_out_path)))
    valid, test = held_out[0::2], held_out[1::2]
    counts = Counter()
    valid = list(without(valid, test, counts))
    print(f"valid: left out for test: {dict(counts)}")

    everything = list(rows(train_path))
    unique = list(dict.fromkeys(pair for pair in everything if all(pair)))
    counts = Counter()
    train = list(without(unique, valid + test, counts))
    print(f"train: {len(everything)} rows, {len(everything) - len(unique)} repeated or empty")
    print(f"train: left out for valid and test: {dict(counts)}")
    for name, pairs in (("train", train), ("valid", valid), ("test", test)):
        write(destination / f"{name}.tsv.xz", pairs)


if __name__ == "__main__":
    main()
