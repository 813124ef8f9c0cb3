"""Big files in parts, so that several workers can read one file. The division depends on the content alone.

A part is a run of lines of a plain file, or of row groups of a Parquet file. All parts together give the documents
of the whole file, with the same ids, numbers and offsets, in the same order.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa

from curation.executor import Executor
from curation.read.columnar import open_parquet, parquet_bytes
from curation.read.record import Limits, Part, RawFile
from curation.read.rows import Container, container_of
from curation.read.stores import RemotePath
from curation.read.streams import CHUNK, compression

PART = 32 << 20  # bytes of a part at least
MANY = 16  # parts, up to which they are as small as that
LARGE_PART = 256 << 20  # bytes of a part beyond


def row_parts(file: RawFile, container: Container, limits: Limits, executor: Executor) -> list[Part]:
    """The parts of a file of rows; none if it is small, or of a kind that must be read from its beginning."""
    container = container_of(file, container)
    if container == "jsonl":
        return line_parts(file, limits, executor)
    return _row_group_parts(file, limits) if container == "parquet" else []


def line_parts(file: RawFile, limits: Limits, executor: Executor) -> list[Part]:
    """The parts of a plain file of lines."""
    size = file.path.stat().st_size
    count = _parts(size)
    if count < 2 or size > limits.file_bytes or compression(file.path):
        return []
    bounds = [size * part // count for part in range(count + 1)]
    # The first line of a part follows the first line end from the byte before the part on.
    ranges = [(max(0, start - 1), end - 1) for start, end in pairwise(bounds[:-1])]
    ends = dict(executor.map(_line_ends, [(file.path, *one) for one in ranges], "threads"))
    first = [0, *(number + 1 for number in accumulate(ends[part] for part in range(len(ranges))))]
    return [Part(part, first[part], start, end) for part, (start, end) in enumerate(pairwise(bounds))]


def _line_ends(path: Path | RemotePath, start: int, end: int) -> int:
    found = 0
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK, end - start))):
            found += chunk.count(b"\n")
            start += len(chunk)
    return found


def _row_group_parts(file: RawFile, limits: Limits) -> list[Part]:
    count = _parts(file.path.stat().st_size)
    if count < 2:
        return []
    try:
        with open_parquet(file) as parquet:
            total = parquet_bytes(parquet)
            groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError):
        return []  # its reader says what is wrong
    if total > limits.file_bytes or not total:
        return []
    before = accumulate((group.total_byte_size for group in groups), initial=0)
    wanted = [start * count // total for start, _ in zip(before, groups, strict=False)]
    starts = [place for place, part in enumerate(wanted) if place == 0 or part != wanted[place - 1]]
    rows = list(accumulate((group.num_rows for group in groups), initial=0))
    if len(starts) < 2:
        return []
    return [
        Part(part, rows[start], start, end) for part, (start, end) in enumerate(pairwise([*starts, len(groups)]))
    ]


def _parts(size: int) -> int:
    return max(size // LARGE_PART, min(MANY, size // PART))
