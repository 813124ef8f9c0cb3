"""Encoded data inside documents: the three kinds of StarCoder2's filter (Lozhkov et al. 2024, section 2.4).

Each kind is a regular expression, found from left to right without overlap, as Python's `re` finds it:

    base64       [a-zA-Z0-9+/\\n=]{64,}
    hexadecimal  (?:\\b(?:0x|\\\\x)?[0-9a-fA-F]{2}(?:,|\\b\\s*)){8,}
    escapes      (?:\\\\u[0-9a-fA-F]{4}){8,}
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.measure.unicode import FLAGS, LETTER, NUMBER, SPACE
from curation.measure.utf8 import decode

COUNTS = (
    "encoded_chars",  # of all matches; a character in matches of two kinds counts twice
    "longest_encoded",  # characters of the longest match
)
BASE64_AT_LEAST, UNITS_AT_LEAST = 64, 8
BASE64, HEX, WORD = 1, 2, 4  # kinds of bytes; WORD: what is one of `\\w` in ASCII


def _kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in b"0123456789abcdefABCDEF":
        kinds[byte] |= HEX
    for byte in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/\n=":
        kinds[byte] |= BASE64
    for byte in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_":
        kinds[byte] |= WORD
    kinds.flags.writeable = False
    return kinds


KINDS = _kinds()


def encoded_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count(data, offsets, FLAGS, KINDS, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True)
def _is_word(data, at, end, flags):
    """Whether the character at `at` is one of `\\w`; outside the document none is."""
    if at >= end:
        return False
    code, _ = decode(data, at, end)
    return code == 0x5F or flags[code] & (LETTER | NUMBER) != 0


@njit(nogil=True)
def _after_spaces(data, at, end, flags):
    """The place after white space and how many characters that was."""
    chars = 0
    while at < end:
        code, following = decode(data, at, end)
        if flags[code] & SPACE == 0:
            break
        at, chars = following, chars + 1
    return at, chars


@njit(nogil=True)
def _hex_run(data, at, end, word_before, flags, kinds):
    """The hexadecimal units from `at` on: (units, place after them, characters).

    No choice of the expression needs a second try: a unit ends after two digits, and what may follow a comma or
    white space is no comma and no white space.
    """
    units, chars = 0, 0
    while at < end:
        start = at
        starts_word = data[at] != 0x5C  # a digit is a word character, a backslash none
        if word_before == starts_word:
            break
        if at + 1 < end and data[at + 1] == 0x78 and (data[at] == 0x30 or data[at] == 0x5C):
            at += 2
        if at + 2 > end or not (kinds[data[at]] & HEX and kinds[data[at + 1]] & HEX):
            at = start
            break
        at += 2
        if at < end and data[at] == 0x2C:
            at += 1
            chars += at - start
            word_before = False
        elif _is_word(data, at, end, flags):
            at = start
            break
        else:
            chars += at - start
            at, spaces = _after_spaces(data, at, end, flags)
            chars += spaces
            word_before = spaces == 0
        units += 1
    return units, at, chars


@njit(nogil=True)
def _escape_run(data, at, end, kinds):
    """The place after the escapes \\uXXXX that lie side by side from `at` on."""
    while at + 6 <= end and data[at] == 0x5C and data[at + 1] == 0x75:
        for place in range(2, 6):
            if not kinds[data[at + place]] & HEX:
                return at
        at += 6
    return at


@njit(nogil=True)
def _may_begin_hex(data, at, end, kinds):
    """Whether a unit may lie at `at`, by its first three bytes alone: most words that begin like one do not."""
    if at + 2 >= end:
        return False
    second = data[at + 1]
    if second == 0x78:
        return True
    return kinds[second] & HEX != 0 and kinds[data[at + 2]] & WORD == 0


@njit(nogil=True)
def _hex_chars(data, begin, end, flags, kinds, longest):
    total, at, word_before = 0, begin, False
    while at < end:
        byte = data[at]
        if byte >= 0x80:
            code, at = decode(data, at, end)
            word_before = flags[code] & (LETTER | NUMBER) != 0
            continue
        is_word = kinds[byte] & WORD != 0
        if is_word != word_before and (kinds[byte] & HEX or byte == 0x5C) and _may_begin_hex(data, at, end, kinds):
            units, after, chars = _hex_run(data, at, end, word_before, flags, kinds)
            if units >= UNITS_AT_LEAST:
                total, longest = total + chars, max(longest, chars)
                word_before = kinds[data[after - 1]] & WORD != 0  # a comma, a digit or white space
                at = after
                continue
        word_before = is_word
        at += 1
    return total, longest


@njit(nogil=True, cache=True)
def _count(data, offsets, flags, kinds, out):
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        total, longest, run, at = 0, 0, 0, begin
        while at < end:
            byte = data[at]
            if kinds[byte] & BASE64:
                run += 1
                at += 1
                if at < end:
                    continue
            if run >= BASE64_AT_LEAST:
                total, longest = total + run, max(longest, run)
            run = 0
            if byte == 0x5C:
                after = _escape_run(data, at, end, kinds)
                if after - at >= 6 * UNITS_AT_LEAST:
                    total, longest = total + after - at, max(longest, after - at)
                    at = after - 6  # what follows the last backslash may begin base64
            at += 1
        hexadecimal, longest = _hex_chars(data, begin, end, flags, kinds, longest)
        out[0, document] = total + hexadecimal
        out[1, document] = longest
