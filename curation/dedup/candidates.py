"""The pairs of documents that share a MinHash band: phases "bands" and "buckets" of fuzzy deduplication."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.bands import band_entries, bucket_pairs, pairs_left_out, read_partition
from curation.dedup.documents import SCRATCH, Documents, Shard, write_array
from curation.dedup.minhash import Scheme
from curation.dedup.settings import Dedup
from curation.steps import Build

PARTITION = 1 << 21  # band entries that a worker sorts at once


def candidate_pairs(build: Build, documents: Documents, number: np.ndarray, config: Dedup) -> list[Path]:
    """Phases 2 and 3: files of sorted pairs (later << 32 | earlier) of documents that share a bucket."""
    units = {}
    for shard in documents.shards:
        part = documents.of_shard(shard)
        units[f"bands {shard.key}"] = (shard, documents.columns["row"][part], number[part], config.scheme)
    results = build.map(_write_bands, units, "threads")
    entries = sum(result["entries"] for result in results.values())
    files = [_bands_file(build.folder, shard) for shard in documents.shards]
    partitions = max(1, 1 << (entries // PARTITION).bit_length())
    units = {
        f"buckets {at} of {partitions}": (files, at, partitions, config.max_bucket) for at in range(partitions)
    }
    results = build.map(_write_pairs, units, "threads")
    build.counts["without_signature"] = len(documents) - entries // config.scheme.bands
    build.counts["pairs_left_out"] = sum(result["left_out"] for result in results.values())
    return [
        _pairs_file(build.folder, at, run)
        for at in range(partitions)
        for run in range(results[f"buckets {at} of {partitions}"]["runs"])
    ]


def _bands_file(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "bands" / f"{shard.key}.npy"


def _pairs_file(folder: Path, partition: int, run: int) -> Path:
    return folder / SCRATCH / "pairs" / f"{partition:06d}-{run:06d}.npy"


def _write_bands(
    folder: Path, key: str, shard: Shard, rows: np.ndarray, number: np.ndarray, scheme: Scheme
) -> dict[str, int]:
    column = pq.read_table(shard.measured, columns=["minhash"])["minhash"]
    column = column.take(pa.array(rows))
    signed = column.is_valid().to_numpy()
    values = pa.concat_arrays(column.drop_null().chunks or [pa.array([], column.type)]).flatten().to_numpy()
    entries = band_entries(values.reshape(-1, scheme.permutations), number[signed], scheme)
    write_array(_bands_file(folder, shard), entries)
    return {"entries": len(entries)}


def _write_pairs(folder: Path, key: str, files: list[Path], at: int, partitions: int, max_bucket: int) -> dict:
    entries = read_partition(files, at, partitions)
    runs = 0
    for runs, pairs in enumerate(bucket_pairs(entries, max_bucket), start=1):
        write_array(_pairs_file(folder, at, runs - 1), pairs)
    return {"runs": runs, "left_out": pairs_left_out(entries, max_bucket)}
