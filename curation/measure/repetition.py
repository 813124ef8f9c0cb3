"""Unicode words and how much of a document its repeated n-grams cover (Gopher's repetition, as Dolma 3 has it).

A Unicode word is close to UAX #29: a run of letters, numbers, marks and underscores that begins with a letter,
number or underscore and holds a letter or number. An apostrophe (' or ’), full stop or middle dot (·) directly
between two letters, or an apostrophe, full stop or comma directly between two decimal digits, does not end a
word. A letter of a script without spaces (`unicode.SOLO`) is, with its marks, a word of its own. Case counts.

Shares are of the characters of all words. An n-gram that occurs twice or more is repeated, and each of its
occurrences covers its n words; no word is counted twice. For n of 2 to 4 only the most frequent repeated n-gram
counts (of equals the one with more characters, then the one that comes first), for 5 to 10 all of them.

Every step is linear: the n-grams of size k are pairs of neighbouring (k-1)-grams, which have dense numbers
already, and only neighbours that are both repeated can make a repeated one.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.hashing import numbered, table_size
from curation.measure.unicode import FLAGS
from curation.measure.unicode_words import find_words, word_hash

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
COUNTS = (
    "words",
    "distinct_words",
    "unicode_word_chars",
    *(f"top_{n}gram_chars" for n in TOP),
    *(f"dup_{n}gram_chars" for n in DUPLICATE),
)


def repetition_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count_repetition(data, offsets, FLAGS, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True)
def _segment(data, at, end, flags, hashes, ends, stops):
    """Write each word's hash, and to `ends` the characters of all words up to and including it. Returns words.

    `stops` is overwritten.
    """
    words, chars = find_words(data, at, end, flags, ends, stops), 0
    for word in range(words):
        start, stop = at + ends[word], at + stops[word]
        hashes[word], length = word_hash(data, start, stop - start)
        chars += length
        ends[word] = chars
    return words


@njit(nogil=True)
def _covered(starts, count, ids, wanted, n, ends):
    """Characters of the words that n-grams at `starts` (rising) cover: all, or those numbered `wanted` (>= 0)."""
    chars, done = 0, 0
    for k in range(count):
        start = starts[k]
        if wanted >= 0 and ids[start] != wanted:
            continue
        begin = max(start, done)
        done = start + n
        chars += ends[done - 1] - (ends[begin - 1] if begin else 0)
    return chars


@njit(nogil=True)
def _most_frequent(counts, firsts, known, n, ends):
    best, best_chars = -1, 0
    for number in range(known):
        if counts[number] < 2:
            continue
        first = firsts[number]
        chars = ends[first + n - 1] - (ends[first - 1] if first else 0)
        if best < 0 or counts[number] > counts[best] or (counts[number] == counts[best] and chars > best_chars):
            best, best_chars = number, chars
    return best


@njit(nogil=True, cache=True)
def _count_repetition(data, offsets, flags, out):
    capacity = 0
    keys = np.empty(0, np.uint64)  # hashes of the words, then the key of each number
    ends, ids, starts = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32)
    counts, firsts, slots = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(2, np.int32)
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        most = (end - begin) // 2 + 1  # two words have a byte between them, or are of several bytes each
        if most > capacity:
            capacity = most
            keys = np.empty(capacity, np.uint64)
            ends, ids, starts = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
            counts, firsts = np.empty(most, np.int32), np.empty(most, np.int32)
        words = _segment(data, begin, end, flags, keys, ends, ids)
        if words == 0:
            continue
        out[0, document] = words
        out[2, document] = ends[words - 1]
        if len(slots) < 2 * table_size(words):
            slots = np.empty(2 * table_size(words), np.int32)
        _count_ngrams(words, keys, ends, ids, starts, counts, firsts, slots, out, document)


@njit(nogil=True)
def _count_ngrams(words, keys, ends, ids, starts, counts, firsts, slots, out, document):
    candidates = words  # of the n-grams under way: where they start
    for n in range(1, 11):
        size = 2 * table_size(candidates)
        slots[:size] = -1
        mask = np.uint64(size - 1)
        known = 0
        if n == 1:
            for start in range(words):
                ids[start], known = numbered(keys[start], start, keys, counts, firsts, slots, mask, known)
                starts[start] = start
            out[1, document] = known
        else:
            pairs = 0
            for k in range(candidates - 1):
                start = starts[k]
                starts[pairs] = start
                pairs += starts[k + 1] == start + 1
            candidates = pairs
            for k in range(candidates):
                start = np.int64(starts[k])
                key = np.uint64(ids[start]) << np.uint64(32) | np.uint64(ids[start + 1])
                ids[start], known = numbered(key, start, keys, counts, firsts, slots, mask, known)
        repeated = 0
        for k in range(candidates):
            start = starts[k]
            starts[repeated] = start
            repeated += counts[ids[start]] >= 2
        candidates = repeated
        if candidates == 0:
            break
        if n in (2, 3, 4):
            best = _most_frequent(counts, firsts, known, n, ends)
            out[n + 1, document] = _covered(starts, candidates, ids, best, n, ends)
        elif n >= 5:
            out[n + 1, document] = _covered(starts, candidates, ids, -1, n, ends)
