"""How many tokens a transform makes of each document: the catalog of a source with two columns more for each.

A catalog counts documents as they are. A recipe whose line names a transform with settings is planned over this
one instead, so that the budget, the manifest and the loader speak of the same tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.chat import DOCUMENT_COLUMNS
from curation.encoder import load_encoder
from curation.files import json_hash, remove, write_parquet
from curation.shards import batches, in_order
from curation.steps import UNITS, Build, Context, StepOutput, step
from curation.transforms.render import render

TOKENS_UNDER, CHANGED_BY = "tokens:", "changed:"  # and the transform's name: uint32, bool
COUNTS = "counts"  # per shard, until they stand in the catalog


def transformed(
    ctx: Context, source: str, catalog: StepOutput, pool: StepOutput, tokenizer: StepOutput, transforms: list[str]
) -> StepOutput:
    """The step `transform/<source>-<hash of the names>`: `catalog.parquet`, the source's catalog and for each of
    `transforms` the columns `tokens:<name>` and `changed:<name>`, whether it is another document than before.

    Raises ValueError for a transform that does not fit the source's kind or the tokenizer.
    """

    def work(build: Build) -> None:
        table = pq.read_table(catalog.folder / "catalog.parquet", partitioning=None)
        shards = table["shard"].unique().sort().to_pylist()
        units = {}
        for shard in shards:
            rows = np.sort(table.filter(pc.equal(table["shard"], shard))["row"].to_numpy()).astype(np.int64)
            path = pool.folder / "shards" / f"{shard}.parquet"
            units[shard] = (str(path), rows, str(tokenizer.folder), transforms, ctx.executor.threads(len(shards)))
        build.scratch(COUNTS)
        kind = load_encoder(tokenizer).kind_of_units(len(units), ctx.executor.workers, count=True)
        build.map(count_transformed, units, kind)
        counted = _beside(table, build.folder / COUNTS, shards, transforms)
        build.write_table("catalog.parquet", counted)
        remove(build.folder / UNITS)  # first: a unit that it calls done must have its counts
        remove(build.folder / COUNTS)
        build.counts = {"documents_in": len(table), "documents_out": len(table)}
        for number, name in enumerate(transforms):
            build.counts[f"changed_{number}"] = int(pc.sum(counted[f"{CHANGED_BY}{name}"]).as_py() or 0)
            build.counts[f"tokens_{number}"] = int(pc.sum(counted[f"{TOKENS_UNDER}{name}"]).as_py() or 0)

    inputs = {"catalog": catalog.content, "pool": pool.content, "tokenizer": tokenizer.content}
    name = f"transform/{source}-{json_hash(transforms)[:8]}"
    return step(ctx, name, 1, {"source": source, "transforms": transforms}, inputs, work)


def count_transformed(
    folder: Path, key: str, shard: str, rows: np.ndarray, tokenizer: str, transforms: list[str], threads: int
) -> dict[str, int]:
    """Count some rows (rising) of one shard under each transform."""
    encoder = load_encoder(Path(tokenizer))

    def count(batch: tuple[np.ndarray, pa.Table]) -> dict[str, np.ndarray]:
        numbers, table = batch
        columns = {"row": numbers.astype(np.uint32)}
        for name in transforms:
            rendered, changed = render(table, name, encoder.specials)
            columns[f"{TOKENS_UNDER}{name}"] = encoder.count(rendered).lengths.astype(np.uint32)
            columns[f"{CHANGED_BY}{name}"] = changed
        return columns

    parts = list(in_order(count, batches(Path(shard), DOCUMENT_COLUMNS, rows), threads))
    write_parquet(
        folder / COUNTS / f"{key}.parquet",
        pa.table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}),
    )
    return {"documents": len(rows)}


def _beside(table: pa.Table, folder: Path, shards: list[str], transforms: list[str]) -> pa.Table:
    """The catalog with the counted columns, joined by shard and row."""
    names = {f"{TOKENS_UNDER}{name}": np.uint32 for name in transforms}
    names |= {f"{CHANGED_BY}{name}": bool for name in transforms}
    columns = {name: np.zeros(len(table), kind) for name, kind in names.items()}
    shard_of = pc.index_in(table["shard"], pa.array(shards, pa.string())).to_numpy()
    row_of = table["row"].to_numpy()
    for number, shard in enumerate(shards):
        counted = pq.read_table(folder / f"{shard}.parquet", partitioning=None)
        here = np.flatnonzero(shard_of == number)
        at = np.searchsorted(counted["row"].to_numpy(), row_of[here])
        for name, column in columns.items():
            column[here] = counted[name].to_numpy(zero_copy_only=False)[at]
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return table
