"""Words of a fastText model with subwords: each one's sum of rows, kept for the next time it comes."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.fasttext_words import (
    END_MARK,
    ENTRY,
    HASH_BASIS,
    START_OF_LABEL,
    begins_with,
    bucket_row,
    chunk_of,
    find_key,
    hash_on,
    modulo,
    word_hash,
    word_key,
)
from curation.measure.row_sums import add_row, add_rows, ask_for_row

CACHE_SLOTS = 1 << 16  # words that are kept, a thread
CACHED_BYTES = 32  # of the longest of them


def new_cache(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each slot: key, length, note, 32 bytes of spelling (uint64 (n, 8), a cache line); sum of rows; scratch.

    A note is 1 + the number of rows in the sum, in the upper half fastText's hash; 0 for a label. Words are told
    apart byte by byte (a key does that for eight) and a sum is always taken in one order, so that what is kept
    changes no result. The last slot is for words that are too long to be kept.
    """
    room = np.zeros((CACHE_SLOTS + 2) * 8, np.uint64)
    first = -room.ctypes.data % 64 // 8
    heads = room[first : first + (CACHE_SLOTS + 1) * 8].reshape(CACHE_SLOTS + 1, 8)
    return heads, np.zeros((CACHE_SLOTS + 1, width), np.float32), np.empty(256, np.uint8)


@njit(nogil=True)
def add_words_with_subwords(hidden, data, first, places, count, cache, words, ngrams, hashes, read, found, keys):
    """Add the words that end at places[:count] to `hidden`; see `fasttext_kernel.add_dictionary_words`."""
    heads, kept, spelling = cache
    slots, rows = words
    buckets, (ranks, divisor, inverse), lengths, _ = ngrams
    added, end_key, ended = np.int64(0), word_key(END_MARK, 0, len(END_MARK)), False
    start = first
    for n in range(count):
        keys[n] = word_key(data, start, places[n])
        slot = np.int64(keys[n] & np.uint64(len(heads) - 2))
        ask_for_row(heads, slot)
        ask_for_row(kept, slot)
        start = places[n] + 1
    for n in range(count):
        start, stop, key = first, places[n], keys[n]
        first = stop + 1
        if stop == start:
            continue
        slot, there = _take_slot(data, start, stop, key, heads)
        if not there:
            heads[slot, 2] = _sum_word(
                data,
                start,
                stop,
                key,
                slots,
                rows,
                buckets,
                ranks,
                divisor,
                inverse,
                lengths,
                spelling,
                found,
                kept,
                slot,
            )
        note = heads[slot, 2]
        if note:
            add_row(hidden, kept, slot)
            hashes[read] = note >> np.uint64(32)
            read += 1
            added += np.int64(note & ENTRY) - 1
        if key == end_key:
            ended = True
            break
    return first, read, added, ended


@njit(nogil=True)
def _take_slot(data, start, end, key, heads):
    """(slot of a word in the cache, whether its sum is there). A slot that holds another word is taken over."""
    size, last = np.uint64(end - start), np.uint64(len(heads) - 1)
    if size > np.uint64(CACHED_BYTES):
        return np.int64(last), False
    slot = np.int64(key & (last - np.uint64(1)))
    same = heads[slot, 0] == key and heads[slot, 1] == size
    if same and size > np.uint64(8):  # up to there keys differ where words do
        for part in range(4):
            same &= heads[slot, 3 + part] == chunk_of(data, start + 8 * part, end)
    if not same:
        heads[slot, 0], heads[slot, 1] = key, size
        for part in range(4):
            heads[slot, 3 + part] = chunk_of(data, start + 8 * part, end)
    return slot, same


@njit(nogil=True)
def _sum_word(
    data, start, end, key, slots, rows, buckets, ranks, divisor, inverse, lengths, spelling, found, kept, slot
):
    """Sum the rows of a word and its subwords in kept[slot]; returns its note (see `new_cache`)."""
    held, count, sums = find_key(key, slots), 0, kept[slot]
    entry = np.int64(held & ENTRY) - 1
    if entry >= len(rows) or (entry < 0 and begins_with(data, start, end, START_OF_LABEL)):
        return np.uint64(0)
    sums[:] = 0
    if entry >= 0:
        found[0] = entry
        add_rows(sums, rows, found, 1)
        count = 1
    hashed = held >> np.uint64(32) if entry >= 0 else np.uint64(word_hash(data, start, end))
    if not (end - start == len(END_MARK) and begins_with(data, start, end, END_MARK)):
        size, step = end - start + 2, len(found) // lengths[1]
        word = spelling if size <= len(spelling) else np.empty(size, np.uint8)
        word[0], word[size - 1] = 0x3C, 0x3E
        for at in range(start, end):
            word[at - start + 1] = data[at]
        for first in range(0, size, step):
            known = _subword_rows(
                word, size, first, first + step, buckets, ranks, divisor, inverse, lengths, found
            )
            add_rows(sums, buckets, found, known)
            count += known
    return np.uint64(count + 1) | hashed << np.uint64(32)


@njit(nogil=True)
def _subword_rows(word, size, first, last, buckets, ranks, divisor, inverse, lengths, found):
    """Write the rows of the character n-grams of word[:size], "<" and ">" included, to `found`; returns how many.

    Those that begin at its bytes `first` to `last`; `found` (int64) needs room for (last - first) * lengths[1].
    """
    known, shortest, longest = 0, lengths[0], lengths[1]
    for place in range(first, min(last, size)):
        if word[place] & 0xC0 == 0x80:
            continue
        hashed, at = HASH_BASIS, place
        for chars in range(1, longest + 1):
            if at >= size:
                break
            hashed = hash_on(hashed, word[at])
            at += 1
            while at < size and word[at] & 0xC0 == 0x80:
                hashed = hash_on(hashed, word[at])
                at += 1
            if chars >= shortest and not (chars == 1 and (place == 0 or at == size)):
                found[known], there = bucket_row(modulo(np.uint64(hashed), divisor, inverse), ranks)
                ask_for_row(buckets, found[known])
                known += there
    return known
