"""The edits that Dolma 3 makes to prose: newlines collapsed, lines dropped, three phrases cut out.

Rules and order are those of allenai/datamap-rs, configs/all_dressed (steps 9, 11 and 12 of its filters), read as
the recipe means them. What that tool does differently when run: its limit of 10 words for the phrases is never
looked at (the configuration names it `max_length`, the code `max_len`), "..." of "Read more..." stands for any
three characters, the uppercase share is of bytes, and carriage returns and the last newline go missing.

A line is what `text.split("\\n")` gives, a carriage return at its end apart. Empty lines stay. A line that is
dropped goes with its line end; where no line is left after it, with the line end before it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.intrinsics import beyond_mask, capital_mask, digit_mask, ones, trailing_zeros
from curation.measure.line_ends import newline
from curation.measure.next_word import next_word
from curation.measure.phrases import NOTHING, PHRASES, cut_phrases, word_bytes
from curation.measure.spans import WIDTH, add_span, span_array
from curation.measure.unicode import DIGIT, FLAGS, LETTER, MARK, SPACE, UPPER
from curation.measure.utf8 import BLOCK, block_at, decode, text_buffers

MOST_NEWLINES = 2
LINE_RULES = (
    "uppercase_line",  # more than half of its characters are uppercase
    "numeric_line",  # all of its characters are decimal digits
    "counter_line",  # a number and "likes", "shares", ... and no other word
    "short_line",  # fewer than 2 Unicode words
    "items_in_cart",  # a phrase, in any place: a space is left in its stead
    "read_more",  # a phrase at the end of a line
    "sign_in",  # a phrase at the beginning
)
UPPERCASE, NUMERIC, COUNTER, SHORT, PHRASE = range(5)

_COUNTED = ("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes")
_COUNTED += ("downloads", "views", "followers")
_COUNTED_BYTES = word_bytes(_COUNTED)

_1 = np.uint64(1)


def newline_spans(texts: pa.LargeStringArray) -> pa.ListArray:
    """The spans (SPANS) that leave two of each run of three or more newlines. Texts without nulls, shape (n,)."""
    data, offsets = text_buffers(texts)
    counts = np.zeros(len(texts), np.int64)
    table = _find_newlines(data, offsets, counts)
    return span_array(counts, table, [""], ["newlines"])


def line_spans(texts: pa.LargeStringArray) -> pa.ListArray:
    """The spans (SPANS) of the lines and phrases that go, by LINE_RULES. Texts without nulls, shape (n,)."""
    data, offsets = text_buffers(texts)
    counts = np.zeros(len(texts), np.int64)
    table = _find_lines(data, offsets, FLAGS, _COUNTED_BYTES, PHRASES, counts)
    return span_array(counts, table, ["", " "], LINE_RULES)


@njit(nogil=True, cache=True)
def _find_newlines(data, offsets, counts):
    table, known = np.empty((0, WIDTH), np.int64), 0
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        before, at = known, newline(data, begin, end)
        while at < end:
            start = at
            while at < end and data[at] == 0x0A:
                at += 1
            if at - start > MOST_NEWLINES:
                table = add_span(table, known, start + MOST_NEWLINES - begin, at - begin, NOTHING, 0)
                known += 1
            at = newline(data, at, end)
        counts[document] = known - before
    return table[:known]


@njit(nogil=True)
def _is_counter(data, at, end, flags, counted):
    """Whether a line is a number, perhaps with K, M or B, then one of `counted` in any case, and no other word."""
    code, following = decode(data, at, end)
    while flags[code] & (LETTER | MARK | DIGIT) == 0 and code != 0x5F:
        at = following
        if at == end:
            return False
        code, following = decode(data, at, end)
    if flags[code] & DIGIT == 0:
        return False
    while flags[code] & DIGIT or code == 0x2C or code == 0x2E:
        at = following
        if at == end:
            return False
        code, following = decode(data, at, end)
    lower = code | 0x20
    if code < 0x80 and (lower == 0x6B or lower == 0x6D or lower == 0x62):
        at = following
        if at == end:
            return False
        code, following = decode(data, at, end)
    if flags[code] & SPACE == 0:
        return False
    while flags[code] & SPACE:
        at = following
        if at == end:
            return False
        code, following = decode(data, at, end)
    for number in range(len(counted)):
        length = 0
        while at + length < end and data[at + length] | 0x20 == counted[number, length]:
            length += 1
        if counted[number, length] == 0:
            at += length
            break
    else:
        return False
    while at < end:
        code, at = decode(data, at, end)
        if flags[code] & (LETTER | MARK | DIGIT) or code == 0x5F:
            return False
    return True


@njit(nogil=True)
def _line_rule(data, at, end, flags, counted):
    """The rule by which a line that is not empty goes, or -1."""
    start, chars, upper, digits = at, 0, 0, 0
    while at < end:
        place, shift = block_at(data, at)
        plain = min(BLOCK, end - at, trailing_zeros(beyond_mask(data, place) >> shift))
        inside = (_1 << np.uint64(plain)) - _1 if plain < BLOCK else ~np.uint64(0)
        upper += ones(capital_mask(data, place) >> shift & inside)
        digits += ones(digit_mask(data, place) >> shift & inside)
        chars += plain
        at += plain
        while at < end and data[at] >= 0x80:
            code, at = decode(data, at, end)
            chars += 1
            upper += (flags[code] & UPPER) != 0
            digits += (flags[code] & DIGIT) != 0
    if 2 * upper > chars:
        return UPPERCASE
    if digits == chars:
        return NUMERIC
    if digits and _is_counter(data, start, end, flags, counted):
        return COUNTER
    first, past = next_word(data, start, end, flags)
    if first == end or next_word(data, past, end, flags)[0] == end:
        return SHORT
    return -1


@njit(nogil=True)
def _before_line_end(data, low, at):
    """The place before the newline that ends at byte `at`, and before its carriage return; `at` without one."""
    if at > low and data[at - 1] == 0x0A:
        at -= 1
        if at > low and data[at - 1] == 0x0D:
            at -= 1
    return at


@njit(nogil=True, cache=True)
def _find_lines(data, offsets, flags, counted, phrases, counts):
    table, known = np.empty((0, WIDTH), np.int64), 0
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        before, start = known, begin
        run = -1  # the span of the first of the lines that go without one kept after them
        while start < end:
            following = newline(data, start, end)
            following += following < end
            stop = _before_line_end(data, start, following)
            stop -= following == end and stop > start and data[stop - 1] == 0x0D
            if stop == start:
                run = -1
            else:
                rule = _line_rule(data, start, stop, flags, counted)
                if rule < 0:
                    table, known, rule = cut_phrases(
                        data, begin, start, stop, flags, phrases, PHRASE, table, known
                    )
                if rule < 0:
                    run = -1
                else:
                    run = known if run < 0 else run
                    table = add_span(table, known, start - begin, following - begin, NOTHING, rule)
                    known += 1
            start = following
        if run >= 0 and end > begin and data[end - 1] != 0x0A:
            for span in range(run, known):  # no line is left after these: they go with the line end before them
                table[span, 0] = _before_line_end(data, begin, begin + table[span, 0]) - begin
                table[span, 1] = _before_line_end(data, begin, begin + table[span, 1]) - begin
        counts[document] = known - before
    return table[:known]
