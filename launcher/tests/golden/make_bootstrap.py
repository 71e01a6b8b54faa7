"""Writes bootstrap.json: paired differences of sacreBLEU's scores, for launcher/src/score/bootstrap.rs.

    pip install sacrebleu==2.5.1
    python make_bootstrap.py

Systems are cases of scores.json. Their test set is drawn anew 1000 times, the same sentences for both.
"""

import json
from pathlib import Path

from sacrebleu.metrics import BLEU

CASES = [
    ("english, 0.1 of words changed", "english, 0.3 of words changed", False),
    ("english, 0.9 of words changed", "english, 0.6 of words changed", False),
    ("english, 0.3 of words changed", "english, 0.02 of words changed", True),
]
MASK = (1 << 64) - 1


def below(count, counter):
    bits = (2004 + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    bits ^= bits >> 31
    return (bits * count) >> 64


def main():
    folder = Path(__file__).parent
    cases = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["cases"]
    pairs = {case["name"]: case["pairs"] for case in cases}
    found = []
    for system, baseline, lowercase in CASES:
        metric = BLEU(lowercase=lowercase)

        def difference(places):
            scores = []
            for name in (system, baseline):
                hypotheses, references = zip(*(pairs[name][place] for place in places))
                scores.append(metric.corpus_score(hypotheses, [references]).score)
            return scores[0] - scores[1]

        count = len(pairs[system])
        samples = (range(first, first + count) for first in range(0, 1000 * count, count))
        resamples = sorted(difference([below(count, c) for c in sample]) for sample in samples)
        found.append({
            "system": system,
            "baseline": baseline,
            "lowercase": lowercase,
            "difference": difference(range(count)),
            "low": resamples[25],
            "high": resamples[974],
        })
    text = json.dumps(found, indent=1)
    (folder / "bootstrap.json").write_text(text + "\n", encoding="utf-8")


main()
