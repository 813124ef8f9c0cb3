"""Statistics of lines and paragraphs.

A line is what `text.split("\\n")` gives, without one carriage return at its end; so a text has one line more than
it has newlines, and an empty text has one. A paragraph is a run of lines that are not empty: what Dolma 3 gets
by collapsing newlines to two and splitting there (steps 9 and 10 of its filters). Every copy of what has more
than one counts as a duplicate, the first one included.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.hashing import HASH_START, extend_hash, hash_bytes, number_of, table_size
from curation.measure.line_ends import newline, newlines

COUNTS = (
    "lines",  # all lines
    "filled_lines",  # lines that are not empty
    "line_chars",  # characters of all lines, line ends apart
    "longest_line",  # characters
    "bullet_lines",  # lines that begin with ● • * or -
    "ellipsis_lines",  # lines that end in "...", ". . ." or …
    "dup_lines",  # lines, not empty, of which the document has more than one copy: every copy counts
    "dup_line_chars",
    "paragraphs",
    "paragraph_chars",  # characters of paragraphs, the newlines within them included
    "dup_paragraphs",  # as for lines
    "dup_paragraph_chars",
)


def line_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count_lines(data, offsets, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True)
def _starts_with_bullet(data, start, stop):
    if stop - start >= 1 and (data[start] == 0x2A or data[start] == 0x2D):
        return True
    if stop - start < 3 or data[start] != 0xE2:
        return False
    black_circle = data[start + 1] == 0x97 and data[start + 2] == 0x8F
    bullet = data[start + 1] == 0x80 and data[start + 2] == 0xA2
    return black_circle or bullet


@njit(nogil=True)
def _ends_with_ellipsis(data, start, stop):
    length = stop - start
    if length < 3:
        return False
    last, middle, first = data[stop - 1], data[stop - 2], data[stop - 3]
    if last == 0xA6:
        return middle == 0x80 and first == 0xE2
    if last != 0x2E:
        return False
    if middle == 0x2E:
        return first == 0x2E
    spaced = length >= 5 and middle == 0x20 and first == 0x2E
    return spaced and data[stop - 4] == 0x20 and data[stop - 5] == 0x2E


@njit(nogil=True)
def _add_segment(key, chars, keys, copies, known, slots, size, out, document, at):
    """Count one more line or paragraph; every copy counts as soon as there are two. Returns the distinct ones."""
    number = number_of(key, keys, known, slots, size)
    if number == known:
        copies[number] = 1
        return known + 1
    new = 2 if copies[number] == 1 else 1
    copies[number] = 2
    out[at, document] += new
    out[at + 1, document] += new * chars
    return known


@njit(nogil=True, cache=True)
def _count_lines(data, offsets, out):
    slots, other_slots = np.empty(2, np.int32), np.empty(2, np.int32)
    keys, other_keys = np.empty(1, np.uint64), np.empty(1, np.uint64)
    copies, other_copies = np.empty(1, np.uint8), np.empty(1, np.uint8)
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        lines = 1 + newlines(data, start, end)
        out[0, document] = lines
        size = table_size(lines)
        if size > len(slots):
            slots, other_slots = np.empty(size, np.int32), np.empty(size, np.int32)
            keys, other_keys = np.empty(size // 2, np.uint64), np.empty(size // 2, np.uint64)
            copies, other_copies = np.empty(size // 2, np.uint8), np.empty(size // 2, np.uint8)
        slots[:size] = -1
        other_slots[:size] = -1
        distinct = other_distinct = 0
        paragraph_hash, paragraph_chars, paragraph_lines = HASH_START, 0, 0
        for _ in range(lines):
            at = newline(data, start, end)
            at -= at > start and data[at - 1] == 0x0D
            hashed, chars = hash_bytes(data, start, at)
            out[2, document] += chars
            out[3, document] = max(out[3, document], chars)
            out[4, document] += _starts_with_bullet(data, start, at)
            out[5, document] += _ends_with_ellipsis(data, start, at)
            if at > start:
                out[1, document] += 1
                distinct = _add_segment(hashed, chars, keys, copies, distinct, slots, size, out, document, 6)
                paragraph_hash = extend_hash(extend_hash(paragraph_hash, hashed), 0x0A)
                paragraph_chars += chars + (paragraph_lines > 0)
                paragraph_lines += 1
            line_end = at + (at < end and data[at] == 0x0D)  # past the carriage return
            if paragraph_lines > 0 and (at == start or line_end == end):
                out[8, document] += 1
                out[9, document] += paragraph_chars
                other_distinct = _add_segment(
                    paragraph_hash, paragraph_chars, other_keys, other_copies, other_distinct, other_slots, size,
                    out, document, 10,
                )  # fmt: skip
                paragraph_hash, paragraph_chars, paragraph_lines = HASH_START, 0, 0
            start = line_end + 1
