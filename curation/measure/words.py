"""Statistics of whitespace words and of symbols: the definitions of Dolma 3's rules (steps 4 to 8 of its filters).

A whitespace word is what `text.split()` gives. Unicode words, which repetition is measured on, are another thing:
see `curation.measure.repetition`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.measure.unicode import FLAGS, LETTER, SPACE
from curation.measure.utf8 import decode

COUNTS = (
    "whitespace_words",
    "word_chars",  # characters of them
    "alpha_words",  # those with at least one letter
    "stop_words",  # occurrences of STOP_WORDS, in any case, nothing stripped
    "symbols",  # "#", "..." and ". . ." (each found without overlap), and …
    "spaced_ellipses",  # ". . .": three words to split(), one to the symbol rule
)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher (Rae et al. 2021), table A1


def _pack(word: str) -> int:
    return int.from_bytes(word.encode("ascii"), "big")


_PACKED = np.array([_pack(word) for word in STOP_WORDS], np.uint64)
_PACKED.flags.writeable = False


def word_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count_words(data, offsets, FLAGS, _PACKED, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True)
def _is_spaced_ellipsis(data, at, end):
    if at + 5 > end or data[at + 1] != 0x20 or data[at + 2] != 0x2E:
        return False
    return data[at + 3] == 0x20 and data[at + 4] == 0x2E


@njit(nogil=True)
def _is_stop_word(packed, length, stop_words):
    if length < 2 or length > 4:
        return False
    found = False
    for stop_word in stop_words:
        found |= packed == stop_word
    return found


@njit(nogil=True, cache=True)
def _count_words(data, offsets, flags, stop_words, out):
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        words = word_chars = alpha_words = stops = symbols = spaced = 0
        dots_from = spaced_from = at  # where the next "..." and ". . ." may begin
        length, kinds, packed = 0, 0, np.uint64(0)
        while at < end:
            byte = data[at]
            if byte < 0x80:
                kind = flags[byte]
                if byte == 0x23:
                    symbols += 1
                elif byte == 0x2E:
                    if at >= dots_from and at + 3 <= end and data[at + 1] == 0x2E and data[at + 2] == 0x2E:
                        symbols += 1
                        dots_from = at + 3
                    if at >= spaced_from and _is_spaced_ellipsis(data, at, end):
                        symbols += 1
                        spaced += 1
                        spaced_from = at + 5
                lower = byte | 0x20 if np.uint8(byte - 0x41) < 26 else max(byte, np.uint8(1))  # no NUL in front
                at += 1
            else:
                code, at = decode(data, at, end)
                kind = flags[code]
                symbols += code == 0x2026
                lower = np.uint8(0xFF)  # in no stop word
            if kind & SPACE:
                if length:
                    words += 1
                    word_chars += length
                    alpha_words += (kinds & LETTER) != 0
                    stops += _is_stop_word(packed, length, stop_words)
                    length, kinds, packed = 0, 0, np.uint64(0)
            else:
                length += 1
                kinds |= kind
                packed = packed << np.uint64(8) | np.uint64(lower)
        if length:
            words += 1
            word_chars += length
            alpha_words += (kinds & LETTER) != 0
            stops += _is_stop_word(packed, length, stop_words)
        out[0, document] = words
        out[1, document] = word_chars
        out[2, document] = alpha_words
        out[3, document] = stops
        out[4, document] = symbols
        out[5, document] = spaced
