"""The rows of a mix in the order of its manifest, by source, bucket and id, in bounded memory.

Records come in the order of the catalogs. Where a source has more of them than memory is meant to hold, they are
put aside on disk first, in ranges of buckets and ids that follow each other and are sorted one at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curation.files import remove
from curation.keys import join_ids, split_ids
from curation.mix.draw import RECORD, TRANSFORMS, Draw, transform_code
from curation.mix.rows import cores

RANGE_ROWS = 1 << 24  # records sorted at once: some 700 MB
TABLE_ROWS = 1 << 18


@dataclass(frozen=True)
class Range:
    """Records that are sorted together: those of some buckets, or of a part of the ids of one."""

    first: int  # bucket
    last: int
    part: int = 0
    parts: int = 1


class SourceRows:
    """The rows of one source: drawn from its catalog, and taken from other mixes."""

    def __init__(self, source: str, draw: Draw | None, replayed: pl.DataFrame):
        """`replayed`: rows of MANIFEST."""
        self.source, self.draw, self.replayed = source, draw, replayed
        drawn = [cell.cell.bucket for cell in draw.cells] if draw else []
        self.buckets = sorted({*drawn, *replayed["bucket"].unique()})
        places = {bucket: place for place, bucket in enumerate(self.buckets)}
        self._ranks = np.array([places[bucket] for bucket in drawn], np.int32)  # of cells
        self.rows = np.zeros(len(self.buckets), np.int64)
        for bucket, cell in zip(drawn, draw.cells if draw else [], strict=True):
            self.rows[places[bucket]] += cell.rows
        for bucket, count in replayed.group_by("bucket").len().iter_rows():
            self.rows[places[bucket]] += count

    def tables(self, scratch: Path) -> Iterator[pa.Table]:
        """All rows, of schema MANIFEST and sorted. `scratch`: a folder for what memory does not hold."""
        ranges = _ranges(self.rows)
        if len(ranges) <= 1:
            yield from self._sorted(list(self._records()))
            return
        scratch.mkdir(parents=True, exist_ok=True)
        files = [scratch / f"range-{number:05d}" for number in range(len(ranges))]
        try:
            self._put_aside(ranges, files)
            for file in files:
                found = np.fromfile(file, RECORD) if file.exists() else np.zeros(0, RECORD)
                file.unlink(missing_ok=True)
                yield from self._sorted([found])
        finally:
            remove(scratch)

    def _records(self) -> Iterator[np.ndarray]:
        """Records whose `cell` is the place of their bucket among `buckets`."""
        for found in self.draw.records() if self.draw else ():
            found["cell"] = self._ranks[found["cell"]] if len(found) else 0
            yield found
        if len(self.replayed):
            yield self._of_replayed()

    def _of_replayed(self) -> np.ndarray:
        rows = self.replayed
        found = np.empty(len(rows), RECORD)
        found["high"], found["low"] = split_ids(rows["id"].to_arrow().cast(pa.string()))
        places = {bucket: place for place, bucket in enumerate(self.buckets)}
        found["cell"] = rows["bucket"].replace_strict(places, return_dtype=pl.Int32).to_numpy()
        names = rows["shard"].unique().to_list()
        numbers = self._shard_numbers(names)
        found["shard"] = rows["shard"].replace_strict(numbers, return_dtype=pl.Int32).to_numpy()
        codes = {name: transform_code(name) for name in rows["transform"].unique()}
        found["transform"] = rows["transform"].replace_strict(codes, return_dtype=pl.UInt8).to_numpy()
        for name in ("row", "tokens", "copies", "order"):
            found[name] = rows[name].to_numpy()
        return found

    def _shard_numbers(self, names: Sequence[str]) -> dict[str, int]:
        if self.draw is None:
            self._own_shards = sorted(names)
            return {name: number for number, name in enumerate(self._own_shards)}
        return dict(zip(names, self.draw.numbers(names).tolist(), strict=True))

    @property
    def shards(self) -> list[str]:
        return self.draw.shards if self.draw else getattr(self, "_own_shards", [])

    def _put_aside(self, ranges: Sequence[Range], files: Sequence[Path]) -> None:
        starts = np.array([one.first for one in ranges])
        for found in self._records():
            at = np.searchsorted(starts, found["cell"], side="right") - 1  # the last range that begins there
            for place in np.unique(at):
                own = found[at == place]
                parts = ranges[place].parts
                if parts == 1:
                    _append(files[place], own)
                    continue
                part = (own["high"] >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)
                for number in np.unique(part).tolist():
                    _append(files[place - parts + 1 + number], own[part == number])

    def _sorted(self, found: list[np.ndarray]) -> Iterator[pa.Table]:
        records = np.concatenate(found) if found else np.zeros(0, RECORD)
        found.clear()
        order = _order(records, _ranks(self.shards), _ranks(list(TRANSFORMS)))
        for start in range(0, len(order), TABLE_ROWS):
            yield self._table(records[order[start : start + TABLE_ROWS]])

    def _table(self, records: np.ndarray) -> pa.Table:
        from curation.mix.manifest import MANIFEST

        named = {"bucket": (self.buckets, "cell"), "shard": (self.shards, "shard")}
        named["transform"] = list(TRANSFORMS), "transform"
        columns = {
            name: pa.array(values, pa.string()).take(pa.array(records[field]))
            for name, (values, field) in named.items()
        }
        columns["id"] = join_ids(records["high"].copy(), records["low"].copy())
        columns["source"] = pa.repeat(pa.scalar(self.source, pa.string()), len(records))
        for name in ("row", "tokens", "copies", "order"):
            columns[name] = pa.array(records[name])
        return pa.table([columns[name] for name in MANIFEST.names], schema=MANIFEST)


def _ranks(names: Sequence[str]) -> np.ndarray:
    """The place of each name among all in their order."""
    return np.argsort(np.argsort(np.array([*names, ""], object)))


def _ranges(rows: np.ndarray) -> list[Range]:
    """Buckets put together up to RANGE_ROWS; one that is larger in parts of its ids."""
    found: list[Range] = []
    first, held = 0, 0
    for bucket, count in enumerate(rows.tolist()):
        if held and held + count > RANGE_ROWS:
            found.append(Range(first, bucket - 1))
            first, held = bucket, 0
        parts = -(-count // RANGE_ROWS)
        if parts > 1:
            found += [Range(bucket, bucket, part, parts) for part in range(parts)]
            first, held = bucket + 1, 0
        else:
            held += count
    return found if first == len(rows) else [*found, Range(first, len(rows) - 1)]


def _append(file: Path, records: np.ndarray) -> None:
    with file.open("ab") as handle:
        records.tofile(handle)


def _order(records: np.ndarray, shard_ranks: np.ndarray, transform_ranks: np.ndarray) -> np.ndarray:
    """The places of records in the order of bucket, id, shard and row; of one document, of its transforms."""
    buckets = (
        records["cell"].astype(np.uint16) if len(records) and records["cell"].max() < 1 << 16 else records["cell"]
    )
    order = np.argsort(buckets, kind="stable")
    edges = np.flatnonzero(np.diff(records["cell"][order], prepend=-1, append=-1)) if len(order) else [0]
    high = records["high"].copy()

    def within(first: int, last: int) -> None:
        own = order[first:last]
        own = own[np.argsort(high[own])]
        keys = high[own]
        if (keys[1:] == keys[:-1]).any():
            same = records[own]
            last_keys = (transform_ranks[same["transform"]], same["row"], shard_ranks[same["shard"]])
            own = own[np.lexsort((*last_keys, same["low"], keys))]
        order[first:last] = own

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(within, *zip(*itertools.pairwise(edges), strict=True)) if len(edges) > 1 else ())
    return order


def all_tables(rows: Iterable[SourceRows], scratch: Path) -> Iterator[pa.Table]:
    """The rows of sources, in their order."""
    for one in rows:
        yield from one.tables(scratch / one.source)
