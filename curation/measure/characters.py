"""Counts of characters by kind."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import (
    beyond_mask,
    capital_mask,
    digit_mask,
    letter_mask,
    ones,
    punctuation_mask,
    trailing_zeros,
    white_mask,
)
from curation.measure.unicode import DIGIT, FLAGS, LETTER, NUMBER, PUNCTUATION, SPACE, UPPER
from curation.measure.utf8 import BLOCK, block_at, decode

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

COUNTS = ("chars", "alnum", "digits", "upper", "letters", "spaces", "punctuation")


def character_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """int64 counts a document, each of shape (n,): code points, and how many of them are letters or numbers
    (general category L or N), decimal digits (Nd), uppercase (`str.isupper`), letters (`str.isalpha`), white space
    (`str.isspace`) and punctuation (P)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count(data, offsets, FLAGS, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True, cache=True)
def _count(data, offsets, flags, out):
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        chars = alnum = digits = upper = letters = spaces = punctuation = 0
        while at < end:
            place, shift = block_at(data, at)
            plain = min(BLOCK, end - at, trailing_zeros(beyond_mask(data, place) >> shift))
            if plain > 0:
                inside = _ALL >> np.uint64(BLOCK - plain)
                found = ones(digit_mask(data, place) >> shift & inside)
                digits += found
                alnum += found
                found = ones(letter_mask(data, place) >> shift & inside)
                letters += found
                alnum += found
                upper += ones(capital_mask(data, place) >> shift & inside)
                spaces += ones(white_mask(data, place) >> shift & inside)
                punctuation += ones(punctuation_mask(data, place) >> shift & inside)
                chars += plain
                at += plain
            while at < end and data[at] >= 0x80:
                code, at = decode(data, at, end)
                kind = flags[code]
                chars += 1
                alnum += (kind & (LETTER | NUMBER)) != 0
                digits += (kind & DIGIT) != 0
                upper += (kind & UPPER) != 0
                letters += (kind & LETTER) != 0
                spaces += (kind & SPACE) != 0
                punctuation += (kind & PUNCTUATION) != 0
        out[0, document] = chars
        out[1, document] = alnum
        out[2, document] = digits
        out[3, document] = upper
        out[4, document] = letters
        out[5, document] = spaces
        out[6, document] = punctuation
