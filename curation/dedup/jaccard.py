"""True Jaccard similarity of documents: sets of the 64-bit hashes of their shingles, intersected.

The sets of a shard's candidates are stored one after the other, each sorted, in one file. Two distinct shingles
have the same hash with a probability of 2^-64, far below what the similarity of any real pair could notice.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit

from curation.dedup.scheme import Shingling
from curation.dedup.shingles import TABLES, roll
from curation.dedup.units import KINDS, UNIT_BYTES, buffers, hash_units
from curation.files import atomic


def shingle_sets(texts: pa.Array, shingling: Shingling) -> list[np.ndarray]:
    """Of each large string the sorted distinct 64-bit hashes of its shingles, uint64."""
    if shingling.unit == "datatrove":
        from curation.dedup import datatrove  # reads spaCy's tables

        lists = datatrove.shingle_hashes(texts, shingling.ngram, "xxhash64")
    else:
        data, offsets = buffers(texts, shingling)
        bounds, kind = offsets.tolist(), KINDS[shingling.unit]
        lists = (
            _shingle_hashes(kind, data, *bounds[at : at + 2], TABLES, shingling.ngram) for at in range(len(texts))
        )
    return [np.unique(hashes) for hashes in lists]


@njit(nogil=True, cache=True)
def _shingle_hashes(kind, data, start, end, tables, ngram):
    units = np.empty((end - start) // UNIT_BYTES[kind] + 1, np.uint64)
    count, _ = hash_units(kind, data, start, end, tables, units, 0)
    out = np.empty(max(0, count - ngram + 1), np.uint64)
    roll(units, count, ngram, out)
    return out


def write_sets(path: Path, texts: Iterable[pa.Array], shingling: Shingling) -> np.ndarray:
    """Write the shingle sets of texts, given in batches, to `path`. Returns their sizes, int64.

    Memory: a batch and its sets.
    """
    sizes = []
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for batch in texts:
            for hashes in shingle_sets(batch, shingling):
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
