"""The short way of the tokenizer: words of ASCII letters with a blank between them, read eight bytes at once.

Most of English text is that: a word of up to 15 letters, perhaps one mark behind it that is a token of its own,
and a blank. All else is left to `curation.measure.spacy_tokens`, which makes of these words what this makes of
them, only slower.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import load64, store64, trailing_zeros
from curation.measure.spacy_english import BYTE_BLANK, BYTE_MARK, HASH_MULTIPLIER, HASH_START
from curation.measure.spacy_merge import (
    AFTER_BLANK_TOKEN,
    ALL_PUNCTUATION,
    ENDS_SENTENCE,
    FIRST_OF_CHUNK,
    WITH_LETTER,
    WORD,
)
from curation.measure.spacy_strings import find_string, hash_short, special_case

TOKENS, CHUNKS, CHARS, STOP_WORDS = range(4)  # places in the counts of a document
WINDOW = 18  # bytes looked at: two loads, a mark and what follows it
LONGEST = 15  # letters
BLANK_BYTE, FULL_STOP, EXCLAMATION, QUESTION, LOWERCASE_A = 0x20, 0x2E, 0x21, 0x3F, 0x61
_START, _MULTIPLIER = np.uint64(HASH_START), np.uint64(HASH_MULTIPLIER)
_ALL, _ONES, _HIGH = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_CASE, _FROM_A, _PAST_Z = _ONES * np.uint64(0x20), _ONES * np.uint64(0x80 - 0x61), _ONES * np.uint64(0x80 - 0x7B)


@njit(nogil=True, inline="always", _nrt=False)
def _letters(word):
    """How many of the lowest bytes of eight are ASCII letters before one that is none."""
    low = (word | _CASE) & ~_HIGH
    letters = (low + _FROM_A) & ~(low + _PAST_Z) & ~word & _HIGH
    return trailing_zeros(~letters & _HIGH) >> 3


@njit(nogil=True, forceinline=True, _nrt=False)
def plain_words(data, at, begin, end, tables, tokens, counts, written, first, gap):
    """Read words from `at` on until something else comes, with a blank behind each where another chunk follows.

    The state is that of `spacy_tokens.tokenise`: how many bytes of the squeezed text are written, where the first
    chunk of the line begins, whether white space that is a token stands before `at`. Returns it and
    the new place.
    """
    kinds_of_bytes, strings = tables.bytes, tables.strings
    number, chars, chunks, stop_words = counts[TOKENS], counts[CHARS], counts[CHUNKS], counts[STOP_WORDS]
    while at + WINDOW <= end:
        word, second = load64(data, at), np.uint64(0)
        length = _letters(word)
        if length == 8:
            second = load64(data, at + 8)
            length += _letters(second)
        if length == 0 or length > LONGEST:
            break
        stop = at + length
        mark = data[stop]
        marked = kinds_of_bytes[mark] == BYTE_MARK
        if kinds_of_bytes[data[stop + marked]] != BYTE_BLANK:
            break
        hashed = hash_short(word, second, length)
        known = find_string(hashed, strings)
        if known >= 0:
            if strings.rule_from[known + 1] > strings.rule_from[known]:
                break
            stop_words |= strings.stop_word[known]
        if marked and mark == FULL_STOP:
            if not (data[stop - 1] >= LOWERCASE_A or (length >= 2 and data[stop - 2] < LOWERCASE_A)):
                break  # "USA." but not "A."
            if special_case(hash_short(word, second, length + 1), strings) >= 0:
                break
        store64(tokens.text, written, word)
        store64(tokens.text, written + 8, second)
        written += length
        chars += length
        tokens.ends[number], tokens.chars[number], tokens.hashes[number] = written, chars, hashed
        tokens.kinds[number] = FIRST_OF_CHUNK | WORD | WITH_LETTER | (AFTER_BLANK_TOKEN if gap else 0)
        number += 1
        if marked:
            tokens.text[written] = mark
            written += 1
            chars += 1
            ends = mark in (FULL_STOP, EXCLAMATION, QUESTION)
            tokens.ends[number], tokens.chars[number] = written, chars
            tokens.hashes[number] = hash_short(np.uint64(mark), np.uint64(0), 1)
            tokens.kinds[number] = ALL_PUNCTUATION | (ENDS_SENTENCE if ends else 0)
            number += 1
            stop += 1
        chunks += 1
        first = at - begin if first < 0 else first
        gap = False
        at = stop
        if data[at] != BLANK_BYTE or kinds_of_bytes[data[at + 1]] >= BYTE_BLANK:
            break
        at += 1
    counts[TOKENS], counts[CHARS], counts[CHUNKS], counts[STOP_WORDS] = number, chars, chunks, stop_words
    return at, written, first, gap
