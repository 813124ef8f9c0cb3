"""Gopher repetition's n-grams of words as datatrove 0.10.1 counts them, from the tokens of a document.

Top n-grams: windows of n words joined by a blank; the most frequent one (of equals the one seen first) counts with
its characters, blanks included, times its occurrences, also if it occurs once. Duplicate n-grams: one pass from
the left over n words joined by nothing; one seen before counts with its characters and the pass goes on behind it.

Both take a few look-ups a word, for n-grams that can be repeated are few: of three words only those whose two
pairs are both repeated; of five to ten those whose first 16 bytes occur elsewhere at the start of a word too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.keys import mix64
from curation.measure.hashing import number_of, table_size
from curation.measure.intrinsics import load64
from curation.measure.spacy_strings import hash_bytes

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
NGRAM_COUNTS = len(TOP) + len(DUPLICATE)
PREFIX_BYTES = 16
_PAIR = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True)
def ngram_scratch(words):
    """Room for a document of so many words: (slots, keys, counts, firsts, ids, starts)."""
    size = table_size(words)
    return (
        np.empty(size, np.int32),
        np.empty(words + 1, np.uint64),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
    )


@njit(nogil=True, _nrt=False)
def count_ngrams(tokens, words, scratch, out):
    """Fill `out` (NGRAM_COUNTS numbers, characters) for the first `words` tokens."""
    out[:] = 0
    _top_ngrams(tokens, words, scratch, out)
    _duplicate_ngrams(tokens, words, scratch, out)


@njit(nogil=True, inline="always", _nrt=False)
def _joined_chars(tokens, start, n):
    """Characters of n words from `start` on with blanks between them."""
    return tokens.chars[start + n - 1] - (tokens.chars[start - 1] if start else 0) + n - 1


@njit(nogil=True, _nrt=False)
def _top_ngrams(tokens, words, scratch, out):
    slots, keys, counts, firsts, ids, starts = scratch
    candidates = words - 1
    for n in (2, 3, 4):
        if words < n:
            break
        size = table_size(max(1, candidates))
        slots[:size] = -1
        known, tried = 0, 0
        for k in range(candidates):
            if n == 2:
                start = k
                key = mix64(tokens.hashes[k] * _PAIR + tokens.hashes[k + 1])
            else:
                start = starts[k]
                if k + 1 == candidates or starts[k + 1] != start + 1:
                    continue
                key = np.uint64(ids[start]) << np.uint64(32) | np.uint64(ids[start + 1])
            number = number_of(key, keys, known, slots, size)
            if number == known:
                known += 1
                counts[number] = 0
                firsts[number] = start
            counts[number] += 1
            ids[start] = number
            starts[tried] = start
            tried += 1
        best, occurrences = 0, 1
        for number in range(known):
            if counts[number] > occurrences:
                best, occurrences = firsts[number], counts[number]
        out[n - 2] = _joined_chars(tokens, best if occurrences > 1 else 0, n) * occurrences
        candidates = 0
        for k in range(tried):
            if counts[ids[starts[k]]] > 1:
                starts[candidates] = starts[k]
                candidates += 1


@njit(nogil=True, inline="always", _nrt=False)
def _start_of(tokens, k):
    return tokens.ends[k - 1] if k else 0


@njit(nogil=True, _nrt=False)
def _repeated_starts(tokens, words, scratch):
    """Write to `starts` the words where an n-gram can begin that occurs twice; returns how many there are.

    Those are the ones whose first PREFIX_BYTES another word begins with too, and those with fewer than so many
    bytes in five words. `firsts` says of each whether it is of the first kind.
    """
    slots, keys, counts, firsts, ids, starts = scratch
    size = table_size(words)
    slots[:size] = -1
    known = 0
    for k in range(words):
        at = _start_of(tokens, k)
        key = mix64(load64(tokens.text, at) * _PAIR ^ mix64(load64(tokens.text, at + 8)))
        number = number_of(key, keys, known, slots, size)
        if number == known:
            known += 1
            counts[number] = 0
        counts[number] += 1
        ids[k] = number
    found = 0
    for k in range(words - 4):
        repeated = counts[ids[k]] > 1
        if repeated or tokens.ends[k + 4] - _start_of(tokens, k) < PREFIX_BYTES:
            starts[found] = k
            firsts[found] = repeated
            found += 1
    return found


@njit(nogil=True, _nrt=False)
def _duplicate_ngrams(tokens, words, scratch, out):
    slots, keys, _, firsts, _, starts = scratch
    candidates = _repeated_starts(tokens, words, scratch) if words >= 5 else 0
    for n in range(5, 11):
        if candidates == 0:
            return
        size = table_size(candidates)
        slots[:size] = -1
        known, free_from, chars = 0, 0, 0
        for k in range(candidates):
            start = starts[k]
            if start < free_from:
                continue
            if start + n > words:
                break
            begin, end = _start_of(tokens, start), tokens.ends[start + n - 1]
            if not firsts[k] and end - begin >= PREFIX_BYTES:
                continue
            number = number_of(hash_bytes(tokens.text, begin, end), keys, known, slots, size)
            if number < known:
                chars += tokens.chars[start + n - 1] - (tokens.chars[start - 1] if start else 0)
                free_from = start + n
            else:
                known += 1
        out[n - 2] = chars
