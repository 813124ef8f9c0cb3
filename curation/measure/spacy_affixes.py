"""How long the prefix, suffix or infix is that spaCy's English tokenizer splits off at a place of a chunk.

A chunk is the `Chunk` of `curation.measure.spacy_chunk`: code points, classes and byte offsets of its characters.
Where several patterns match, a prefix takes the first of them, a suffix the one that reaches furthest to the
front, an infix the first of them again.
"""

from __future__ import annotations

from curation.compiled import njit
from curation.measure.spacy_english import (
    ALPHA,
    BEFORE_STOP,
    INFIX,
    LOWER,
    PREFIX,
    QUOTE,
    SUFFIX,
    UNIT_END,
    UPPER,
)
from curation.measure.spacy_strings import find_string, hash_bytes

LONGEST_UNIT = 8  # characters
PLUS, COMMA, HYPHEN, STOP, ELLIPSIS, DEGREE, DOLLAR = 0x2B, 0x2C, 0x2D, 0x2E, 0x2026, 0xB0, 0x24
EN_DASH, EM_DASH, TILDE, CARET, ASTERISK = 0x2013, 0x2014, 0x7E, 0x5E, 0x2A
APOSTROPHE, TYPOGRAPHIC_APOSTROPHE = 0x27, 0x2019
COLON, LESS, EQUALS, GREATER, SLASH = 0x3A, 0x3C, 0x3D, 0x3E, 0x2F


@njit(nogil=True, inline="always", _nrt=False)
def _is_digit(code):
    return 0x30 <= code <= 0x39


@njit(nogil=True, forceinline=True, _nrt=False)
def _stops_from(chunk, at, high):
    """How many full stops follow one another from `at` on."""
    end = at
    while end < high and chunk.codes[end] == STOP:
        end += 1
    return end - at


@njit(nogil=True, forceinline=True, _nrt=False)
def prefix_length(chunk, low, high):
    """The characters of the prefix of [low, high), 0 for none."""
    code = chunk.codes[low]
    if code == STOP:
        stops = _stops_from(chunk, low, high)
        return stops if stops > 1 else 0
    if code == PLUS:
        return 0 if low + 1 < high and _is_digit(chunk.codes[low + 1]) else 1
    if chunk.classes[low] & PREFIX:
        return 1
    if low + 1 < high and chunk.codes[low + 1] == DOLLAR and (code == 0x41 or code == 0x43):  # A$ and C$
        return 2
    dollars = code == 0x55 and low + 2 < high and chunk.codes[low + 1] == 0x53 and chunk.codes[low + 2] == DOLLAR
    return 3 if dollars else 0  # US$


@njit(nogil=True, forceinline=True, _nrt=False)
def suffix_length(text, start, chunk, low, high, strings):
    """The characters of the suffix of [low, high), 0 for none; text[start:] holds the chunk's bytes."""
    if high <= low:
        return 0
    code, kind = chunk.codes[high - 1], chunk.classes[high - 1]
    if code == STOP:
        return _stop_suffix(chunk, low, high)
    length = 0
    if kind & SUFFIX:
        length = 2 if code == ELLIPSIS and high - 2 >= low and chunk.codes[high - 2] == ELLIPSIS else 1
    elif (code == 0x73 or code == 0x53) and high - 2 >= low:  # 's and 'S
        before = chunk.codes[high - 2]
        length = 2 if before in (APOSTROPHE, TYPOGRAPHIC_APOSTROPHE) else 0
    if kind & UNIT_END:
        for size in range(1, min(LONGEST_UNIT, high - low - 1) + 1):
            if _is_digit(chunk.codes[high - size - 1]):
                first, last = chunk.offsets[high - size], chunk.offsets[high]
                number = find_string(hash_bytes(text, start + first, start + last), strings)
                if number >= 0 and strings.unit[number]:
                    length = max(length, size)
    return length


@njit(nogil=True, forceinline=True, _nrt=False)
def _stop_suffix(chunk, low, high):
    stops = 1
    while high - stops - 1 >= low and chunk.codes[high - stops - 1] == STOP:
        stops += 1
    if stops > 1:
        return stops
    if high - 2 < low:
        return 0
    if chunk.classes[high - 2] & BEFORE_STOP:
        return 1
    if high - 3 < low:
        return 0
    code = chunk.codes[high - 2] | 0x20
    degrees = chunk.codes[high - 3] == DEGREE and (code == 0x63 or code == 0x66 or code == 0x6B)
    capitals = chunk.classes[high - 2] & chunk.classes[high - 3] & UPPER
    return 1 if degrees or capitals else 0


@njit(nogil=True, forceinline=True, _nrt=False)
def infix_length(chunk, low, at, high):
    """The characters of the infix of [low, high) at place `at`, 0 for none."""
    code = chunk.codes[at]
    if code == STOP:
        stops = _stops_from(chunk, at, high)
        if stops > 1:
            return stops
    if chunk.classes[at] & INFIX:
        return 1
    if at == low or at + 1 >= high:
        return 0
    before, after = chunk.classes[at - 1], chunk.classes[at + 1]
    after_digit = _is_digit(chunk.codes[at - 1])
    if after_digit and code in (PLUS, HYPHEN, ASTERISK, CARET):
        following = chunk.codes[at + 1]
        if _is_digit(following) or following == HYPHEN:
            return 1
    if code == STOP:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if code == COMMA:
        return 1 if before & after & ALPHA else 0
    if not (before & ALPHA or after_digit):
        return 0
    if code in (COLON, LESS, EQUALS, GREATER, SLASH):
        return 1 if after & ALPHA else 0
    longest = 3 if code == HYPHEN else 2 if code == EM_DASH else 1 if code in (EN_DASH, TILDE) else 0
    for size in range(1, longest + 1):
        if at + size < high and chunk.classes[at + size] & ALPHA:
            return size
        if at + size >= high or chunk.codes[at + size] != code:
            return 0
    return 0
