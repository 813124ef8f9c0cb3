"""Overlap of documents in word n-grams: which of the n-grams of a few documents occur in many others.

Words, n-grams and their 64-bit hashes are those of `curation.dedup.shingles`. A document with fewer words than n
has one n-gram, all of its words. Of a long document only the MOST n-grams with the smallest hashes are compared:
a hash is uniform, so the share found among them estimates the share of all to about half a percent.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.dedup.bands import distinct
from curation.dedup.minhash import string_buffers
from curation.dedup.shingles import BLOCK, TABLES, hash_words, roll, words

MOST = 1 << 14
FREE = -1  # in `first`: no document has this n-gram so far


def ngrams_of(texts: pa.Array, ngram: int) -> list[np.ndarray]:
    """The n-gram hashes of each large string in their order, repeats included: uint64, none without a word."""
    data, offsets = string_buffers(texts)
    bounds = offsets.tolist()
    return [_hashes(data, *bounds[at : at + 2], TABLES, ngram) for at in range(len(texts))]


def compared(hashes: np.ndarray) -> np.ndarray:
    """The distinct hashes of a document that are compared, sorted."""
    return distinct(hashes)[:MOST]


def ngram_text(text: str, at: int, ngram: int) -> str:
    """The words of n-gram `at` of a text, lower-cased and joined by blanks."""
    size = 1 << 10
    while len(found := words(text[:size])) <= at + ngram and size < len(text):
        size *= 2
    return b" ".join(found[at : at + ngram]).decode()


class Grams:
    """A set of n-gram hashes to look for."""

    def __init__(self, hashes: np.ndarray, ngram: int):
        """`hashes`: sorted, distinct, uint64."""
        self.hashes, self.ngram = hashes, ngram
        bits = max(1, len(hashes).bit_length())
        self._shift = np.uint64(64 - bits)
        # Where the hashes that begin with each `bits` bits are: a bucket holds one or two.
        sizes = np.bincount((hashes >> self._shift).astype(np.int64), minlength=1 << bits)
        self._buckets = np.concatenate([[0], np.cumsum(sizes)])

    def nothing_found(self) -> np.ndarray:
        return np.full(len(self.hashes), FREE, np.int64)

    def find(self, texts: pa.Array, numbers: np.ndarray, first: np.ndarray) -> None:
        """For each hash that a large string has and that is FREE in `first`, set that to the text's number."""
        data, offsets = string_buffers(texts)
        _find(data, offsets, TABLES, self.ngram, self.hashes, self._buckets, self._shift, numbers, first)


@njit(nogil=True, cache=True)
def _hashes(data, start, end, tables, ngram):
    found = np.empty((end - start) // 2 + 1, np.uint64)  # a word and what parts it from the next are two bytes
    count, _ = hash_words(data, start, end, tables, found, 0)
    size = min(ngram, count)
    out = np.empty(count - size + 1 if count else 0, np.uint64)
    if count:
        roll(found, count, size, out)
    return out


@njit(nogil=True, cache=True)
def _find(data, offsets, tables, ngram, wanted, buckets, shift, numbers, first):
    word_hashes = np.empty(BLOCK + ngram - 1, np.uint64)
    grams = np.empty(BLOCK, np.uint64)
    for row in range(len(offsets) - 1):
        position, end, kept = offsets[row], offsets[row + 1], 0
        begun = False
        while position < end:
            count, position = hash_words(data, position, end, tables, word_hashes, kept)
            size = ngram if begun else min(ngram, count)
            found = count - size + 1
            if size == 0 or found <= 0:
                break  # the text is at its end, since a full buffer holds more than ngram words
            begun = True
            roll(word_hashes, count, size, grams)
            for at in range(found):
                bucket = grams[at] >> shift
                for place in range(buckets[bucket], buckets[bucket + np.uint64(1)]):
                    if wanted[place] == grams[at] and first[place] < 0:
                        first[place] = numbers[row]
            kept = ngram - 1
            for at in range(min(kept, count)):
                word_hashes[at] = word_hashes[count - min(kept, count) + at]
            if count < ngram:
                break
