"""Gopher repetition's n-grams of words as datatrove 0.10.1 counts them, from the tokens of a document.

Top n-grams: windows of n words joined by a blank; the most frequent one (of equals the one seen first) counts with
its characters, blanks included, times its occurrences, also if it occurs once. Duplicate n-grams: one pass from
the left over n words joined by nothing; one seen before counts with its characters and the pass goes on behind it.

Both are exact, and look up few n-grams. Small counters by hash, which can only be too high since several n-grams
share one, tell in a pass without branches which n-grams can be frequent or repeated; those alone are counted.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.hashing import number_of, table_size
from curation.measure.intrinsics import load64

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
NGRAM_COUNTS = len(TOP) + len(DUPLICATE)
STEP, LONGEST = 8, 64  # bytes by which beginnings of n-grams are compared
MOST = 255  # of a counter: this many or more
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(nogil=True)
def ngram_scratch(words):
    """Room for a document of so many words: (counters, n-grams' hashes, slots, keys, counts, firsts, starts)."""
    size = table_size(words)
    return (
        np.empty((len(TOP), 2 * size), np.uint8),
        np.empty((len(TOP), words + 1), np.uint64),
        np.empty(size, np.int32),
        np.empty(words + 1, np.uint64),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
        np.empty(words + 1, np.int32),
    )


@njit(nogil=True, _nrt=False)
def count_ngrams(tokens, words, scratch, out):
    """Fill `out` (NGRAM_COUNTS numbers, characters) for the first `words` tokens."""
    out[:] = 0
    counters, hashes, slots, keys, counts, firsts, starts = scratch
    if words >= 2:
        _top_ngrams(tokens, words, counters, hashes, slots, keys, counts, firsts, starts, out)
    if words < DUPLICATE[0]:
        return
    levels = firsts
    candidates = _repeated_starts(tokens, words, counters[0], hashes[0], starts, levels)
    _raise_levels(tokens, candidates, counters[0], hashes[0], hashes[1], starts, levels)
    for n in DUPLICATE:
        if candidates == 0:
            return
        out[n - 2], candidates = _duplicate_chars(
            tokens, words, n, candidates, counters[0], hashes[1], slots, keys, levels, starts
        )


@njit(nogil=True, inline="always", _nrt=False)
def _combined(first, second):
    hashed = (first * _FIRST + second) * _SECOND
    return hashed ^ hashed >> np.uint64(32)


@njit(nogil=True, inline="always", _nrt=False)
def _joined_chars(tokens, start, n):
    """Characters of n words from `start` on with blanks between them."""
    return tokens.chars[start + n - 1] - (tokens.chars[start - 1] if start else 0) + n - 1


@njit(nogil=True, forceinline=True, _nrt=False)
def _count_by_hash(tokens, words, mask, counters, hashes):
    """Hash all n-grams of 2, 3 and 4 words by where they begin and count them; the highest counter of each."""
    two = three = four = np.uint8(0)
    pair = triple = np.uint64(0)
    word = tokens.hashes[0]
    for k in range(1, words):
        following = tokens.hashes[k]
        new_pair = _combined(word, following)
        new_triple = _combined(pair, new_pair)
        quadruple = _combined(triple, new_triple)
        hashes[0, k - 1] = new_pair
        count = counters[0, new_pair & mask]
        count += np.uint8(count < MOST)
        counters[0, new_pair & mask] = count
        two = max(two, count)
        if k >= 2:
            hashes[1, k - 2] = new_triple
            count = counters[1, new_triple & mask]
            count += np.uint8(count < MOST)
            counters[1, new_triple & mask] = count
            three = max(three, count)
        if k >= 3:
            hashes[2, k - 3] = quadruple
            count = counters[2, quadruple & mask]
            count += np.uint8(count < MOST)
            counters[2, quadruple & mask] = count
            four = max(four, count)
        word, pair, triple = following, new_pair, new_triple
    return two, three, four


@njit(nogil=True, forceinline=True, _nrt=False)
def _top_ngrams(tokens, words, counters, hashes, slots, keys, counts, firsts, starts, out):
    size = 2 * table_size(words)
    mask = np.uint64(size - 1)
    counters[:, :size] = 0
    highest = _count_by_hash(tokens, words, mask, counters, hashes)
    for n in range(2, min(words, 4) + 1):
        least = np.int64(highest[n - 2])
        best, occurrences = 0, 1
        while least > 1:
            found = _frequent(n - 2, words - n + 1, least, mask, counters, hashes, starts)
            best, occurrences = _most_frequent(found, hashes[n - 2], slots, keys, counts, firsts, starts)
            if occurrences >= least or least == 2:
                break
            least = max(occurrences, 2)  # nothing is missed now: something occurs so often
        out[n - 2] = _joined_chars(tokens, best if occurrences > 1 else 0, n) * occurrences


@njit(nogil=True, forceinline=True, _nrt=False)
def _frequent(row, windows, least, mask, counters, hashes, starts):
    """Write to `starts` where n-grams begin that may occur `least` times; returns how many there are."""
    found = 0
    for k in range(windows):
        if counters[row, hashes[row, k] & mask] < least:
            continue
        may = True
        for part in range(row):  # the shorter ones within it occur as often
            may &= counters[part, hashes[part, k] & mask] >= least
            may &= counters[part, hashes[part, k + 1] & mask] >= least
        starts[found] = k
        found += may
    return found


@njit(nogil=True, forceinline=True, _nrt=False)
def _most_frequent(candidates, hashes, slots, keys, counts, firsts, starts):
    """The first of the most frequent n-grams that begin at `starts`, and how often it occurs."""
    size = table_size(max(1, candidates))
    slots[:size] = -1
    known, best, occurrences = 0, 0, 1
    for k in range(candidates):
        number = number_of(hashes[starts[k]], keys, known, slots, size)
        if number == known:
            known += 1
            counts[number] = 0
            firsts[number] = starts[k]
        counts[number] += 1
    for number in range(known):
        if counts[number] > occurrences:
            best, occurrences = firsts[number], counts[number]
    return best, occurrences


@njit(nogil=True, inline="always", _nrt=False)
def _start_of(tokens, k):
    return tokens.ends[k - 1] if k else 0


@njit(nogil=True, inline="always", _nrt=False)
def _note(hashed, mask, counters):
    """Count once more what has this hash: 1 for the first time, 3 from then on."""
    seen = counters[hashed & mask] << np.uint8(1) & np.uint8(2) | np.uint8(1)
    counters[hashed & mask] = seen
    return seen


@njit(nogil=True, forceinline=True, _nrt=False)
def _repeated_starts(tokens, words, counters, chains, starts, levels):
    """Write to `starts` the words where an n-gram can begin that occurs twice; returns how many there are.

    Those are the ones whose first STEP bytes, at least, another word begins with too. `levels` says how many bytes
    may be repeated, in steps; `chains` gets the hash of the first 2 * STEP bytes.
    """
    size = 2 * table_size(words)
    mask = np.uint64(size - 1)
    counters[:size] = 0
    at = 0
    for k in range(words - 4):
        chains[k] = _combined(load64(tokens.text, at), load64(tokens.text, at + STEP))
        _note(chains[k], mask, counters)
        at = tokens.ends[k]
    found, at = 0, 0
    for k in range(words - 4):
        repeated = counters[chains[k] & mask] >= 2
        starts[found], chains[found], levels[found] = k, chains[k], 2 * STEP * repeated
        found += repeated or tokens.ends[k + 4] - at < 2 * STEP
        at = tokens.ends[k]
    return found


@njit(nogil=True, forceinline=True, _nrt=False)
def _raise_levels(tokens, candidates, counters, chains, longer, starts, levels):
    """Set `levels` to the bytes that may be repeated from each start on, up to LONGEST."""
    below = candidates
    for level in range(3 * STEP, LONGEST + 1, STEP):
        size = 2 * table_size(below)
        mask = np.uint64(size - 1)
        counters[:size] = 0
        before = chains if level == 3 * STEP else longer
        for k in range(candidates):
            if levels[k] == level - STEP:
                at = _start_of(tokens, starts[k]) + level - STEP
                longer[k] = _combined(before[k], load64(tokens.text, at))
                _note(longer[k], mask, counters)
        below = 0
        for k in range(candidates):
            if levels[k] == level - STEP and counters[longer[k] & mask] >= 2:
                levels[k] = level
                below += 1
        if below == 0:
            return


@njit(nogil=True, inline="always", _nrt=False)
def _hash_ngram(text, at, length):
    """The hash of the bytes text[at : at + length], of a length of 5 and more; almost without branches."""
    first = load64(text, at) & _ALL >> np.uint64(max(0, 64 - 8 * length))
    second = load64(text, at + STEP) & (_ALL >> np.uint64(min(63, max(0, 128 - 8 * length))))
    hashed = _combined(first, second if length > STEP else np.uint64(0))
    done = 2 * STEP
    while done + STEP < length:
        hashed = _combined(hashed, load64(text, at + done))
        done += STEP
    rest = load64(text, at + max(0, length - STEP))
    return _combined(hashed, (rest if length > 2 * STEP else np.uint64(0)) + np.uint64(length) * _SECOND)


@njit(nogil=True, forceinline=True, _nrt=False)
def _duplicate_chars(tokens, words, n, candidates, counters, hashes, slots, keys, levels, starts):
    """The characters of duplicate n-grams, those that begin at the first `candidates` of `starts` looked at.

    Returns them and how many candidates are left for longer n-grams: what cannot be repeated now cannot be then.
    """
    size = 2 * table_size(candidates)
    mask = np.uint64(size - 1)
    counters[:size] = 0
    seen, left = np.uint8(0), 0
    for k in range(candidates):
        start, level = starts[k], levels[k]
        if start + n > words:
            break
        begin = _start_of(tokens, start)
        length = tokens.ends[start + n - 1] - begin
        if length >= 2 * STEP and level < min(length & -STEP, LONGEST):
            continue
        hashed = _hash_ngram(tokens.text, begin, length)
        seen = max(seen, _note(hashed, mask, counters))
        hashes[left], starts[left], levels[left] = hashed, start, level
        left += 1
    if seen < 2:
        return 0, left
    size = table_size(left)
    slots[:size] = -1
    known, free_from, chars = 0, 0, 0
    for k in range(left):
        start, hashed = starts[k], hashes[k]
        if counters[hashed & mask] < 2 or start < free_from:
            continue
        number = number_of(hashed, keys, known, slots, size)
        if number < known:
            chars += tokens.chars[start + n - 1] - (tokens.chars[start - 1] if start else 0)
            free_from = start + n
        else:
            known += 1
    return chars, left
