"""The documents that a stage of deduplication looks at, as a few integer columns, and what it decides on them.

Exact and fuzzy deduplication have theirs on disk (`curation.dedup.candidates`); in memory are those that lose
lines or substrings, and, with an index, all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.fields import exact_keys, metadata, scores, texts_of
from curation.dedup.keep import parse_times
from curation.dedup.reference import referenced_texts
from curation.dedup.settings import Exact, Keep, Wish
from curation.files import read_parquet, remove, write_parquet
from curation.keys import join_ids, split_ids
from curation.ledger import alive, write_ledger
from curation.measure.render import rendered_text
from curation.schema import require_same_ids
from curation.shards import batches
from curation.steps import UNITS, Build, StepOutput

SCRATCH = "scratch"
CONTENT = "content_hash"  # the measured hash of the text
COLUMNS = {
    "source": np.uint16,  # index into the names of the sources
    "shard": np.uint32,  # index into the list of shards
    "row": np.uint32,
    "bytes": np.uint64,
    "created": np.int64,  # microseconds, see keep.parse_times
    "high": np.uint64,  # the halves of the id
    "low": np.uint64,
    "score": np.float64,  # NaN where there is none; if the keep policy looks at it
    "value_high": np.uint64,  # the halves of what the stage compares by, if it compares by a measured value
    "value_low": np.uint64,
}


@dataclass(frozen=True)
class Shard:
    """One shard: its source and name, the files that hold it, and its place in the list of all shards."""

    source: str
    name: str
    pool: Path
    measured: Path
    place: int

    @property
    def key(self) -> str:
        """A name for files and units, unique over all sources."""
        return f"{self.source}--{self.name}"

    def texts(self, rows: np.ndarray) -> Iterator[pa.Array]:
        """The texts (large_string) of some rows (rising), in batches, from the pool or the files it names."""
        if "text" not in pq.read_schema(self.pool).names:
            yield from referenced_texts(self.pool, rows)
            return
        for _, documents in batches(self.pool, ["text", "messages", "chosen", "rejected"], rows):
            yield rendered_text(documents)


class Documents:
    """Documents still alive in memory, sorted by source, shard, row. About 60 bytes each.

    `columns` are those of COLUMNS, each of shape (n,).
    """

    def __init__(self, names: list[str], shards: list[Shard], columns: dict[str, np.ndarray]):
        self.names, self.shards, self.columns = names, shards, columns
        self.starts = np.searchsorted(columns["shard"], np.arange(len(shards) + 1))

    def __len__(self) -> int:
        return len(self.columns["row"])

    def of_shard(self, shard: Shard) -> slice:
        """Where the documents of a shard are."""
        return slice(int(self.starts[shard.place]), int(self.starts[shard.place + 1]))

    def origins(self, positions: np.ndarray) -> list[str]:
        """The origins of some documents, read from their pools."""
        found: dict[int, str] = {}
        shard_of = self.columns["shard"][positions]
        for place in np.unique(shard_of):
            wanted = positions[shard_of == place]
            column = read_parquet(self.shards[place].pool, columns=["origin"])["origin"]
            values = column.take(pa.array(self.columns["row"][wanted])).to_pylist()
            found.update(zip(wanted.tolist(), (value or "" for value in values), strict=True))
        return [found[position] for position in positions.tolist()]

    def ids(self, positions: np.ndarray) -> list[str]:
        """The ids of some documents, 32 hex digits each."""
        return join_ids(self.columns["high"][positions], self.columns["low"][positions]).to_pylist()


def partitions_of(entries: int, at_once: int) -> int:
    """How many partitions, a power of two: of `at_once` entries or fewer, and of a few up to four for workers."""
    return 1 << max((entries // at_once).bit_length(), min(2, (16 * entries // at_once).bit_length()))


def list_shards(pools: Mapping[str, StepOutput], measured: Mapping[str, StepOutput]) -> list[Shard]:
    """All shards, by source name and shard name. Raises ValueError where pools and measurements do not match."""
    if sorted(pools) != sorted(measured):
        raise ValueError(
            f"pools of {sorted(pools)} but measurements of {sorted(measured)}; expected the same sources"
        )
    shards: list[Shard] = []
    for source in sorted(pools):
        for path in pools[source].shards():
            beside = measured[source].folder / "shards" / path.name
            if not beside.exists():
                raise ValueError(
                    f"{beside}: missing; remove the folder of step '{measured[source].name}' and rerun"
                )
            shards.append(Shard(source, path.stem, path, beside, len(shards)))
    return shards


def living_rows(shard: Shard, ledgers: Iterable[StepOutput]) -> np.ndarray:
    """The rows of a shard that no ledger has dropped, rising. int64"""
    return np.flatnonzero(alive(ledgers, shard.source, shard.name, pq.read_metadata(shard.measured).num_rows))


def gather(
    build: Build,
    sources: Iterable[str],
    shards: list[Shard],
    ledgers: Iterable[StepOutput],
    keep: Keep,
    exact: Exact | None = None,
) -> Documents:
    """The documents that no ledger has dropped, with what the policy `keep` looks at and what `exact` compares."""
    build.scratch(SCRATCH)
    ledgers = list(ledgers)
    units = {f"gather {shard.key}": (shard, ledgers, keep.score, exact) for shard in shards}
    build.map(_gather, units, "either")
    names = sorted(sources)
    parts = {name: [np.zeros(0, dtype)] for name, dtype in COLUMNS.items()}
    for shard in shards:
        table = read_parquet(gathered(build.folder, shard))
        parts["source"].append(np.full(len(table), names.index(shard.source), np.uint16))
        parts["shard"].append(np.full(len(table), shard.place, np.uint32))
        for column in table.column_names:
            parts[column].append(table[column].to_numpy())
    gathered_ = {name: arrays for name, arrays in parts.items() if len(arrays) > 1 or not shards}
    columns = {}
    for name in gathered_:  # the parts go as the whole comes: the columns are in memory once
        columns[name] = np.concatenate(gathered_[name])
        gathered_[name].clear()
    return Documents(names, shards, columns)


def gathered(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "documents" / f"{shard.key}.parquet"


def _gather(
    folder: Path, key: str, shard: Shard, ledgers: list[StepOutput], score: str | None, exact: Exact | None
) -> dict[str, int]:
    rows = living_rows(shard, ledgers)
    columns = {"row": rows.astype(np.uint32), **policy_columns(shard, rows, ("longest", "newest"), score)}
    if exact:
        columns["value_high"], columns["value_low"] = exact_values(shard, rows, exact)
    write_parquet(gathered(folder, shard), pa.table(columns))
    return {"documents": len(rows)}


def policy_columns(
    shard: Shard, rows: np.ndarray, then: Iterable[Wish], score: str | None, origin: bool = False
) -> dict[str, np.ndarray | pa.ChunkedArray]:
    """What the keep policy looks at of some rows of a shard: those of COLUMNS that its wishes `then` need, the
    halves of the id, `score`; with `origin` that, too, strings. Raises ValueError where pool and measurements do
    not match."""
    some, then = pa.array(rows), set(then)
    wanted = ["created"] * bool(then & {"newest", "oldest"}) + ["origin"] * origin
    table = read_parquet(shard.measured, ["id"] + ["bytes"] * ("longest" in then))
    if shard.pool == shard.measured:
        pool = read_parquet(shard.pool, wanted) if wanted else table
    else:
        pool = read_parquet(shard.pool, ["id", *wanted])
        require_same_ids(pool["id"], table["id"], str(shard.measured))
    high, low = split_ids(table["id"].take(some))
    columns = {"high": high, "low": low}
    if "longest" in then:
        columns["bytes"] = table["bytes"].to_numpy().astype(np.uint64)[rows]
    if "created" in wanted:
        columns["created"] = parse_times(pool["created"].take(some))
    if score:
        columns["score"] = scores(shard.pool, shard.measured, score, rows)
    if origin:
        columns["origin"] = pool["origin"].take(some)
    return columns


def exact_values(shard: Shard, rows: np.ndarray, exact: Exact) -> tuple[np.ndarray, np.ndarray]:
    """The halves of the 128-bit hashes by which exact deduplication compares some rows, uint64 (n,) each."""
    if exact.measured:
        return split_ids(read_parquet(shard.measured, [CONTENT])[CONTENT].take(pa.array(rows)))
    values = texts_of(shard.texts(rows)) if exact.by == "text" else metadata(shard.pool, exact.by, rows)
    return exact_keys(exact, values, [f"{shard.key} {row}" for row in rows.tolist()])


def discard(build: Build) -> None:
    """Remove the step's partial results, the journal of finished units first.

    A unit counts as done as long as the journal says so: its files must not go before its entry, or a run that is
    killed in between could not be resumed.
    """
    remove(build.folder / UNITS)
    remove(build.folder / SCRATCH)


@dataclass(frozen=True)
class Decisions:
    """What a stage decides: for each document the position of its kept twin (-1: it is kept) and their Jaccard.

    Rule and threshold are those of all documents, or one for each.
    """

    stage: str
    rule: str | np.ndarray
    threshold: float | np.ndarray
    twin: np.ndarray  # int64 (n,)
    similarity: np.ndarray  # float64 (n,), NaN where kept
    twins: Documents | None = None  # what `twin` is a position in, if not in the documents themselves


def write_decisions(
    build: Build, documents: Documents, ledgers: Iterable[StepOutput], decisions: Decisions, alarm_share: float
) -> None:
    """Write the ledger of what was decided in memory: see `write_ledgers`. What is not among `documents` is
    kept."""
    dropped = {shard: _dropped(documents, decisions, shard) for shard in documents.shards}
    write_ledgers(build, documents.names, dropped, ledgers, decisions.stage, alarm_share)


def write_ledgers(
    build: Build,
    sources: Iterable[str],
    dropped: Mapping[Shard, Dropped | Callable[[], Dropped]],
    ledgers: Iterable[StepOutput],
    stage: str,
    alarm_share: float,
) -> None:
    """Write the ledger, a file a shard with a row for each document that `ledgers` have left. `dropped`: of each
    shard, in order, what is dropped, or a call that finds out where the ledger is written. Sets documents_in,
    documents_out and by_source, and raises the alarm for each source that loses too much."""
    ledgers = list(ledgers)
    units = {f"ledger {shard.key}": (shard, ledgers, own, stage) for shard, own in dropped.items()}
    results = build.map(_write_ledger, units, "either")
    by_source = {name: {"documents_in": 0, "documents_out": 0} for name in sources}
    for shard, result in zip(dropped, results.values(), strict=True):
        for name in ("documents_in", "documents_out"):
            by_source[shard.source][name] += result[name]
    for name in ("documents_in", "documents_out"):
        build.counts[name] = sum(own[name] for own in by_source.values())
    build.counts["by_source"] = by_source
    for name, own in by_source.items():
        lost = own["documents_in"] - own["documents_out"]
        if lost > alarm_share * own["documents_in"]:
            build.alarm(
                f"source '{name}' loses {lost} of {own['documents_in']} ({lost / own['documents_in']:.1%}) to "
                f"{stage} deduplication, more than alarm_share = {alarm_share:.1%}; look at its "
                "duplicates in the ledger"
            )


class Dropped(NamedTuple):
    """What is dropped of a shard: rows (rising), the halves of the twins' ids, and why. Each of shape (n,)."""

    row: np.ndarray
    high: np.ndarray
    low: np.ndarray
    value: np.ndarray
    rule: np.ndarray | str
    threshold: np.ndarray | float


def _dropped(documents: Documents, decisions: Decisions, shard: Shard) -> Dropped:
    part = documents.of_shard(shard)
    gone = part.start + np.flatnonzero(decisions.twin[part] >= 0)
    twins, at = decisions.twins or documents, decisions.twin[gone]
    rule, threshold = (
        value[gone] if isinstance(value, np.ndarray) else value for value in (decisions.rule, decisions.threshold)
    )
    halves = twins.columns["high"][at], twins.columns["low"][at]
    return Dropped(documents.columns["row"][gone], *halves, decisions.similarity[gone], rule, threshold)


def _write_ledger(
    folder: Path,
    key: str,
    shard: Shard,
    ledgers: list[StepOutput],
    dropped: Dropped | Callable[[], Dropped],
    stage: str,
) -> dict[str, int]:
    dropped = dropped if isinstance(dropped, Dropped) else dropped()
    rows = living_rows(shard, ledgers)
    gone = np.searchsorted(rows, dropped.row)
    keep = np.ones(len(rows), bool)
    keep[gone] = False
    rule, twin = np.full(len(rows), None, object), np.full(len(rows), None, object)
    value, threshold = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    rule[gone], value[gone], threshold[gone] = dropped.rule, dropped.value, dropped.threshold
    twin[gone] = join_ids(dropped.high, dropped.low).to_pylist()
    write_ledger(
        folder,
        shard.source,
        shard.name,
        stage=stage,
        ids=read_parquet(shard.measured, ["id"])["id"].take(pa.array(rows)),
        rows=rows,
        keep=keep,
        rule=pa.array(rule, pa.string()),
        value=value,
        threshold=threshold,
        twin=pa.array(twin, pa.string()),
    )
    return {"documents_in": len(rows), "documents_out": int(keep.sum())}
