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
from curation.files import atomic
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
        ("similarity", pa.float64()),  # true Jaccard to the twin; 1.0 for the same text
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
        ledger = pq.read_table(
            ledger_path(output.folder, shard.source, shard.name), columns=["row", "keep", "value", "twin"]
        )
        dropped = ledger.filter(pc.invert(ledger["keep"]))
        at = dropped["row"].to_numpy()
        stage[at], similarity[at] = place, dropped["value"].to_numpy()
        twin[at] = _bytes(dropped["twin"])
    return Decided(stage, twin, similarity)


def _bytes(ids: pa.ChunkedArray) -> np.ndarray:
    """32-hex ids as S32 (n,), which sorts and compares without Python objects."""
    return np.frombuffer("".join(ids.to_pylist()).encode(), "S32") if len(ids) else np.zeros(0, "S32")


def write_tables(folder: Path, shards: Sequence[Shard], stages: Sequence[StepOutput]) -> dict[str, int]:
    """Write `kept.parquet`, `removed.parquet` and `clusters.parquet` into `folder`; returns counts.

    Where a document was removed for a twin that a later stage removed, its twin here is the one that was kept for
    that, with the similarity to it. Memory: what is removed, about 300 bytes each, and one shard.
    """
    removed = _removed(shards, stages)
    twins = np.unique(_bytes(removed["twin"]))
    places = np.zeros((len(twins), 2), np.uint32)
    origins, sources = np.zeros(len(twins), object), np.zeros(len(twins), object)
    kept = 0
    with atomic(folder / "kept.parquet") as path, pq.ParquetWriter(path, KEPT, compression="zstd") as writer:
        for shard, table in _kept(shards, stages):
            writer.write_table(table.select(KEPT.names))
            kept += len(table)
            ids = _bytes(table["id"])
            at = np.searchsorted(twins, ids)
            wanted = np.flatnonzero(twins[np.minimum(at, len(twins) - 1)] == ids) if len(twins) else at[:0]
            found = table.take(pa.array(wanted))
            places[at[wanted], 0] = shard.place
            places[at[wanted], 1] = found["row"].to_numpy()
            origins[at[wanted]], sources[at[wanted]] = found["origin"].to_pylist(), shard.source
    at = np.searchsorted(twins, _bytes(removed["twin"]))
    columns = {
        "twin_source": pa.array(sources[at], pa.string()),
        "twin_origin": pa.array(origins[at], pa.string()),
        "twin_shard": pa.array(places[at, 0]),
        "twin_row": pa.array(places[at, 1]),
    }
    removed = pa.table(
        {name: columns.get(name, removed[name] if name not in columns else None) for name in REMOVED.names},
        schema=REMOVED,
    )
    with atomic(folder / "removed.parquet") as path:
        pq.write_table(removed, path, compression="zstd")
    clusters = _clusters(removed)
    with atomic(folder / "clusters.parquet") as path:
        pq.write_table(clusters, path, compression="zstd")
    sizes = np.bincount(clusters["cluster"].to_numpy()) if len(clusters) else np.zeros(0, int)
    return {
        "kept": kept,
        "removed": len(removed),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max(initial=0)),
    }


def _removed(shards: Sequence[Shard], stages: Sequence[StepOutput]) -> pa.Table:
    """The columns of REMOVED that say nothing of the twin but its id."""
    tables = []
    names = np.array([output.name.removeprefix("dedup-") for output in stages])
    for shard in shards:
        table = pq.read_table(shard.pool, columns=["id", "origin"])
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
                    "twin": pa.array(found.twin[rows].astype("U32"), pa.string()),
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
    stage = np.array(removed["stage"].to_pylist())
    twin, similarity = _bytes(removed["twin"]).copy(), removed["similarity"].to_numpy().copy()
    ids = _bytes(removed["id"])
    for later in stages[1:]:
        gone = np.flatnonzero(stage == later)
        gone = gone[np.argsort(ids[gone], kind="stable")]
        if not len(gone):
            continue
        known = ids[gone]
        at = np.minimum(np.searchsorted(known, twin), len(known) - 1)
        moved = np.flatnonzero((known[at] == twin) & (stage != later))
        similarity[moved] = similarity[gone[at[moved]]]
        twin[moved] = twin[gone[at[moved]]]
    columns = {"twin": pa.array(twin.astype("U32"), pa.string()), "similarity": pa.array(similarity)}
    return pa.table({name: columns.get(name, removed[name]) for name in removed.column_names})


def _kept(shards: Sequence[Shard], stages: Sequence[StepOutput]) -> Iterator[tuple[Shard, pa.Table]]:
    """Of each shard the records that stay: KEPT and `row`."""
    for shard in shards:
        table = pq.read_table(shard.pool, columns=["id", "origin"])
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
