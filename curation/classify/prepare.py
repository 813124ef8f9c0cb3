"""What a fastText classifier sees of a text, made in one compiled pass over Arrow buffers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.fasttext_words import END_MARK, START_OF_LABEL
from curation.measure.unicode import FLAGS, LOWER, SPACE
from curation.measure.utf8 import decode, text_buffers

_MARKS = (START_OF_LABEL, END_MARK)


def prepared(
    texts: pa.LargeStringArray, prefix: int, lowercase: bool, split: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The first `prefix` characters of each text as one line: (bytes uint8, offsets int64 (n + 1,)).

    Runs of white space and NUL are one blank. The marks that fastText would take for a label or for the end of
    the text lose their punctuation: `__label__` is `label`, a word `</s>` is `s`. Lowercase is Unicode's simple
    mapping. With `split` each punctuation mark of ASCII stands between blanks, as fastText's own examples have it:
    "good!!" is then the word "good" and two marks. Invalid UTF-8 is U+FFFD.
    """
    data, offsets = text_buffers(texts)
    room = np.minimum(3 * np.diff(offsets), 4 * prefix).sum() + 8  # a character grows to 3 bytes a byte at most
    out, out_offsets = np.empty(room, np.uint8), np.zeros(len(texts) + 1, np.int64)
    size = _prepare(data, offsets, prefix, lowercase, split, FLAGS, LOWER, _MARKS, out, out_offsets)
    return out[:size], out_offsets


def prepared_texts(texts: pa.LargeStringArray, prefix: int, lowercase: bool, split: bool = False) -> list[str]:
    """As `prepared`, as strings."""
    data, offsets = prepared(texts, prefix, lowercase, split)
    view = memoryview(data)
    return [str(view[a:b], "utf-8") for a, b in pairwise(offsets)]


@njit(nogil=True)
def _put(code, out, at):
    """Write a code point as UTF-8; returns the place after it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at], out[at + 1] = 0xC0 | code >> 6, 0x80 | code & 0x3F
        return at + 2
    if code < 0x10000:
        out[at], out[at + 1], out[at + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
        return at + 3
    out[at], out[at + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
    out[at + 2], out[at + 3] = 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
    return at + 4


@njit(nogil=True)
def _is_mark(code):
    """Whether a code point is punctuation of ASCII, `string.punctuation` in Python."""
    return 0x21 <= code <= 0x2F or 0x3A <= code <= 0x40 or 0x5B <= code <= 0x60 or 0x7B <= code <= 0x7E


@njit(nogil=True)
def _ends_with(out, first, at, mark):
    if at - first < len(mark):
        return False
    same = True
    for n in range(len(mark)):
        same &= out[at - len(mark) + n] == mark[n]
    return same


@njit(nogil=True)
def _end_word(out, word, at, mark):
    """The place after the word out[word:at], which becomes "s" if it is the end-of-text mark."""
    if at - word == len(mark) and _ends_with(out, word, at, mark):
        out[word] = 0x73
        return word + 1
    return at


@njit(nogil=True, cache=True)
def _prepare(data, offsets, prefix, lowercase, split, flags, lower, marks, out, out_offsets):
    label_mark, end_mark = marks
    put = 0
    for text in range(len(offsets) - 1):
        at, end, chars, first = offsets[text], offsets[text + 1], 0, put
        word = put  # where the word under way begins
        while at < end and chars < prefix:
            code, at = decode(data, at, end)
            chars += 1
            if code == 0 or flags[code] & SPACE:
                put = _end_word(out, word, put, end_mark)
                if put > first and out[put - 1] != 0x20:
                    out[put] = 0x20
                    put += 1
                word = put
                continue
            if split and _is_mark(code):
                if put > first and out[put - 1] != 0x20:
                    out[put] = 0x20
                    put += 1
                out[put], out[put + 1] = code, 0x20
                put += 2
                word = put
                continue
            put = _put(np.int64(lower[code]) if lowercase else code, out, put)
            if code == 0x5F and _ends_with(out, word, put, label_mark):
                put -= len(label_mark)
                for byte in label_mark[2:7]:
                    out[put] = byte
                    put += 1
        put = _end_word(out, word, put, end_mark)
        if put > first and out[put - 1] == 0x20:
            put -= 1
        out_offsets[text + 1] = put
    return put
