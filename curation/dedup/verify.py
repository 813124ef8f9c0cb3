"""The true similarity of candidate pairs: phases "sets" and "verify" of fuzzy deduplication."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from curation.dedup.bands import distinct
from curation.dedup.documents import SCRATCH, Shard, partitions_of
from curation.dedup.jaccard import copy_sets, similarities, write_sets
from curation.dedup.ranking import Numbered
from curation.dedup.scheme import Shingling
from curation.dedup.settings import Dedup
from curation.files import map_array, write_array
from curation.steps import Build

RANGE = 1 << 20  # pairs that a worker verifies at once
LOADED = 128 << 20  # bytes of sets that a worker holds at once; a pair's, if those are more
VERIFIED = np.dtype([("pair", "<u8"), ("similarity", "<f8")])


class Verified:
    """Verified pairs on disk: VERIFIED, sorted by pair, in files that each have those of a range of documents."""

    def __init__(self, documents: int):
        self.documents = documents
        self.rounds: list[tuple[list[int], list[Path]]] = []  # bounds of the ranges, and their files

    def add(self, bounds: list[int], files: list[Path]) -> None:
        self.rounds.append((bounds, files))

    def ranges(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(first, last, the pairs whose later document is in that range, each once), from 0 to `documents`."""
        cuts = sorted({0, self.documents, *(cut for bounds, _ in self.rounds for cut in bounds)})
        for first, last in pairwise(cuts):
            parts = []
            for bounds, files in self.rounds:
                pairs = map_array(files[np.searchsorted(bounds, first, "right") - 1])
                ends = (bisect_left(pairs["pair"], at << 32) for at in (first, last))
                part = pairs[slice(*ends)]
                if len(part):
                    parts.append(part)
            both = np.concatenate([np.zeros(0, VERIFIED), *parts])
            yield first, last, both if len(parts) < 2 else both[np.unique(both["pair"], return_index=True)[1]]


class Sets:
    """The shingle sets of candidates, made shard by shard when they are first wanted."""

    def __init__(self, shards: Sequence[Shard], numbered: Numbered, shingling: Shingling):
        self.shards, self.numbered, self.shingling = shards, numbered, shingling
        self.there = np.zeros(len(numbered), bool)

    def verify(self, build: Build, runs: list[Path], round_: int, config: Dedup, verified: Verified) -> None:
        """Phases 7 and 8: add the pairs whose Jaccard similarity reaches the threshold.

        `runs` are files of sorted pairs; `round_` tells the calls of a step apart.
        """
        missing, samples, total = np.zeros(len(self.there), bool), [np.zeros(0, np.uint64)], 0
        step = max(1, RANGE >> 8)
        for run in runs:
            pairs = np.load(run)
            for side in (pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)):
                missing[side] = True
            samples.append(pairs[::step] >> np.uint64(32))
            total += len(pairs)
        missing &= ~self.there
        self.there |= missing
        wanted = build.folder / SCRATCH / "wanted" / f"{round_:03d}.npy"
        write_array(wanted, missing)
        units = {
            f"round {round_} sets {shard.key}": (shard, self.numbered, wanted, self.shingling, round_)
            for shard in self.shards
        }
        build.map(_write_sets, units, "either")

        cuts = _cuts(np.sort(np.concatenate(samples)), partitions_of(total, RANGE), len(self.there))
        files = [_verified_file(build.folder, round_, at) for at in range(len(cuts) - 1)]
        units = {
            f"round {round_} verify {at} of {len(files)}": (
                runs,
                self.shards,
                self.numbered,
                round_,
                cuts[at],
                cuts[at + 1],
                config.threshold,
                path,
            )
            for at, path in enumerate(files)
        }
        results = build.map(_verify_range, units, "either")
        compared = sum(result["compared"] for result in results.values())
        build.counts["pairs_compared"] = build.counts.get("pairs_compared", 0) + compared
        verified.add(cuts, files)


def _sets_file(folder: Path, round_: int, shard: Shard) -> Path:
    """The sets, one after the other, uint64; beside them (.npy) uint64 (3, n): numbers, rising, where the set of
    each begins, and its size."""
    return folder / SCRATCH / "sets" / f"{round_:03d}-{shard.key}.u64"


def _verified_file(folder: Path, round_: int, at: int) -> Path:
    return folder / SCRATCH / "verified" / f"{round_:03d}-{at:06d}.npy"


def _write_sets(
    folder: Path, key: str, shard: Shard, numbered: Numbered, wanted: Path, shingling: Shingling, round_: int
) -> dict[str, int]:
    _, rows, numbers = numbered.of_shard(shard)
    own = np.flatnonzero(map_array(wanted)[numbers])
    if not len(own):
        return {"documents": 0, "ngrams": 0}
    path = _sets_file(folder, round_, shard)
    sizes = write_sets(path, shard.texts(rows[own].astype(np.int64)), shingling)
    order = np.argsort(numbers[own])
    places = np.stack([numbers[own], np.cumsum(sizes) - sizes, sizes]).astype(np.uint64)
    write_array(path.with_suffix(".npy"), places[:, order])
    return {"documents": len(sizes), "ngrams": int(sizes.sum())}


def _cuts(samples: np.ndarray, ranges: int, documents: int) -> list[int]:
    """Bounds of ranges of documents with about equally many of the sampled pairs each, from 0 to `documents`: all
    pairs of a later document are together."""
    inner = [int(samples[at * len(samples) // ranges]) for at in range(1, ranges)]
    return sorted({0, *inner, documents}) if documents else [0, 0]


def _verify_range(
    folder: Path,
    key: str,
    runs: list[Path],
    shards: Sequence[Shard],
    numbered: Numbered,
    round_: int,
    start: int,
    stop: int,
    threshold: float,
    path: Path,
) -> dict[str, int]:
    slices = [np.zeros(0, np.uint64)]
    for run in runs:
        pairs = map_array(run)
        bounds = np.searchsorted(pairs, np.array([start << 32, stop << 32], np.uint64))
        slices.append(np.array(pairs[bounds[0] : bounds[1]]))
    pairs = distinct(np.concatenate(slices))
    found = np.empty(len(pairs), VERIFIED)
    found["pair"] = pairs
    if len(pairs):
        numbers, sides = np.unique(
            np.stack([pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)]), return_inverse=True
        )
        located = _Located(folder, shards, numbered, numbers, round_)
        found["similarity"] = compare(located, *sides.reshape(2, -1), threshold)
    passed = found[found["similarity"] >= threshold]
    write_array(path, passed)
    return {"compared": len(pairs), "verified": len(passed)}


class _Located:
    """Where the sets of some documents (numbers, rising) lie: in which file, from where, how many hashes."""

    def __init__(
        self, folder: Path, shards: Sequence[Shard], numbered: Numbered, numbers: np.ndarray, rounds: int
    ):
        self.files: list[Path] = []
        self.file, self.start = np.empty(len(numbers), np.uint32), np.empty(len(numbers), np.int64)
        self.size = np.empty(len(numbers), np.int64)
        own = numbered.who(numbers)["shard"]
        for shard in shards:
            mine = np.flatnonzero(own == shard.place)
            for round_ in range(rounds + 1):
                path = _sets_file(folder, round_, shard)
                if not len(mine) or not path.exists():
                    continue
                there, starts, sizes = map_array(path.with_suffix(".npy"))
                at = np.minimum(np.searchsorted(there, numbers[mine]), len(there) - 1)
                here = there[at] == numbers[mine]
                self.file[mine[here]] = len(self.files)
                self.start[mine[here]], self.size[mine[here]] = starts[at[here]], sizes[at[here]]
                self.files.append(path)
                mine = mine[~here]

    def load(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sets of some of the documents, one after the other, uint64, and each one's bounds in it, int64[n,
        2]."""
        order = np.lexsort((self.start[some], self.file[some]))
        files, starts, sizes = (column[some[order]] for column in (self.file, self.start, self.size))
        ends = np.cumsum(sizes)
        hashes = np.empty(int(ends[-1]), np.uint64)
        for file in np.unique(files).tolist():
            own = slice(*np.searchsorted(files, [file, file + 1]))
            if ends[own.stop - 1] > ends[own.start] - sizes[own.start]:  # an empty file cannot be mapped
                source = np.memmap(self.files[file], np.uint64, "r")
                copy_sets(source, starts[own], sizes[own], hashes, ends[own])
        bounds = np.empty((len(some), 2), np.int64)
        bounds[order] = np.stack([ends - sizes, ends], 1)
        return hashes, bounds


def compare(located: _Located, later: np.ndarray, earlier: np.ndarray, threshold: float) -> np.ndarray:
    """The Jaccard similarities of pairs of located documents, float64; 0 where it is known to be below the
    threshold.

    Pairs are compared as many at a time as have LOADED bytes of sets. For each time every file is looked into
    once, in its order: looked into a pair of files at a time, the same page is found again for each.
    """
    out = np.zeros(len(later))
    ends = np.cumsum(located.size[later] + located.size[earlier])
    start = 0
    while start < len(later):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + LOADED // 8, "right")))
        some, sides = np.unique(np.stack([later[start:stop], earlier[start:stop]]), return_inverse=True)
        hashes, bounds = located.load(some)
        one, other = bounds[sides.reshape(2, -1)]
        out[start:stop] = similarities(hashes, one, hashes, other, threshold)
        start = stop
    return out
