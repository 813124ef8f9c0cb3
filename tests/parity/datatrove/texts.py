"""Texts to hold two readings of a filter against each other: real documents, and several kinds of random ones.

All but the real ones are made from a seed. `KINDS` names them; each is a function of how many texts are wanted and
a random generator, and of real texts to cut up where there are some.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

from curation.measure import spacy_english
from tests.benchmarks.kernels import DATA_FILES, _texts

LONGEST_REAL = 200_000  # characters
WORDS = """
the The to be of and that have with don't dont cannot I'm it's It’s Mr. U.S.A. U.S. a.m. 10a.m. 5km 5 3.14 1,000
$5 5$ US$5 € °C. 10°C. :) :-) :)) (x) [1] [edit] { } " '' ' ’ ‘ “ ” ... .. … …… . , ; : ! ? - -- --- – — ~ a/b
and/or w/o foo Bar naïve straße пример Москва. 你好 。 世界！ العربية हिन्दी। https://a.bc/d?e=f foo.com x@y.zz
8.8.8.8 192.168.1.1 # #tag @ & &amp; * **bold** _em_ + C++ = <b> </b> x=y a:b \\n | % 50% km/h 60km/h 5m² 😀 © ™ §
· • e.g. Ph.D. 's ’s 'em y'all gonna ma'am rock-n-roll a-b 1-2 2^3 lower.Upper a,b ° K A$ ಠ_ಠ xD <3 0.0 \x00 İ ß.
ﬁ lorem ipsum javascript use cookies terms of use
"""
PIECES = WORDS.split()
GAPS = [" "] * 8 + ["", "", "\n", "\n", "\n\n", "  ", "\t", "\r\n", "\xa0", "\u2028", "\x0b", ". ", ".\n", ".\n"]
MARKS = [*".,;:!?'\"()[]{}<>-–—…/\\@#$%^&*_+=~|`’‘“”«»•°§", "...", "'s", "n't", "km", "°C", "://", ".com", "www."]
BLANKS = " " * 12 + "\n\n\n\t\r\v\f\x1c\x85\xa0\u2003\u2028\u3000"
# First code points of blocks of scripts that write words: letters are drawn from the 96 that follow.
SCRIPTS = (0x41, 0xC0, 0x100, 0x370, 0x400, 0x530, 0x590, 0x620, 0x900, 0x980, 0xA00, 0xB80, 0xC00, 0xE00, 0xF00)
SCRIPTS += (0x1000, 0x10A0, 0x1200, 0x13A0, 0x1780, 0x1820, 0x1E00, 0x1F00, 0x3040, 0x30A0, 0x4E00, 0xAC00)
SCRIPTS += (0xFF01, 0x10330, 0x10400, 0x1D400, 0x1F600, 0x20000)
STOPS = [".", ".", "!", "?", "。", "।", "؟", "։", "።", "…", "...", ":", "", '."', ".)", "”"]


def real_texts(each: int) -> list[str]:
    """Up to `each` documents of every file of MIXWRIGHT_DATA that the benchmarks read, spread over it."""
    root = os.environ.get("MIXWRIGHT_DATA")
    if not root:
        return []
    texts = []
    for path in sorted(
        path for patterns in DATA_FILES.values() for one in patterns for path in Path(root).glob(one)
    ):
        found = [text for text in itertools.islice(_texts(path), 10 * each) if text]
        texts += found[:: max(1, len(found) // each)][:each]
    return [text[:LONGEST_REAL] for text in texts]


def odd(draw: random.Random, real: list[str]) -> str:
    """Words and marks that tokenizers treat in odd ways, any characters, and repetitive ones."""
    kind = draw.randrange(4)
    if kind == 3:
        codes = [draw.choice([32, 46, 97, draw.randrange(0x250), draw.randrange(0xD800)]) for _ in range(60)]
        return "".join(map(chr, codes))
    pieces = PIECES if kind else draw.sample(PIECES, 12) + PIECES[:9]
    return "".join(draw.choice(pieces) + draw.choice(GAPS) for _ in range(draw.choice([5, 40, 120, 400])))


def special(draw: random.Random, real: list[str]) -> str:
    """The tokenizer's own special cases, with marks glued to them, cut, repeated and in other case."""
    cases = _special_cases()
    parts = []
    for _ in range(draw.choice([3, 30, 100])):
        word = draw.choice(cases if draw.random() < 0.7 else PIECES)
        change = draw.randrange(8)
        if change == 0:
            word = word.swapcase() if draw.random() < 0.5 else word.title()
        elif change == 1:
            word = word[: draw.randrange(1, len(word) + 1)]
        elif change == 2:
            word += draw.choice(cases)
        before = "".join(draw.choices(MARKS, k=draw.choice([0, 0, 0, 1, 2])))
        after = "".join(draw.choices(MARKS, k=draw.choice([0, 0, 0, 1, 2])))
        parts += [before, word, after, draw.choice(GAPS)]
    return "".join(parts)


def scripts(draw: random.Random, real: list[str]) -> str:
    """Sentences and lines in letters of one or two scripts, with its digits and marks among them."""
    blocks = draw.choices(SCRIPTS, k=draw.choice([1, 1, 2]))
    words = [
        "".join(_character(draw, draw.choice(blocks)) for _ in range(draw.randrange(1, 12)))
        for _ in range(draw.choice([4, 40, 200]))
    ]
    words += draw.choices(PIECES, k=len(words) // 4)
    parts = []
    for number in range(draw.choice([6, 60, 300])):
        parts += [draw.choice(words), draw.choice(STOPS) if number % 9 == 8 else "", draw.choice(BLANKS)]
    return "".join(parts)


def perturbed(draw: random.Random, real: list[str]) -> str:
    """A piece of a real document with lines, words and characters of it repeated, cut, moved and exchanged."""
    text = draw.choice(real) if real else odd(draw, real)
    start = draw.randrange(len(text))
    text = text[start : start + draw.choice([150, 400, 1500, 6000])]
    for _ in range(draw.randrange(4)):
        text = draw.choice(CHANGES)(draw, text)
    return text


def structured(draw: random.Random, real: list[str]) -> str:
    """Lines and paragraphs whose shares lie near the thresholds: repeats, bullets, ellipses, ends, lengths."""
    words = [draw.choice(["the", "be", "to", "of", *PIECES[:12], "alpha", "betas", "gammas"]) for _ in range(24)]
    lines = []
    for _ in range(draw.choice([3, 8, 20, 40])):
        if lines and draw.random() < 0.2:
            lines.append(draw.choice(lines))
            continue
        line = " ".join(draw.choices(words, k=draw.choice([1, 2, 3, 5, 8, 14])))
        front = draw.choice(["", "", "", "- ", "• ", "* ", "  - ", "\t• "])
        lines.append(front + line + draw.choice([".", ".", "", "...", "…", "!", '."', "...  ", ". [1]"]))
    return (
        draw.choice(["", "\n"]) + draw.choice(["\n", "\n", "\n\n", "\r\n"]).join(lines) + draw.choice(["", "\n"])
    )


def addresses(draw: random.Random, real: list[str]) -> str:
    """Pieces of e-mail and IP addresses in any order, among them whole ones."""
    pieces = ["a", "b-c", "D.e", ".", "..", "@", "@", "-", "+x", "é", "_", "!", "[", "]", ":]", " ", "x.y@z.com"]
    pieces += ["8.8.8.8", "10.0.0.1", "256.1.1.1", "1.2.3.299", "0", "01.2.3.4", "192.0.2.1", "224.0.0.9", ".9"]
    pieces += ["25", "199.", "7.", "249.", "12.34.56.78", "a@[1.2.3.4]", "b@[1.2.3.x:]", "@a.b-", ".org", "日"]
    return "".join(draw.choices(pieces, k=draw.choice([3, 8, 30])))


KINDS: dict[str, Callable[[random.Random, list[str]], str]] = {
    "odd": odd,
    "special": special,
    "scripts": scripts,
    "perturbed": perturbed,
    "structured": structured,
    "addresses": addresses,
}


def random_texts(kind: str, count: int, seed: int, real: list[str]) -> list[str]:
    """So many texts of a kind, none empty."""
    draw = random.Random(f"{kind}/{seed}")
    texts = (KINDS[kind](draw, real) for _ in itertools.count())
    return list(itertools.islice((text for text in texts if text), count))


def _special_cases() -> list[str]:
    data = json.loads(Path(spacy_english.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return [text for text in (*data["special"], *data["after_digit"]) if text.strip()]


def _character(draw: random.Random, block: int) -> str:
    """A character of a block that is assigned; any one of it now and then."""
    for _ in range(4):
        character = chr(block + draw.randrange(96))
        if unicodedata.category(character)[0] in "LMN":
            break
    return character if unicodedata.category(character) != "Cs" else "x"


def _repeat_lines(draw: random.Random, text: str) -> str:
    lines = text.split("\n")
    for _ in range(1 + len(lines) // 5):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return "\n".join(lines)


def _repeat_words(draw: random.Random, text: str) -> str:
    words = text.split(" ")
    size = draw.randrange(1, 12)
    start = draw.randrange(len(words))
    for _ in range(draw.randrange(1, 2 + len(words) // 20)):
        at = draw.randrange(len(words) + 1)
        words[at:at] = words[start : start + size]
    return " ".join(words)


def _exchange(draw: random.Random, text: str) -> str:
    characters = list(text)
    for _ in range(1 + len(characters) // draw.choice([10, 50, 200])):
        at = draw.randrange(len(characters))
        characters[at] = draw.choice([draw.choice(MARKS), draw.choice(BLANKS), draw.choice(text), "", "K", "İ"])
    return "".join(characters)


def _end_lines(draw: random.Random, text: str) -> str:
    ends = draw.choices(STOPS, k=3)
    return "\n".join(line + draw.choice(ends) for line in text.split("\n"))


def _break_lines(draw: random.Random, text: str) -> str:
    every = draw.choice([2, 5, 20])
    return "".join("\n" if c == " " and draw.randrange(every) == 0 else c for c in text)


def _join_lines(draw: random.Random, text: str) -> str:
    return text.replace("\n", draw.choice([" ", "", "\r\n", "\n\n", "\x85"]))


def _other_case(draw: random.Random, text: str) -> str:
    return draw.choice([str.upper, str.lower, str.title, str.swapcase])(text)


def _normal_form(draw: random.Random, text: str) -> str:
    return unicodedata.normalize(draw.choice(["NFD", "NFKC", "NFKD"]), text)


CHANGES = [
    _repeat_lines,
    _repeat_words,
    _exchange,
    _exchange,
    _end_lines,
    _break_lines,
    _join_lines,
    _other_case,
    _normal_form,
]
