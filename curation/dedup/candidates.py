"""The pairs of documents that share a MinHash band: phases "bands" and "buckets" of fuzzy deduplication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.dedup.bands import band_entries, bucket_pairs, bucket_sizes, pairs_left_out, read_partition
from curation.dedup.documents import SCRATCH, Documents, Shard, write_array
from curation.dedup.minhash import Scheme
from curation.dedup.settings import Dedup
from curation.files import read_parquet
from curation.steps import Build

PARTITION = 1 << 21  # band entries that a worker sorts at once


@dataclass(frozen=True)
class Bands:
    """The band entries of consecutive documents: a file sorted by key whose document 0 is at position `first`."""

    path: Path
    first: int
    documents: int


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


def write_bands(build: Build, documents: Documents, shards: Sequence[Shard], scheme: Scheme) -> list[Bands]:
    """Phase 2: the band entries of each shard, read from its measured signatures."""
    units = {f"bands {shard.key}": (shard, _rows(documents, shard), scheme) for shard in shards}
    results = build.map(_write_bands, units, "threads")
    build.counts["without_signature"] = sum(result["without"] for result in results.values())
    bands = []
    for shard in shards:
        part = documents.of_shard(shard)
        bands.append(Bands(bands_file(build.folder, shard), part.start, part.stop - part.start))
    return bands


def candidate_pairs(
    build: Build, bands: list[Bands], number: np.ndarray, fresh: np.ndarray, settled: np.ndarray, config: Dedup
) -> Proposal:
    """Phase 3: the pairs that share a bucket and have not been compared.

    `number` is that of each position; `fresh` and `settled` are of each number: whether the document is new, and
    whether it has been compared with every settled one that it shares a bucket with. A bucket of more than
    `max_bucket` + 1 documents is large: of it, only new and settled ones take part.
    """
    entries = sum(len(np.load(one.path, mmap_mode="r")) for one in bands)
    partitions = max(1, 1 << (entries // PARTITION).bit_length())
    files = [one.path for one in bands]
    names = [number[one.first : one.first + one.documents] for one in bands]
    units = {
        f"buckets {at} of {partitions}": (files, names, at, partitions, fresh, settled, config.max_bucket)
        for at in range(partitions)
    }
    results = build.map(_write_pairs, units, "threads")
    return _proposal(build, results, entries, [large_file(build.folder, at) for at in range(partitions)])


def kept_pairs(
    build: Build, before: Proposal, round_: int, kept: np.ndarray, settled: np.ndarray, window: int
) -> Proposal:
    """The pairs of *kept* documents of large buckets that have not been compared, each with the first `window`.

    `kept` and `settled` are of each number.
    """
    units = {
        f"round {round_} buckets {at}": (path, round_, at, kept, settled, window)
        for at, path in enumerate(before.large)
    }
    results = build.map(_write_kept_pairs, units, "threads")
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


def large_file(folder: Path, partition: int) -> Path:
    return folder / SCRATCH / "large" / f"{partition:06d}.npy"


def _pairs_file(folder: Path, round_: int, partition: int, run: int) -> Path:
    return folder / SCRATCH / "pairs" / f"{round_:03d}-{partition:06d}-{run:06d}.npy"


def _rows(documents: Documents, shard: Shard) -> np.ndarray:
    return documents.columns["row"][documents.of_shard(shard)]


def _write_bands(folder: Path, key: str, shard: Shard, rows: np.ndarray, scheme: Scheme) -> dict[str, int]:
    column = read_parquet(shard.measured, columns=["minhash"])["minhash"]
    column = column.take(pa.array(rows))
    signed = np.flatnonzero(column.is_valid().to_numpy()).astype(np.uint32)
    values = pa.concat_arrays(column.drop_null().chunks or [pa.array([], column.type)]).flatten().to_numpy()
    write_array(bands_file(folder, shard), band_entries(values.reshape(-1, scheme.permutations), signed, scheme))
    return {"without": len(rows) - len(signed)}


def _write_pairs(
    folder: Path,
    key: str,
    files: list[Path],
    names: list[np.ndarray],
    at: int,
    partitions: int,
    fresh: np.ndarray,
    settled: np.ndarray,
    max_bucket: int,
) -> dict[str, int]:
    entries = read_partition(files, at, partitions, names)
    large = bucket_sizes(entries["key"]) > max_bucket + 1
    write_array(large_file(folder, at), entries[large])
    new = fresh[entries["document"]]
    taking_part = ~large | new | settled[entries["document"]]
    return _write(folder, 0, at, entries[taking_part], ~new[taking_part], max_bucket, int(large.sum()))


def _write_kept_pairs(
    folder: Path, key: str, path: Path, round_: int, at: int, kept: np.ndarray, settled: np.ndarray, window: int
) -> dict[str, int]:
    every = np.load(path)
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
