"""Reading shards in bounded memory, and picking documents by keyed hash over all shards of many sources."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from curation.files import open_parquet, read_parquet
from curation.keys import keyed_hash
from curation.ledger import alive
from curation.schema import require_same_ids
from curation.steps import StepOutput

Item, Result = TypeVar("Item"), TypeVar("Result")
BATCH_ROWS = 1024
BATCH_BYTES = 16 << 20  # about; a longer document is a batch of its own


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map` on threads: results in the order of the items, at most one item a thread taken ahead."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as executor:
        under_way: deque = deque()
        for item in items:
            under_way.append(executor.submit(function, item))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def batches(
    path: Path, columns: list[str], rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Read a shard about 16 MiB at a time: (row numbers, table of `columns`), the rows rising.

    `rows`: only these (rising, without repeats); batches that hold none of them are skipped.
    """
    first = 0
    with open_parquet(path) as file:
        if rows is not None and len(rows) and rows[-1] >= file.metadata.num_rows:
            raise ValueError(f"{path}: asked for row {rows[-1]}, but it has {file.metadata.num_rows} rows")
        size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
        at_once = min(BATCH_ROWS, max(1, BATCH_BYTES * file.metadata.num_rows // max(1, size)))
        for batch in file.iter_batches(at_once, columns=columns, use_threads=False):
            table = pa.Table.from_batches([batch])
            numbers = np.arange(first, first + len(table))
            first += len(table)
            if rows is not None:
                numbers = rows[np.searchsorted(rows, numbers[0]) : np.searchsorted(rows, first)]
                if not len(numbers):
                    continue
                table = table.take(pa.array(numbers - (first - len(batch))))
            yield numbers, table


@dataclass(frozen=True)
class Picks:
    """Documents of one shard, chosen: their rows (rising)."""

    source: str
    path: Path
    rows: np.ndarray


def chosen(picks: Sequence[Picks], columns: list[str], threads: int) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
    """The documents of `picks` in their order: (place among the picks, row numbers, table of `columns`).

    Shards are read ahead on `threads`, while the caller works on what came before.
    """

    def read(place: int) -> list[tuple[int, np.ndarray, pa.Table]]:
        return [(place, *part) for part in batches(picks[place].path, columns, picks[place].rows)]

    for parts in in_order(read, range(len(picks)), threads):
        yield from parts


def pick(
    sources: Iterable[str],
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    key: int,
    *,
    documents: int | None = None,
    weight: int | None = None,
    largest: int | None = None,
    admit: Callable[[str, Path], np.ndarray] | None = None,
) -> list[Picks]:
    """Choose alive documents of `sources` in the order of their keyed hash, shard by shard.

    `admit(source, measurements of a shard)` says which documents may be chosen at all, bool (rows,).
    Stops after `documents` documents, or with the document that reaches `weight` bytes of text; one longer than
    `largest` bytes weighs only that. Columns only: no text is read. Sorted by source and shard.
    """
    shards, hashes, weights, rows = [], [], [], []
    for source in sorted(sources):
        for path in pools[source].shards():
            beside = measured[source].folder / "shards" / path.name
            measures = read_parquet(beside, ["id", "bytes"])
            require_same_ids(read_parquet(path, ["id"])["id"], measures["id"], str(path))
            kept = alive(ledgers, source, path.stem, len(measures))
            kept = np.flatnonzero(kept if admit is None else kept & admit(source, beside))
            shards.append((source, path))
            hashes.append(keyed_hash(measures["id"], key)[kept])
            weights.append(np.minimum(measures["bytes"].to_numpy()[kept], largest or np.iinfo(np.int64).max))
            rows.append(kept)
    if not shards:
        return []
    sizes = [len(one) for one in rows]
    shard, row = np.repeat(np.arange(len(shards)), sizes), np.concatenate(rows)
    order = np.lexsort((row, shard, np.concatenate(hashes)))[:documents]
    if weight is not None:
        weighed = np.concatenate(weights)[order].astype(np.int64)
        order = order[np.cumsum(weighed) - weighed < weight]
    chosen = np.sort(order)
    return [
        Picks(source, path, row[chosen[shard[chosen] == number]])
        for number, (source, path) in enumerate(shards)
        if np.any(shard[chosen] == number)
    ]
