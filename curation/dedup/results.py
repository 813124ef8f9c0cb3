"""What deduplication of files leaves behind: which records are kept, which are removed for which, and clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.dedup.documents import Shard
from curation.dedup.incremental import held
from curation.files import atomic, read_parquet
from curation.ledger import ledger_path
from curation.steps import StepOutput

KEPT = pa.schema([("id", pa.string()), ("source", pa.string()), ("origin", pa.string())])
# `origin` is the record's own id where a field is named, else file@offset (Parquet: file@row); `id` is the
# XXH3-128 of the text, 32 hex digits. `twin` is kept: what was removed can be compared with it.
REMOVED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("stage", pa.string()),  # exact, fuzzy
        ("similarity", pa.float64()),  # true Jaccard to the twin; 1.0 for what is exactly the same
        ("twin", pa.string()),
        ("twin_source", pa.string()),
        ("twin_origin", pa.string()),
        ("shard", pa.uint32()),  # of the twin and of the record: where their texts are
        ("row", pa.uint32()),
        ("twin_shard", pa.uint32()),
        ("twin_row", pa.uint32()),
    ]
)
CLUSTERS = pa.schema(
    [
        ("cluster", pa.uint32()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("kept", pa.bool_()),
        ("stage", pa.string()),
        ("similarity", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Decided:
    """What the stages decided on a shard, each of shape (n,): by which stage a record goes (-1: it stays), the id
    of the twin in that stage (S32) and their similarity."""

    stage: np.ndarray
    twin: np.ndarray
    similarity: np.ndarray


def decided(shard: Shard, stages: Sequence[StepOutput], rows: int) -> Decided:
    """The decisions of all stages on one shard. A stage says nothing of what an earlier one removed."""
    stage, twin = np.full(rows, -1, np.int8), np.zeros(rows, "S32")
    similarity = np.full(rows, np.nan)
    for place, output in enumerate(stages):
        ledger = read_parquet(
            ledger_path(output.folder, shard.source, shard.name), columns=["row", "keep", "value", "twin"]
        )
        dropped = ledger.filter(pc.invert(ledger["keep"]))
        at = dropped["row"].to_numpy()
        stage[at], similarity[at] = place, dropped["value"].to_numpy()
        twin[at] = _bytes(dropped["twin"])
    return Decided(stage, twin, similarity)


def _bytes(ids: pa.ChunkedArray) -> np.ndarray:
    """32-hex ids as S32 (n,), which sorts and compares without Python objects."""
    if not len(ids):
        return np.zeros(0, "S32")
    whole = ids.chunk(0) if ids.num_chunks == 1 else pa.concat_arrays(ids.chunks)
    start = np.frombuffer(whole.buffers()[1], np.int32)[whole.offset]
    return np.frombuffer(whole.buffers()[2], "S32", len(whole), int(start))


def _strings(ids: np.ndarray) -> pa.Array:
    """The other way: S32 (n,) as an array of strings, without a copy."""
    offsets = pa.py_buffer(np.arange(len(ids) + 1, dtype=np.int32) * 32)
    return pa.StringArray.from_buffers(len(ids), offsets, pa.py_buffer(np.ascontiguousarray(ids)))


def write_tables(
    folder: Path, shards: Sequence[Shard], stages: Sequence[StepOutput], index: Path | None = None
) -> dict[str, int]:
    """Write `kept.parquet`, `removed.parquet` and `clusters.parquet` into `folder`; returns counts.

    Where a document was removed for a twin that a later stage removed, its twin here is the one that was kept for
    that, with the similarity to it. A twin may be a record that `index` held before: then its shard and row are
    null. Memory: what is removed, up to a kilobyte each, and one shard; with such twins the records of the index.
    """
    removed = _removed(shards, stages)
    known = held(index) if index is not None else None
    if known is not None:  # the same text in the index may have been removed for another
        gone = known.filter(~pc.field("kept"))
        removed = _moved(removed, _bytes(gone["id"]), _bytes(gone["twin"]), gone["similarity"].to_numpy())
    wanted = _bytes(removed["twin"])
    twins = _Twins(np.unique(wanted))
    kept = 0
    with atomic(folder / "kept.parquet") as path, pq.ParquetWriter(path, KEPT, compression="zstd") as writer:
        for shard, table in _kept(shards, stages):
            writer.write_table(table.select(KEPT.names))
            kept += len(table)
            twins.look_in(table, shard.place)
    if known is not None:
        twins.look_in(known.filter(pc.field("kept")), -1)
    columns = twins.columns(wanted)
    removed = pa.table(
        {name: columns[name] if name in columns else removed[name] for name in REMOVED.names}, schema=REMOVED
    )
    with atomic(folder / "removed.parquet") as path:
        pq.write_table(removed, path, compression="zstd")
    clusters = _clusters(removed)
    with atomic(folder / "clusters.parquet") as path:
        pq.write_table(clusters, path, compression="zstd")
    sizes = np.bincount(clusters["cluster"].to_numpy()) if len(clusters) else np.zeros(0, int)
    largest = int(sizes.max(initial=0))
    return {"kept": kept, "removed": len(removed), "clusters": len(sizes), "largest_cluster": largest}


class _Twins:
    """Where the twins of removed documents are; `ids` are sorted and distinct, S32 (n,)."""

    COLUMNS = pa.schema([REMOVED.field(f"twin_{name}") for name in ("source", "origin", "shard", "row")])

    def __init__(self, ids: np.ndarray):
        self.ids = ids
        self._tables = [_Twins.COLUMNS.empty_table()]
        self._place = np.full(len(ids), -1, np.int64)  # of each id in the tables

    def look_in(self, table: pa.Table, shard: int) -> None:
        """Find those not found yet among kept documents: id, source, origin, and `row` of the shard."""
        if not len(self.ids):
            return
        ids = _bytes(table["id"])
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        here = np.flatnonzero((self.ids[at] == ids) & (self._place[at] < 0))
        _, first = np.unique(at[here], return_index=True)  # of equal texts the first
        here = here[first]
        self._place[at[here]] = sum(map(len, self._tables)) + np.arange(len(here))
        some = table.take(pa.array(here))
        absent = pa.nulls(len(here), pa.uint32())
        columns = {
            "twin_source": some["source"],
            "twin_origin": some["origin"],
            "twin_shard": absent if shard < 0 else pa.array(np.full(len(here), shard, np.uint32)),
            "twin_row": absent if shard < 0 else some["row"],
        }
        self._tables.append(pa.table(columns, schema=_Twins.COLUMNS))

    def columns(self, twins: np.ndarray) -> dict[str, pa.Array]:
        """The columns of REMOVED that tell of the twins of removed documents, S32 (removed,)."""
        place = self._place[np.searchsorted(self.ids, twins)]
        found = pa.concat_tables(self._tables).take(pa.array(place, mask=place < 0))
        return {name: found[name] for name in found.column_names}


def _removed(shards: Sequence[Shard], stages: Sequence[StepOutput]) -> pa.Table:
    """The columns of REMOVED that say nothing of the twin but its id."""
    tables = []
    names = np.array([output.name.removeprefix("dedup-") for output in stages])
    for shard in shards:
        table = read_parquet(shard.pool, columns=["id", "origin"])
        found = decided(shard, stages, len(table))
        rows = np.flatnonzero(found.stage >= 0)
        if not len(rows):
            continue
        table = table.take(pa.array(rows))
        tables.append(
            pa.table(
                {
                    "id": table["id"],
                    "source": pa.array([shard.source] * len(rows), pa.string()),
                    "origin": table["origin"],
                    "stage": pa.array(names[found.stage[rows]], pa.string()),
                    "similarity": pa.array(found.similarity[rows]),
                    "twin": _strings(found.twin[rows]),
                    "shard": pa.array(np.full(len(rows), shard.place, np.uint32)),
                    "row": pa.array(rows.astype(np.uint32)),
                }
            )
        )
    if not tables:
        return pa.table({name: pa.array([], REMOVED.field(name).type) for name in REMOVED.names})
    return _followed(pa.concat_tables(tables), names.tolist())


def _followed(removed: pa.Table, stages: list[str]) -> pa.Table:
    """The twins of an earlier stage replaced by those that a later stage kept instead of them."""
    for later in stages[1:]:
        gone = removed.filter(pc.field("stage") == later)
        removed = _moved(removed, _bytes(gone["id"]), _bytes(gone["twin"]), gone["similarity"].to_numpy())
    return removed


def _moved(removed: pa.Table, ids: np.ndarray, twins: np.ndarray, similarity: np.ndarray) -> pa.Table:
    """What was removed for one of `ids`, which itself is removed for one of `twins`, as removed for that."""
    if not len(ids):
        return removed
    order = np.argsort(ids, kind="stable")
    ids, twins, similarity = ids[order], twins[order], similarity[order]
    twin, value = _bytes(removed["twin"]).copy(), removed["similarity"].to_numpy().copy()
    at = np.minimum(np.searchsorted(ids, twin), len(ids) - 1)
    moved = np.flatnonzero(ids[at] == twin)
    twin[moved], value[moved] = twins[at[moved]], similarity[at[moved]]
    columns = {"twin": _strings(twin), "similarity": pa.array(value)}
    return pa.table({name: columns.get(name, removed[name]) for name in removed.column_names})


def _kept(shards: Sequence[Shard], stages: Sequence[StepOutput]) -> Iterator[tuple[Shard, pa.Table]]:
    """Of each shard the records that stay: KEPT and `row`."""
    for shard in shards:
        table = read_parquet(shard.pool, columns=["id", "origin"])
        rows = np.flatnonzero(decided(shard, stages, len(table)).stage < 0)
        sources = pa.array([shard.source] * len(table), pa.string())
        numbers = pa.array(np.arange(len(table), dtype=np.uint32))
        table = table.append_column("source", sources).append_column("row", numbers)
        yield shard, table.take(pa.array(rows))


def _clusters(removed: pa.Table) -> pa.Table:
    """Each kept document that others were removed for, then those, the least alike last; largest cluster first."""
    twin = _bytes(removed["twin"])
    names, first, cluster, sizes = np.unique(twin, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), np.int64)
    rank[np.lexsort((names, -sizes))] = np.arange(len(names))
    head = removed.take(pa.array(first))
    kept = pa.table(
        {
            "cluster": pa.array(rank.astype(np.uint32)),
            "id": head["twin"],
            "source": head["twin_source"],
            "origin": head["twin_origin"],
            "kept": pa.array(np.ones(len(names), bool)),
            "stage": pa.nulls(len(names), pa.string()),
            "similarity": pa.nulls(len(names), pa.float64()),
        },
        schema=CLUSTERS,
    )
    gone = pa.table(
        {
            "cluster": pa.array(rank[cluster].astype(np.uint32)),
            "kept": pa.array(np.zeros(len(removed), bool)),
            **{name: removed[name] for name in ("id", "source", "origin", "stage", "similarity")},
        }
    ).select(CLUSTERS.names)
    order = [
        ("cluster", "ascending"),
        ("kept", "descending"),
        ("similarity", "descending"),
        ("id", "ascending"),
        ("origin", "ascending"),
    ]
    return pa.concat_tables([kept, gone]).sort_by(order)
