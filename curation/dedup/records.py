"""Records of JSON lines and Parquet files as Arrow tables, a block at a time, for tools that want a field or two.

A block of JSON lines goes through the kernel of `curation.dedup.json_lines`. The lines that it is not sure of are
read one by one by `curation.read.rows`, which says of each bad record what is wrong with it. Both give the same
records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import model_serializer

from curation.config import Strict
from curation.dedup.json_lines import INTEGER, NUMBER, OBJECT, STRING, find, line_bounds, strings
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
from curation.schema import one_array

RECORD = pa.schema(
    [
        ("text", pa.large_string()),
        ("key", pa.string()),  # the record's own id; null where no field is named
        ("created", pa.string()),
        ("score", pa.float64()),
        ("value", pa.string()),  # what exact deduplication compares, if not the text: a string or an integer
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
    value: str | None = None

    @model_serializer(mode="wrap")
    def _without_value(self, handler: Any) -> dict[str, Any]:
        values = handler(self)
        return values if self.value else {name: path for name, path in values.items() if name != "value"}


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
    problems = [too_long(offset + start, limit, block[start:]) for start in starts[over].tolist()]
    starts, ends = starts[~over], ends[~over]
    sure, columns = _parsed(data, starts, ends, fields)
    places = {"offset": pa.array(starts[sure] + offset), "length": pa.array((ends - starts)[sure])}
    table = pa.table({**columns, **places}, schema=RECORD)
    if not sure.all():
        others, more = _line_by_line(offset, block, starts[~sure], ends[~sure], fields)
        table = pa.concat_tables([table, others]).sort_by("offset") if len(others) else table
        problems = sorted(problems + more, key=lambda problem: problem.offset)
    return table, problems


class Values(NamedTuple):
    """Where the values of one path lie, of each line: their kinds (0: none), firsts and lasts. int64[n] each."""

    kinds: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray


def _parsed(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray, fields: Fields
) -> tuple[np.ndarray, dict[str, pa.Array]]:
    """(of which lines the kernel is sure, the columns of those)."""
    wanted = {name: path for name, path in fields if path is not None}
    sure, found = _located(data, starts, ends, list(dict.fromkeys(wanted.values())))
    found = {name: found[path] for name, path in wanted.items()}
    sure &= _are_utf8(data, starts, ends) & (found["text"].kinds == STRING)
    if "key" in found:
        sure &= np.isin(found["key"].kinds, (STRING, INTEGER))
    if "score" in found:
        sure[sure] &= np.isfinite(_numbers(data, found["score"], sure).fill_null(0).to_numpy())
    columns: dict[str, pa.Array] = {name: pa.nulls(int(sure.sum())) for name in RECORD.names[1:5]}
    kinds = {"text": (STRING,), "key": (STRING, INTEGER), "created": (STRING,), "value": (STRING, INTEGER)}
    for name, values in found.items():
        read = _numbers(data, values, sure) if name == "score" else _strings(data, values, sure, kinds[name])
        columns[name] = read.cast(RECORD.field(name).type)
    return sure, columns


def _located(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray, paths: list[str]
) -> tuple[np.ndarray, dict[str, Values]]:
    """(which lines are sound, the values of each path): as `curation.read.record.value_at` finds them."""
    heads = [path.partition(".")[0] for path in paths]
    names = list(dict.fromkeys([*paths, *heads]))
    sure, *columns = find(data, starts, ends, names)
    by_name = {name: Values(*(column[:, at] for column in columns)) for at, name in enumerate(names)}
    for path, head in zip(paths, heads, strict=True):
        own, outer = by_name[path], by_name[head]
        rows = np.flatnonzero(sure & (own.kinds == 0) & (outer.kinds == OBJECT))
        if path != head and len(rows):
            rest = path.partition(".")[2]
            _, below = _located(data, outer.firsts[rows], outer.lasts[rows], [rest])
            for column, inner in zip(own, below[rest], strict=True):
                column[rows] = inner
    return sure, {path: by_name[path] for path in paths}


def _are_utf8(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which lines are UTF-8. bool[n]"""
    if _is_utf8(data):
        return np.ones(len(starts), bool)
    bounds = zip(starts.tolist(), ends.tolist(), strict=True)
    return np.array([_is_utf8(data[start:end]) for start, end in bounds], bool)


def _is_utf8(data: np.ndarray) -> bool:
    buffers = [None, pa.py_buffer(np.array([0, len(data)], np.int64)), pa.py_buffer(data)]
    try:
        pa.Array.from_buffers(pa.large_string(), 1, buffers).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _strings(data: np.ndarray, values: Values, rows: np.ndarray, kinds: tuple[int, ...]) -> pa.Array:
    """The values of some rows (bool[n]) as large strings, null where they are of none of the kinds."""
    present = np.isin(values.kinds[rows], kinds)
    bounds = (np.where(present, place[rows], 0) for place in (values.firsts, values.lasts))
    found, offsets = strings(data, *bounds)
    valid = None if present.all() else pa.array(present).buffers()[1]
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(found)]
    return pa.Array.from_buffers(pa.large_string(), len(present), buffers)


def _numbers(data: np.ndarray, values: Values, rows: np.ndarray) -> pa.Array:
    return _strings(data, values, rows, (NUMBER, INTEGER)).cast(pa.float64())


def _at(table: pa.Table, path: list[str]) -> pa.Array:
    column = one_array(table[path[0]])
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
    found: dict[str, Any] = {"text": string_at(value, fields.text), "key": None, "value": None}
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
    if fields.value is not None:
        with contextlib.suppress(BadRecordError):
            other = value_at(value, fields.value)
            if isinstance(other, str | int) and not isinstance(other, bool):
                found["value"] = str(other)
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
        for batch in file.iter_batches(at_once, groups, list(dict.fromkeys(paths.values())), use_threads=False):
            table = pa.Table.from_batches([batch])
            found = {name: _at(table, path.split(".")) for name, path in paths.items()}
            places = {
                "offset": pa.array(np.arange(first, first + len(table))),
                "length": np.zeros(len(table), int),
            }
            missing = pa.nulls(len(table))
            columns = {name: found.get(name, missing).cast(RECORD.field(name).type) for name in RECORD.names[:5]}
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
