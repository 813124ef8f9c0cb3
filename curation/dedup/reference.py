"""A pool by reference: documents that stay where they are, in JSON lines and Parquet files of somebody else's.

A shard is a Parquet file with the columns REFERENCE (and more); its metadata names the piece of a file that the
rows lie in and the fields that were read. Texts and whole records are fetched from there when they are wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.pieces import BLOCK, Piece, line_blocks, unchanged
from curation.dedup.records import Fields, parse_block, read_records
from curation.files import read_parquet
from curation.read.record import Limits, Problem

METADATA = b"mixwright.reference"


def reference_metadata(piece: Piece, fields: Fields, limits: Limits) -> dict[bytes, bytes]:
    """The metadata of a shard's schema that say where its rows come from."""
    value = {
        "piece": list(piece),
        "fields": fields.model_dump(mode="json"),
        "limits": [limits.document_bytes, limits.file_bytes, limits.ratio],
    }
    return {METADATA: json.dumps(value).encode()}


def reference_of(path: Path) -> tuple[Piece, Fields, Limits]:
    """Where the rows of a shard come from. Raises ValueError if it is no shard by reference."""
    metadata = pq.read_schema(path).metadata or {}
    if METADATA not in metadata:
        raise ValueError(f"{path}: neither a column 'text' nor a reference to the file that holds it")
    value = json.loads(metadata[METADATA])
    return Piece(*value["piece"]), Fields(**value["fields"]), Limits(*value["limits"])


def referenced_texts(path: Path, rows: np.ndarray) -> Iterator[pa.Array]:
    """The texts (large_string) of some rows, rising, of a shard by reference, a batch at a time.

    Raises ValueError if the file has changed since the shard was written.
    """
    piece, fields, limits = reference_of(path)
    if not len(rows):
        return
    places = read_parquet(path, columns=["offset", "length"]).take(pa.array(rows))
    offsets, lengths = places["offset"].to_numpy(), places["length"].to_numpy()
    found = 0
    only = fields.model_copy(update={"key": None, "created": None, "score": None, "value": None})
    for texts in _texts(piece, only, limits, offsets, lengths):
        found += len(texts)
        yield texts
    if found != len(rows):
        raise ValueError(f"{piece.path}: {found} of {len(rows)} records were found again; has the file changed?")


def _texts(
    piece: Piece, fields: Fields, limits: Limits, offsets: np.ndarray, lengths: np.ndarray
) -> Iterator[pa.Array]:
    unchanged(piece)
    if piece.container == "parquet":
        for table in read_records(piece, fields, limits):
            if not isinstance(table, Problem):
                wanted = np.isin(table["offset"].to_numpy(), offsets, assume_unique=True)
                yield table["text"].filter(pa.array(wanted)).combine_chunks()
        return
    for block in referenced_lines(piece, limits, offsets, lengths):
        yield parse_block(0, block, fields, limits.document_bytes)[0]["text"].combine_chunks()


def referenced_lines(piece: Piece, limits: Limits, offsets: np.ndarray, lengths: np.ndarray) -> Iterator[bytes]:
    """Lines of a piece of JSON lines, as they are and each with a line end, about BLOCK bytes at a time.

    A plain file is read where the lines are; a compressed one has to be read whole.
    """
    if piece.stop >= 0:
        with open(piece.path, "rb") as file:
            held, size = [], 0
            for first, last in _groups(offsets, lengths):
                base = int(offsets[first])
                file.seek(base)
                data = file.read(int(offsets[last - 1] + lengths[last - 1]) - base)
                held.append(_joined(data, offsets[first:last] - base, lengths[first:last]))
                size += len(held[-1])
                if size >= BLOCK:
                    yield b"".join(held)
                    held, size = [], 0
            if held:
                yield b"".join(held)
        return
    for block in line_blocks(piece, limits):
        if isinstance(block, Problem):
            continue
        base, data = block
        first, last = np.searchsorted(offsets, [base, base + len(data)])
        if first < last:
            yield _joined(data, offsets[first:last] - base, lengths[first:last])


def _joined(data: bytes, starts: np.ndarray, lengths: np.ndarray) -> bytes:
    ends = (starts + lengths).tolist()
    return b"".join(data[start:end] + b"\n" for start, end in zip(starts.tolist(), ends, strict=True))


def _groups(offsets: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) of runs of lines that lie close together, so that one read gets each run."""
    ends = offsets + lengths
    first = 0
    while first < len(offsets):
        last = max(first + 1, int(np.searchsorted(ends, offsets[first] + BLOCK, "right")))
        gaps = np.flatnonzero(offsets[first + 1 : last] - ends[first : last - 1] > 1 << 16)
        last = first + 1 + int(gaps[0]) if len(gaps) else last
        yield first, last
        first = last
