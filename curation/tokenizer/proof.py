"""The choice of the encoder: fastokens where it gives the ids of tokenizers, on hard texts and on every pool.

And of what counts: kernels of our own where they give the numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from curation.chat import SPECIAL_TOKENS
from curation.encoder import Encoder
from curation.shards import in_order

HARD_TEXTS = (
    "",
    " ",
    "\r\n\n \t x",
    "\x00\x01\x7f",
    "it's IT'S we'Ll 'ſ 'ſx 1234567 3.14",
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


def prove(folder: Path, samples: Iterable[tuple[str, list[str]]], threads: int = 1) -> dict:
    """`{library, counter, texts, tokens, hash, reason, counter_reason}`: what encodes and counts, and the grounds.

    library: "fastokens" or "tokenizers", with the reason against the former. counter: whether
    `curation.tokenizer.counter` counts, or the reason against it. `samples`: names and texts of the pools, to be
    compared besides the hard ones, on `threads`; `texts` and `tokens` say how many were. `hash` is SHA-256 of the
    ids.
    """
    reference = Encoder(folder, "tokenizers")
    fast, reason = _made(folder, "fastokens", False)
    counter, counter_reason = _made(folder, "tokenizers", True)
    digest, compared, tokens = hashlib.sha256(), 0, 0
    hard = [*HARD_TEXTS, *_unicode_texts(), *_added_token_texts(reference)]

    def compare(sample: tuple[str, list[str]]) -> tuple[str, int, np.ndarray, bool, bool]:
        (name, texts), encodes, counts = sample, fast, counter  # either may be found wrong meanwhile
        expected, starts = reference.contents(texts)
        same = encodes is None or all(map(np.array_equal, encodes.contents(texts), (expected, starts)))
        counted = counts is None or np.array_equal(counts.lengths(texts), np.diff(starts))
        return name, len(texts), expected, same, counted

    for name, size, expected, same, counted in in_order(compare, chain([("hard texts", hard)], samples), threads):
        if fast is None and counter is None:
            break
        if fast is not None and not same:
            fast, reason = None, f"fastokens gives other ids in a sample of {name}"
        if counter is not None and not counted:
            counter, counter_reason = None, f"the counter gives other numbers in a sample of {name}"
        digest.update(expected.tobytes())
        compared += size
        tokens += len(expected)
    return {
        "library": "tokenizers" if fast is None else "fastokens",
        "counter": counter is not None,
        "texts": compared,
        "tokens": tokens,
        "hash": digest.hexdigest(),
        "reason": reason,
        "counter_reason": counter_reason,
    }


def _made(folder: Path, library: str, counter: bool) -> tuple[Encoder | None, str | None]:
    try:
        return Encoder(folder, library, counter), None
    except ValueError as error:  # fastokens reads BPE alone, the counter byte-level BPE
        return None, str(error)


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
