"""Measuring anew what later stations ask of documents whose text was edited after it was measured."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.edits import edits_path
from curation.files import file_hash, json_hash, read_parquet, write_parquet
from curation.measure.language import LanguageIdentifier, language_model
from curation.measure.station import DOCUMENT_COLUMNS, Measure, measure_table
from curation.shards import batches
from curation.steps import Context, StepOutput, step

VERSION = 1
ANEW = ("content_hash", "bytes", "gzip_ratio", "language", "language_score")
STALE = "minhash"  # signatures of the text before: left out


def remeasure(
    context: Context, name: str, pool: StepOutput, measured: StepOutput, spans: StepOutput, config: Measure
) -> StepOutput:
    """The measurements of an edited pool: the columns ANEW of the edited text, the others as `measured` has them.

    The step is `name` ("trim-measure/web"); `spans` is the one that found the edits (`curation.edits.edits_path`).
    Only documents with spans are read. Rules have been decided on what was measured before, and a document stays
    with its group (`group_hash`). Raises ConfigError if a language model is needed and missing.
    """
    source = pool.source
    below = f"edits/{source}/"
    edits = {path: entry["hash"] for path, entry in spans.record["files"].items() if path.startswith(below)}
    inputs = {"pool": pool.content, "measured": measured.content, "spans": json_hash(edits)}
    model = None
    if config.language:
        model = language_model(config.language.model)
        inputs["language_model"] = file_hash(model)
    config = config.model_copy(update={"minhash": None, "groups": ()})

    def work(build) -> None:
        units = {
            path.stem: (path, measured.folder / "shards" / path.name, spans.folder, source, config, model)
            for path in pool.shards()
        }
        results = build.map(_remeasure_shard, units, "either").values()
        documents = sum(result["documents"] for result in results)
        build.counts = {"documents_in": documents, "documents_out": documents}
        build.counts["edited"] = sum(result["edited"] for result in results)

    return step(context, name, VERSION, config, inputs, work)


def _remeasure_shard(
    folder: Path,
    key: str,
    shard: Path,
    before: Path,
    spans: Path,
    source: str,
    config: Measure,
    model: Path | None,
) -> dict[str, int]:
    columns = [name for name in pq.read_schema(before).names if name != STALE]
    table = read_parquet(before, columns)
    path = edits_path(spans, source, key)
    rows = read_parquet(path, ["row"])["row"].unique() if path.exists() else pa.chunked_array([[]])
    if len(rows):
        identifier = LanguageIdentifier(model, config.language.prefix) if config.language else None
        documents = batches(shard, DOCUMENT_COLUMNS, rows.to_numpy())
        parts = [measure_table(part, config, identifier).select(ANEW) for _, part in documents]
        anew = pa.concat_tables(parts)
        mask = pc.is_in(pa.array(range(len(table)), pa.uint32()), rows.cast(pa.uint32()))
        for name in ANEW:
            place = table.schema.get_field_index(name)
            column = table.column(place).combine_chunks()
            replaced = pc.replace_with_mask(column, mask, anew[name].combine_chunks().cast(column.type))
            table = table.set_column(place, table.schema.field(place), replaced)
    write_parquet(folder / "shards" / f"{key}.parquet", table)
    return {"documents": len(table), "edited": len(rows)}
