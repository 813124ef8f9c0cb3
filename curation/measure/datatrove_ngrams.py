"""Gopher repetition's n-grams of words as datatrove 0.10.1 counts them, from the tokens of a document.

Top n-grams: windows of n words joined by a blank; the most frequent one (of equals the one seen first) counts with
its characters, blanks included, times its occurrences, also if it occurs once. Duplicate n-grams: one pass from
the left over n words joined by nothing; one seen before counts with its characters and the pass goes on behind it.

Both are exact, and look up few n-grams. Small counters by hash, which can only be too high since several n-grams
share one, tell in passes without branches which n-grams can be frequent or repeated; those alone are counted. Of
the top ones only pairs are counted that way: a longer n-gram is not more frequent than the pairs within it.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from curation.compiled import njit
from curation.measure.hashing import number_of, table_size
from curation.measure.intrinsics import high_product, least_mask, load64, trailing_zeros

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
NGRAM_COUNTS = len(TOP) + len(DUPLICATE)
STEP, LONGEST = 8, 64  # bytes by which beginnings of n-grams are compared
MOST = 255  # of a counter: this many or more
BLOCK = 64  # pairs that are looked at together
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_THIRD = np.uint64(0xC2B2AE3D27D4EB4F)
_ALL, _1, _2, _3 = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1), np.uint64(2), np.uint64(3)

# Room for a document: counters by hash; by word the count of the pair that begins there, hashes and places of
# counters; slots, keys, counts and firsts of a hash table; words where n-grams begin, their levels.
Scratch = namedtuple(
    "Scratch",
    "counters pairs hashes places slots keys counts firsts starts levels active",
)


@njit(nogil=True)
def ngram_scratch(words):
    """Room for a document of so many words."""
    size = table_size(words)
    return Scratch(
        np.empty(2 * size, np.uint8),
        np.empty(words + 2 * BLOCK, np.uint8),
        np.empty(words + 1, np.uint64),
        np.empty(words + 1, np.uint32),
        np.empty(size, np.int32),
        np.empty(words + 1, np.uint64),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.uint8),
        np.empty(words + 1, np.int32),
    )


@njit(nogil=True, _nrt=False)
def count_ngrams(tokens, words, scratch, out):
    """Fill `out` (NGRAM_COUNTS numbers, characters) for the first `words` tokens."""
    out[:] = 0
    if words >= 2:
        _top_ngrams(tokens, words, scratch, out)
    if words >= DUPLICATE[0]:
        _duplicate_ngrams(tokens, words, scratch, out)


@njit(nogil=True, inline="always", _nrt=False)
def _combined(first, second):
    """A hash of two numbers: both halves of their product, since the lower one keeps last bytes apart."""
    first, second = first ^ _FIRST, second ^ _SECOND
    return high_product(first, second) ^ first * second


@njit(nogil=True, inline="always", _nrt=False)
def _joined_chars(tokens, start, n):
    """Characters of n words from `start` on with blanks between them."""
    return tokens.chars[start + n - 1] - (tokens.chars[start - 1] if start else 0) + n - 1


@njit(nogil=True, forceinline=True, _nrt=False)
def _top_ngrams(tokens, words, scratch, out):
    highest = _count_pairs(tokens, words, scratch)
    least, occurrences = highest, 1
    for n in range(2, min(words, 4) + 1):
        best, occurrences = 0, 1
        while least > 1:
            found = _frequent(n, words - n + 1, least, scratch)
            best, occurrences = _most_frequent(tokens, n, found, scratch)
            if occurrences >= least or least == 2:
                break
            least = max(occurrences, 2)  # nothing is missed now: something occurs so often
        out[n - 2] = _joined_chars(tokens, best if occurrences > 1 else 0, n) * occurrences
        guess = max(2, 2 * occurrences // (5 if n == 2 else 3))  # taken back above where it is too high
        least = guess if occurrences > 1 else 1  # nothing longer occurs twice either


@njit(nogil=True, inline="always", _nrt=False)
def _pair_place(first, second, shift):
    return np.int64((first * _FIRST + second) * _SECOND >> shift)


@njit(nogil=True, forceinline=True, _nrt=False)
def _count_pairs(tokens, words, scratch):
    """Count pairs of words by hash and set `pairs`; the highest count."""
    counters, pairs = scratch.counters, scratch.pairs
    size = 2 * table_size(words)
    counters[:size] = 0
    shift = np.uint64(64 - trailing_zeros(np.uint64(size)))
    word = tokens.hashes[0]
    for k in range(1, words):
        following = tokens.hashes[k]
        place = _pair_place(word, following, shift)
        count = counters[place]
        counters[place] = count + np.uint8(count < MOST)
        word = following
    highest = np.uint8(0)
    word = tokens.hashes[0]
    for k in range(1, words):
        following = tokens.hashes[k]
        count = counters[_pair_place(word, following, shift)]
        pairs[k - 1] = count
        highest = max(highest, count)
        word = following
    pairs[words - 1 : words - 1 + BLOCK] = 0
    return np.int64(highest)


@njit(nogil=True, forceinline=True, _nrt=False)
def _frequent(n, windows, least, scratch):
    """Write to `starts` where n-grams begin that may occur `least` times; returns how many there are."""
    pairs, starts = scratch.pairs, scratch.starts
    found = 0
    for block in range(0, windows, BLOCK):
        hits = least_mask(pairs, block, np.uint8(least))
        for place in range(1, n - 1):  # the pairs within it occur as often
            hits &= least_mask(pairs, block + place, np.uint8(least))
        while hits:
            starts[found] = block + trailing_zeros(hits)
            found += 1
            hits &= hits - _1
    return found


@njit(nogil=True, forceinline=True, _nrt=False)
def _most_frequent(tokens, n, candidates, scratch):
    """The first of the most frequent n-grams that begin at `starts`, and how often it occurs."""
    starts, counts, firsts = scratch.starts, scratch.counts, scratch.firsts
    keys, slots = scratch.keys, scratch.slots
    size = table_size(max(1, candidates))
    slots[:size] = -1
    known, best, occurrences = 0, 0, 1
    for k in range(candidates):
        start = starts[k]
        hashed = tokens.hashes[start]
        for place in range(start + 1, start + n):
            hashed = _combined(hashed, tokens.hashes[place])
        number = number_of(hashed, keys, known, slots, size)
        if number == known:
            known += 1
            counts[number] = 0
            firsts[number] = start
        counts[number] += 1
    for number in range(known):
        if counts[number] > occurrences:
            best, occurrences = firsts[number], counts[number]
    return best, occurrences


@njit(nogil=True, forceinline=True, _nrt=False)
def _duplicate_ngrams(tokens, words, scratch, out):
    found = _repeated_starts(tokens, words, scratch)
    _raise_levels(tokens, found, scratch)
    for n in DUPLICATE:
        found = _fitting(tokens, words, n, found, scratch.starts, scratch.levels)
        if found == 0:
            return
        out[n - 2] = _duplicate_chars(tokens, n, scratch.starts, found, scratch)


@njit(nogil=True, inline="always", _nrt=False)
def _start_of(tokens, k):
    return tokens.ends[k - 1] if k else 0


@njit(nogil=True, inline="always", _nrt=False)
def _note(place, counters):
    """Count once more what has this place (uint64), of four in a byte: 1 for the first time, 3 from then on."""
    byte, shift = np.int64(place >> _2), np.uint8((place & _3) << _1)
    before = counters[byte]
    seen = (before >> shift << np.uint8(1) & np.uint8(2)) | np.uint8(1)
    counters[byte] = before | seen << shift


@njit(nogil=True, inline="always", _nrt=False)
def _noted(place, counters):
    """Whether what has this place was counted twice or more."""
    return np.int64(counters[np.int64(place >> _2)] >> np.uint8(((place & _3) << _1) + _1) & np.uint8(1))


@njit(nogil=True, inline="always", _nrt=False)
def _masked(first, second, length):
    """Of an n-gram's first and second STEP bytes those that lie within its length, of 1 and more."""
    first &= _ALL >> np.uint64(max(0, 64 - 8 * length))
    second &= _ALL >> np.uint64(min(63, max(0, 128 - 8 * length)))
    return first, second if length > STEP else np.uint64(0)


@njit(nogil=True, forceinline=True, _nrt=False)
def _repeated_starts(tokens, words, scratch):
    """Write to `starts` the words where an n-gram can begin that occurs twice; returns how many there are.

    `levels` gets 2 * STEP where that many bytes are repeated, 0 where 5 words have fewer.
    """
    counters, places, starts, levels = scratch.counters, scratch.places, scratch.starts, scratch.levels
    size = 2 * table_size(words)
    shift = np.uint64(62 - trailing_zeros(np.uint64(size)))
    counters[:size] = 0
    at = 0
    for k in range(words - 4):
        first, second = load64(tokens.text, at), load64(tokens.text, at + STEP)
        place = (first * _FIRST + second * _SECOND) >> shift
        places[k] = place
        _note(place, counters)
        at = tokens.ends[k]
    found, at = 0, 0
    for k in range(words - 4):
        repeated = _noted(np.uint64(places[k]), counters)
        starts[found], levels[found] = k, 2 * STEP * repeated
        found += repeated | (tokens.ends[k + 4] - at < 2 * STEP)
        at = tokens.ends[k]
    return found


@njit(nogil=True, forceinline=True, _nrt=False)
def _raise_levels(tokens, found, scratch):
    """Raise `levels` of `starts` to the bytes that may be repeated from each on, in steps, up to LONGEST."""
    starts, levels, hashes, active, counters = (
        scratch.starts,
        scratch.levels,
        scratch.hashes,
        scratch.active,
        scratch.counters,
    )
    left = 0
    for k in range(found):
        at = _start_of(tokens, starts[k])
        hashes[left] = _combined(load64(tokens.text, at), load64(tokens.text, at + STEP))
        active[left] = k
        left += levels[k] != 0
    for level in range(2 * STEP, LONGEST, STEP):
        if left == 0:
            break
        size = 2 * table_size(left)
        mask = np.uint64(4 * size - 1)
        counters[:size] = 0
        for k in range(left):
            at = _start_of(tokens, starts[active[k]]) + level
            hashes[k] = _combined(hashes[k], load64(tokens.text, at))
            _note(hashes[k] & mask, counters)
        before, left = left, 0
        for k in range(before):
            repeated = _noted(hashes[k] & mask, counters)
            levels[active[k]] += STEP * repeated
            active[left], hashes[left] = active[k], hashes[k]
            left += repeated


@njit(nogil=True, forceinline=True, _nrt=False)
def _fitting(tokens, words, n, candidates, starts, levels):
    """Leave of the candidates those where n words may be repeated: what cannot be now cannot be for a larger n."""
    left = 0
    for k in range(candidates):
        start, level = starts[k], np.int64(levels[k])
        length = tokens.ends[min(start + n, words) - 1] - _start_of(tokens, start)
        fits = (start + n <= words) & ((length < 2 * STEP) | (level >= min(length & -STEP, LONGEST)))
        starts[left], levels[left] = start, level
        left += fits
    return left


@njit(nogil=True, inline="always", _nrt=False)
def _hash_ngram(text, at, length):
    """The hash of the bytes text[at : at + length], of a length of 5 and more; almost without branches."""
    first, second = _masked(load64(text, at), load64(text, at + STEP), length)
    hashed = _combined(first, second + np.uint64(length) * _THIRD)
    done = 2 * STEP
    while done + STEP < length:
        hashed = _combined(hashed, load64(text, at + done))
        done += STEP
    rest = load64(text, at + max(0, length - STEP))
    return _combined(hashed, rest if length > 2 * STEP else np.uint64(0))


@njit(nogil=True, forceinline=True, _nrt=False)
def _duplicate_chars(tokens, n, starts, candidates, scratch):
    """The characters of duplicate n-grams, those that begin at the first `candidates` of `starts` looked at."""
    counters, hashes, slots, keys = scratch.counters, scratch.hashes, scratch.slots, scratch.keys
    size = 2 * table_size(candidates)
    mask = np.uint64(4 * size - 1)
    counters[:size] = 0
    for k in range(candidates):
        begin = _start_of(tokens, starts[k])
        hashes[k] = _hash_ngram(tokens.text, begin, tokens.ends[starts[k] + n - 1] - begin)
        _note(hashes[k] & mask, counters)
    active, left = scratch.active, 0
    for k in range(candidates):
        active[left] = k
        left += _noted(hashes[k] & mask, counters)
    if left == 0:
        return 0
    size = table_size(left)
    slots[:size] = -1
    known, free_from, chars = 0, 0, 0
    for k in range(left):
        start = starts[active[k]]
        if start < free_from:
            continue
        number = number_of(hashes[active[k]], keys, known, slots, size)
        if number < known:
            chars += tokens.chars[start + n - 1] - (tokens.chars[start - 1] if start else 0)
            free_from = start + n
        else:
            known += 1
    return chars
