"""What datatrove's filters count over lines and paragraphs (0.10.1), from the lines that the tokenizer has found.

Each filter has lines of its own: Gopher quality those of `str.splitlines`; Gopher repetition what stands between
runs of newlines, of the text as it is, and paragraphs between two or more newlines of the stripped text; FineWeb
what stands between newlines, without blank lines. A duplicate is a second or later copy: the first is not counted.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.hashing import number_of, table_size
from curation.measure.intrinsics import load64
from curation.measure.spacy_english import TERMINAL
from curation.measure.spacy_strings import combined, folded, mixed
from curation.measure.spacy_tokens import (
    CHUNKS,
    LINE_CHUNKS,
    LINE_FIRST,
    LINE_LAST,
    LINE_NEXT,
    LINE_STOP,
    LINES,
    NEWLINES,
)
from curation.measure.utf8 import decode

SHORT_LINE = 30  # characters: FineWeb's short_line_length
NEWLINE, FULL_STOP, HYPHEN = 0x0A, 0x2E, 0x2D
_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)

# Counts: places in `out`.
BULLETS, ELLIPSIS_ENDS, SPLIT_LINES = range(3)  # Gopher quality
PARAGRAPHS, DUP_PARAGRAPHS, DUP_PARAGRAPH_CHARS = range(3, 6)  # Gopher repetition
NEWLINE_LINES, DUP_LINES, DUP_LINE_CHARS = range(6, 9)
FILLED_LINES, TERMINAL_LINES, SHORT_LINES, DUP_FILLED_CHARS = range(9, 13)  # FineWeb
LINE_COUNTS = 13


@njit(nogil=True, _nrt=False)
def hash_text(data, start, end):
    """A 64-bit hash of data[start:end]; reads nothing outside."""
    hashed = np.uint64(end - start) * _MULTIPLIER
    at = start
    while at + 16 <= end:
        hashed = combined(hashed ^ load64(data, at), load64(data, at + 8))
        at += 16
    if at + 8 <= end:
        hashed = folded(hashed, load64(data, at))
        at += 8
    rest = np.uint64(0)
    while at < end:
        rest = rest << np.uint64(8) | np.uint64(data[at])
        at += 1
    return mixed(hashed, rest)


@njit(nogil=True, _nrt=False)
def count_chars(data, start, end):
    """The characters of data[start:end]."""
    chars = 0
    for at in range(start, end):
        chars += (data[at] & 0xC0) != 0x80
    return chars


@njit(nogil=True, _nrt=False)
def seen_before(key, keys, known, slots, size):
    """How many different keys there are after one more; `known` itself if that one has been there."""
    return max(known, number_of(key, keys, known, slots, size) + 1)


@njit(nogil=True, inline="always", _nrt=False)
def _is_ellipsis(data, start, end):
    """Whether data[start:end] ends in three full stops or in the ellipsis character."""
    if end - start < 3:
        return False
    last, middle, first = data[end - 1], data[end - 2], data[end - 3]
    stops = last == FULL_STOP and middle == FULL_STOP and first == FULL_STOP
    return stops or (last == 0xA6 and middle == 0x80 and first == 0xE2)


@njit(nogil=True, _nrt=False)
def _is_bullet(data, start, end):
    if data[start] == HYPHEN:
        return True
    return end - start >= 3 and data[start] == 0xE2 and data[start + 1] == 0x80 and data[start + 2] == 0xA2


@njit(nogil=True, _nrt=False)
def ends_terminal(data, start, end, classes):
    at = end - 1
    while at > start and data[at] & 0xC0 == 0x80:
        at -= 1
    code, _ = decode(data, at, end)
    return (classes[code] & TERMINAL) != 0


@njit(nogil=True)
def table(lines):
    """Slots and keys of a hash table with room for so many lines."""
    size = table_size(lines)
    return np.empty(size, np.int32), np.empty(size // 2 + 1, np.uint64)


@njit(nogil=True, _nrt=False)
def count_lines(data, begin, end, tokens, counts, classes, ascii_only, slots, keys, out):
    """Fill `out` (LINE_COUNTS numbers) for the tokenised text data[begin:end]; `slots`, `keys` fit its lines."""
    out[:] = 0
    size = table_size(counts[NEWLINES] + 2)
    slots[:size] = -1
    known, start, chunks = 0, begin, 0
    if end > begin and data[begin] == NEWLINE:  # re.split gives an empty line there
        out[NEWLINE_LINES] += 1
    if end > begin and data[end - 1] == NEWLINE:
        out[NEWLINE_LINES] += 1
        out[DUP_LINES] += data[begin] == NEWLINE
    for number in range(counts[LINES]):
        line = tokens.lines[number]
        stop, following = begin + line[LINE_STOP], begin + line[LINE_NEXT]
        last = number == counts[LINES] - 1
        if not last or line[LINE_STOP] > (tokens.lines[number - 1, LINE_NEXT] if number else 0):
            out[SPLIT_LINES] += 1
            if line[LINE_FIRST] >= 0:
                out[BULLETS] += _is_bullet(data, begin + line[LINE_FIRST], begin + line[LINE_LAST])
                out[ELLIPSIS_ENDS] += _is_ellipsis(data, begin + line[LINE_FIRST], begin + line[LINE_LAST])
        if not last and data[following - 1] != NEWLINE:
            continue
        stop = end if last else following - 1
        if stop > start:
            chunks_after = counts[CHUNKS] if last else tokens.lines[number + 1, LINE_CHUNKS]
            filled = chunks_after > chunks
            chunks = chunks_after
            out[NEWLINE_LINES] += 1
            before = known
            known = seen_before(hash_text(data, start, stop), keys, known, slots, size)
            duplicate = known == before
            chars = 0
            if filled or duplicate:
                chars = stop - start if ascii_only else count_chars(data, start, stop)
            out[DUP_LINES] += duplicate
            out[DUP_LINE_CHARS] += chars if duplicate else 0
            if filled:
                out[FILLED_LINES] += 1
                out[SHORT_LINES] += chars <= SHORT_LINE
                out[TERMINAL_LINES] += ends_terminal(data, start, stop, classes)
                out[DUP_FILLED_CHARS] += chars if duplicate else 0
        start = following
    _count_paragraphs(data, begin, tokens, counts, ascii_only, slots, keys, size, out)


@njit(nogil=True, _nrt=False)
def _count_paragraphs(data, begin, tokens, counts, ascii_only, slots, keys, size, out):
    """Paragraphs of the stripped text: lines of it with no empty one between them."""
    first, last = -1, -1
    for number in range(counts[LINES]):
        if tokens.lines[number, LINE_FIRST] >= 0:
            first = number if first < 0 else first
            last = number
    if first < 0:
        out[PARAGRAPHS] = 1  # an empty one
        return
    slots[:size] = -1
    known, start, at = 0, begin + tokens.lines[first, LINE_FIRST], begin
    text_end = begin + tokens.lines[last, LINE_LAST]
    line_start = start
    stop = start
    for number in range(first, last + 1):
        at = begin + tokens.lines[number, LINE_NEXT]
        if number < last and data[at - 1] != NEWLINE:
            continue
        line_end = text_end if number == last else at - 1
        empty = line_end == line_start
        if not empty:
            if start < 0:
                start = line_start
            stop = line_end
        if start >= 0 and (empty or number == last):
            out[PARAGRAPHS] += 1
            before = known
            known = seen_before(hash_text(data, start, stop), keys, known, slots, size)
            if known == before:
                out[DUP_PARAGRAPHS] += 1
                out[DUP_PARAGRAPH_CHARS] += stop - start if ascii_only else count_chars(data, start, stop)
            start = -1
        line_start = at
