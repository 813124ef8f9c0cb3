"""The station `classify/<source>`: the scores of all classifiers of a source, in one pass over its text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.chat import DOCUMENT_COLUMNS
from curation.classify.group import arrays_of, columns_of, in_the_pass
from curation.classify.models import Applied, load_applied
from curation.files import read_parquet, write_parquet
from curation.ledger import alive
from curation.measure.render import rendered_text
from curation.schema import require_same_ids, shard_rows
from curation.shards import batches
from curation.steps import Build, Context, StepOutput, step

VERSION = 2


def classify(
    ctx: Context,
    pool: StepOutput,
    ledgers: list[StepOutput],
    classifiers: list[Applied],
    measured: StepOutput | None = None,
) -> StepOutput:
    """The step `classify/<source>`: id, and for each classifier a column of its name with the score (float32).

    A classifier without a positive label gives its likeliest label too, in `<name>_label`. Null for documents
    that a stage dropped, and for one that the model says nothing of. What the measuring pass has scored is taken
    from `measured`, the measurements of just these texts.
    """
    inputs = {"pool": pool.content}
    inputs |= {f"model/{one.name}": one.hash for one in classifiers}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}
    if measured is not None and not any(map(in_the_pass, classifiers)):
        measured = None
    if measured is not None:
        inputs["measured"] = measured.content

    def work(build: Build) -> None:
        units = {}
        for one in classifiers:
            one.fetch()
        for path in pool.shards():
            kept = np.flatnonzero(alive(ledgers, pool.source, path.stem, shard_rows(path)))
            known = str(measured.folder / "shards" / path.name) if measured else None
            units[path.stem] = (str(path), classifiers, kept, known)
        results = build.map(classify_shard, units, "either").values()
        names = ("documents_in", "documents_out")
        build.counts = {name: sum(result[name] for result in results) for name in names}

    literals = {one.name: one.literals() for one in classifiers}
    return step(ctx, f"classify/{pool.source}", VERSION, literals, inputs, work)


def classify_shard(
    folder: Path, key: str, shard: str, classifiers: list[Applied], rows: np.ndarray, measured: str | None
) -> dict[str, int]:
    """Classify `rows` of one shard; the others get nulls. `measured` is the file with scores of the pass."""
    total = shard_rows(shard)
    ids = [table["id"] for _, table in batches(Path(shard), ["id"])]
    columns = {"id": pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.string())}
    known = [one for one in classifiers if measured is not None and in_the_pass(one)]
    columns |= _taken_over(known, measured, columns["id"], rows) if known else {}
    columns |= _predicted([one for one in classifiers if one not in known], shard, total, rows)
    names = ["id", *(name for one in classifiers for name in columns_of(one))]
    write_parquet(folder / "shards" / f"{key}.parquet", pa.table({name: columns[name] for name in names}))
    return {"documents_in": total, "documents_out": len(rows)}


def _taken_over(known: list[Applied], measured: str, ids: pa.ChunkedArray, rows: np.ndarray) -> dict:
    """The columns that the measuring pass has filled, without those of dropped documents."""
    names = [name for one in known for name in columns_of(one)]
    table = read_parquet(measured, ["id", *names])
    require_same_ids(ids, table["id"], measured)
    kept = np.zeros(len(table), bool)
    kept[rows] = True
    return {name: pc.if_else(pa.array(kept), table[name], pa.scalar(None, table[name].type)) for name in names}


def _predicted(classifiers: list[Applied], shard: str, total: int, rows: np.ndarray) -> dict:
    """The columns of the other classifiers, in one pass over the text."""
    if not classifiers:
        return {}
    loaded = [load_applied(one) for one in classifiers]
    predictions = [
        (np.full(total, -1, np.int32), np.zeros(total, np.float32), np.zeros(total, np.float32)) for _ in loaded
    ]
    for numbers, table in batches(Path(shard), DOCUMENT_COLUMNS, rows):
        texts = rendered_text(table)
        for (model, asked), results in zip(loaded, predictions, strict=True):
            for whole, part in zip(results, model.predict(texts, asked), strict=True):
                whole[numbers] = part
    columns = {}
    for one, results in zip(classifiers, predictions, strict=True):
        columns |= arrays_of(one, results)
    return columns
