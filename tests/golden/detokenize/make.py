"""Writes golden.json beside it: words, and the text that the Python of an exported model makes of them.

Words are drawn at random, so that all rules meet in all orders. Tandem's own rules, in
trainer/src/data/detokenize.rs, are tested to give the same texts.

    python tests/golden/detokenize/make.py
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent / "launcher/src/export"))

from detokenize_tandem import detokenize  # noqa: E402

MARKS = ". , ; : ! ? ' ’ \" „ “ ” « » ‚ ‘ ( ) [ ] { } - – — / \\ + * $ % _ @ # ~ < > ` … ‐ ¿ ¡ & ###".split()
WORDS = """a B 1 25 3 A1 B12 abc12 der die und ist Haus Boot Image le la pour the of and file s t l d qu x e g
www example org com txt usr etc home GTK USB U u Ctrl C bold users Einstellungen größer être Öl oder et or 10 2nd
[UNK] CD ROM tools Options""".split()
# What belongs together in real texts.
PHRASES = [
    "http : / / www . example . org / a _ b . html",
    "file ( s )",
    "printf ( 3 )",
    "e . g .",
    "1 , 2 , 3",
    "1 , 5",
    "l ' image",
    "don ' t",
    "Ein - und Ausgabe",
    "10 : 30",
    "C + +",
    ". . .",
    "- - option",
]

draw = random.Random(20201014)
cases = {}
while len(cases) < 1500:
    pools = draw.choices([MARKS, WORDS, PHRASES], [5, 5, 1], k=draw.randrange(1, 12))
    words = " ".join(draw.choice(pool) for pool in pools)
    cases[words] = detokenize(words)
lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases.items())
(HERE / "golden.json").write_text(f"[\n{lines}\n]\n")
