"""True Jaccard similarity of documents: sets of the 64-bit hashes of their shingles, intersected.

The sets of a shard's candidates are stored one after the other, each sorted, in one file. Two distinct shingles
have the same hash with a probability of 2^-64, far below what the similarity of any real pair could notice.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.dedup.scheme import Shingling
from curation.dedup.shingles import TABLES, roll
from curation.dedup.units import KINDS, UNIT_BYTES, buffers, hash_units
from curation.files import atomic


def shingle_sets(texts: pa.Array, shingling: Shingling) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct 64-bit hashes of each large string's shingles, one after the other (uint64), and how
    many each has (int64)."""
    if shingling.unit == "datatrove":
        from curation.dedup import datatrove  # reads spaCy's tables

        lists = datatrove.shingle_hashes(texts, shingling.ngram, "xxhash64")
        hashes = np.concatenate([np.zeros(0, np.uint64), *lists])
        bounds = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    else:
        data, offsets = buffers(texts, shingling)
        bounds = np.zeros(len(texts) + 1, np.int64)
        hashes = _shingle_hashes(KINDS[shingling.unit], data, offsets, TABLES, shingling.ngram, bounds)
    for start, end in pairwise(bounds.tolist()):
        hashes[start:end].sort()
    sizes = np.zeros(len(texts), np.int64)
    return hashes[: _distinct(hashes, bounds, sizes)], sizes


@njit(nogil=True, cache=True)
def _shingle_hashes(kind, data, offsets, tables, ngram, bounds):
    """The hashes of all texts' shingles; those of text i are bounds[i] to bounds[i + 1]."""
    most = units = 0
    for row in range(len(offsets) - 1):
        fitting = (offsets[row + 1] - offsets[row]) // UNIT_BYTES[kind] + 1
        most, units = max(most, fitting), units + fitting
    found, out = np.empty(most, np.uint64), np.empty(units, np.uint64)
    for row in range(len(offsets) - 1):
        count, _ = hash_units(kind, data, offsets[row], offsets[row + 1], tables, found, 0)
        if count >= ngram:
            roll(found, count, ngram, out[bounds[row] :])
        bounds[row + 1] = bounds[row] + max(0, count - ngram + 1)
    return out[: bounds[-1]]


@njit(nogil=True, cache=True)
def _distinct(hashes, bounds, sizes):
    """Close the gaps that repeats leave in the sorted runs; returns where the runs end then."""
    to = 0
    for row in range(len(sizes)):
        start = to
        for at in range(bounds[row], bounds[row + 1]):
            if to == start or hashes[at] != hashes[to - 1]:
                hashes[to] = hashes[at]
                to += 1
        sizes[row] = to - start
    return to


def write_sets(path: Path, texts: Iterable[pa.Array], shingling: Shingling) -> np.ndarray:
    """Write the shingle sets of texts, given in batches, to `path`. Returns their sizes, int64.

    Memory: a batch and its sets.
    """
    every = [np.zeros(0, np.int64)]
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for batch in texts:
            hashes, sizes = shingle_sets(batch, shingling)
            every.append(sizes)
            file.write(hashes)
    return np.concatenate(every)


@njit(nogil=True, cache=True)
def copy_sets(source, starts, sizes, target, ends):
    """Copy the sets at `starts` of one file (uint64), each of `sizes` hashes, to where each ends in `target`."""
    for at in range(len(starts)):
        target[ends[at] - np.int64(sizes[at]) : ends[at]] = source[starts[at] : starts[at] + np.int64(sizes[at])]


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
