"""The true similarity of candidate pairs: phases "sets" and "verify" of fuzzy deduplication."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curation.dedup.documents import SCRATCH, Documents, Shard, write_array
from curation.dedup.jaccard import copy_sets, similarities, write_sets
from curation.dedup.scheme import Shingling
from curation.dedup.settings import Dedup
from curation.steps import Build

RANGE = 1 << 20  # pairs that a worker verifies at once
LOADED = 128 << 20  # bytes of sets that a worker holds at once; a pair's, if those are more
VERIFIED = np.dtype([("pair", "<u8"), ("similarity", "<f8")])


def verified_pairs(build: Build, sets: Sets, runs: list[Path], round_: int, config: Dedup) -> np.ndarray:
    """Phases 4 and 5: the pairs whose Jaccard similarity reaches the threshold, VERIFIED, sorted by pair.

    `runs` are files of sorted pairs; `round_` tells the calls of a step apart.
    """
    total = len(sets.start)
    degree, candidate = np.zeros(total, np.uint32), np.zeros(total, bool)
    for run in runs:
        pairs = np.load(run, mmap_mode="r")
        later, times = np.unique(pairs >> np.uint64(32), return_counts=True)
        degree[later] += times.astype(np.uint32)
        candidate[later] = True
        candidate[pairs & np.uint64(0xFFFFFFFF)] = True
    sets.add(build, candidate, round_)

    cuts = _ranges(degree)
    units = {
        f"round {round_} verify {at} of {len(cuts) - 1}": (
            runs,
            sets,
            cuts[at],
            cuts[at + 1],
            config.threshold,
            _verified_file(build.folder, round_, at),
        )
        for at in range(len(cuts) - 1)
    }
    results = build.map(_verify_range, units, "threads")
    compared = sum(result["compared"] for result in results.values())
    build.counts["pairs_compared"] = build.counts.get("pairs_compared", 0) + compared
    return np.concatenate([np.load(_verified_file(build.folder, round_, at)) for at in range(len(units))])


class Sets:
    """Where the shingle set of each candidate lies: in which file, from where, how many hashes. By number."""

    def __init__(self, documents: Documents, number: np.ndarray, shingling: Shingling):
        self.documents, self.number, self.shingling = documents, number, shingling
        self.files: list[Path] = []
        self.file = np.zeros(len(number), np.uint32)  # place in `files`, plus one; 0: not written
        self.start, self.size = np.zeros(len(number), np.int64), np.zeros(len(number), np.uint32)

    def add(self, build: Build, wanted: np.ndarray, round_: int) -> None:
        """Write the sets of the `wanted` documents (bool, by number) that have none yet, shard by shard."""
        units, members = {}, {}
        for shard in self.documents.shards:
            part = self.documents.of_shard(shard)
            own = self.number[part]
            missing = wanted[own] & (self.file[own] == 0)
            if missing.any():
                key = f"round {round_} sets {shard.key}"
                path = _sets_file(build.folder, round_, shard)
                units[key] = (shard, self.documents.columns["row"][part][missing], self.shingling, path)
                members[key] = own[missing]
        build.map(_write_sets, units, "threads")
        for key, (_, _, _, path) in units.items():
            sizes = np.load(path.with_suffix(".sizes.npy"))
            self.files.append(path)
            self.file[members[key]] = len(self.files)
            self.start[members[key]], self.size[members[key]] = np.cumsum(sizes) - sizes, sizes

    def compare(self, later: np.ndarray, earlier: np.ndarray, threshold: float) -> np.ndarray:
        """The Jaccard similarities of pairs, float64; 0 where it is known to be below the threshold.

        Pairs are compared as many at a time as have LOADED bytes of sets. For each time every file is looked into
        once, in its order: looked into a pair of files at a time, the same page is found again for each.
        """
        out = np.zeros(len(later))
        ends = np.cumsum(self.size[later].astype(np.int64) + self.size[earlier])
        start = 0
        while start < len(later):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + LOADED // 8, "right")))
            numbers = np.unique(np.concatenate([later[start:stop], earlier[start:stop]]))
            hashes, bounds = self._loaded(numbers)
            one, other = (bounds[np.searchsorted(numbers, part[start:stop])] for part in (later, earlier))
            out[start:stop] = similarities(hashes, one, hashes, other, threshold)
            start = stop
        return out

    def _loaded(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sets of some documents one after the other, uint64, and each one's bounds in it, int64[n, 2]."""
        numbers = numbers.astype(np.int64)
        order = np.lexsort((self.start[numbers], self.file[numbers]))
        files, starts, sizes = (column[numbers[order]] for column in (self.file, self.start, self.size))
        ends = np.cumsum(sizes, dtype=np.int64)
        hashes = np.empty(int(ends[-1]), np.uint64)
        for file in np.unique(files).tolist():
            own = slice(*np.searchsorted(files, [file, file + 1]))
            if ends[own.stop - 1] > ends[own.start] - sizes[own.start]:  # an empty file cannot be mapped
                source = np.memmap(self.files[file - 1], np.uint64, "r")
                copy_sets(source, starts[own], sizes[own], hashes, ends[own])
        bounds = np.empty((len(numbers), 2), np.int64)
        bounds[order] = np.stack([ends - sizes, ends], 1)
        return hashes, bounds


def _sets_file(folder: Path, round_: int, shard: Shard) -> Path:
    return folder / SCRATCH / "sets" / f"{round_:03d}-{shard.key}.u64"


def _verified_file(folder: Path, round_: int, at: int) -> Path:
    return folder / SCRATCH / "verified" / f"{round_:03d}-{at:06d}.npy"


def _write_sets(
    folder: Path, key: str, shard: Shard, rows: np.ndarray, shingling: Shingling, path: Path
) -> dict[str, int]:
    sizes = write_sets(path, shard.texts(rows), shingling)
    write_array(path.with_suffix(".sizes.npy"), sizes)
    return {"documents": len(sizes), "ngrams": int(sizes.sum())}


def _ranges(degree: np.ndarray) -> list[int]:
    """Bounds of ranges of documents with about RANGE pairs each, so that all pairs of a document are together."""
    done = np.cumsum(degree, dtype=np.int64)
    total = int(done[-1]) if len(done) else 0
    inner = [int(np.searchsorted(done, share)) + 1 for share in range(RANGE, total, RANGE)]
    return sorted({0, *inner, len(degree)}) if len(degree) else [0, 0]


def _verify_range(
    folder: Path, key: str, runs: list[Path], sets: Sets, start: int, stop: int, threshold: float, path: Path
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
    write_array(path, passed)
    return {"compared": len(pairs), "verified": len(passed)}
