"""spaCy's blank English tokenizer (3.8) as a kernel: the words of datatrove's filters.

Text is cut at white space into chunks. A chunk that is no special case loses prefixes and suffixes, one of each a
round, until it is a special case or none is left; what remains is a special case, a URL, or split at infixes.
Last, neighbouring tokens that spell a special case are merged into it. Most chunks are short and of ASCII, and
those take a short way: `curation.measure.spacy_ascii`.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from curation.compiled import njit
from curation.measure.spacy_ascii import (
    CHARS,
    CHUNKS,
    ELLIPSES,
    HASHES,
    LINE_CHUNKS,
    LINE_FIELDS,
    LINE_FIRST,
    LINE_LAST,
    LINE_NEXT,
    LINE_STOP,
    LINES,
    NEWLINES,
    PAIRS,
    STOP_WORDS,
    TOKENS,
    ascii_chunks,
    end_line,
)
from curation.measure.spacy_chunk import split_chunk
from curation.measure.spacy_english import BLANK, BYTE_BLANK, BYTE_HIGH, LINE_BREAK
from curation.measure.spacy_merge import (
    AFTER_BLANK_TOKEN,
    FIRST_OF_CHUNK,
    WITH_LETTER,
    WORD,
    kinds_of,
    merge_special_cases,
)
from curation.measure.spacy_strings import begins_phrase, hash_bytes, stop_word
from curation.measure.utf8 import decode

__all__ = [
    "CHUNKS",
    "COUNTS",
    "ELLIPSES",
    "HASHES",
    "LINES",
    "LINE_CHUNKS",
    "LINE_FIRST",
    "LINE_LAST",
    "LINE_NEXT",
    "LINE_STOP",
    "NEWLINES",
    "STOP_WORDS",
    "TOKENS",
]
PADDING = 72  # bytes that may be read behind the squeezed text
FULL_STOP, NUMBER_SIGN, ELLIPSIS = 0x2E, 0x23, 0x2026

# `text` holds the document without its white space; a token is `text[ends[k - 1] : ends[k]]`. `chars[k]` counts
# the characters of the tokens up to and including k; `kinds` has the bits of `curation.measure.spacy_merge`. A row
# of `lines` is a line of `str.splitlines`: see LINE_*; `lines_tokens` counts the tokens before each. `pairs` has
# the tokens that begin a phrase with the next one of their chunk; `marks` and `runs` are scratch for merging.
Tokens = namedtuple("Tokens", "text ends chars hashes kinds marks runs pairs lines lines_tokens")

# Counts of a document: places in `counts`, after those of `curation.measure.spacy_ascii`. CHARS are those of the
# tokens; STOP_WORDS has a bit for each stop word that occurs; LONGEST_CHUNK is at least the bytes of the longest
# one, if those are 64 or more.
WORDS, WORD_CHARS, ALPHA_TOKENS, LONGEST_CHUNK, COUNTS = range(9, 14)


@njit(nogil=True)
def token_scratch(size, lines):
    """Room for the tokens of a document of `size` bytes with up to `lines` line breaks."""
    return Tokens(
        np.empty(size + PADDING, np.uint8),
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.uint64),
        np.empty(size + 1, np.uint8),
        np.empty(size + 1, np.uint8),
        np.empty(size + 1, np.uint16),
        np.empty(size + 1, np.int32),
        np.empty((lines + 2, LINE_FIELDS), np.int32),
        np.empty(lines + 2, np.int32),
    )


@njit(nogil=True, inline="always", _nrt=False)
def _emit(tokens, counts, end, length, kinds, hashed):
    number = counts[TOKENS]
    counts[TOKENS] = number + 1
    counts[CHARS] += length
    tokens.ends[number] = end
    tokens.chars[number] = counts[CHARS]
    tokens.hashes[number] = hashed
    tokens.kinds[number] = kinds


@njit(nogil=True, forceinline=True, _nrt=False)
def _emit_chunk(tokens, counts, tables, chunk, first, bounds, kinds):
    """Emit the tokens of a chunk that begins at byte `first` of the squeezed text; `kinds` of its first token."""
    low, before = 0, np.uint64(0)
    for k in range(bounds):
        high = chunk.bounds[k]
        any_class, all_class = np.uint32(0), np.uint32(0xFFFFFFFF)
        for at in range(low, high):
            any_class |= chunk.classes[at]
            all_class &= chunk.classes[at]
        start, end = first + chunk.offsets[low], first + chunk.offsets[high]
        hashed = hash_bytes(tokens.text, start, end)
        counts[STOP_WORDS] |= stop_word(hashed, tables.strings)
        if low and begins_phrase(before, hashed, tables.strings):
            tokens.pairs[counts[PAIRS]] = counts[TOKENS] - 1
            counts[PAIRS] += 1
        _emit(tokens, counts, end, high - low, kinds | kinds_of(any_class, all_class, high - low), hashed)
        low, before, kinds = high, hashed, 0


@njit(nogil=True, forceinline=True, _nrt=False)
def _blanks(data, at, begin, end, tables, tokens, counts, first, last):
    """Read white space at `at`, noting line breaks; the place behind it, and whether it makes a token.

    `first` and `last` bound the chunks of the line so far. Returns (at, makes a token, first of the line).
    """
    run, lone = 0, False
    while at < end:
        if data[at] < 0x80:
            if tables.bytes[data[at]] != BYTE_BLANK:
                break
            code, following = np.int64(data[at]), at + 1
        else:
            code, following = decode(data, at, end)
            if not tables.classes[code] & BLANK:
                break
        run += 1
        lone = run == 1 and code == 0x20
        if tables.classes[code] & LINE_BREAK:
            stop = at - begin
            if code == 0x0D and following < end and data[following] == 0x0A:
                following += 1
                code = np.int64(0x0A)
                run += 1
            counts[NEWLINES] += code == 0x0A
            _end_line(tokens, counts, first, last, stop, following - begin)
            first = -1
        at = following
    return at, not lone, first


@njit(nogil=True, forceinline=True, _nrt=False)
def _end_line(tokens, counts, first, last, stop, following):
    """Close the line under way; the row of the next one begins with the tokens and chunks there are by now."""
    end_line(tokens, counts[LINES], first, last, stop, following, counts[TOKENS], counts[CHUNKS])
    counts[LINES] += 1


@njit(nogil=True, _nrt=False)
def tokenise(data, begin, end, tables, tokens, chunk, counts):
    """Fill `tokens` and `counts` for the text data[begin:end].

    `tokens` and `chunk` must have room for it: `token_scratch(end - begin, line breaks)`, `chunk_scratch(end -
    begin)`. What lies outside the text has no part in it.
    """
    counts[:] = 0
    tokens.lines_tokens[0] = tokens.lines[0, LINE_CHUNKS] = 0
    at, written, first, last, gap = begin, 0, -1, 0, False
    while at < end:
        at, written, first, last, gap = ascii_chunks(
            data, at, begin, end, tables, tokens, chunk, counts, written, first, last, gap
        )
        if at < end:
            at, written, first, last, gap = _next_part(
                data, at, begin, end, tables, tokens, chunk, counts, written, first, last, gap
            )
    _end_line(tokens, counts, first, last, end - begin, end - begin)
    if counts[PAIRS]:
        counts[TOKENS], stop_words = merge_special_cases(
            tokens, counts[TOKENS], counts[PAIRS], counts[LINES], tables
        )
        if stop_words:
            _find_stop_words(tokens, counts, tables.strings)
    _count_kinds(tokens, counts)


@njit(nogil=True, forceinline=True, _nrt=False)
def _next_part(data, at, begin, end, tables, tokens, chunk, counts, written, first, last, gap):
    """Read one chunk or one run of white space at `at`; the state of `tokenise` behind it."""
    text, kinds_of_bytes = tokens.text, tables.bytes
    if kinds_of_bytes[data[at]] >= BYTE_BLANK:
        after, makes_token, new_first = _blanks(data, at, begin, end, tables, tokens, counts, first, last)
        if after > at:
            return after, written, new_first, last, makes_token
    start, squeezed = at, written
    first = start - begin if first < 0 else first
    while at < end:
        kind = kinds_of_bytes[data[at]]
        size = 1
        if kind == BYTE_BLANK:
            break
        if kind == BYTE_HIGH:
            code, following = decode(data, at, end)
            if tables.classes[code] & BLANK:
                break
            counts[ELLIPSES] += code == ELLIPSIS
            size = following - at
        for step in range(size):
            text[written + step] = data[at + step]
        written += size
        at += size
    _count_signs(text, squeezed, written, counts)
    bounds = split_chunk(text, squeezed, written, tables, chunk)
    kinds = FIRST_OF_CHUNK | (AFTER_BLANK_TOKEN if gap else 0)
    _emit_chunk(tokens, counts, tables, chunk, squeezed, bounds, kinds)
    counts[CHUNKS] += 1
    counts[LONGEST_CHUNK] = max(counts[LONGEST_CHUNK], at - start)
    return at, written, first, at - begin, gap


@njit(nogil=True, _nrt=False)
def _find_stop_words(tokens, counts, strings):
    """Once more, for merges that have taken some away."""
    counts[STOP_WORDS] = 0
    for k in range(counts[TOKENS]):
        counts[STOP_WORDS] |= stop_word(tokens.hashes[k], strings)


@njit(nogil=True, _nrt=False)
def _count_kinds(tokens, counts):
    words, word_chars, alpha, before = 0, 0, 0, 0
    for k in range(counts[TOKENS]):
        is_word = (tokens.kinds[k] & WORD) != 0
        words += is_word
        word_chars += (tokens.chars[k] - before) * is_word
        alpha += (tokens.kinds[k] & WITH_LETTER) != 0
        before = tokens.chars[k]
    counts[WORDS], counts[WORD_CHARS], counts[ALPHA_TOKENS] = words, word_chars, alpha


@njit(nogil=True, _nrt=False)
def _count_signs(text, start, end, counts):
    """Count number signs, and "..." without overlap, in one chunk."""
    stops = 0
    for at in range(start, end):
        counts[HASHES] += text[at] == NUMBER_SIGN
        stops = stops + 1 if text[at] == FULL_STOP else 0
        if stops == 3:
            counts[ELLIPSES] += 1
            stops = 0
