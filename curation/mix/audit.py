"""Manifest rows, checked and counted as they go by, in bounded memory: the same for writing and for verifying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.keys import split_ids
from curation.mix.rows import values_of

DOCUMENT_KEY = ["source", "id", "shard", "row", "transform"]  # one row at most for each
WORDS = ["source", "bucket", "shard", "transform"]
COUNTED = ("documents", "occurrences", "fragments", "tokens")
IDS_AT_ONCE = 1 << 25  # half a gigabyte of ids

Line = tuple[str, str]


class Audit:
    """Rows in the order of a manifest, a table at a time. Raises ValueError for a row that cannot be."""

    def __init__(self, sequence_length: int | None):
        self.sequence = sequence_length
        self.lines: dict[Line, dict[str, int]] = {}
        self.rows = 0
        self.sorted = True
        self._last: tuple[Line, int, int, str, int] | None = None

    def add(self, table: pa.Table) -> None:
        """Check and count the next rows."""
        if not len(table):
            return
        _require_sound(table)
        runs, names = _runs(table)
        high, low = split_ids(table["id"])
        first = self._first_of_documents(table, runs, names, high, low)
        copies = table["copies"].to_numpy().astype(np.int64)
        tokens = table["tokens"].to_numpy().astype(np.int64)
        pieces = (tokens + self.sequence - 1) // self.sequence if self.sequence else np.ones_like(tokens)
        edges = runs[:-1]
        sums = (np.add.reduceat(one, edges) for one in (first, copies, copies * pieces, copies * tokens))
        for name, *numbers in zip(names, *(one.tolist() for one in sums), strict=True):
            own = self.lines.setdefault(name, dict.fromkeys(COUNTED, 0))
            for key, number in zip(COUNTED, numbers, strict=True):
                own[key] += number
        self.rows += len(table)

    def _first_of_documents(self, table, runs, names, high, low) -> np.ndarray:
        """1 for each row that is the first of its document within its line. Notes rows out of order."""
        n = len(table)
        same_line = np.ones(n, bool)
        same_line[runs[:-1]] = False
        same = np.zeros(n, bool)
        same[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1]) & same_line[1:]
        rises = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))
        if not (rises | ~same_line[1:]).all() or names != sorted(set(names)):
            self.sorted = False
        for row in np.flatnonzero(same):  # rare: one document on several rows
            one, two = _place(table, row - 1), _place(table, row)
            self.sorted &= one <= two
        if self._last is not None:
            line, *rest = self._last
            here = (names[0], int(high[0]), int(low[0]), *_place(table, 0))
            self.sorted &= (line, *rest) <= here
            same[0] = (line, rest[0], rest[1]) == here[:3]
        self._last = (names[-1], int(high[-1]), int(low[-1]), *_place(table, n - 1))
        return (~same).astype(np.int64)


def totals_of(lines: dict[Line, dict[str, int]], unique: int) -> dict[str, int]:
    """Unique documents, occurrences (with copies), fragments (occurrences cut at the sequence length), tokens."""
    sums = {key: sum(line[key] for line in lines.values()) for key in COUNTED[1:]}
    return {"unique_documents": unique, **sums}


def tables_of(folder: Path, parts: Sequence[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of the parts of a manifest, some row groups at a time."""
    for name in parts:
        with pq.ParquetFile(folder / name, read_dictionary=WORDS) as file:
            for number in range(0, file.num_row_groups, 8):
                groups = list(range(number, min(number + 8, file.num_row_groups)))
                yield file.read_row_groups(groups, columns=columns).replace_schema_metadata(None)


def unique_documents(folder: Path, parts: Sequence[str], rows: int) -> int:
    """How many documents the parts of a manifest name. Raises ValueError for one that stands on two rows.

    Ids are compared in memory, all at once or, where there are too many, a part of their range after the other.
    """
    rounds = max(1, -(-rows // IDS_AT_ONCE))
    unique, again = 0, []
    for number in range(rounds):
        found = [_of_round(*split_ids(table["id"]), number, rounds) for table in tables_of(folder, parts, ["id"])]
        high = np.concatenate([one for one, _ in found] or [np.zeros(0, np.uint64)])
        low = np.concatenate([one for _, one in found] or [np.zeros(0, np.uint64)])
        del found
        order = np.sort(high)
        twice = np.unique(order[1:][order[1:] == order[:-1]])
        unique += len(order)
        if len(twice):
            among = np.flatnonzero(np.isin(high, twice))
            pairs = np.stack([high[among], low[among]], axis=1)
            unique -= len(among) - len(np.unique(pairs, axis=0))
            again += pairs.tolist()
    if again:
        _require_single(folder, parts, again)
    return unique


def _of_round(high: np.ndarray, low: np.ndarray, number: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    if rounds == 1:
        return high, low
    own = (high >> np.uint64(32)) * np.uint64(rounds) >> np.uint64(32) == number
    return high[own], low[own]


def _require_single(folder: Path, parts: Sequence[str], ids: list[list[int]]) -> None:
    wanted = pl.Series([f"{high:016x}{low:016x}" for high, low in ids], dtype=pl.String).unique().implode()
    files = [folder / name for name in parts]
    rows = pl.scan_parquet(files, hive_partitioning=False).select(DOCUMENT_KEY).filter(pl.col("id").is_in(wanted))
    twice = rows.collect().filter(pl.struct(DOCUMENT_KEY).is_duplicated())
    if len(twice):
        raise ValueError(f"rows: {len(twice)} rows name a document twice, the first is {twice['id'][0]}")


def _runs(table: pa.Table) -> tuple[np.ndarray, list[Line]]:
    """Where the rows of each (source, bucket) begin, with the end of all; and which it is."""
    sources, source_names = values_of(table["source"])
    buckets, bucket_names = values_of(table["bucket"])
    changes = np.flatnonzero((np.diff(sources) != 0) | (np.diff(buckets) != 0)) + 1
    starts = np.concatenate([[0], changes])
    names = [(source_names[sources[at]], bucket_names[buckets[at]]) for at in starts]
    return np.concatenate([starts, [len(table)]]), names


def _place(table: pa.Table, row: int) -> tuple[str, int]:
    return table["shard"][int(row)].as_py(), table["row"][int(row)].as_py()


def _require_sound(table: pa.Table) -> None:
    """Raise ValueError for a null, and for a row of no tokens or no copies."""
    nulls = [name for name in table.column_names if table[name].null_count]
    if nulls:
        raise ValueError(f"rows: null in {', '.join(nulls)}")
    empty = pc.or_(pc.equal(table["tokens"], 0), pc.equal(table["copies"], 0))
    if count := pc.sum(empty).as_py():
        first = table.filter(empty)["id"][0]
        raise ValueError(f"rows: {count} have no tokens or no copies, the first is {first}")


def complete_account(
    counted: dict[Line, dict[str, int]],
    lines: list[dict[str, Any]] | None,
    planned_keys: Sequence[str],
) -> list[dict[str, Any]]:
    """The account lines with every count as the rows have it (`counted`).

    Raises ValueError for a (source, bucket) that no line or two lines stand for, and for a line whose own counts
    differ from the rows'.
    """
    if lines is None:
        lines = [{"source": source, "bucket": bucket} for source, bucket in sorted(counted)]
    keys = [(line["source"], line["bucket"]) for line in lines]
    if len(set(keys)) < len(keys) or not set(counted) <= set(keys):
        raise ValueError(
            f"account: one line for each (source, bucket) is needed; lines {keys}, rows {sorted(counted)}"
        )
    everything = sum(line["tokens"] for line in counted.values())
    result = []
    for line in lines:
        planned = {key: line.get(key, "" if key in ("type", "note") else None) for key in planned_keys}
        counts = account_counts(planned, counted.get((line["source"], line["bucket"]), {}), everything)
        for key, number in counts.items():
            if key in line and line[key] != number:
                where = f"account line {line['source']}/{line['bucket']}"
                raise ValueError(f"{where}: {key} is {line[key]}, the rows say {number}")
        result.append(planned | counts)
    return result


def account_counts(planned: dict[str, Any], count: dict[str, int], everything: int) -> dict[str, Any]:
    """The counted part of a line. `count` has documents, occurrences, fragments, tokens; `everything` is the
    tokens of the whole mix. `repeats` is tokens over the pool's tokens; null without a pool, as is the error
    without a target.
    """
    pool, target = planned["pool_tokens"], planned["target_tokens"]
    tokens = count.get("tokens", 0)
    return {
        **{key: count.get(key, 0) for key in COUNTED},
        "share": tokens / everything if everything else 0.0,
        "repeats": tokens / pool if pool else None,
        "error_tokens": None if target is None else tokens - target,
    }
