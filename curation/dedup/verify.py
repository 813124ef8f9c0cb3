"""The true similarity of candidate pairs: phases "sets" and "verify" of fuzzy deduplication."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curation.dedup.documents import SCRATCH, Documents, Shard, write_array
from curation.dedup.jaccard import similarities, write_sets
from curation.dedup.settings import Dedup
from curation.steps import Build

RANGE = 1 << 20  # pairs that a worker verifies at once
VERIFIED = np.dtype([("pair", "<u8"), ("similarity", "<f8")])


def verified_pairs(
    build: Build, documents: Documents, order: np.ndarray, number: np.ndarray, runs: list[Path], config: Dedup
) -> np.ndarray:
    """Phases 4 and 5: the pairs whose Jaccard similarity reaches the threshold, VERIFIED, sorted by pair."""
    degree, candidate = np.zeros(len(order), np.int64), np.zeros(len(order), bool)
    for run in runs:
        pairs = np.load(run, mmap_mode="r")
        later, times = np.unique(pairs >> np.uint64(32), return_counts=True)
        degree[later] += times
        candidate[later] = True
        candidate[pairs & np.uint64(0xFFFFFFFF)] = True

    sets = Sets(build.folder, documents, order)
    units = {}
    for shard in documents.shards:
        part = documents.of_shard(shard)
        wanted = candidate[number[part]]
        if wanted.any():
            units[f"sets {shard.key}"] = (shard, documents.columns["row"][part][wanted], config.verify_ngram)
    build.map(_write_sets, units, "threads")
    for shard in documents.shards:
        if f"sets {shard.key}" in units:
            own = number[documents.of_shard(shard)]
            sets.locate(shard, own[candidate[own]])

    cuts = _ranges(degree)
    units = {
        f"verify {at} of {len(cuts) - 1}": (runs, sets, cuts[at], cuts[at + 1], config.threshold, at)
        for at in range(len(cuts) - 1)
    }
    results = build.map(_verify_range, units, "threads")
    build.counts["pairs_compared"] = sum(result["compared"] for result in results.values())
    verified = np.concatenate([np.load(_verified_file(build.folder, at)) for at in range(len(units))])
    build.counts["pairs_verified"] = len(verified)
    return verified


class Sets:
    """Where the shingle set of each candidate lies: in the file of its shard, between two bounds."""

    def __init__(self, folder: Path, documents: Documents, order: np.ndarray):
        self.files = [_sets_file(folder, shard) for shard in documents.shards]
        self.shard = documents.columns["shard"][order]  # by number, like the bounds
        self.bounds = np.zeros((len(order), 2), np.int64)

    def locate(self, shard: Shard, numbers: np.ndarray) -> None:
        """Read the sizes of one shard's sets, those of the documents `numbers`."""
        ends = np.cumsum(np.load(self.files[shard.place].with_suffix(".sizes.npy")))
        self.bounds[numbers, 1] = ends
        self.bounds[numbers[1:], 0] = ends[:-1]

    def compare(self, later: np.ndarray, earlier: np.ndarray, threshold: float) -> np.ndarray:
        """The Jaccard similarities of pairs, float64; 0 where it is known to be below the threshold."""
        out = np.zeros(len(later))
        one, other = self.shard[later], self.shard[earlier]
        by_files = np.lexsort((other, one))
        changes = np.flatnonzero((np.diff(one[by_files]) != 0) | (np.diff(other[by_files]) != 0)) + 1
        for group in np.split(by_files, changes):
            first, second = (np.memmap(self.files[part[group[0]]], np.uint64, "r") for part in (one, other))
            bounds, other_bounds = self.bounds[later[group]], self.bounds[earlier[group]]
            out[group] = similarities(first, bounds, second, other_bounds, threshold)
        return out


def _sets_file(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "sets" / f"{shard.key}.u64"


def _verified_file(folder: Path, at: int) -> Path:
    return folder / SCRATCH / "verified" / f"{at:06d}.npy"


def _write_sets(folder: Path, key: str, shard: Shard, rows: np.ndarray, ngram: int) -> dict[str, int]:
    path = _sets_file(folder, shard)
    sizes = write_sets(path, shard.texts(rows), ngram)
    write_array(path.with_suffix(".sizes.npy"), sizes)
    return {"documents": len(sizes), "ngrams": int(sizes.sum())}


def _ranges(degree: np.ndarray) -> list[int]:
    """Bounds of ranges of documents with about RANGE pairs each, so that all pairs of a document are together."""
    done = np.cumsum(degree)
    total = int(done[-1]) if len(done) else 0
    inner = [int(np.searchsorted(done, share)) + 1 for share in range(RANGE, total, RANGE)]
    return sorted({0, *inner, len(degree)}) if len(degree) else [0, 0]


def _verify_range(
    folder: Path, key: str, runs: list[Path], sets: Sets, start: int, stop: int, threshold: float, at: int
) -> dict[str, int]:
    slices = [np.zeros(0, np.uint64)]
    for run in runs:
        pairs = np.load(run, mmap_mode="r")
        bounds = np.searchsorted(pairs, np.array([start << 32, stop << 32], np.uint64))
        slices.append(np.array(pairs[bounds[0] : bounds[1]]))
    pairs = np.unique(np.concatenate(slices))
    found = np.empty(len(pairs), VERIFIED)
    found["pair"] = pairs
    if len(pairs):
        found["similarity"] = sets.compare(pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF), threshold)
    passed = found[found["similarity"] >= threshold]
    write_array(_verified_file(folder, at), passed)
    return {"compared": len(pairs), "verified": len(passed)}
