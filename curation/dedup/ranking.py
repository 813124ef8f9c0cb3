"""The candidates of a stage on disk: numbered in the order of the keep policy, without being held anywhere at
once.

1. gather   of each shard the documents that share a key, with what the policy looks at, sorted
2. rank     a range of the policy's order: the documents of all shards in it, put in order. Ranges are cut at
samples
            of every SAMPLED-th document of a shard, so that each is about RANKED documents
3. number   of each shard the numbers of its candidates: those of all ranges before, and the rank

Of two documents the one of the lower number is the one to keep. Tables are Arrow files that are mapped: a range
reads the documents of its own from each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.dedup.candidates import Shared
from curation.dedup.documents import SCRATCH, Documents, Shard, exact_values, policy_columns
from curation.dedup.keep import ordered, places, wishes
from curation.dedup.settings import Exact, Keep
from curation.files import atomic, map_array, write_array
from curation.steps import Build

RANKED = 1 << 20  # documents that a worker puts in order at once
SAMPLED = 1 << 12
MOST = (1 << 32) - 1  # documents that can be numbered
WHO = np.dtype([("shard", "<u4"), ("row", "<u4"), ("high", "<u8"), ("low", "<u8")])  # a document, halves of its id


@dataclass(frozen=True)
class Numbered:
    """Documents numbered in the order of preference, in files of a step's folder.

    `starts`: the first number of each range, and the end of the last.
    """

    folder: Path
    starts: list[int]

    def __len__(self) -> int:
        return self.starts[-1]

    def of_shard(self, shard: Shard) -> np.ndarray:
        """uint32 (3, n), mapped: the places of a shard's candidates in its file of entries (rising), their rows,
        and their numbers."""
        return map_array(numbers_file(self.folder, shard))

    def who(self, numbers: np.ndarray) -> np.ndarray:
        """WHO of each of some numbers."""
        found = np.empty(len(numbers), WHO)
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], self.starts).tolist()
        for at, (start, stop) in enumerate(pairwise(bounds)):
            if start < stop:
                own = order[start:stop]
                found[own] = map_array(_who_file(self.folder, at))[numbers[own] - self.starts[at]]
        return found


def gather_candidates(
    build: Build, shards: Sequence[Shard], shared: Shared, keep: Keep, exact: Exact | None = None
) -> list[int]:
    """Write of each shard the documents that share a key; returns how many of each. Sorted by the policy, or, with
    `exact`, by the lower half of what it compares."""
    names = sorted({shard.source for shard in shards})
    units = {f"gather {shard.key}": (shard, at, shared, keep, names, exact) for at, shard in enumerate(shards)}
    return [result["documents"] for result in build.map(_gather, units, "either").values()]


def rank(build: Build, shards: Sequence[Shard], sizes: list[int]) -> Numbered:
    """Number the candidates that `gather_candidates` has written, `sizes` of each shard."""
    total = sum(sizes)
    if total > MOST:
        raise ValueError(f"{total} documents share a band with another, at most {MOST} can be numbered")
    splitters = _splitters(build.folder, shards, max(1, -(-total // RANKED)))
    bounds = list(pairwise([None, *splitters, None]))
    units = {f"rank {at} of {len(bounds)}": (shards, at, *bound) for at, bound in enumerate(bounds)}
    results = build.map(_rank, units, "either").values()
    starts = np.cumsum([0, *(result["documents"] for result in results)]).tolist()
    units = {f"number {shard.key}": (shard, at, starts) for at, shard in enumerate(shards)}
    build.map(_number, units, "either")
    return Numbered(build.folder, starts)


def number_in_memory(folder: Path, documents: Documents, order: np.ndarray) -> Numbered:
    """Documents in memory, `order` being theirs by preference, as if numbered by `rank`. A document's place in its
    shard's file of entries is that among the shard's documents."""
    number = np.empty(len(order), np.uint32)
    number[order] = np.arange(len(order), dtype=np.uint32)
    for shard in documents.shards:
        part = documents.of_shard(shard)
        rows = documents.columns["row"][part]
        write_array(
            numbers_file(folder, shard), np.stack([np.arange(len(rows)), rows, number[part]]).astype("<u4")
        )
    who = np.empty(len(order), WHO)
    for name in WHO.names:
        who[name] = documents.columns[name][order]
    write_array(_who_file(folder, 0), who)
    return Numbered(folder, [0, len(order)])


def numbers_file(folder: Path, shard: Shard) -> Path:
    """The places, rows and numbers of a shard's candidates: see `Numbered.of_shard`."""
    return folder / SCRATCH / "numbers" / f"{shard.key}.npy"


def candidates_file(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "candidates" / f"{shard.key}.arrow"


def _ranks_file(folder: Path, at: int) -> Path:
    return folder / SCRATCH / "ranks" / f"{at:06d}.npy"


def _who_file(folder: Path, at: int) -> Path:
    return folder / SCRATCH / "who" / f"{at:06d}.npy"


def _gather(
    folder: Path,
    key: str,
    shard: Shard,
    at: int,
    shared: Shared,
    keep: Keep,
    names: list[str],
    exact: Exact | None,
) -> dict[str, int]:
    rows = shared.of_file(at).astype(np.int64)
    columns = policy_columns(shard, rows, keep.then, keep.score, origin=True)
    origin = columns.pop("origin")
    place = np.full(len(rows), places(keep, names)[names.index(shard.source)])
    keys = [place, *wishes(keep, columns)]
    if exact:
        keys = [*exact_values(shard, rows, exact)[::-1], *keys]
    order = np.argsort(keys[0], kind="stable") if exact else np.lexsort(keys[::-1])
    found = {f"key{number}": pa.array(column[order]) for number, column in enumerate(keys)}
    table = pa.table(
        {**found, "row": pa.array(rows[order].astype(np.uint32)), "origin": origin.take(pa.array(order))}
    )
    table = table.combine_chunks()
    with (
        atomic(candidates_file(folder, shard)) as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    return {"documents": len(rows)}


class Slices:
    """What a range of keys has of each shard's table: from `low` on (a key each, or None) to before `high`."""

    def __init__(self, folder: Path, shards: Sequence[Shard], low: tuple | None, high: tuple | None):
        self.shards, parts = shards, []
        for table in _tables(folder, shards):
            keys = key_columns(table)
            start = 0 if low is None else _bisect(keys, low)
            stop = len(table) if high is None else _bisect(keys, high)
            parts.append(table.slice(start, max(0, stop - start)))
        self.sizes = [len(part) for part in parts]
        self.table = pa.concat_tables(parts) if parts else pa.table({"row": [], "origin": []})
        self.keys = key_columns(self.table)
        self.rows = self.table["row"].to_numpy().astype(np.uint32)
        self.shard = np.repeat(np.array([shard.place for shard in shards], np.uint32), self.sizes)

    def ordered(self) -> np.ndarray:
        """The positions of the documents, sorted by the keys, then origin, source, shard and row."""
        names = {shard.place: shard.source for shard in self.shards}

        def ties(some: np.ndarray) -> list[tuple]:
            origins = [origin or "" for origin in self.table["origin"].take(pa.array(some)).to_pylist()]
            own = self.shard[some].tolist()
            sources = [names[place] for place in own]
            return list(zip(origins, sources, own, self.rows[some].tolist(), strict=True))

        return ordered(self.keys, ties) if self.keys else np.zeros(0, np.int64)


def key_columns(table: pa.Table) -> list[np.ndarray]:
    """The keys of a table of candidates, each of shape (n,)."""
    return [table[name].to_numpy() for name in table.column_names if name.startswith("key")]


def _tables(folder: Path, shards: Sequence[Shard]) -> Iterator[pa.Table]:
    for shard in shards:
        yield pa.ipc.open_file(pa.memory_map(str(candidates_file(folder, shard)))).read_all()


def _bisect(keys: list[np.ndarray], wanted: tuple) -> int:
    return bisect_left(range(len(keys[0])), wanted, key=lambda at: tuple(key[at] for key in keys[: len(wanted)]))


def _splitters(folder: Path, shards: Sequence[Shard], ranges: int) -> list[tuple]:
    """Keys that part all candidates in about equal ranges."""
    if ranges == 1:
        return []
    step = min(SAMPLED, max(1, RANKED // 16))
    samples = [[column[::step] for column in key_columns(table)] for table in _tables(folder, shards)]
    keys = [np.concatenate(columns) for columns in zip(*samples, strict=True)]
    order = np.lexsort(keys[::-1])
    chosen = order[[at * len(order) // ranges for at in range(1, ranges)]]
    return sorted({tuple(column[at].item() for column in keys) for at in chosen.tolist()})


def _rank(
    folder: Path, key: str, shards: Sequence[Shard], at: int, low: tuple | None, high: tuple | None
) -> dict[str, int]:
    slices = Slices(folder, shards, low, high)
    order = slices.ordered()
    ranks = np.empty(len(order), np.uint32)
    ranks[order] = np.arange(len(order), dtype=np.uint32)
    write_array(_ranks_file(folder, at), ranks)
    write_array(_ranks_file(folder, at).with_suffix(".bounds.npy"), np.cumsum([0, *slices.sizes]))
    who = np.empty(len(order), WHO)
    who["shard"], who["row"] = slices.shard[order], slices.rows[order]
    for name, halves in zip(("high", "low"), slices.keys[-2:], strict=False):  # without shards there are no keys
        who[name] = halves[order]
    write_array(_who_file(folder, at), who)
    return {"documents": len(order)}


def _number(folder: Path, key: str, shard: Shard, at: int, starts: list[int]) -> dict[str, int]:
    (table,) = _tables(folder, [shard])
    found = [np.zeros(0, np.uint32)]
    for part, start in enumerate(starts[:-1]):
        path = _ranks_file(folder, part)
        own = slice(*map_array(path.with_suffix(".bounds.npy"))[at : at + 2].tolist())
        found.append(map_array(path)[own] + np.uint32(start))
    rows = table["row"].to_numpy()
    order = np.argsort(rows)
    rows, numbers = rows[order], np.concatenate(found)[order]
    write_array(numbers_file(folder, shard), np.stack([rows, rows, numbers]))
    return {"documents": len(rows)}
