"""Records of JSON lines and Parquet files as Arrow tables, a block at a time, for tools that want a field or two.

A block of JSON lines goes through Arrow's parser as a whole. Where that refuses it, or where a line does not begin
and end with a brace (so that lines and records might not correspond one to one), the block is read line by line by
`curation.read.rows`, which says of each bad record what is wrong with it. Both give the same records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq
from numba import njit

from curation.config import Strict
from curation.dedup.pieces import BLOCK, Piece, line_blocks, too_long
from curation.read.record import (
    SAMPLE,
    BadRecordError,
    Limits,
    Problem,
    kind_of,
    string_at,
    value_at,
)
from curation.read.rows import BOM, json_value

RECORD = pa.schema(
    [
        ("text", pa.large_string()),
        ("key", pa.string()),  # the record's own id; null where no field is named
        ("created", pa.string()),
        ("score", pa.float64()),
        ("offset", pa.int64()),  # of the line in the decompressed file; of Parquet the row
        ("length", pa.int64()),  # of the line, without what blanks surround it; of Parquet 0
    ]
)


class Fields(Strict):
    """The fields of a record that are read, dotted where nested."""

    text: str = "text"
    key: str | None = None
    created: str | None = None
    score: str | None = None


def read_records(piece: Piece, fields: Fields, limits: Limits) -> Iterator[pa.Table | Problem]:
    """The records of a piece as tables RECORD, in order, and a Problem for each that cannot be read."""
    if piece.container == "parquet":
        yield from _parquet(piece, fields)
        return
    for block in line_blocks(piece, limits):
        if isinstance(block, Problem):
            yield block
            continue
        table, problems = parse_block(*block, fields, limits.document_bytes)
        yield table
        yield from problems


def parse_block(offset: int, block: bytes, fields: Fields, limit: int) -> tuple[pa.Table, list[Problem]]:
    """The records of whole JSON lines as a table RECORD, and what is wrong with the others. Blank lines count
    for nothing. `offset` is that of the block in its file; a line over `limit` bytes is not read."""
    data = np.frombuffer(block, np.uint8)
    starts, ends = line_bounds(data)
    over = ends - starts > limit
    if over.any():
        table, problems = _line_by_line(offset, block, starts[~over], ends[~over], fields)
        long = [too_long(offset + start, limit, block[start:]) for start in starts[over].tolist()]
        return table, sorted(problems + long, key=lambda problem: problem.offset)
    columns = _parsed(block, data, starts, ends, fields)
    if columns is None:
        return _line_by_line(offset, block, starts, ends, fields)
    places = {"offset": pa.array(starts + offset), "length": pa.array(ends - starts)}
    table = pa.table({**columns, **places}, schema=RECORD)
    missing = np.zeros(len(table), bool)
    for name in ("text", *(["key"] if fields.key else [])):
        missing |= table[name].is_null().to_numpy()
    if not missing.any():
        return table, []
    _, problems = _line_by_line(offset, block, starts[missing], ends[missing], fields)
    return table.filter(pa.array(~missing)), problems


def line_bounds(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the lines of uint8[n] that are not blank, blanks around them left out. int64 each."""
    newlines = np.flatnonzero(data == 0x0A)
    ends = newlines if len(newlines) and newlines[-1] == len(data) - 1 else np.append(newlines, len(data))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    ends = ends.copy()
    _trim(data, starts, ends)
    kept = ends > starts
    return starts[kept], ends[kept]


@njit(nogil=True, cache=True)
def _trim(data, starts, ends):
    for at in range(len(starts)):
        start, end = starts[at], ends[at]
        while start < end and (data[start] == 0x20 or data[start] == 0x09 or data[start] == 0x0D):
            start += 1
        while start < end and (data[end - 1] == 0x20 or data[end - 1] == 0x09 or data[end - 1] == 0x0D):
            end -= 1
        starts[at], ends[at] = start, end


def _parsed(block, data, starts, ends, fields: Fields) -> dict[str, pa.Array] | None:
    """The columns of all records by Arrow's parser; None where it must not be relied on.

    If every line begins with { and ends with }, no record goes on in a further line: a line break is not allowed
    within a string, and after the } that ends a line a record could go on with a comma or a bracket alone. So as
    many records as lines are one record a line.
    """
    if not len(starts) or not ((data[starts] == 0x7B) & (data[ends - 1] == 0x7D)).all():
        return None
    buffer = pa.py_buffer(block)
    try:
        bounds = pa.py_buffer(np.array([0, len(block)], np.int64))
        pa.Array.from_buffers(pa.large_string(), 1, [None, bounds, buffer]).validate(full=True)  # is it UTF-8
        types = {"text": pa.large_string(), "key": _key_type(block[starts[0] : ends[0]], fields)}
        types |= {"created": pa.string(), "score": pa.float64()}
        paths = {name: path for name, path in fields if path is not None}
        wanted = [(path.split("."), types[name]) for name, path in paths.items()]
        options = pj.ParseOptions(explicit_schema=pa.schema(_nested(wanted)), unexpected_field_behavior="ignore")
        once = pj.ReadOptions(use_threads=False, block_size=len(block) + 1)
        table = pj.read_json(pa.BufferReader(buffer), read_options=once, parse_options=options).combine_chunks()
    except (pa.ArrowException, ValueError, KeyError):
        return None
    if len(table) != len(starts):
        return None
    missing = pa.nulls(len(table))
    found = {name: _at(table, path.split(".")) for name, path in paths.items()}
    return {name: found.get(name, missing).cast(RECORD.field(name).type) for name in types}


def _key_type(line: bytes, fields: Fields) -> pa.DataType:
    """Ids are strings or integers; the first record says which."""
    if fields.key is None:
        return pa.string()
    try:
        value = value_at(json_value(line), fields.key)
    except BadRecordError:
        return pa.string()
    return pa.int64() if isinstance(value, int) and not isinstance(value, bool) else pa.string()


def _nested(wanted: list[tuple[list[str], pa.DataType]]) -> list[pa.Field]:
    """The Arrow fields of dotted paths; those with the same beginning share a struct."""
    heads: dict[str, list[tuple[list[str], pa.DataType]]] = {}
    for (head, *rest), kind in wanted:
        heads.setdefault(head, []).append((rest, kind))
    return [
        pa.field(head, inner[0][1] if not inner[0][0] else pa.struct(_nested(inner)))
        for head, inner in heads.items()
    ]


def _at(table: pa.Table, path: list[str]) -> pa.Array:
    column = table[path[0]]
    column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return pc.struct_field(column, path[1:]) if len(path) > 1 else column


def _line_by_line(
    offset: int, block: bytes, starts: np.ndarray, ends: np.ndarray, fields: Fields
) -> tuple[pa.Table, list[Problem]]:
    rows, problems = [], []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        raw = block[start:end]
        if not raw.removeprefix(BOM):
            continue
        try:
            values = record_fields(json_value(raw), fields)
            values["text"].encode()  # a lone surrogate is no text
        except (BadRecordError, ValueError) as error:
            at = offset + start
            problems.append(Problem(str(at), at, str(error), raw[: 4 * SAMPLE]))
        else:
            rows.append({**values, "offset": offset + start, "length": end - start})
    return pa.Table.from_pylist(rows, schema=RECORD), problems


def record_fields(value: Any, fields: Fields) -> dict[str, Any]:
    """The fields of one record. Raises BadRecordError where its text or its id is missing or of another type."""
    if not isinstance(value, dict):
        raise BadRecordError(f"the record is {kind_of(value)}, expected an object")
    found: dict[str, Any] = {"text": string_at(value, fields.text), "key": None}
    if fields.key is not None:
        key = value_at(value, fields.key)
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise BadRecordError(f"'{fields.key}' is {kind_of(key)}, expected a string or an integer")
        found["key"] = str(key)
    for name, kind in (("created", str), ("score", int | float)):
        path = getattr(fields, name)
        try:
            other = value_at(value, path) if path else None
        except BadRecordError:
            other = None
        found[name] = other if isinstance(other, kind) and not isinstance(other, bool) else None
    return found


def _parquet(piece: Piece, fields: Fields) -> Iterator[pa.Table | Problem]:
    """The rows of a run of row groups; a row without text or id is a Problem."""
    with pq.ParquetFile(piece.path) as file:
        metadata = file.metadata
        first = sum(metadata.row_group(at).num_rows for at in range(piece.start))
        groups = list(range(piece.start, piece.stop))
        size = sum(metadata.row_group(at).total_byte_size for at in groups)
        rows = sum(metadata.row_group(at).num_rows for at in groups)
        at_once = min(1 << 16, max(1, BLOCK * rows // max(1, size)))
        paths = {name: path for name, path in fields if path is not None}
        _require(file.schema_arrow, paths, piece.name)
        for batch in file.iter_batches(at_once, groups, list(paths.values()), use_threads=False):
            table = pa.Table.from_batches([batch])
            found = {name: _at(table, path.split(".")) for name, path in paths.items()}
            places = {
                "offset": pa.array(np.arange(first, first + len(table))),
                "length": np.zeros(len(table), int),
            }
            missing = pa.nulls(len(table))
            columns = {name: found.get(name, missing).cast(RECORD.field(name).type) for name in RECORD.names[:4]}
            table = pa.table({**columns, **places}, schema=RECORD)
            first += len(table)
            unusable = table["text"].is_null().to_numpy()
            unusable |= table["key"].is_null().to_numpy() & (fields.key is not None)
            yield table.filter(pa.array(~unusable)) if unusable.any() else table
            for row in table["offset"].to_numpy()[unusable].tolist():
                yield Problem(str(row), -1, f"'{fields.text}' or the id is null")


def _require(schema: pa.Schema, paths: dict[str, str], where: str) -> None:
    for name, path in paths.items():
        head = path.split(".")[0]
        if head not in schema.names:
            raise ValueError(
                f"{where}: no column '{head}' for the {name}; it has {', '.join(schema.names)}: name the right one"
            )
