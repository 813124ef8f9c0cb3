"""The station `classify/<source>`: the scores of all classifiers of a source, in one pass over its text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.chat import DOCUMENT_COLUMNS
from curation.classify.models import Applied, load_applied
from curation.files import write_parquet
from curation.ledger import alive
from curation.measure.render import rendered_text
from curation.schema import shard_rows
from curation.shards import batches
from curation.steps import Build, Context, StepOutput, step


def classify(ctx: Context, pool: StepOutput, ledgers: list[StepOutput], classifiers: list[Applied]) -> StepOutput:
    """The step `classify/<source>`: id, and for each classifier a column of its name with the score (float32).

    A classifier without a positive label gives its likeliest label too, in `<name>_label`. Null for documents
    that a stage dropped, and for one that the model says nothing of.
    """
    inputs = {"pool": pool.content}
    inputs |= {f"model/{one.name}": one.hash for one in classifiers}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}

    def work(build: Build) -> None:
        units = {}
        for path in pool.shards():
            kept = np.flatnonzero(alive(ledgers, pool.source, path.stem, shard_rows(path)))
            units[path.stem] = (str(path), classifiers, kept)
        results = build.map(classify_shard, units, "threads").values()
        names = ("documents_in", "documents_out")
        build.counts = {name: sum(result[name] for result in results) for name in names}

    literals = {one.name: one.literals() for one in classifiers}
    return step(ctx, f"classify/{pool.source}", 2, literals, inputs, work)


def classify_shard(
    folder: Path, key: str, shard: str, classifiers: list[Applied], rows: np.ndarray
) -> dict[str, int]:
    """Classify `rows` of one shard; the others get nulls."""
    total = shard_rows(shard)
    loaded = [load_applied(one) for one in classifiers]
    scores = np.full((len(classifiers), total), np.nan, np.float32)
    labels = np.full((len(classifiers), total), -1, np.int32)
    for numbers, table in batches(Path(shard), DOCUMENT_COLUMNS, rows):
        texts = rendered_text(table)
        for place, (model, asked) in enumerate(loaded):
            found, best, wanted = model.predict(texts, asked)
            scores[place, numbers] = np.where(found >= 0, wanted if asked >= 0 else best, np.nan)
            labels[place, numbers] = found
    ids = [table["id"] for _, table in batches(Path(shard), ["id"])]
    columns = {"id": pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.string())}
    for place, one in enumerate(classifiers):
        model, asked = loaded[place]
        columns[one.name] = pa.array(scores[place], pa.float32(), from_pandas=True)
        if asked < 0:
            numbers = pa.array(labels[place], mask=labels[place] < 0)
            columns[f"{one.name}_label"] = pa.array(model.labels, pa.string()).take(numbers)
    write_parquet(folder / "shards" / f"{key}.parquet", pa.table(columns))
    return {"documents_in": total, "documents_out": len(rows)}
