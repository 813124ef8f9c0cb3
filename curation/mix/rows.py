"""A catalog read in pieces, on every core: what planning and mixing do with its rows is done a piece at a time.

A row's *profile* is its topic, language, vigintile and length bucket, as far as a recipe asks for them, and which
of the recipe's row filters it passes. All that a line may take of a source is decided by profiles, of which there
are few, so that the work for a row does not grow with the lines of a recipe.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import open_parquet
from curation.schema import CATALOG, require_columns

Catalogs = Mapping[str, Path | pa.Table]
Result = TypeVar("Result")
AXES = ("topic", "language", "vigintile", "length_bucket")
PASSED = "passed"  # bits: the row filters that a row passes
PIECE_ROWS = 1 << 19
DENSE = 1 << 22  # combinations of values that are counted in a table
WORDS = ["topic", "language", "length_bucket", "kind", "shard"]  # few values: read as dictionaries


class RecipeError(ValueError):
    """A recipe does not fit the catalogs that it is planned over."""


def cores() -> int:
    """How many threads work on pieces: the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Piece:
    """Some rows of a catalog, not read yet."""

    start: int  # of its rows in the catalog
    rows: int
    read: Callable[[list[str]], pa.Table]


def catalog_of(catalogs: Catalogs, source: str) -> Path | pa.Table:
    """A source's catalog. Raises RecipeError for a source that there is none of, ValueError for a broken one."""
    if source not in catalogs:
        raise RecipeError(f"no source '{source}'; there are {', '.join(sorted(catalogs)) or 'none'}")
    found = catalogs[source]
    schema = found if isinstance(found, pa.Table) else pq.read_schema(found).empty_table()
    require_columns(schema, CATALOG, f"catalog of {source}")
    return found


def columns_of(catalog: Path | pa.Table) -> list[str]:
    return catalog.column_names if isinstance(catalog, pa.Table) else pq.read_schema(catalog).names


def pieces(catalog: Path | pa.Table, rows: int = PIECE_ROWS) -> list[Piece]:
    """A catalog in pieces of about so many rows: whole row groups of a file."""
    if isinstance(catalog, pa.Table):
        parts = ((start, catalog.slice(start, rows)) for start in range(0, len(catalog), rows))
        return [Piece(start, len(part), lambda names, part=part: part.select(names)) for start, part in parts]
    metadata = pq.read_metadata(catalog)
    found: list[Piece] = []
    group, start, held = [], 0, 0
    for number in range(metadata.num_row_groups):
        group.append(number)
        held += metadata.row_group(number).num_rows
        if held >= rows or number == metadata.num_row_groups - 1:
            found.append(Piece(start, held, lambda names, at=tuple(group): _read(catalog, metadata, at, names)))
            group, start, held = [], start + held, 0
    return found


def _read(path: Path, metadata: pq.FileMetaData, groups: Sequence[int], names: list[str]) -> pa.Table:
    words = [name for name in names if name in WORDS]
    with open_parquet(path, metadata=metadata, read_dictionary=words) as file:
        return file.read_row_groups(list(groups), columns=names, use_threads=False)


def each(work: Callable[[Piece], Result], found: Sequence[Piece]) -> Iterator[Result]:
    """The results of `work` in the order of the pieces, a few of them in memory at once."""
    workers = min(cores(), len(found))
    if workers < 2:
        yield from map(work, found)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for piece in found:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def values_of(column: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """A column of few values as numbers: codes (n,) and what each stands for, None among them."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        return np.zeros(0, np.int64), [None]
    values = array.dictionary.to_pylist()
    return array.indices.fill_null(len(values)).to_numpy(zero_copy_only=False).astype(np.int64), [*values, None]


def axis_codes(table: pa.Table, axis: str, passed: np.ndarray | None) -> tuple[np.ndarray, list[Any]]:
    """As `values_of`, for an axis of profiles."""
    if axis == PASSED:
        if passed is None:
            return np.zeros(len(table), np.int64), [0]
        bits, codes = np.unique(passed, return_inverse=True)
        return codes.astype(np.int64), bits.tolist() or [0]
    if axis == "vigintile":
        codes = table[axis].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return codes, [None, *range(1, int(codes.max(initial=0)) + 1)]
    return values_of(table[axis])


def profile_counts(
    table: pa.Table, axes: Sequence[str], passed: np.ndarray | None, tokens: Mapping[str, np.ndarray]
) -> pl.DataFrame:
    """A line for each profile of some rows: the axes, and for each entry of `tokens` (by name, shape (n,), 0 where
    a row may not be taken) `documents:<name>`, `tokens:<name>` and `squares:<name>`, the sum of tokens squared.
    """
    codes, values = np.zeros(len(table), np.int64), []
    for axis in axes:
        own, known = axis_codes(table, axis, passed)
        codes = codes * len(known) + own
        values.append(known)
    present, compact = _compact(codes, math.prod(map(len, values)))
    counted: dict[str, Any] = {}
    rest = present.copy()
    for axis, known in zip(reversed(axes), reversed(values), strict=True):
        counted[axis] = [known[place] for place in rest % len(known)]
        rest //= len(known)
    for name, own in tokens.items():
        taken = own.astype(np.float64)
        counted[f"documents:{name}"] = np.bincount(compact, own > 0, len(present)).astype(np.int64)
        counted[f"tokens:{name}"] = np.bincount(compact, taken, len(present)).astype(np.int64)
        counted[f"squares:{name}"] = np.bincount(compact, taken * taken, len(present))
    types = dict.fromkeys(axes, pl.String) | {"vigintile": pl.UInt8, PASSED: pl.Int64}
    return pl.DataFrame(counted, schema_overrides={axis: types[axis] for axis in axes})


def _compact(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes that occur, and the place of each code among them: `np.unique`, without a sort."""
    if size > DENSE:
        return np.unique(codes, return_inverse=True)
    present = np.flatnonzero(np.bincount(codes, minlength=size))
    places = np.zeros(size, np.int32)
    places[present] = np.arange(len(present))
    return present, places[codes]


class Profiles:
    """Which cell the rows of each profile belong to."""

    def __init__(self, axes: Sequence[str], profiles: Sequence[tuple], cells: Sequence[int]):
        """`profiles`: the values on the axes, one tuple for each of `cells`."""
        self.axes = tuple(axes)
        self._places = [
            {value: place for place, value in enumerate(dict.fromkeys(profile[n] for profile in profiles))}
            for n in range(len(self.axes))
        ]
        sizes = [len(places) + 1 for places in self._places]  # the last is for values of no profile
        self._table = np.full(sizes, -1, np.int32)
        for profile, cell in zip(profiles, cells, strict=True):
            self._table[tuple(places[value] for places, value in zip(self._places, profile, strict=True))] = cell

    def cells(self, table: pa.Table, passed: np.ndarray | None) -> np.ndarray:
        """The cell of each row, -1 for one that no line takes. Shape (n,), int32."""
        flat = np.zeros(len(table), np.int64)
        for axis, places in zip(self.axes, self._places, strict=True):
            codes, values = axis_codes(table, axis, passed)
            here = np.array([places.get(value, len(places)) for value in values], np.int64)
            flat = flat * (len(places) + 1) + here[codes]
        return self._table.reshape(-1)[flat]
