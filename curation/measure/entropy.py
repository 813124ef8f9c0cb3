"""The group `entropy`: how evenly a document uses its words."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.group import Columns, Group
from curation.measure.hashing import numbered, table_size
from curation.measure.unicode import FLAGS, LOWER
from curation.measure.unicode_words import find_words, lower_hashes
from curation.measure.utf8 import text_buffers

# Of the distribution of a document's Unicode words in lower case, in nats: -sum(p log p). RedPajama-V2's
# rps_doc_unigram_entropy, but for what a word is (`curation.measure.repetition`). Null without words.
COLUMNS = {"word_entropy": pa.float64()}

_PRODUCTS = np.array([0.0] + [count * math.log(count) for count in range(1, 64)])  # most words occur a few times
_PRODUCTS.flags.writeable = False


def measure(documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    """The columns of COLUMNS."""
    data, offsets = text_buffers(texts)
    entropy = np.full(len(texts), np.nan)
    _measure(data, offsets, FLAGS, LOWER, _PRODUCTS, entropy)
    return {"word_entropy": pa.array(entropy, from_pandas=True)}


@njit(nogil=True, cache=True)
def _measure(data, offsets, flags, lower, products, out):
    keys, slots = np.empty(0, np.uint64), np.empty(2, np.int32)
    starts, stops, counts = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32)
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        most = (end - begin) // 2 + 1  # two words have a byte between them, or are of several bytes each
        if most > len(keys):
            keys, counts = np.empty(most, np.uint64), np.empty(most, np.int32)
            starts, stops = np.empty(most, np.int32), np.empty(most, np.int32)
        words = find_words(data, begin, end, flags, starts, stops)
        if words == 0:
            continue
        size = 2 * table_size(words)
        if size > len(slots):
            slots = np.empty(size, np.int32)
        slots[:size] = -1
        lower_hashes(data, begin, words, starts, stops, lower, keys, counts)
        known = _count_words(words, keys, counts, starts, slots, np.uint64(size - 1))
        total = 0.0
        for number in range(known):
            count = counts[number]
            total += products[count] if count < len(products) else count * math.log(count)
        out[document] = max(0.0, math.log(words) - total / words)


@njit(nogil=True)
def _count_words(words, keys, counts, starts, slots, mask):
    """Count each different word, in the order in which they first occur; returns how many those are.

    `keys` holds the hashes of the words and is overwritten, as `starts` is.
    """
    known = 0
    for word in range(words):
        _, known = numbered(keys[word], 0, keys, counts, starts, slots, mask, known)
    return known


GROUP = Group("entropy", COLUMNS, measure)
