"""Writes scores.json: what the sacrebleu package makes of strings, for launcher/src/score/mod.rs.

    pip install sacrebleu==2.5.1
    python make_scores.py en-de.valid.tsv

The argument is a tab-separated file of English, German and the name of the source. Only its rows of
`libreoffice-help` are used: sentences of LibreOffice's help, MPL-2.0,
https://git.libreoffice.org/help. The rest is invented here. Hypotheses are made from references
by deleting, swapping and replacing words, with a fixed seed.
"""

import json
import random
import re
import sys
from pathlib import Path

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

TRICKY = [
    ("The price is 1,234.56 EUR.", "The price is 1.234,56 EUR."),
    ("He said &quot;yes&quot; &amp; left &lt;now&gt;.", 'He said "yes" & left <now>.'),
    ("&amp;quot; stays &apos; odd &#39;", "&quot; stays ' odd"),
    ("state-of-the-art 3-4 2019-2020 -5", "state-of-the-art 3 - 4 2019 - 2020 - 5"),
    ("a..b ... 5.. ,,, .5 5. 5,a a,5", "a . . b ... 5. , , .5 5 . 5, a a, 5"),
    ("http://www.example.com/a_b?c=d&e=f#g", "http://www.example.com/a_b?c=d&e=g"),
    ("x{y}[z]|~`^\\ $%*+=@!;:", "x { y } [ z ] | ~ ` ^ \\ $ % * + = @ ! ; :"),
    ("Don't, can't; won't: 'tis", "Do not, can't; won't: 'tis"),
    ("  leading and trailing   ", "leading and  trailing"),
    ("Größe, Übermaß, naïve café – „so“ … ‚ja‘", "Größe, Übermass, naive café - „so“ … ‚ja‘"),
    ("Gro\u0308\u00dfe 30 °C ½ €5", "Größe 30\u00a0°C ½ € 5"),
    ("我们在东京,今天天气很好。", "我们在京都,今天天气不错。"),
    ("東京タワーは 333 メートルです。", "東京タワーの高さは333メートルです。"),
    ("emoji 😀👍🏽 here", "emoji 👍🏽 there"),
    ("٣٫١٤ ١٢,٥", "٣٫١٤ ١٢,٦"),
    ("soft\u00adhyphen zero\u200bwidth\u2009thin\u3000wide", "soft\u00adhyphen zero\u200bwidth thin wide"),
    ("split-\nword and\nline\tTAB\x1csep", "splitword and line TAB sep"),
    ("<skipped> is dropped<skipped>", "is dropped"),
    ("word", "word"),
    ("word", "other"),
    ("", "an empty hypothesis"),
    ("an empty reference", ""),
    ("", ""),
    ("   ", "blank"),
    (".", "."),
    ("the the the the the the the", "the cat is on the mat"),
    ("Case Matters Here Now", "case matters here now"),
]


def perturbed(sentence, rng, rate, vocabulary):
    words = sentence.split()
    out = []
    for word in words:
        if rng.random() >= rate:
            out.append(word)
            continue
        kind = rng.randrange(4)
        if kind == 1:
            out.append(rng.choice(vocabulary))
        elif kind == 2:
            out += [word, word]
        elif kind == 3 and out:
            out.insert(-1, word)
    return " ".join(out)


def case(name, pairs):
    hypotheses, references = map(list, zip(*pairs))
    found = {"name": name, "pairs": pairs}
    tokenized = BLEU(tokenize="none", smooth_method="none", force=True)
    # As tensor2tensor's get_ende_bleu.sh: s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g before multi-bleu.
    split = lambda text: re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", Tokenizer13a()(text.rstrip()))
    as_is = (hypotheses, references)
    metrics = {
        "bleu_13a": (BLEU(), as_is),
        "bleu_tokenized": (tokenized, as_is),
        "bleu_lowercase": (BLEU(lowercase=True), as_is),
        "bleu_compounds": (tokenized, [[split(text) for text in texts] for texts in as_is]),
    }
    for key, (metric, (hypotheses, references)) in metrics.items():
        score = metric.corpus_score(hypotheses, [references])
        found[key] = {
            "score": score.score,
            "precisions": score.precisions,
            "brevity_penalty": score.bp,
            "hypothesis_length": score.sys_len,
            "reference_length": score.ref_len,
            "matches": score.counts,
            "totals": score.totals,
            "signature": str(metric.get_signature()),
        }
    hypotheses, references = as_is
    for key, chrf in {"chrf": CHRF(), "chrf_lowercase": CHRF(lowercase=True)}.items():
        score = chrf.corpus_score(hypotheses, [references])
        found[key] = {"score": score.score, "signature": str(chrf.get_signature())}
    return found


def main():
    rng = random.Random(2020)
    rows = [line.rstrip("\n").split("\t") for line in open(sys.argv[1], encoding="utf-8")]
    help_rows = [row for row in rows if row[2] == "libreoffice-help"]
    english = [row[0] for row in help_rows][:120]
    german = [row[1] for row in help_rows][:120]
    words = " ".join(english).split()

    cases = [case(f"tricky {i}", [pair]) for i, pair in enumerate(TRICKY)]
    cases.append(case("all tricky", TRICKY))
    for rate in (0.02, 0.1, 0.3, 0.6, 0.9):
        pairs = [(perturbed(s, rng, rate, words), s) for s in english[:60]]
        cases.append(case(f"english, {rate} of words changed", pairs))
    pairs = [(perturbed(s, rng, 0.25, words), s) for s in german[:60]]
    cases.append(case("german, 0.25 of words changed", pairs))
    cases.append(case("identical", [(s, s) for s in english[60:90]]))
    cases.append(case("source copied", list(zip(german[60:90], english[60:90]))))
    cases.append(case("shifted by one", list(zip(english[61:91], english[60:90]))))
    cases.append(case("all wrong", [("qqq " * len(s.split()), s) for s in english[90:95]]))
    cases.append(case("too short", [(" ".join(s.split()[:3]), s) for s in english[90:120]]))
    cases.append(case("too long", [(s + " " + s, s) for s in english[90:120]]))
    cases.append(case("half empty", [(s if i % 2 else "", s) for i, s in enumerate(english[90:110])]))
    cases.append(case("no 4-grams", [("to be", "to be"), ("or not", "or not to be")]))
    for i in range(100, 106):
        cases.append(case(f"one sentence {i}", [(perturbed(english[i], rng, 0.3, words), english[i])]))

    tokenize = Tokenizer13a()
    lines = [s for pair in TRICKY for s in pair] + english[:40] + german[:40]
    golden = {
        "sacrebleu": sacrebleu.__version__,
        "sentences": "LibreOffice help, MPL-2.0, and invented ones; see make_scores.py",
        "tokens_13a": [[line, tokenize(line.rstrip())] for line in lines],
        "cases": cases,
    }
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    Path(__file__).with_name("scores.json").write_text(text + "\n", encoding="utf-8")


main()
