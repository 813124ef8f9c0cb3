"""Characters of comments, by the marks of each document's language."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.code.syntax import BLOCK, DOCSTRINGS, LINE, LONG_QUOTES, QUOTES, SPACED, TABLE, WIDEST

NEWLINE, BACKSLASH = 0x0A, 0x5C


def comment_chars(data: np.ndarray, offsets: np.ndarray, languages: np.ndarray) -> np.ndarray:
    """Characters of each document in comments, their marks included: int64 (n,).

    `languages` (int64, shape (n,)) are places in `syntax.NAMES`, -1 where the language is unknown: 0 then. The
    line end after a comment is none of it. Python's docstrings are comments, as in the filters of SantaCoder
    (Ben Allal et al. 2023) and StarCoder.
    """
    out = np.zeros(len(offsets) - 1, np.int64)
    _count(data, offsets, languages, TABLE, out)
    return out


@njit(nogil=True)
def _starts(data, at, end, mark):
    """The length of `mark` if the text goes on with it at `at`, else 0."""
    if mark[0] == 0:
        return 0
    length = 0
    while length < WIDEST and mark[length] != 0:
        if at + length >= end or data[at + length] != mark[length]:
            return 0
        length += 1
    return length


@njit(nogil=True)
def _after_line(data, at, end):
    while at < end and data[at] != NEWLINE:
        at += 1
    return at


@njit(nogil=True)
def _after_block(data, at, end, mark):
    """The place after the next `mark`; a mark that begins with a line end closes with its whole line."""
    while at < end:
        length = _starts(data, at, end, mark)
        if length:
            return _after_line(data, at + length, end) if mark[0] == NEWLINE else at + length
        at += 1
    return end


@njit(nogil=True)
def _after_string(data, at, end, quote, is_long):
    """The place after a string whose text begins at `at`. One that may not hold a line end stops before it."""
    while at < end:
        byte = data[at]
        if byte == BACKSLASH:
            at += 2
            continue
        if byte == quote:
            return at + 1
        if byte == NEWLINE and not is_long:
            return at
        at += 1
    return end


@njit(nogil=True)
def _after_triple(data, at, end, quote):
    while at < end:
        if data[at] == BACKSLASH:
            at += 2
            continue
        if data[at] == quote and at + 2 < end and data[at + 1] == quote and data[at + 2] == quote:
            return at + 3
        at += 1
    return end


@njit(nogil=True)
def _among(byte, mark):
    return byte != 0 and (byte == mark[0] or byte == mark[1] or byte == mark[2] or byte == mark[3])


@njit(nogil=True)
def _chars(data, start, end):
    chars = 0
    for at in range(start, end):
        chars += (data[at] & 0xC0) != 0x80
    return chars


@njit(nogil=True)
def _comment_end(data, at, begin, end, marks):
    """The place after the comment that begins at `at`, or `at` if none does."""
    for pair in range(2):
        length = _starts(data, at, end, marks[BLOCK + 2 * pair])
        if length:
            return _after_block(data, at + length, end, marks[BLOCK + 2 * pair + 1])
    for place in range(2):
        length = _starts(data, at, end, marks[LINE + place])
        if length:
            before = data[at - 1] if at > begin else NEWLINE
            if not marks[SPACED, 0] or before == NEWLINE or before == 0x20 or before == 0x09 or before == 0x3B:
                return _after_line(data, at + length, end)
    return at


@njit(nogil=True)
def _find_interesting(marks, interesting):
    """Set which bytes may begin a comment or a string."""
    interesting[:] = False
    for row in range(LONG_QUOTES + 1):
        for place in range(WIDEST if row >= QUOTES else 1):
            interesting[marks[row, place]] = True
    interesting[0] = False


@njit(nogil=True)
def _after_opening_block(data, at, end, marks):
    """The place after a block comment whose mark needs a line start, where the text begins with one."""
    if marks[BLOCK, 0] == NEWLINE and at < end and data[at] == marks[BLOCK, 1]:
        for place in range(2, WIDEST):
            mark = marks[BLOCK, place]
            if mark != 0 and (at + place - 1 >= end or data[at + place - 1] != mark):
                return at
        return _after_block(data, at, end, marks[BLOCK + 1])
    return at


@njit(nogil=True)
def _in_document(data, begin, end, marks, interesting):
    docstrings = marks[DOCSTRINGS, 0] != 0
    at = _after_opening_block(data, begin, end, marks)
    chars, depth, fresh = _chars(data, begin, at), 0, True  # fresh: nothing of a Python statement has come yet
    while at < end:
        byte = data[at]
        if not interesting[byte]:
            if docstrings:
                if byte == 0x28 or byte == 0x5B or byte == 0x7B:
                    depth += 1
                elif byte == 0x29 or byte == 0x5D or byte == 0x7D:
                    depth = max(0, depth - 1)
                prefix = (
                    (byte | 0x20 == 0x72 or byte | 0x20 == 0x75) and at + 1 < end and interesting[data[at + 1]]
                )
                if byte == NEWLINE:
                    fresh = depth == 0
                elif byte != 0x20 and byte != 0x09 and byte != 0x0D and not prefix:
                    fresh = False
            at += 1
            continue
        stop = _comment_end(data, at, begin, end, marks)
        if stop > at:
            chars += _chars(data, at, stop) - (byte == NEWLINE)
        elif docstrings and at + 2 < end and data[at + 1] == byte and data[at + 2] == byte:
            stop = min(_after_triple(data, at + 3, end, byte), end)
            chars += _chars(data, at, stop) if fresh else 0
            fresh = False
        else:
            is_long = _among(byte, marks[LONG_QUOTES])
            quote = is_long or _among(byte, marks[QUOTES])
            stop = min(_after_string(data, at + 1, end, byte, is_long), end) if quote else at + 1
            fresh = False
        at = stop
    return chars


@njit(nogil=True, cache=True)
def _count(data, offsets, languages, table, out):
    interesting = np.empty(256, np.bool_)
    for document in range(len(offsets) - 1):
        if languages[document] >= 0:
            marks = table[languages[document]]
            _find_interesting(marks, interesting)
            out[document] = _in_document(data, offsets[document], offsets[document + 1], marks, interesting)
