"""What deduplication of files will need, before it runs: documents, memory, disk, and what it will find."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curation.dedup.pieces import Piece, line_blocks, pieces
from curation.dedup.plan import CANDIDATES, PROCESS_BYTES, dedup_plan
from curation.dedup.records import Fields, parse_block
from curation.dedup.settings import Dedup
from curation.read.record import Limits, Problem

SAMPLED = 8  # pieces looked into
SAMPLE = 1 << 20  # bytes of lines looked at in each
REMOVED_BYTES = 1000  # of a removed record in the tables of results; half of the candidates are taken for such
WORKER_BYTES = 256 << 20  # that reads records: blocks and tables


@dataclass(frozen=True)
class Forecast:
    """Estimates from a sample. Bytes are of memory and disk; `text` is decompressed."""

    files: dict[str, int]  # by source
    raw: int
    text: int
    documents: int
    workers: int
    memory: int
    disk: int
    detection: dict[float, float]  # Jaccard similarity -> probability that the pair is compared


def forecast(
    sources: Mapping[str, list[Path]], fields: Fields, limits: Limits, dedup: Dedup, workers: int
) -> Forecast:
    """Estimate from the first lines of a few pieces, spread over all. Parquet says how many rows it has."""
    parts = [piece for files in sources.values() for path in files for piece in pieces(path)]
    raw = sum(path.stat().st_size for files in sources.values() for path in files)
    lines = [piece for piece in parts if piece.container == "jsonl"]
    rows, size = _parquet(parts)
    if lines:
        chosen = [lines[at * len(lines) // SAMPLED] for at in range(min(SAMPLED, len(lines)))]
        density = [_density(piece, fields, limits) for piece in dict.fromkeys(chosen)]
        amount = sum(_bytes_of(piece) for piece in lines)
        sampled = sum(one[0] for one in density)
        rows += int(amount * sum(one[1] for one in density) / max(1, sampled))
        size += int(amount * sum(one[2] for one in density) / max(1, sampled))
    signature = dedup.scheme.permutations * np.dtype(dedup.scheme.dtype).itemsize
    plan = dedup_plan(rows, size, dedup, workers)
    return Forecast(
        files={name: len(files) for name, files in sources.items()},
        raw=raw,
        text=size,
        documents=rows,
        workers=workers,
        memory=memory_of(rows, size, dedup, workers),
        disk=rows * (signature + 100) + plan.disk,
        detection=plan.detection,
    )


def memory_of(documents: int, text: int, dedup: Dedup, workers: int) -> int:
    """Bytes that a run holds at most, the Python process included."""
    plan = dedup_plan(documents, text, dedup, workers)
    removed = int(documents * CANDIDATES / 2)
    return PROCESS_BYTES + max(plan.memory, workers * WORKER_BYTES, removed * REMOVED_BYTES)


def _parquet(parts: list[Piece]) -> tuple[int, int]:
    rows = size = 0
    for path in dict.fromkeys(piece.path for piece in parts if piece.container == "parquet"):
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        size += sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    return rows, size


def _bytes_of(piece: Piece) -> int:
    """Bytes of the file that a piece of JSON lines stands for."""
    return piece.stop - piece.start if piece.stop >= 0 else piece.stamp[0]


def _density(piece: Piece, fields: Fields, limits: Limits) -> tuple[float, int, int]:
    """(bytes in the file, records, bytes of text) of a piece's first lines. What a compressed file's lines take
    in the file is guessed by compressing them."""
    for block in line_blocks(piece, limits):
        if isinstance(block, Problem):
            continue
        offset, data = block
        data = data[: data.rfind(b"\n", 0, SAMPLE) + 1] or data
        table, _ = parse_block(offset, data, fields, limits.document_bytes)
        ratio = len(zlib.compress(data[:SAMPLE], 6)) / len(data[:SAMPLE]) if piece.stop < 0 else 1.0
        return len(data) * ratio, len(table), table["text"].combine_chunks().nbytes
    return 0.0, 0, 0
