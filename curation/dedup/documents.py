"""The documents that a stage of deduplication looks at, as a few integer columns, and what it decides on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.fields import exact_keys, metadata, scores, texts_of
from curation.dedup.keep import parse_times
from curation.dedup.reference import referenced_texts
from curation.dedup.settings import Exact, Keep
from curation.files import atomic, read_parquet, remove, write_parquet
from curation.keys import split_ids
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
    """Every document still alive, sorted by source, shard, row. About 60 bytes a document.

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
        high, low = self.columns["high"][positions].tolist(), self.columns["low"][positions].tolist()
        return [f"{a:016x}{b:016x}" for a, b in zip(high, low, strict=True)]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file, complete or absent."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


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
    build.map(_gather, {f"gather {shard.key}": (shard, ledgers, keep.score, exact) for shard in shards}, "threads")
    names = sorted(sources)
    parts = {name: [np.zeros(0, dtype)] for name, dtype in COLUMNS.items()}
    for shard in shards:
        table = read_parquet(gathered(build.folder, shard))
        parts["source"].append(np.full(len(table), names.index(shard.source), np.uint16))
        parts["shard"].append(np.full(len(table), shard.place, np.uint32))
        for column in table.column_names:
            parts[column].append(table[column].to_numpy())
    gathered_ = {name: arrays for name, arrays in parts.items() if len(arrays) > 1 or not shards}
    return Documents(names, shards, {name: np.concatenate(arrays) for name, arrays in gathered_.items()})


def gathered(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "documents" / f"{shard.key}.parquet"


def _gather(
    folder: Path, key: str, shard: Shard, ledgers: list[StepOutput], score: str | None, exact: Exact | None
) -> dict[str, int]:
    hashed = [CONTENT] if exact and exact.measured else []
    table = read_parquet(shard.measured, columns=["id", "bytes", *hashed])
    pool = read_parquet(shard.pool, columns=["id", "created"])
    require_same_ids(pool["id"], table["id"], str(shard.measured))
    rows = np.flatnonzero(alive(ledgers, shard.source, shard.name, len(table)))
    high, low = split_ids(table["id"])
    columns = {
        "row": rows.astype(np.uint32),
        "bytes": table["bytes"].to_numpy().astype(np.uint64)[rows],
        "created": parse_times(pool["created"])[rows],
        "high": high[rows],
        "low": low[rows],
    }
    if score:
        columns["score"] = scores(shard.pool, shard.measured, score, rows)
    if hashed:
        value_high, value_low = split_ids(table[CONTENT])
        columns |= {"value_high": value_high[rows], "value_low": value_low[rows]}
    elif exact:
        by_text = exact.by == "text"
        values = texts_of(shard.texts(rows)) if by_text else metadata(shard.pool, exact.by, rows)
        columns["value_high"], columns["value_low"] = exact_keys(
            exact, values, [f"{shard.key} {row}" for row in rows.tolist()]
        )
    write_parquet(gathered(folder, shard), pa.table(columns))
    return {"documents": len(rows)}


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


def write_decisions(build: Build, documents: Documents, decisions: Decisions) -> None:
    """Write the ledger, a file a shard with a row for each document looked at."""
    units = {f"ledger {shard.key}": (documents, decisions, shard) for shard in documents.shards}
    build.map(_write_ledger, units, "threads")


def _write_ledger(
    folder: Path, key: str, documents: Documents, decisions: Decisions, shard: Shard
) -> dict[str, int]:
    part = documents.of_shard(shard)
    positions = np.arange(part.start, part.stop)
    twin, keep = decisions.twin[part], decisions.twin[part] < 0
    twins = np.full(len(twin), None, object)
    twins[~keep] = (decisions.twins or documents).ids(twin[~keep])
    write_ledger(
        folder,
        shard.source,
        shard.name,
        stage=decisions.stage,
        ids=pa.array(documents.ids(positions), pa.string()),
        rows=documents.columns["row"][part],
        keep=keep,
        rule=pa.array(np.where(keep, None, _of(decisions.rule, part)), pa.string()),
        value=np.where(keep, np.nan, decisions.similarity[part]),
        threshold=np.where(keep, np.nan, _of(decisions.threshold, part)),
        twin=pa.array(twins, pa.string()),
    )
    return {"dropped": int((~keep).sum())}


def _of(value: str | float | np.ndarray, part: slice) -> str | float | np.ndarray:
    return value[part] if isinstance(value, np.ndarray) else value


def count(build: Build, documents: Documents, decisions: Decisions, alarm_share: float) -> None:
    """Set documents_in, documents_out and by_source; raise the alarm for each source that loses too much."""
    kept = decisions.twin < 0
    build.counts |= {"documents_in": len(kept), "documents_out": int(kept.sum()), "by_source": {}}
    for place, name in enumerate(documents.names):
        own = kept[documents.columns["source"] == place]
        build.counts["by_source"][name] = {"documents_in": len(own), "documents_out": int(own.sum())}
        lost = len(own) - int(own.sum())
        if lost > alarm_share * len(own):
            build.alarm(
                f"source '{name}' loses {lost} of {len(own)} ({lost / len(own):.1%}) to {decisions.stage} "
                f"deduplication, more than alarm_share = {alarm_share:.1%}; look at its duplicates in the ledger"
            )
