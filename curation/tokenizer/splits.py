"""Where a split cuts a text into the words that no merge crosses: the named patterns, compiled.

The kernel is a reading of the regular expressions of `curation.tokenizer.config.SPLITS`, each alternative in its
turn; the kinds of characters are asked of `tokenizers` itself, so that both have one Unicode.
"""

from __future__ import annotations

import functools

import numpy as np
from tokenizers import Regex, pre_tokenizers

from curation.measure.intrinsics import letter_mask, trailing_zeros
from curation.measure.kernel import inlined, kernel
from curation.measure.unicode import CODE_POINTS

LETTER, NUMBER, BLANK, LINE_END, OTHER = 1, 2, 4, 8, 16  # a line end is BLANK too
STYLES = {"cl100k": 0, "digits": 1, "gpt2": 2}
CL100K, DIGITS, GPT2 = STYLES.values()
# Code points outside are of no kind: planes without characters, surrogates.
_ASSIGNED = (range(0xD800), range(0xE000, 0x34000), range(0xE0000, 0xE1000))
_CLASSES = {LETTER: r"\p{L}", NUMBER: r"\p{N}", BLANK: r"\s"}
LANES = 64  # bytes looked at at once
_SPACE, _QUOTE = 0x20, 0x27


@functools.cache
def character_kinds() -> np.ndarray:
    """The kind of every code point, uint8 (0x110000,), as the regular expressions of `tokenizers` see it."""
    kinds = np.full(CODE_POINTS, OTHER, np.uint8)
    text = "".join(map(chr, (point for points in _ASSIGNED for point in points)))
    runs = pre_tokenizers.Split(Regex("|".join(f"{one}+" for one in _CLASSES.values())), "isolated")
    pieces = [piece for piece, _ in runs.pre_tokenize_str(text)]
    firsts = "".join(piece[0] for piece in pieces)  # one asked for each run of a kind
    for kind, pattern in _CLASSES.items():
        found = pre_tokenizers.Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(firsts)
        for number in (at for _, (start, end) in found for at in range(start, end)):
            kinds[np.fromiter(map(ord, pieces[number]), np.int64)] = kind
    kinds[list(b"\r\n")] |= LINE_END
    kinds.flags.writeable = False
    return kinds


@inlined
def _kind_at(data, at, end, kinds):
    """The kind of the character at `at` and the place of the next one."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return kinds[byte], at + 1
    size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    if at + size > end:
        return np.uint8(OTHER), end
    point = byte & (0x7F >> size)
    for step in range(1, size):
        point = point << 6 | np.int64(data[at + step]) & 0x3F
    return kinds[min(point, CODE_POINTS - 1)], at + size


@inlined
def _run(data, at, end, kinds, wanted):
    """The end of the characters of a kind that begin at `at`."""
    while at < end:
        kind, after = _kind_at(data, at, end, kinds)
        if not kind & wanted:
            break
        at = after
    return at


@kernel
def _contraction(data, at, end, either_case):
    """The end of 's, 't, 're, 've, 'm, 'll or 'd at a quote; `at` if there is none."""
    if at + 1 >= end:
        return at
    first = np.int64(data[at + 1])
    if either_case:
        if first == 0xC5 and at + 2 < end and data[at + 2] == 0xBF:
            return at + 3  # U+017F, a long s
        first |= 0x20
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return at + 2
    if at + 2 >= end:
        return at
    second = np.int64(data[at + 2]) | (0x20 if either_case else 0)
    if ((first == 0x72 or first == 0x76) and second == 0x65) or first == second == 0x6C:
        return at + 3
    return at


@kernel
def _blank_end(data, at, end, kinds, style):
    """The end of the word that begins with the blank at `at`, where no alternative before those of blanks fits."""
    line_end, last, place = at, at, at
    while place < end:
        kind, after = _kind_at(data, place, end, kinds)
        if not kind & BLANK:
            break
        if kind & LINE_END:
            line_end = after
        last, place = place, after
    if style != GPT2 and line_end > at:
        return line_end  # \s*[\r\n]+
    if place == end or last == at:
        return place  # \s+(?!\S) at the end of the text, and \s+
    return last  # \s+(?!\S): the blank before a word is left to it


@inlined
def word_end(data, at, end, kinds, style):
    """The end of the word that begins at byte `at` of the text that ends at `end`; `at` is less than `end`."""
    if at + LANES <= len(data):  # most words: ASCII letters, by themselves or after a blank or sign
        byte = np.int64(data[at])
        letters = letter_mask(data, at)
        before = np.int64(letters & np.uint64(1)) ^ 1
        alone = (
            before == 0
            or byte == _SPACE
            or (style != GPT2 and byte < 0x80 and byte != _QUOTE and kinds[byte] & (BLANK | OTHER) == kinds[byte])
        )
        if alone and letters >> np.uint64(before) & np.uint64(1):
            found = at + before + trailing_zeros(~(letters >> np.uint64(before)))
            if found >= end:
                return end
            if found < at + LANES - 1 and data[found] < 0x80:
                return found
            return _run(data, found, end, kinds, LETTER)
    return _word_end(data, at, end, kinds, style)


@kernel
def _word_end(data, at, end, kinds, style):
    byte = np.int64(data[at])
    kind, after = _kind_at(data, at, end, kinds)
    if byte == _QUOTE:
        found = _contraction(data, at, end, style != GPT2)
        if found > at:
            return found
    if kind & LETTER:
        return _run(data, after, end, kinds, LETTER)
    if style == GPT2:
        if byte == _SPACE and after < end:
            kind, following = _kind_at(data, after, end, kinds)
            if not kind & BLANK:
                return _run(data, following, end, kinds, kind)
        if kind & BLANK:
            return _blank_end(data, at, end, kinds, style)
        return _run(data, after, end, kinds, kind)
    if kind & NUMBER:
        for _ in range(2 if style == CL100K else 0):
            if after < end:
                kind, following = _kind_at(data, after, end, kinds)
                if kind & NUMBER:
                    after = following
        return after
    if after < end:
        following_kind, following = _kind_at(data, after, end, kinds)
        if following_kind & LETTER and not kind & LINE_END:
            return _run(data, following, end, kinds, LETTER)
        if byte == _SPACE and following_kind & OTHER:
            kind, after = following_kind, following
    if kind & BLANK:
        return _blank_end(data, at, end, kinds, style)
    return _run(data, _run(data, after, end, kinds, OTHER), end, kinds, LINE_END)
