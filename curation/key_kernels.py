"""`curation.keys` compiled: its mixing for other kernels, and what it does with many ids."""

from __future__ import annotations

import numpy as np

from curation import keys
from curation.compiled import njit

mix64 = njit(inline="always")(keys.mix64)


@njit(nogil=True, cache=True)
def mix_pairs(high, low, first, second, out):
    for i in range(len(high)):
        out[i] = mix64(mix64(high[i] + first) ^ mix64(low[i] + second))


@njit(inline="always")
def _is_hex(word):
    """Whether eight bytes are hex digits: the high bit of each is set by the sums for 0 to 9, or for a to f."""
    every = np.uint64(0x8080808080808080)
    lower = word | np.uint64(0x2020202020202020)
    digit = (word + np.uint64(0x5050505050505050)) & ~(word + np.uint64(0x4646464646464646))
    letter = (lower + np.uint64(0x1F1F1F1F1F1F1F1F)) & ~(lower + np.uint64(0x1919191919191919))
    return (word & every) == 0 and ((digit | letter) & every) == every


@njit(inline="always")
def _hex_value(word):
    """The number that eight hex digits spell, the first of them in the lowest byte."""
    letters = (word >> np.uint64(6)) & np.uint64(0x0101010101010101)
    digits = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * letters
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    first, second = pairs << np.uint64(24), pairs & np.uint64(0x0000000000FF0000)
    third, fourth = (pairs >> np.uint64(24)) & np.uint64(0x000000000000FF00), pairs >> np.uint64(48)
    return (first & np.uint64(0x00000000FF000000)) | second | third | fourth


@njit(nogil=True, cache=True)
def parse_hex(words, high, low):
    """Read ids of four words each; which of them are ids."""
    good = np.empty(len(high), np.bool_)
    for i in range(len(high)):
        a, b, c, d = words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]
        good[i] = _is_hex(a) and _is_hex(b) and _is_hex(c) and _is_hex(d)
        high[i] = (_hex_value(a) << np.uint64(32)) | _hex_value(b)
        low[i] = (_hex_value(c) << np.uint64(32)) | _hex_value(d)
    return good
