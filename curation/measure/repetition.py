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
from numba import njit

from curation.key_kernels import mix64
from curation.measure.hashing import HASH_START, extend_hash, number_of, table_size
from curation.measure.unicode import DIGIT, FLAGS, LETTER, MARK, NUMBER, SOLO
from curation.measure.utf8 import decode

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
def joins(code, before, at, data, end, flags):
    """Whether a mark of punctuation between two characters keeps them in one word."""
    apostrophe_or_stop = code == 0x27 or code == 0x2E or code == 0x2019
    if not (apostrophe_or_stop or code == 0x2C or code == 0xB7) or at >= end:
        return False
    following, _ = decode(data, at, end)
    after = flags[following]
    if code != 0x2C and before & after & LETTER:
        return (before | after) & SOLO == 0
    return code != 0xB7 and (before & after & DIGIT) != 0


@njit(nogil=True)
def _segment(data, at, end, flags, hashes, ends):
    """Write each word's hash, and to `ends` the characters of all words up to and including it. Returns words."""
    words, chars = 0, 0
    hashed, length, kinds, before = HASH_START, 0, 0, 0
    while at < end:
        if data[at] < 0x80:
            code = np.int64(data[at])
            at += 1
        else:
            code, at = decode(data, at, end)
        kind = np.int64(flags[code])
        inside = kind & (LETTER | NUMBER) != 0 or code == 0x5F
        solo = kind & SOLO != 0
        if kinds & SOLO:
            goes_on = kind & MARK != 0
        elif inside or kind & MARK:
            goes_on = not solo
        else:
            goes_on = length > 0 and joins(code, before, at, data, end, flags)
        if length == 0 or not goes_on:
            if kinds & (LETTER | NUMBER):
                hashes[words] = mix64(hashed)
                chars += length
                ends[words] = chars
                words += 1
            hashed, length, kinds = HASH_START, 0, 0
            if not inside:
                before = kind
                continue
        hashed = extend_hash(hashed, code)
        length += 1
        kinds |= kind
        before = kind
    if kinds & (LETTER | NUMBER):
        hashes[words] = mix64(hashed)
        ends[words] = chars + length
        words += 1
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
        words = _segment(data, begin, end, flags, keys, ends)
        if words == 0:
            continue
        out[0, document] = words
        out[2, document] = ends[words - 1]
        candidates = words  # of the n-grams under way: where they start
        for n in range(1, 11):
            size = table_size(candidates)
            if size > len(slots):
                slots = np.empty(size, np.int32)
            slots[:size] = -1
            known, k, tried = 0, 0, 0
            while k < candidates:
                if n == 1:
                    start, key = k, keys[k]
                else:
                    start = starts[k]
                    if k + 1 == candidates or starts[k + 1] != start + 1:
                        k += 1
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
                k += 1
            if n == 1:
                out[1, document] = known
            candidates = 0
            for k in range(tried):
                if counts[ids[starts[k]]] >= 2:
                    starts[candidates] = starts[k]
                    candidates += 1
            if candidates == 0:
                break
            if n in (2, 3, 4):
                best = _most_frequent(counts, firsts, known, n, ends)
                out[n + 1, document] = _covered(starts, candidates, ids, best, n, ends)
            elif n >= 5:
                out[n + 1, document] = _covered(starts, candidates, ids, -1, n, ends)
