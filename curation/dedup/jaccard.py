"""True Jaccard similarity of documents: sets of the 64-bit hashes of their word n-grams, intersected.

The sets of a shard's candidates are stored one after the other, each sorted, in one file. Two distinct n-grams
have the same hash with a probability of 2^-64, far below what the similarity of any real pair could notice.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit

from curation.dedup.minhash import string_buffers
from curation.dedup.shingles import TABLES, hash_words, roll
from curation.files import atomic


def shingle_sets(texts: pa.Array, ngram: int) -> list[np.ndarray]:
    """Of each large string the sorted distinct 64-bit hashes of its shingles, uint64."""
    data, offsets = string_buffers(texts)
    bounds = offsets.tolist()
    return [np.unique(_shingle_hashes(data, *bounds[at : at + 2], TABLES, ngram)) for at in range(len(texts))]


@njit(nogil=True, cache=True)
def _shingle_hashes(data, start, end, tables, ngram):
    words = np.empty((end - start) // 2 + 1, np.uint64)  # a word and what parts it from the next are two bytes
    count, _ = hash_words(data, start, end, tables, words, 0)
    out = np.empty(max(0, count - ngram + 1), np.uint64)
    roll(words, count, ngram, out)
    return out


def write_sets(path: Path, texts: Iterable[pa.Array], ngram: int) -> np.ndarray:
    """Write the shingle sets of texts, given in batches, to `path`. Returns their sizes, int64.

    Memory: a batch and its sets.
    """
    sizes = []
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for batch in texts:
            for hashes in shingle_sets(batch, ngram):
                sizes.append(len(hashes))
                file.write(hashes.tobytes())
    return np.array(sizes, np.int64)


def similarities(
    first: np.ndarray, first_bounds: np.ndarray, second: np.ndarray, second_bounds: np.ndarray, threshold: float
) -> np.ndarray:
    """The Jaccard similarities of pairs of sets, float64[pairs]; 0 where sizes alone keep it below the threshold.

    `first` (uint64) holds sets one after the other; first_bounds int64[pairs, 2] says where each pair's set lies.
    """
    out = np.zeros(len(first_bounds))
    _similarities(first, first_bounds, second, second_bounds, threshold, out)
    return out


@njit(nogil=True, cache=True)
def _similarities(first, first_bounds, second, second_bounds, threshold, out):
    for pair in range(len(out)):
        a, a_end = first_bounds[pair, 0], first_bounds[pair, 1]
        b, b_end = second_bounds[pair, 0], second_bounds[pair, 1]
        sizes = (a_end - a) + (b_end - b)
        smaller, larger = min(a_end - a, b_end - b), max(a_end - a, b_end - b)
        if smaller / larger < threshold:  # never less than the similarity, also when rounded
            continue
        shared = 0
        while a < a_end and b < b_end:
            x, y = first[a], second[b]
            shared += x == y
            a += x <= y
            b += y <= x
        out[pair] = shared / (sizes - shared)
