"""Unicode words one by one, for kernels that look at the words of a line or a sentence.

A word is what `curation.measure.repetition` says it is.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.unicode import DIGIT, LETTER, MARK, NUMBER, SOLO
from curation.measure.utf8 import decode


@njit(nogil=True)
def joins(code, before, at, data, end, flags):
    """Whether a mark of punctuation between two characters keeps them in one word."""
    apostrophe_or_stop = code == 0x27 or code == 0x2E or code == 0x2019
    if not (apostrophe_or_stop or code == 0x2C or code == 0xB7) or at >= end:
        return False
    following, _ = decode(data, at, end)
    after = flags[following]
    if code != 0x2C and before & after & LETTER:
        return (before | after) & SOLO == 0
    return code != 0xB7 and (before & after & DIGIT) != 0


@njit(nogil=True)
def next_word(data, at, end, flags):
    """Where the first word that begins at byte `at` or later begins and ends; (end, end) if there is none.

    `at` must not be within a word. Nothing at or past `end` is read.
    """
    while at < end:
        if data[at] < 0x80:
            code, following = np.int64(data[at]), at + 1
        else:
            code, following = decode(data, at, end)
        kinds = np.int64(flags[code])
        if kinds & (LETTER | NUMBER) == 0 and code != 0x5F:
            at = following
            continue
        start, before, at = at, kinds, following
        while at < end:
            if data[at] < 0x80:
                code, following = np.int64(data[at]), at + 1
            else:
                code, following = decode(data, at, end)
            kind = np.int64(flags[code])
            if kinds & SOLO:
                goes_on = kind & MARK != 0
            elif kind & (LETTER | NUMBER | MARK) or code == 0x5F:
                goes_on = kind & SOLO == 0
            else:
                goes_on = joins(code, before, following, data, end, flags)
            if not goes_on:
                break
            kinds |= kind
            before, at = kind, following
        if kinds & (LETTER | NUMBER):
            return start, at
    return end, end
