"""The pairs of documents that share a MinHash band: phases "bands", "share", "buckets" of fuzzy deduplication."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.dedup.bands import (
    band_keys,
    bucket_pairs,
    bucket_sizes,
    distinct,
    pairs_left_out,
    read_shared,
    sorted_entries,
)
from curation.dedup.documents import SCRATCH, Shard, living_rows, partitions_of
from curation.dedup.scheme import Scheme
from curation.files import map_array, open_parquet, write_array
from curation.steps import Build, StepOutput

PARTITION = 1 << 21  # band entries that a worker sorts at once
SIGNATURES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Proposal:
    """Pairs of documents proposed for comparison.

    `runs`: files of sorted pairs (later << 32 | earlier). `made`, `left_out`: how many pairs were made and how
    many `max_bucket` left out, counted bucket by bucket. `large`: files with the entries of the large buckets.
    `entries`: of all documents.
    """

    runs: list[Path]
    made: int
    left_out: int
    large: list[Path]
    entries: int


@dataclass(frozen=True)
class Shared:
    """The entries of keys that several documents have.

    `files`: SHARED, one a partition, sorted by document. `entries`: of all documents, alone or not. `firsts`: the
    positions at which the documents of each file of all entries begin, and their end.
    """

    files: list[Path]
    entries: int
    firsts: list[int]

    def of_file(self, at: int) -> np.ndarray:
        """Of a file of all entries those of its documents that share a key, rising."""
        found = [np.zeros(0, np.uint64)]
        for path in self.files:
            documents = map_array(path)["document"]
            start = bisect_left(documents, self.firsts[at])
            found.append(distinct(documents[start : bisect_left(documents, self.firsts[at + 1], start)]))
        return distinct(np.concatenate(found)) - np.uint64(self.firsts[at])


def write_bands(
    build: Build, shards: Sequence[Shard], rows: list[np.ndarray] | None, ledgers: list[StepOutput], scheme: Scheme
) -> tuple[list[Path], list[int]]:
    """Phase 1: the band entries of each shard, read from its measured signatures, and how many documents each file
    has room for. Of all rows that no ledger has dropped, by row; or of some rows of each, by place among those."""
    units = {
        f"bands {shard.key}": (shard, rows[at] if rows is not None else None, ledgers, scheme)
        for at, shard in enumerate(shards)
    }
    results = build.map(_write_bands, units, "either").values()
    build.counts["without_signature"] = sum(result["without"] for result in results)
    return [bands_file(build.folder, shard) for shard in shards], [result["documents"] for result in results]


def share(build: Build, files: list[Path], documents: list[int]) -> Shared:
    """Phase 2: of each partition of the key space the entries that are not alone with their key.

    `files` of entries sorted by key, of so many `documents` each; their positions follow one another.
    """
    entries = sum(len(map_array(path)) for path in files)
    partitions = partitions_of(entries, PARTITION)
    firsts = np.cumsum([0, *documents]).tolist()
    units = {f"share {at} of {partitions}": (files, firsts[:-1], at, partitions) for at in range(partitions)}
    build.map(_write_shared, units, "either")
    return Shared([shared_file(build.folder, at) for at in range(partitions)], entries, firsts)


def candidate_pairs(
    build: Build, shared: Shared, numbers: Sequence[Path], known: Path | None, max_bucket: int
) -> Proposal:
    """Phase 6: the pairs that share a bucket and have not been compared.

    `numbers`: of each file of all entries the places and numbers of its candidates (`ranking.Numbered`). `known`
    has of each number whether the document is new, and whether it has been compared with every one of these that
    it shares a bucket with, bool (2, n); without it all are new. A bucket of more than `max_bucket` + 1 documents
    is large: of it, only new and settled ones take part.
    """
    units = {
        f"buckets {at}": (path, shared.firsts, numbers, at, known, max_bucket)
        for at, path in enumerate(shared.files)
    }
    results = build.map(_write_pairs, units, "either")
    large = [large_file(build.folder, at) for at in range(len(shared.files))]
    return _proposal(build, results, shared.entries, large)


def kept_pairs(build: Build, before: Proposal, round_: int, known: Path, window: int) -> Proposal:
    """The pairs of *kept* documents of large buckets that have not been compared, each with the first `window`.

    `known` has of each number whether it is kept, and whether it is settled, bool (2, n).
    """
    units = {
        f"round {round_} buckets {at}": (path, round_, at, known, window) for at, path in enumerate(before.large)
    }
    results = build.map(_write_kept_pairs, units, "either")
    return _proposal(build, results, before.entries, before.large)


def _proposal(build: Build, results: dict[str, dict[str, int]], entries: int, large: list[Path]) -> Proposal:
    runs = [
        _pairs_file(build.folder, result["round"], result["at"], run)
        for result in results.values()
        for run in range(result["runs"])
    ]
    made, left_out = (sum(result[name] for result in results.values()) for name in ("made", "left_out"))
    filled = [path for path, result in zip(large, results.values(), strict=True) if result["large"]]
    return Proposal(runs, made, left_out, filled, entries)


def bands_file(folder: Path, shard: Shard) -> Path:
    """The band entries of a shard; a document's number in it is its place among the shard's documents."""
    return folder / SCRATCH / "bands" / f"{shard.key}.npy"


def shared_file(folder: Path, partition: int) -> Path:
    return folder / SCRATCH / "shared" / f"{partition:06d}.npy"


def large_file(folder: Path, partition: int) -> Path:
    return folder / SCRATCH / "large" / f"{partition:06d}.npy"


def _pairs_file(folder: Path, round_: int, partition: int, run: int) -> Path:
    return folder / SCRATCH / "pairs" / f"{round_:03d}-{partition:06d}-{run:06d}.npy"


def _write_bands(
    folder: Path, key: str, shard: Shard, some: np.ndarray | None, ledgers: list[StepOutput], scheme: Scheme
) -> dict[str, int]:
    wanted = living_rows(shard, ledgers) if some is None else some
    named = wanted if some is None else np.arange(len(some))
    keys, documents, first = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)], 0
    with open_parquet(shard.measured) as file:
        for batch in file.iter_batches(SIGNATURES_AT_ONCE, columns=["minhash"], use_threads=False):
            own = slice(*np.searchsorted(wanted, [first, first + len(batch)]))
            rows = wanted[own] - first
            signed = batch.column(0).is_valid().to_numpy(zero_copy_only=False)[rows]
            keys.append(band_keys(_signatures(batch.column(0), scheme)[rows[signed]], scheme).ravel())
            documents.append(np.repeat(named[own][signed].astype(np.uint32), scheme.bands))
            first += len(batch)
    file_rows, entries = first, sorted_entries(np.concatenate(keys), np.concatenate(documents))
    write_array(bands_file(folder, shard), entries)
    room = file_rows if some is None else len(some)
    return {"documents": room, "without": len(wanted) - len(entries) // scheme.bands}


def _signatures(column: pa.FixedSizeListArray | pa.FixedSizeBinaryArray, scheme: Scheme) -> np.ndarray:
    """The signatures of a column, (n, permutations), without a copy; anything where it is null."""
    in_bytes = pa.types.is_fixed_size_binary(column.type)
    first = 0 if in_bytes else column.values.offset
    data = np.frombuffer((column if in_bytes else column.values).buffers()[1], scheme.dtype)[first:]
    data = data[: len(data) // scheme.permutations * scheme.permutations]  # a buffer may be longer than its array
    return data.reshape(-1, scheme.permutations)[column.offset : column.offset + len(column)]


def _write_shared(
    folder: Path, key: str, files: list[Path], firsts: list[int], at: int, partitions: int
) -> dict[str, int]:
    shared = read_shared(files, firsts, at, partitions)
    write_array(shared_file(folder, at), shared[np.argsort(shared["document"])])
    return {"shared": len(shared)}


def _write_pairs(
    folder: Path,
    key: str,
    path: Path,
    firsts: list[int],
    numbers: Sequence[Path],
    at: int,
    known: Path | None,
    max_bucket: int,
) -> dict[str, int]:
    shared = np.load(path)
    documents = np.empty(len(shared), np.uint32)
    bounds = np.searchsorted(shared["document"], np.array(firsts, np.uint64)).tolist()
    for file, first, (start, stop) in zip(numbers, firsts, pairwise(bounds), strict=False):
        if start < stop:
            places, _, own = map_array(file)
            wanted = (shared["document"][start:stop] - np.uint64(first)).astype(np.uint32)
            documents[start:stop] = own[np.searchsorted(places, wanted)]
    entries = sorted_entries(shared["key"].copy(), documents)
    large = bucket_sizes(entries["key"]) > max_bucket + 1
    write_array(large_file(folder, at), entries[large])
    if known is None:
        return _write(folder, 0, at, entries, np.zeros(len(entries), bool), max_bucket, int(large.sum()))
    fresh, settled = map_array(known)
    new = fresh[entries["document"]]
    taking_part = ~large | new | settled[entries["document"]]
    return _write(folder, 0, at, entries[taking_part], ~new[taking_part], max_bucket, int(large.sum()))


def _write_kept_pairs(
    folder: Path, key: str, path: Path, round_: int, at: int, known: Path, window: int
) -> dict[str, int]:
    every, (kept, settled) = np.load(path), map_array(known)
    entries = every[kept[every["document"]]]
    return _write(folder, round_, at, entries, settled[entries["document"]], window, len(every))


def _write(
    folder: Path, round_: int, at: int, entries: np.ndarray, met: np.ndarray, window: int, large: int
) -> dict[str, int]:
    made = runs = 0
    for runs, pairs in enumerate(bucket_pairs(entries, window, met), start=1):
        write_array(_pairs_file(folder, round_, at, runs - 1), pairs)
        made += len(pairs)
    left_out = pairs_left_out(entries, window, met)
    return {"round": round_, "at": at, "runs": runs, "made": made, "left_out": left_out, "large": large}
