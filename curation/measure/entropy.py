"""The group `entropy`: how evenly a document uses its words."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from numba import njit

from curation.measure.group import Columns, Group
from curation.measure.hashing import HASH_START, extend_hash, number_of, table_size
from curation.measure.next_word import next_word
from curation.measure.unicode import FLAGS, LOWER
from curation.measure.utf8 import decode, text_buffers

# Of the distribution of a document's Unicode words in lower case, in nats: -sum(p log p). RedPajama-V2's
# rps_doc_unigram_entropy, but for what a word is (`curation.measure.repetition`). Null without words.
COLUMNS = {"word_entropy": pa.float64()}


def measure(documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    """The columns of COLUMNS."""
    data, offsets = text_buffers(texts)
    entropy = np.full(len(texts), np.nan)
    _measure(data, offsets, FLAGS, LOWER, entropy)
    return {"word_entropy": pa.array(entropy, from_pandas=True)}


@njit(nogil=True)
def _word_hash(data, at, end, lower):
    hashed = HASH_START
    while at < end:
        code, at = decode(data, at, end)
        hashed = extend_hash(hashed, lower[code])
    return hashed


@njit(nogil=True, cache=True)
def _measure(data, offsets, flags, lower, out):
    keys, counts, slots = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(2, np.int32)
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        most = (end - at) // 2 + 1  # two words have a byte between them, or are of several bytes each
        size = table_size(most)
        if most > len(keys):
            keys, counts, slots = np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(size, np.int32)
        slots[:size] = -1
        words, known = 0, 0
        while True:
            start, at = next_word(data, at, end, flags)
            if start == end:
                break
            number = number_of(_word_hash(data, start, at, lower), keys, known, slots, size)
            if number == known:
                counts[number] = 0
                known += 1
            counts[number] += 1
            words += 1
        if words:
            total = 0.0
            for number in range(known):
                total += counts[number] * math.log(counts[number])
            out[document] = max(0.0, math.log(words) - total / words)


GROUP = Group("entropy", COLUMNS, measure)
