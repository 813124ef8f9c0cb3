"""The edit that carries out C4's rules for lines: `curation.measure.c4_lines`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.compose import compose
from curation.edits import apply_edits
from curation.measure.c4_lines import (
    BLANKS,
    BRACKET,
    CITATION,
    CURLY_BRACKET,
    KEPT,
    LINE_FEED,
    LONG_WORD,
    LONGEST_WORD,
    LOREM_IPSUM,
    NEWLINE,
    NO_TERMINAL,
    NOTHING,
    RULES,
    citation_end,
    ends_well,
    has_bracket,
    line_fate,
    longest_word,
    without_citations,
)
from curation.measure.spacy_english import BLANK, LINE_BREAK, english
from curation.measure.spans import WIDTH, add_span, span_array
from curation.measure.utf8 import decode, text_buffers


def c4_spans(texts: pa.LargeStringArray) -> pa.ListArray:
    """The spans (SPANS) that leave what datatrove's C4QualityFilter leaves. Texts without nulls, shape (n,).

    A document that it drops is edited as if "lorem ipsum" and curly brackets did not matter.
    """
    return _spans(texts, True)


def c4_spans_any_end(texts: pa.LargeStringArray) -> pa.ListArray:
    """As `c4_spans`, for lines that may end in anything: `filter_no_terminal_punct=False`, as FineWeb was made.

    A line that a citation ended can then end in blanks, or be nothing else; those around the text go.
    """
    found = _spans(texts, False)
    data, offsets = text_buffers(apply_edits(texts, found))
    counts = np.zeros(len(texts), np.int64)
    table = _find_outer_blanks(data, offsets, english().classes, counts)
    return compose(found, span_array(counts, table, [""], [RULES[BLANKS]])) if counts.any() else found


def _spans(texts: pa.LargeStringArray, terminal: bool) -> pa.ListArray:
    data, offsets = text_buffers(texts)
    counts = np.zeros(len(texts), np.int64)
    table = _find(data, offsets, english().classes, terminal, counts)
    return span_array(counts, table, ["", "\n"], RULES)


@njit(nogil=True, _nrt=False)
def _next_line(data, at, end, classes):
    """The line at byte `at`: (start and end of it stripped, words, longest chunk in bytes, start of the next)."""
    first, last, words, chunk, longest = -1, at, 0, 0, 0
    while at < end:
        code, following = decode(data, at, end)
        if classes[code] & BLANK:
            chunk = 0
            if classes[code] & LINE_BREAK:
                if code == 0x0D and following < end and data[following] == 0x0A:
                    following += 1
                at = following
                break
        else:
            first = at if first < 0 else first
            words += chunk == 0
            chunk += following - at
            longest = max(longest, chunk)
            last = following
        at = following
    return first if first >= 0 else last, last, words, longest, at


@njit(nogil=True, cache=True)
def _find(data, offsets, classes, terminal, counts):
    table, known = np.empty((0, WIDTH), np.int64), 0
    buffer = np.empty(0, np.uint8)
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        before, at = known, begin
        kept_until = joint = -1  # where the last kept line ends; the span from which on its line break is settled
        while at < end:
            line = at
            start, stop, words, longest, at = _next_line(data, line, end, classes)
            if stop - start > len(buffer):
                buffer = np.empty(2 * (stop - start), np.uint8)
            fate = _fate(data, start, stop, words, longest, terminal, classes, buffer)
            if fate != KEPT:
                if kept_until >= 0 and joint < 0:
                    joint = known
                    if line - kept_until != 1 or data[kept_until] != LINE_FEED:
                        table = add_span(table, known, kept_until - begin, line - begin, NEWLINE, BLANKS)
                        known += 1
                table = add_span(table, known, line - begin, at - begin, NOTHING, fate)
                known += 1
                continue
            open_break = kept_until >= 0 and joint < 0  # the line break before this line is still to be settled
            gap = kept_until if open_break else line
            if start > gap and not (open_break and start - gap == 1 and data[gap] == LINE_FEED):
                table = add_span(table, known, gap - begin, start - begin, int(open_break), BLANKS)
                known += 1
            table, known = _cut_citations(table, known, data, begin, start, stop, classes, kept_until < 0)
            kept_until, joint = stop, -1
        if joint >= 0:  # no line follows that the last line break would lead to
            if table[joint, 3] == BLANKS:
                table[joint, 2] = NOTHING
            else:
                table[joint, 0] = kept_until - begin
        elif 0 <= kept_until < end:
            table = add_span(table, known, kept_until - begin, end - begin, NOTHING, BLANKS)
            known += 1
        counts[document] = known - before
    return table[:known]


@njit(nogil=True, cache=True)
def _find_outer_blanks(data, offsets, classes, counts):
    table, known = np.empty((0, WIDTH), np.int64), 0
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        first, at = begin, begin
        while at < end:
            code, at = decode(data, at, end)
            if not classes[code] & BLANK:
                break
            first = at
        last = end
        while last > first:
            at = last - 1
            while at > first and data[at] & 0xC0 == 0x80:
                at -= 1
            code, following = decode(data, at, end)
            if following != last or not classes[code] & BLANK:
                break
            last = at
        before = known
        for start, stop in ((begin, first), (last, end)):
            if stop > start:
                table = add_span(table, known, start - begin, stop - begin, NOTHING, 0)
                known += 1
        counts[document] = known - before
    return table[:known]


@njit(nogil=True, _nrt=False)
def _fate(data, start, stop, words, longest, terminal, classes, buffer):
    """The fate of a line as the edit knows it: what drops a document leaves its lines."""
    if longest > LONGEST_WORD and longest_word(data, start, stop, classes) > LONGEST_WORD:
        return LONG_WORD
    source = data
    if has_bracket(data, start, stop):
        source, start, stop = buffer, 0, without_citations(data, start, stop, classes, buffer)
    if terminal and not ends_well(source, start, stop):
        return NO_TERMINAL
    fate = line_fate(source, start, stop, words)
    return KEPT if fate in (LOREM_IPSUM, CURLY_BRACKET) else fate


@njit(nogil=True)
def _cut_citations(table, known, data, begin, start, stop, classes, first):
    """Add a span for each citation of a kept line; at the front of the first line the blanks behind it go too."""
    at = start
    while at < stop:
        after = citation_end(data, at, stop, classes) if data[at] == BRACKET else -1
        if after < 0:
            first = False
            at += 1
            continue
        while first and after < stop:
            code, following = decode(data, after, stop)
            if not classes[code] & BLANK:
                break
            after = following
        table = add_span(table, known, at - begin, after - begin, NOTHING, CITATION)
        known += 1
        at = after
    return table, known
