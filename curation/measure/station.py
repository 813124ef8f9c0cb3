"""The station `measure/<source>`: one pass over a pool's text, one measurement file beside each shard."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import deflate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import BeforeValidator, Field, field_validator

from curation.classify.group import groups_of
from curation.classify.models import Applied
from curation.config import Bytes, Strict
from curation.dedup.minhash import signatures
from curation.dedup.scheme import Scheme, SchemeField
from curation.edits import EDITS, edits_path, span_table
from curation.files import atomic, file_hash, open_parquet, write_parquet
from curation.measure.columns import schema, text_columns
from curation.measure.configured import configured
from curation.measure.editors import Edited, edit_texts
from curation.measure.group import Group
from curation.measure.groups import chosen
from curation.measure.language import Language, LanguageIdentifier, language_model
from curation.measure.paragraphs import COLUMNS as PARAGRAPH_COLUMNS
from curation.measure.paragraphs import paragraph_languages
from curation.measure.render import prompt_text
from curation.measure.url import UrlLists
from curation.measure.utf8 import text_buffers
from curation.rules.profile import Profile
from curation.rules.short_circuit import RECORDED, early, passing, spread
from curation.rules.short_circuit import literals as early_literals
from curation.shards import in_order
from curation.steps import Context, StepOutput, step

VERSION = 6
BATCH_BYTES = 16 << 20  # of a shard in memory at once, a thread
BATCH_ROWS = 1 << 13
GZIP_LEVEL = 1
ROW_GROUP = 1 << 14  # rows of the files written, whatever the batches
DOCUMENT_COLUMNS = ["id", "text", "messages", "chosen", "rejected", "metadata"]


def _off(value: Any) -> Any:
    """`off` is a boolean in YAML."""
    return None if value is False or value == "off" else value


class Measure(Strict):
    """What is measured. `minhash` and `language` can be `off`; their columns are null then.

    `groups` names groups of `curation.measure.groups`; without it all of them are taken. `functions` are
    measurements of the user's own, FILE.py:FUNCTION: see `curation.measure.own`.
    """

    minhash: Annotated[
        SchemeField | None, BeforeValidator(_off, json_schema_input_type=Scheme | str | bool | None)
    ] = Scheme()
    language: Annotated[
        Language | None, BeforeValidator(_off, json_schema_input_type=Language | str | bool | None)
    ] = Language()
    gzip_prefix_bytes: Bytes = 1 << 16  # only so much of a text is compressed for its gzip ratio; 0 for none
    groups: Annotated[tuple[str, ...] | None, Field(validate_default=True)] = None
    url_lists: UrlLists = UrlLists()
    # A path says nothing about results: the hashes of the files are inputs of the step instead.
    functions: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    short_circuit: Annotated[bool, Field(exclude=True)] = False  # see `curation.rules.short_circuit`

    @field_validator("groups")
    @classmethod
    def _groups_exist(cls, names: tuple[str, ...] | None) -> tuple[str, ...]:
        return tuple(group.name for group in chosen(names))


def measure(
    context: Context,
    pool: StepOutput,
    config: Measure | None = None,
    edits: tuple[str, ...] = (),
    folder: Path = Path(),
    profile: Profile | None = None,
    classifiers: Sequence[Applied] = (),
) -> StepOutput:
    """Measure every document of the pool `ingest/<source>`; the step `measure/<source>`.

    Writes `shards/<shard>.parquet` with the columns of `curation.measure.columns.schema`, the same rows in the
    same order as the pool's. With `edits`, names of `curation.measure.editors`, it finds their spans as well and
    writes them beside (`curation.edits.edits_path`): hashes, MinHash, language, gzip ratio, `bytes` and the groups
    that say so are then of the edited text, the other columns of the text as it was read; so is the language where
    the profile says `language_of: read`. The paths of lists and functions are relative to `folder`; `profile` is
    also what a short circuit goes by, and without one there is none.
    Of `classifiers` those that `curation.classify.group` says so of are applied: their scores are columns too.
    Raises ConfigError if a language model or one of their files is missing.
    """
    config = config or Measure()
    groups, hashes = configured(config, folder, measured_schema(config, []).names)
    scoring, models, applied = groups_of(classifiers, measured_schema(config, groups).names)
    groups = [*groups, *scoring]
    inputs = {"pool": pool.content, **hashes, **models}
    model = None
    if config.language:
        model = language_model(config.language.model)
        inputs["language_model"] = file_hash(model)
    rules = early(profile) if config.short_circuit and profile else None
    language_of = profile.language_of if profile else "edited"
    libraries = {"unicode": unicodedata.unidata_version}  # what the results depend on besides this code
    if config.gzip_prefix_bytes:
        libraries["deflate"] = metadata.version("deflate")

    def work(build) -> None:
        shards = pool.shards()
        threads = context.executor.threads(len(shards))
        units = {
            shard.stem: (str(shard), pool.source, config, groups, edits, model, rules, language_of, threads)
            for shard in shards
        }
        results = build.map(measure_shard, units, "either").values()
        documents = sum(result["documents"] for result in results)
        build.counts = {"documents_in": documents, "documents_out": documents}
        build.counts |= {name: sum(result[name] for result in results) for name in ("bytes", "words")}

    literals = {**config.model_dump(mode="json"), "edits": list(edits), "libraries": libraries}
    literals["language_of"] = language_of
    literals[RECORDED] = early_literals(profile) if rules else None
    literals |= {"classifiers": applied} if applied else {}
    return step(context, f"measure/{pool.source}", VERSION, literals, inputs, work)


def measure_shard(
    folder: Path,
    key: str,
    shard: str,
    source: str,
    config: Measure,
    groups: list[Group],
    edits: tuple[str, ...],
    model: Path | None,
    rules: Profile | None,
    language_of: str,
    threads: int,
) -> dict[str, int]:
    """Measure one shard into `folder/shards/<key>.parquet`; returns how many documents, bytes and words it has."""
    identifier = LanguageIdentifier(model, config.language.prefix) if config.language else None
    totals = {"documents": 0, "bytes": 0, "words": 0}
    columns = measured_schema(config, groups)
    spans = [EDITS.empty_table()]

    def measured() -> Iterator[pa.Table]:
        def work(batch: pa.Table) -> tuple[pa.Table, pa.ListArray]:
            edited = edit_texts(batch, edits)
            table = measure_table(batch, config, identifier, edited, groups, rules, language_of)
            return table, edited.spans

        for table, found in in_order(work, batches(shard), threads):
            if edits:
                spans.append(span_table(found, first=totals["documents"]))
            totals["documents"] += len(table)
            totals["bytes"] += int(table["bytes"].to_numpy().sum())
            totals["words"] += int(table["words"].to_numpy().sum())
            yield table

    with atomic(folder / "shards" / f"{key}.parquet") as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, columns, compression="zstd") as writer:
            for group in row_groups(measured(), ROW_GROUP):
                writer.write_table(group)
    if edits:
        write_parquet(edits_path(folder, source, key), pa.concat_tables(spans))
    return totals


def measure_table(
    documents: pa.Table,
    config: Measure,
    identifier: LanguageIdentifier | None,
    edited: Edited | None = None,
    groups: list[Group] | None = None,
    rules: Profile | None = None,
    language_of: str = "edited",
) -> pa.Table:
    """The measurements of DOCUMENT rows, with the columns of `measured_schema`. A row depends on no other row.

    `edited` is what the edits of their profile make of them, nothing if it is not given; `groups` those of the
    configuration with its lists and functions, without them if it is not given. What fails one of `rules`, those
    of a short circuit, is null in the columns of `_further`.
    """
    groups = chosen(config.groups) if groups is None else groups
    edited = edited or edit_texts(documents)
    texts = edited.before, edited.after
    after = documents if edited.after is edited.before else _with_texts(documents, edited.after)
    columns: dict[str, pa.Array] = {
        "id": documents["id"],
        "content_hash": _hashes(edited.after),
        "group_hash": _hashes(prompt_text(after)),
        **text_columns(edited.before),
        "bytes": pc.binary_length(edited.after).cast(pa.uint64()),
        "line_edit_word_share": pa.nulls(len(documents), pa.float64()),
    }
    if edited.removed_words is not None:
        words = columns["words"].to_numpy()
        share = edited.removed_words / np.maximum(words, 1)
        columns["line_edit_word_share"] = pa.array(share, mask=words == 0)
    if rules is None:
        columns |= _further((documents, after), texts, config, identifier, groups, language_of)
    else:
        rows = passing(rules, columns)
        some = pa.array(rows)
        tables, texts = (documents.take(some), after.take(some)), tuple(text.take(some) for text in texts)
        columns |= spread(_further(tables, texts, config, identifier, groups, language_of), rows, len(documents))
    return pa.table(columns, schema=measured_schema(config, groups))


def _further(
    documents: tuple[pa.Table, pa.Table],
    texts: tuple[pa.LargeStringArray, pa.LargeStringArray],
    config: Measure,
    identifier: LanguageIdentifier | None,
    groups: list[Group],
    language_of: str,
) -> dict[str, pa.Array]:
    """All columns beyond hashes and text statistics, of documents and their texts before and after the edits."""
    after = texts[True]
    missing = pa.nulls(len(after))
    columns: dict[str, pa.Array] = {
        "gzip_ratio": _gzip_ratios(after, config.gzip_prefix_bytes),
        "language": missing.cast(pa.string()),
        "language_score": missing.cast(pa.float64()),
        "minhash": missing,
    }
    if identifier:
        of = texts[language_of == "edited"]
        columns["language"], scores = identifier.identify(of)
        columns["language_score"] = pa.array(scores, from_pandas=True)
        if config.language.paragraphs:
            columns.update(paragraph_languages(of, columns["language"], identifier))
    if config.minhash:
        rows, has_signature = signatures(after, config.minhash)
        columns["minhash"] = pa.FixedSizeListArray.from_arrays(
            pa.array(rows.ravel()), config.minhash.permutations, mask=pa.array(~has_signature)
        )
    for group in groups:
        columns.update(group.measure(documents[group.edited], texts[group.edited]))
    return columns


def _with_texts(documents: pa.Table, texts: pa.LargeStringArray) -> pa.Table:
    """The documents with edited texts; what has no text of its own still has none."""
    place = documents.schema.get_field_index("text")
    of_text = pc.if_else(documents["text"].combine_chunks().is_valid(), texts, pa.scalar(None, pa.large_string()))
    return documents.set_column(place, "text", of_text)


def measured_schema(config: Measure, groups: list[Group] | None = None) -> pa.Schema:
    """The schema of the measurement files that a configuration gives; `groups` as for `measure_table`."""
    groups = chosen(config.groups) if groups is None else groups
    fields = schema(config.minhash.signature if config.minhash else pa.null(), groups)
    paragraphs = PARAGRAPH_COLUMNS if config.language and config.language.paragraphs else {}
    return pa.schema([*fields, *paragraphs.items()])


def _hashes(texts: pa.LargeStringArray) -> pa.StringArray:
    data, offsets = text_buffers(texts)
    view, places = memoryview(data), offsets.tolist()
    hashes = [xxhash.xxh3_128_hexdigest(view[start:end]) for start, end in pairwise(places)]
    return pa.array(hashes, pa.string())


def _gzip_ratios(texts: pa.LargeStringArray, prefix: int) -> pa.DoubleArray:
    """Bytes of the gzip file of each text's first `prefix` bytes, to those bytes; null for no bytes.

    By libdeflate at level 1, whose bytes depend on no processor. That is five times as fast as zlib at level 6,
    and what decides is a rank: of real pages zlib's ratio differs by 0.007 in the median, 0.018 of papers.
    """
    data, offsets = text_buffers(texts)
    view, places = memoryview(data), offsets.tolist()
    ratios = np.full(len(texts), np.nan)
    for row, (start, end) in enumerate(pairwise(places)):
        start_of_text = view[start : min(end, start + prefix)]
        if len(start_of_text):
            ratios[row] = len(deflate.gzip_compress(start_of_text, GZIP_LEVEL)) / len(start_of_text)
    return pa.array(ratios, from_pandas=True)


def batches(shard: str | Path) -> Iterator[pa.Table]:
    """The documents of a pool's shard in pieces of about BATCH_BYTES, in order; a larger document is one piece."""
    with open_parquet(shard) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        mean = sum(group.total_byte_size for group in groups) / max(1, file.metadata.num_rows)
        rows = int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(1.0, mean))))
        for batch in file.iter_batches(batch_size=rows, columns=DOCUMENT_COLUMNS, use_threads=False):
            yield pa.Table.from_batches([batch])


def row_groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` (the last may be shorter), so that a file forgets its batches."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, rows).combine_chunks()
            waiting = [joined.slice(rows)]
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()
