"""Files of records cut in pieces that can be read apart, and the whole lines of a piece, a block at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curation.read.record import SAMPLE, BrokenFileError, Limits, Problem
from curation.read.streams import chunks, compression, plain_name

BLOCK = 8 << 20  # bytes of JSON lines parsed at once; a longer line is a block of its own
PIECE = 64 << 20  # bytes of a plain file that are one unit of work


class Piece(NamedTuple):
    """A part of a file: bytes `start` to `stop` of plain JSON lines, row groups of Parquet, or all of what is
    compressed. A line belongs to the piece that its first byte lies in."""

    path: str
    name: str  # for people: the path as it was given
    container: str  # jsonl, parquet
    start: int
    stop: int
    stamp: tuple[int, int]  # size and time of change (ns): what was read once must be found again


def pieces(path: Path) -> list[Piece]:
    """The pieces of a file, about PIECE bytes each. They depend on the file alone.

    Raises ValueError for a file that is no Parquet in spite of its name.
    """
    status = path.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    if plain_name(path.name).endswith(".parquet"):
        try:
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(at).total_byte_size for at in range(file.num_row_groups)]
        except pa.ArrowException as error:
            raise ValueError(f"{path}: not a Parquet file: {error}; leave it out or repair it") from None
        cuts = _cuts(sizes)
        return [Piece(str(path), str(path), "parquet", *bounds, stamp) for bounds in cuts]
    if compression(path):
        return [Piece(str(path), str(path), "jsonl", 0, -1, stamp)]
    starts = range(0, max(1, status.st_size), PIECE)
    return [Piece(str(path), str(path), "jsonl", at, min(at + PIECE, status.st_size), stamp) for at in starts]


def _cuts(sizes: list[int]) -> list[tuple[int, int]]:
    """Bounds of runs of row groups of about PIECE bytes."""
    bounds, held = [0], 0
    for at, size in enumerate(sizes):
        if held and held + size > PIECE:
            bounds.append(at)
            held = 0
        held += size
    return list(zip(bounds, [*bounds[1:], len(sizes)], strict=True))


def line_blocks(piece: Piece, limits: Limits) -> Iterator[tuple[int, bytes] | Problem]:
    """(offset, whole lines) of a piece of JSON lines; a Problem for a line over `limits.document_bytes`, and for
    the rest of a broken file."""
    if piece.stop < 0:
        yield from _whole_lines(chunks(Path(piece.path), limits), 0, limits.document_bytes)
        return
    with open(piece.path, "rb") as file:
        start, stop = (_line_start(file, at, piece.stamp[0]) for at in (piece.start, piece.stop))
        yield from _whole_lines(_between(file, start, stop), start, limits.document_bytes)


def _line_start(file: BinaryIO, at: int, size: int) -> int:
    """The first byte at or after `at` that begins a line."""
    if at == 0 or at >= size:
        return min(at, size)
    at -= 1
    file.seek(at)
    while chunk := file.read(1 << 16):
        if (newline := chunk.find(b"\n")) >= 0:
            return min(at + newline + 1, size)
        at += len(chunk)
    return size


def _between(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to `stop`, in parts that end with a line wherever one ends."""
    while start < stop:
        file.seek(start)
        part = file.read(min(BLOCK, stop - start))
        if not part:
            return
        if start + len(part) < stop:
            part = part[: part.rfind(b"\n") + 1] or part
        start += len(part)
        yield part


def _whole_lines(parts: Iterable[bytes], base: int, limit: int) -> Iterator[tuple[int, bytes] | Problem]:
    held: list[bytes] = []  # the start of what has not been given yet
    size, passing = 0, False  # passing: within a line that is too long
    try:
        for part in parts:
            held.append(part)
            size += len(part)
            if size < BLOCK // 2:
                continue
            data = b"".join(held)
            cut = data.find(b"\n") + 1 if passing else data.rfind(b"\n") + 1
            if cut and not passing:
                yield base, data[:cut]
            if not cut and (passing or len(data) > limit):
                if not passing:
                    yield too_long(base, limit, data)
                passing, cut = True, len(data)
            elif cut:
                passing = False
            rest = data[cut:]
            base, held, size = base + cut, [rest] if rest else [], len(rest)
    except BrokenFileError as error:
        data = b"" if passing else b"".join(held)
        cut = data.rfind(b"\n") + 1
        if cut:
            yield base, data[:cut]
        message = f"{error}; the rest of the file is lost"
        yield Problem(str(base + cut), base + cut, message, data[cut : cut + 4 * SAMPLE])
        return
    data = b"".join(held)
    if passing:
        cut = data.find(b"\n") + 1
        base, data = base + cut, data[cut:] if cut else b""
    if data:
        yield base, data


def too_long(offset: int, limit: int, data: bytes) -> Problem:
    return Problem(str(offset), offset, f"a line of over {limit} bytes (max_document_bytes)", data[: 4 * SAMPLE])


def unchanged(piece: Piece) -> None:
    """Raise ValueError if the piece's file is not the one that was read before."""
    try:
        status = os.stat(piece.path)
    except FileNotFoundError:
        raise ValueError(f"{piece.path}: it is gone since it was read; put it back or start over") from None
    if (status.st_size, status.st_mtime_ns) != tuple(piece.stamp):
        raise ValueError(f"{piece.path}: it has changed since it was read; run again to read it anew")
