"""Locality-sensitive hashing: documents that agree on all rows of a band fall into one bucket.

Each shard writes the keys of its documents' bands, sorted. A partition is a range of key values: it reads its
slice of every shard's file, sorts it, and keeps what is not alone with its key; of those documents the members of
each bucket are paired. Buckets never cross partitions, so neither their number nor the order of shards changes a
result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from curation.compiled import njit
from curation.dedup.minhash import Scheme
from curation.files import map_array
from curation.key_kernels import mix64

ENTRY = np.dtype([("key", "<u8"), ("document", "<u4")])  # one band of one document
SHARED = np.dtype([("key", "<u8"), ("document", "<u8")])  # of a key that several have; by position of all files
PAIRS_AT_ONCE = 1 << 22


def band_keys(signatures: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The keys of the bands of signatures uint32[n, permutations]: uint64[n, bands].

    A key is a 64-bit hash of the band's number and its rows, so the bands share one key space.
    """
    keys = np.empty((len(signatures), scheme.bands), np.uint64)
    _band_keys(np.ascontiguousarray(signatures), scheme.bands, scheme.rows, keys)
    return keys


def sorted_entries(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """ENTRY (SHARED for documents of 64 bits) of keys uint64[n] and documents, sorted by both."""
    order = np.argsort(keys)  # not stable, and several times as fast for that: equal keys are few
    entries = np.empty(len(keys), ENTRY if documents.dtype == np.uint32 else SHARED)
    keys, documents = keys[order], documents[order]
    _settle(keys, documents)
    entries["key"], entries["document"] = keys, documents
    return entries


@njit(nogil=True, cache=True)
def _settle(keys, documents):
    """Sort the documents of each run of equal keys."""
    start = 0
    while start < len(keys):
        end = start + 1
        while end < len(keys) and keys[end] == keys[start]:
            end += 1
        if end > start + 1:
            documents[start:end] = np.sort(documents[start:end])
        start = end


@njit(nogil=True, cache=True)
def _band_keys(signatures, bands, rows, out):
    for at in range(len(signatures)):
        for band in range(bands):
            key = mix64(np.uint64(band + 1))
            for row in range(band * rows, (band + 1) * rows):
                key = mix64(key ^ np.uint64(signatures[at, row]))
            out[at, band] = key


def read_partition(files: list[Path], partition: int, partitions: int) -> np.ndarray:
    """The entries of one of `partitions` equal ranges of keys, from sorted files; sorted by key, then document.

    Entries may have more fields than ENTRY.
    """
    slices = list(_slices(files, partition, partitions))
    merged = np.concatenate(slices) if slices else np.zeros(0, ENTRY)
    return merged[np.lexsort((merged["document"], merged["key"]))]


def read_shared(files: list[Path], firsts: list[int], partition: int, partitions: int) -> np.ndarray:
    """As `read_partition`, those entries whose key several have, as SHARED. A document's position is its number in
    its file and the position of the file's first, one of `firsts`."""
    keys, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for first, entries in zip(firsts, _slices(files, partition, partitions), strict=True):
        keys.append(entries["key"].copy())
        places.append(entries["document"] + np.uint64(first))
    entries = sorted_entries(np.concatenate(keys), np.concatenate(places))
    return entries[bucket_sizes(entries["key"]) > 1]


def _slices(files: list[Path], partition: int, partitions: int) -> Iterator[np.ndarray]:
    """Of each sorted file the entries of one range of keys."""
    width = -(-(1 << 64) // partitions)
    for file in files:
        entries = map_array(file)
        keys = entries["key"]  # bisect reads a few pages of it; searchsorted would copy the column
        start = bisect_left(keys, partition * width)
        yield np.array(entries[start : bisect_left(keys, (partition + 1) * width, start)])


def distinct(values: np.ndarray) -> np.ndarray:
    """`np.unique` of whole numbers, which numpy hashes: to sort them takes a hundredth where many are equal."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def bucket_pairs(
    entries: np.ndarray, max_bucket: int, met: np.ndarray | None = None, at_once: int = PAIRS_AT_ONCE
) -> Iterator[np.ndarray]:
    """The pairs of documents that share a bucket, in sorted arrays of unique pairs of about `at_once` at most.

    A pair is `later << 32 | earlier`, where earlier < later. Each document of a bucket is paired with those before
    it, or with the first `max_bucket` of the bucket where there are more. Documents being numbered in the order in
    which they are preferred, those are the ones most likely to be kept. Two entries that are both `met` (bool, an
    entry each) are no pair: they have been compared. A pair may be in several arrays.
    """
    met = np.zeros(len(entries), np.bool_) if met is None else met
    before, documents = members_before(entries["key"]), np.ascontiguousarray(entries["document"])
    made = np.empty(len(entries), np.int64)
    _count(before, met, max_bucket, made)
    made = np.cumsum(made)
    start = 0
    while start < len(entries):
        done = int(made[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(made, done + at_once, "right")))
        pairs = np.empty(int(made[stop - 1]) - done, np.uint64)
        _expand(documents, before, met, start, stop, max_bucket, pairs)
        if len(pairs):
            yield distinct(pairs)
        start = stop


def pairs_left_out(entries: np.ndarray, max_bucket: int, met: np.ndarray | None = None) -> int:
    """How many pairs of documents that share a bucket `bucket_pairs` does not make, counted bucket by bucket."""
    met = np.zeros(len(entries), np.bool_) if met is None else met
    return int(_count(members_before(entries["key"]), met, max_bucket, np.empty(len(entries), np.int64)))


def bucket_sizes(keys: np.ndarray) -> np.ndarray:
    """Of each of the sorted keys, how many are equal to it, itself included. Shape (n,), int64."""
    first = np.flatnonzero(members_before(keys) == 0)
    sizes = np.diff(np.append(first, len(keys)))
    return np.repeat(sizes, sizes)


def members_before(keys: np.ndarray) -> np.ndarray:
    """Of each of the sorted keys, how many equal ones stand before it. Shape (n,), int64."""
    place = np.arange(len(keys))
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    return place - np.maximum.accumulate(np.where(first, place, 0)) if len(keys) else place


@njit(nogil=True, cache=True)
def _count(before, met, window, made):
    """made[i] <- the pairs that entry i makes with those before it; returns how many all of them do not make."""
    left, unmet, unmet_in_window = 0, 0, 0
    for at in range(len(before)):
        if before[at] == 0:
            unmet, unmet_in_window = 0, 0
        if met[at]:
            made[at] = unmet_in_window
            left += unmet - unmet_in_window
        else:
            made[at] = min(before[at], window)
            left += before[at] - made[at]
            unmet += 1
            unmet_in_window += before[at] < window
    return left


@njit(nogil=True, cache=True)
def _expand(documents, before, met, start, stop, window, out):
    count = 0
    for at in range(start, stop):
        bucket = at - before[at]
        for earlier in range(bucket, bucket + min(before[at], window)):
            if not (met[at] and met[earlier]):
                out[count] = np.uint64(documents[at]) << np.uint64(32) | np.uint64(documents[earlier])
                count += 1
