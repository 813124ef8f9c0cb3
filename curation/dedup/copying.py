"""Kept records copied as they are: lines byte for byte, Parquet rows with all their columns."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from curation.dedup.documents import Shard
from curation.dedup.pieces import Piece, unchanged
from curation.dedup.reference import reference_of, referenced_lines
from curation.dedup.results import decided
from curation.files import atomic, read_parquet
from curation.read.streams import compression
from curation.steps import StepOutput


@contextmanager
def _packed(path: Path, how: str | None) -> Iterator[Any]:
    """A new file, compressed as the input is. Neither time nor name goes in: same records, same bytes."""
    with open(path, "wb") as file:
        if how == "gzip":
            with gzip.GzipFile("", "wb", 6, file, 0) as packer:
                yield packer
        elif how == "zstd":
            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packer:
                yield packer
        elif how:
            with bz2.open(file, "wb") if how == "bzip2" else lzma.open(file, "wb") as packer:
                yield packer
        else:
            yield file


def copy_records(
    folder: Path, key: str, target: str, shards: Sequence[Shard], stages: Sequence[StepOutput]
) -> dict:
    """Write the kept records of one file, whose shards are given in order, to `target`. Returns their number."""
    piece = reference_of(shards[0].pool)[0]
    unchanged(piece)
    with atomic(Path(target)) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        write = _copy_rows if piece.container == "parquet" else _copy_lines
        return {"records": write(temporary, piece, shards, stages)}


def _copy_lines(path: Path, first: Piece, shards: Sequence[Shard], stages: Sequence[StepOutput]) -> int:
    written = 0
    with _packed(path, compression(Path(first.path))) as file:
        for shard in shards:
            piece, _, limits = reference_of(shard.pool)
            places = read_parquet(shard.pool, columns=["offset", "length"])
            kept = np.flatnonzero(decided(shard, stages, len(places)).stage < 0)
            offsets, lengths = (places[name].to_numpy()[kept] for name in places.column_names)
            for lines in referenced_lines(piece, limits, offsets, lengths):
                file.write(lines)
            written += len(kept)
    return written


def _copy_rows(path: Path, first: Piece, shards: Sequence[Shard], stages: Sequence[StepOutput]) -> int:
    written = 0
    with (
        pq.ParquetFile(first.path) as file,
        pq.ParquetWriter(path, file.schema_arrow, compression="zstd") as writer,
    ):
        starts = np.cumsum([0] + [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)])
        for shard in shards:
            piece = reference_of(shard.pool)[0]
            rows = read_parquet(shard.pool, columns=["offset"])["offset"].to_numpy()
            kept = rows[decided(shard, stages, len(rows)).stage < 0]
            for group in range(piece.start, piece.stop):
                inside = kept[(kept >= starts[group]) & (kept < starts[group + 1])] - starts[group]
                if len(inside):
                    writer.write_table(file.read_row_group(group).take(pa.array(inside)))
                    written += len(inside)
    return written
