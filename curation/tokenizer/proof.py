"""The choice of the encoder: fastokens where it gives the ids of tokenizers, on hard texts and on every pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from curation.chat import SPECIAL_TOKENS
from curation.encoder import Encoder

HARD_TEXTS = (
    "",
    " ",
    "\r\n\n \t x",
    "\x00\x01\x7f",
    "it's IT'S we'Ll 1234567 3.14",
    "é e\u0301 ﬁ 日本語 한국어 עברית 🎉👩‍👩‍👧 \u200b\ufeff",
    "".join(SPECIAL_TOKENS),
    *(unit * 3000 for unit in ("a ", "ab", " ", "\n", "1", "-", "é", "日", "🎉", " \n")),
)
# Where libraries may hold different Unicode tables: every code point of these ranges between letters, digits and
# blanks. Left out: surrogates, private use, and the Han and Hangul blocks, which are letters to all.
RANGES = (
    (0x1, 0x3400),
    (0x4DC0, 0x4E00),
    (0xA000, 0xAC00),
    (0xD7A4, 0xD800),
    (0xF900, 0x20000),
    (0xE0000, 0xE0200),
)
BLOCK = 256  # code points a text


def prove(folder: Path, samples: Iterable[tuple[str, list[str]]]) -> dict:
    """`{library, texts, tokens, hash, reason}`: the library to encode with, and its grounds.

    `samples`: names and texts of the pools, to be compared besides the hard ones. `hash` is SHA-256 of the ids.
    """
    reference = Encoder(folder, "tokenizers")
    choice = {"library": "fastokens", "texts": 0, "tokens": 0, "hash": "", "reason": None}
    try:
        fast = Encoder(folder, "fastokens")
    except ValueError as error:  # fastokens reads BPE alone
        return {**choice, "library": "tokenizers", "reason": str(error)}
    digest = hashlib.sha256()
    hard = [*HARD_TEXTS, *_unicode_texts(), *_added_token_texts(reference)]
    for name, texts in [("hard texts", hard), *samples]:
        expected, starts = reference.contents(texts)
        found, found_starts = fast.contents(texts)
        if not (np.array_equal(expected, found) and np.array_equal(starts, found_starts)):
            reason = f"fastokens gives other ids in a sample of {name}"
            return {**choice, "library": "tokenizers", "reason": reason}
        digest.update(expected.tobytes())
        choice["texts"] += len(texts)
        choice["tokens"] += len(expected)
    return {**choice, "hash": digest.hexdigest()}


def _unicode_texts() -> Iterator[str]:
    points = [chr(point) for first, end in RANGES for point in range(first, end)]
    for first in range(0, len(points), BLOCK):
        yield "".join(f"a{point}b1{point} {point}" for point in points[first : first + BLOCK])


def _added_token_texts(reference: Encoder) -> Iterator[str]:
    """Every added token of the vocabulary spelled in a text: alone, in a word, between blanks, upper-cased."""
    added = reference.reference.get_added_tokens_decoder()
    for _, token in sorted(added.items()):
        text = token.content
        yield f"{text} a{text}b  {text}  {text}{text}\n{text}\n {text.upper()}{text[:-1]}"
