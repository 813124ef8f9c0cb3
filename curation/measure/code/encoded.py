"""Encoded data inside documents: the three is_hex of StarCoder2's filter (Lozhkov et al. 2024, section 2.4).

Each kind is a regular expression, found from left to right without overlap, as Python's `re` finds it:

    base64       [a-zA-Z0-9+/\\n=]{64,}
    hexadecimal  (?:\\b(?:0x|\\\\x)?[0-9a-fA-F]{2}(?:,|\\b\\s*)){8,}
    escapes      (?:\\\\u[0-9a-fA-F]{4}){8,}
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import (
    any_byte_mask,
    base64_mask,
    beyond_mask,
    hex_mask,
    leading_zeros,
    trailing_zeros,
    word_mask,
)
from curation.measure.unicode import FLAGS, LETTER, NUMBER, SPACE
from curation.measure.utf8 import BLOCK, block_at, decode

COUNTS = (
    "encoded_chars",  # of all matches; a character in matches of two kinds counts twice
    "longest_encoded",  # characters of the longest match
)
BASE64_AT_LEAST, UNITS_AT_LEAST = 64, 8
HEX = b"0123456789abcdefABCDEF"
STEP = 59  # bytes of a block that a unit is looked for at: its prefix, its digits and what follows lie within
_ALL, _HERE, _1, _2, _4 = (np.uint64(number) for number in ((1 << 64) - 1, (1 << STEP) - 1, 1, 2, 4))

IS_HEX = np.zeros(256, np.bool_)
IS_HEX[list(HEX)] = True
IS_HEX.flags.writeable = False
x_mask, zero_mask, u_mask, backslash_mask = map(any_byte_mask, (b"x", b"0", b"u", b"\\"))


def encoded_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count(data, offsets, FLAGS, IS_HEX, out)
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
def _hex_run(data, at, end, word_before, flags, is_hex):
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
        if at + 2 > end or not (is_hex[data[at]] and is_hex[data[at + 1]]):
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
def _escape_run(data, at, end, is_hex):
    """The place after the escapes \\uXXXX that lie side by side from `at` on."""
    while at + 6 <= end and data[at] == 0x5C and data[at + 1] == 0x75:
        for place in range(2, 6):
            if not is_hex[data[at + place]]:
                return at
        at += 6
    return at


@njit(nogil=True)
def _is_word_before(data, begin, at, flags):
    """Whether the character that ends before byte `at` is one of `\\w`; outside the document none is."""
    for back in range(1, 5):
        if at - back < begin:
            return False
        if data[at - back] & 0xC0 != 0x80:
            code, following = decode(data, at - back, at)
            return following == at and (code == 0x5F or flags[code] & (LETTER | NUMBER) != 0)
    return False


@njit(nogil=True)
def _base64_chars(data, begin, end, longest):
    total, at = 0, begin  # `at` follows a byte that is none of base64
    while at < end:
        known, others = _no_base64(data, at, end)
        if others:
            at += BLOCK - leading_zeros(others)  # whatever lies before the last of them is too short
            continue
        if known < BASE64_AT_LEAST:
            break
        start = at
        while at < end and not others:
            known, others = _no_base64(data, at, end)
            at += min(known, trailing_zeros(others))
        total, longest = total + at - start, max(longest, at - start)
    return total, longest


@njit(inline="always")
def _no_base64(data, at, end):
    """How many bytes from `at` on are of its block, and which of them are none of base64."""
    place, shift = block_at(data, at)
    known = min(BLOCK, end - at)
    return known, ~(base64_mask(data, place) >> shift) & _ALL >> np.uint64(BLOCK - known)


@njit(nogil=True)
def _other_chars(data, begin, end, flags, is_hex, longest):
    """Characters of the hexadecimal data and the escapes."""
    total, at, hexadecimal, escapes = 0, begin, begin, begin  # the last two: where the next one may begin
    while at < end:
        place, shift = block_at(data, at)
        words, beyond = word_mask(data, place) >> shift, beyond_mask(data, place) >> shift
        digits, xs = hex_mask(data, place) >> shift, x_mask(data, place) >> shift
        zeros, slashes = zero_mask(data, place) >> shift, backslash_mask(data, place) >> shift
        # Where a unit may begin: what lies before it, and after its digits, is looked at where it is ASCII.
        two = digits & digits >> _1
        prefixed = xs >> _1 & two >> _2 & ~(words >> _4)
        starts = digits & ~(words << _1) & (two & ~(words >> _2) | zeros & prefixed)
        starts |= slashes & prefixed & ((words | beyond) << _1 | _1)
        starts &= _HERE
        while starts:
            start = at + trailing_zeros(starts)
            starts &= starts - _1
            if start < hexadecimal or start >= end:
                continue
            word_before = _is_word_before(data, begin, start, flags)
            units, after, chars = _hex_run(data, start, end, word_before, flags, is_hex)
            if units >= UNITS_AT_LEAST:
                total, longest = total + chars, max(longest, chars)
                hexadecimal = after
        backslashes = slashes & u_mask(data, place) >> shift >> _1 & _HERE
        while backslashes:
            start = at + trailing_zeros(backslashes)
            backslashes &= backslashes - _1
            if start < escapes or start >= end:
                continue
            after = _escape_run(data, start, end, is_hex)
            if after - start >= 6 * UNITS_AT_LEAST:
                total, longest = total + after - start, max(longest, after - start)
                escapes = after
        at += STEP
    return total, longest


@njit(nogil=True, cache=True)
def _count(data, offsets, flags, is_hex, out):
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        base64, longest = _base64_chars(data, begin, end, 0)
        others, longest = _other_chars(data, begin, end, flags, is_hex, longest)
        out[0, document] = base64 + others
        out[1, document] = longest
