"""Readable text out of words: puts back the spaces that BERT's splitting at every punctuation mark has lost.

The same rules, word for word, as those of Tandem's own `trainer/src/data/detokenize.rs`. Each mark decides
whether it leans on the word before it, on the word after it, on both or on none. Where languages differ, the
sentence's own little words tell which language it is. Letters stay as they are.
"""

from typing import Optional

Lean = tuple[bool, bool]  # whether there is no space to the left, and none to the right

NONE, LEFT, RIGHT, BOTH = (False, False), (True, False), (False, True), (True, True)

FRENCH = set(
    "le la les des du est et une dans pour vous cette ce qui que au aux sur avec ne pas ou par il".split()
)
GERMAN = set(
    """der die das und ist ein eine einen den dem mit für von sie nicht auf zu im wird werden zum zur oder
    als""".split()
)
OTHERS = set(
    """the of to and a for el los las en het een il di che e per con se un è y i della van dat is in op voor
    la lo que una por del se su como más sono si""".split()
)
# Ends of file and host names.
EXTENSIONS = set(
    """com org net edu gov io de fr es it nl ro uk eu txt html htm xml png jpg jpeg gif svg pdf gz bz2 xz zip
    tar deb rpm conf cfg ini sh py js css php odt ods odp odb doc docx xls xlsx ppt exe dll so h c cpp rs java
    json yaml yml md log iso img mp3 mp4 ogg avi wav dat db sql bak tmp desktop""".split()
)
# Beginnings of absolute paths.
FOLDERS = set("usr etc home dev var proc tmp bin lib opt sys boot mnt media root sbin srv run".split())
# After an apostrophe.
CONTRACTIONS = set("s t re ve ll d m".split())
# Before an apostrophe.
ELISIONS = set(
    """l d j m n s t c qu jusqu lorsqu puisqu quelqu aujourd dell nell all dall sull quell un coll
    senz""".split()
)
# After a hyphen that stands for the rest of a word: `Ein- und Ausgabe`.
CONJUNCTIONS = set("und oder bzw sowie en of and or".split())
# In brackets right after a word: `file(s)`.
ENDINGS = set("s es n en e r in innen nen".split())


def detokenize(text: str) -> str:
    """Readable text out of words that are separated by spaces."""
    words = text.split()
    marks = Marks(words)
    leans = [marks.lean(place) for place in range(len(words))]
    text = ""
    for place, word in enumerate(words):
        if place > 0 and not leans[place - 1][1] and not leans[place][0]:
            text += " "
        text += word
    return text


def is_word(token: str) -> bool:
    return any(character.isalnum() for character in token)


def is_digit(character: str) -> bool:
    return "0" <= character <= "9"


def starts_with_digit(token: str) -> bool:
    return is_digit(token[:1])


def ends_with_digit(token: str) -> bool:
    return is_digit(token[-1:])


def is_capitalised(token: str) -> bool:
    return token[:1].isupper()


def all_are(token: str, kind: str) -> bool:
    """Whether all characters are of a kind, a method of `str`; of an empty token they are."""
    return all(getattr(character, kind)() for character in token)


def is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha()


def is_title(token: str) -> bool:
    return is_capitalised(token) and any(character.islower() for character in token)


def is_cell(token: str) -> bool:
    """`A12`: a cell of a table."""
    digits = token.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return 1 <= len(token) - len(digits) <= 2 and digits != "" and all(map(is_digit, digits))


def guess(words: list[str]) -> str:
    """`french`, `german` or `other`."""
    french, german, others = (
        sum(word.lower() in known for word in words) for known in (FRENCH, GERMAN, OTHERS)
    )
    if french > max(german, others):
        return "french"
    return "german" if german > max(french, others) else "other"


class Marks:
    """Walks over the marks of a sentence and remembers which quotation marks are open."""

    def __init__(self, words: list[str]):
        self.words = words
        self.language = guess(words)
        self.straight = False  # "
        self.single: Optional[str] = None  # ' or ’ as a quotation mark
        self.low = 0  # „ without its end
        self.low_single = False  # ‚ or ‘ without its end
        self.angle = False  # « or » without its end
        self.decimal_comma = False  # whether the comma before the number at hand is a decimal one

    def word(self, place: int) -> str:
        """The word at a place; nothing beyond the ends."""
        return self.words[place] if 0 <= place < len(self.words) else ""

    def lean(self, place: int) -> Lean:
        mark = self.words[place]
        if mark in ("[", "{", "¿", "¡", "$", "#", "~", "<", "`"):
            return RIGHT
        if mark in (")", "]", "}", "…", "%", ">"):
            return LEFT
        if mark in ("_", "@", "\\", "‐", "‑"):
            return BOTH
        if mark == "*":
            return RIGHT if self.word(place + 1) == "." else NONE
        rules = {
            "(": self.bracket, "!": self.sentence_mark, "?": self.sentence_mark, ";": self.sentence_mark,
            ",": self.comma, ".": self.full_stop, ":": self.colon, "/": self.slash, "-": self.hyphen,
            "–": self.dash, "—": self.dash, "+": self.plus, "'": self.apostrophe, "’": self.apostrophe,
        }  # fmt: skip
        rules.update(dict.fromkeys('"„“”«»‚‘', self.quote))
        return rules[mark](place) if mark in rules else NONE

    def bracket(self, place: int) -> Lean:
        before, inside, after = self.word(place - 1), self.word(place + 1), self.word(place + 2)
        is_ending = after == ")" and inside in ENDINGS
        # `printf(3)`, `main()`
        is_page = (
            after == ")" and len(inside) == 1 and starts_with_digit(inside) and all_are(before, "isalpha")
        )
        return is_ending or is_page or inside == ")", True

    def sentence_mark(self, place: int) -> Lean:
        return NONE if self.language == "french" and is_word(self.word(place - 1)) else LEFT

    def comma(self, place: int) -> Lean:
        is_between_digits = ends_with_digit(self.word(place - 1)) and starts_with_digit(self.word(place + 1))
        # `1, 2, 3` is a list: either another number follows behind a comma, or one came before.
        list_goes_on = self.word(place + 2) == "," and starts_with_digit(self.word(place + 3))
        list_ends = self.word(place - 2) == "," and not self.decimal_comma
        self.decimal_comma = is_between_digits and not list_goes_on and not list_ends
        return True, self.decimal_comma

    def full_stop(self, place: int) -> Lean:
        before, after = self.word(place - 1), self.word(place + 1)
        is_extension = after.lower() in EXTENSIONS
        if before == "," and after == ".":
            return RIGHT  # `a, ...`
        # `www.example.org`: an extension comes one word later.
        is_host = (
            self.word(place + 2) == "." and self.word(place + 3) in EXTENSIONS and all_are(after, "islower")
        )
        right = (
            after == "."
            or before == "www"
            or is_host
            or is_extension
            and (is_word(before) or before == "*")
            or ends_with_digit(before)
            and starts_with_digit(after)
            or starts_with_digit(after)
            and is_word(before)
            and len(before) <= 2
            or is_letter(before)
            and is_letter(after)
            and self.word(place + 2) == "."  # `e.g.`
            or is_word(after)
            and before in ("/", "~")
        )
        return is_word(before) or not is_extension, right

    def colon(self, place: int) -> Lean:
        before, after = self.word(place - 1), self.word(place + 1)
        is_time = ends_with_digit(before) and starts_with_digit(after)
        is_range = is_cell(before) and is_cell(after)
        is_address = after == "/" and self.word(place + 2) == "/"
        is_path = after == ":" or before == ":"
        right = is_time or is_range or is_address or is_path
        is_french = self.language == "french" and is_word(before)
        return right or not is_french, right

    def slash(self, place: int) -> Lean:
        begins_path = self.word(place + 1) in FOLDERS and self.word(place - 1) not in ("/", ":", ".", "~")
        return not begins_path, True

    def hyphen(self, place: int) -> Lean:
        before, after = self.word(place - 1), self.word(place + 1)
        is_german = self.language == "german"
        if before == "-" or after == "-":
            return BOTH if before == "-" and is_word(after) else RIGHT  # `--option`
        if is_word(before) and after.lower() in CONJUNCTIONS:
            return LEFT
        if is_word(before) and is_word(after):
            # `Tools - Options`, but `CD-ROM` and `Boot-Image`
            begins_menu = is_capitalised(after) and not is_capitalised(before) and all_are(before, "islower")
            is_menu = begins_menu or is_title(before) and is_title(after)
            return NONE if is_menu and not is_german else BOTH
        if is_german and before in ("«", "“", ")", "+") and is_word(after):
            return BOTH  # `»Details«-Ansicht`
        if before in ("", "(", "[", '"', ",", "'"):
            return RIGHT if is_word(after) else NONE  # `-v`
        return LEFT if after in (",", ".", ")") else NONE

    def dash(self, place: int) -> Lean:
        is_range = ends_with_digit(self.word(place - 1)) and starts_with_digit(self.word(place + 1))
        return BOTH if is_range else NONE

    def plus(self, place: int) -> Lean:
        before, after = self.word(place - 1), self.word(place + 1)
        is_name = len(before.encode()) > 1 and all_are(before, "isupper")
        if is_name and all_are(after, "islower"):
            return LEFT  # `GTK+ library`
        if before in ("u", "U"):
            return BOTH  # `U+0020`
        if is_word(before) and is_word(after):
            return NONE if starts_with_digit(before) or starts_with_digit(after) else BOTH  # `Ctrl+C`
        return LEFT if "+" in (before, after) else NONE  # `C++`

    def apostrophe(self, place: int) -> Lean:
        """An apostrophe, or a single quotation mark."""
        mark, before, after = self.words[place], self.word(place - 1), self.word(place + 1)
        is_contraction = is_word(before) and after.lower() in CONTRACTIONS
        if self.single == mark and not (is_contraction and mark == "'"):
            self.single = None
            return LEFT
        is_elision = is_word(before) and is_word(after) and before.lower() in ELISIONS
        if is_contraction or is_elision:
            return BOTH
        if mark == "’":
            if is_word(before) and is_word(after) and not self.low_single:
                return BOTH
            self.low_single = False
            return LEFT
        later = self.words[place + 1 :].count(mark)
        is_plural = before.endswith("s") and later % 2 == 0
        if is_word(before) and not is_word(after) and later % 2 == 0 or is_plural:
            return LEFT  # `the users' names`
        if later > 0:
            self.single = mark
            return RIGHT
        return is_word(before), is_word(after)

    def quote(self, place: int) -> Lean:
        mark = self.words[place]
        if mark == '"':
            ends, self.straight = self.straight, not self.straight
        elif mark == "„":
            ends, self.low = False, self.low + 1
        elif mark in "“”":
            ends, self.low = self.low > 0 or mark == "”", max(self.low - 1, 0)
        elif mark in "«»":
            ends, self.angle = self.angle, not self.angle
            if self.language == "french":
                return NONE
        else:
            # ‘ ends what ‚ began, and begins what ’ ends.
            ends = mark == "‘" and self.low_single
            self.low_single = not ends
        return LEFT if ends else RIGHT
