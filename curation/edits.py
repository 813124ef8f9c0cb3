"""Edits of text, recorded as byte spans: what was cut or replaced, so that the edited text is reproduced exactly.

A span says which bytes of a document's text, in UTF-8, give way to which replacement, and by which rule. The spans
of a document are sorted and do not overlap; they cut no character in two. They are relative to the text of the
pool that they were made on: a pool that is edited again has spans of its own, so the edits of a document are
applied in the order of the steps, and the text before each stays in the pool that the step was given.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.compiled import njit
from curation.files import atomic, json_hash, open_parquet
from curation.measure.utf8 import decode, text_buffers
from curation.schema import DOCUMENT, one_array
from curation.steps import Context, StepOutput, step

VERSION = 1
BATCH_BYTES = 16 << 20  # of a shard in memory at once, about; a longer document is a batch of its own
BATCH_ROWS = 1 << 12

_FIELDS = [
    ("start", pa.int64()),  # bytes of the text's UTF-8: the first one that goes
    ("end", pa.int64()),  # and the one after the last; equal to start where something is put in
    ("replacement", pa.string()),  # what stands there instead, mostly nothing
    ("rule", pa.string()),
]
SPANS = pa.list_(pa.struct(_FIELDS))  # of one document; null and empty are both "none"
# A file of spans: `edits/<source>/<shard>.parquet`, sorted by row and start. Rows without spans are not in it.
EDITS = pa.schema([("row", pa.uint32()), *_FIELDS])


def apply_edits(texts: pa.LargeStringArray, edits: pa.ListArray) -> pa.LargeStringArray:
    """The edited texts, shape (n,). `edits` holds the spans (SPANS) of each text; a null text stays null.

    Raises ValueError for spans that do not fit: not sorted, overlapping, past the end of the text, within a
    character, or on a text that is null.
    """
    flat, counts = span_values(edits)
    if len(counts) != len(texts):
        raise ValueError(f"{len(texts)} texts, but edits of {len(counts)}; expected a list of spans for each text")
    if not len(flat):
        return texts
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    if (missing & (counts > 0)).any():
        raise ValueError(f"row {int((missing & (counts > 0)).argmax())} has spans, but no text")
    filled = pc.fill_null(texts, "")
    data, offsets = text_buffers(filled)
    starts, ends = flat.field("start").to_numpy(), flat.field("end").to_numpy()
    new_data, new_offsets = text_buffers(pc.fill_null(flat.field("replacement"), "").cast(pa.large_string()))
    first = np.concatenate([[0], np.cumsum(counts)])
    lengths = np.zeros(len(texts), np.int64)
    wrong = _edited_lengths(data, offsets, first, starts, ends, new_offsets, lengths)
    if wrong >= 0:
        row = int(np.searchsorted(first, wrong, side="right")) - 1
        size = offsets[row + 1] - offsets[row]
        raise ValueError(
            f"row {row}, span {wrong - first[row]}, bytes {starts[wrong]} to {ends[wrong]} of {size}: "
            "the spans of a text must be sorted, without overlap, within the text and at bounds of characters"
        )
    places = np.concatenate([[0], np.cumsum(lengths)])
    out = np.empty(places[-1], np.uint8)
    _copy_edited(data, offsets, first, starts, ends, new_data, new_offsets, places, out)
    edited = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(places), pa.py_buffer(out))
    return pc.if_else(pa.array(missing), pa.scalar(None, pa.large_string()), edited) if missing.any() else edited


def span_values(edits: pa.ListArray) -> tuple[pa.StructArray, np.ndarray]:
    """All spans one after another, and how many each document has, int64 (n,)."""
    counts = pc.fill_null(pc.list_value_length(edits), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return edits.flatten(), counts


def span_lists(spans: pa.Table, first: int, rows: int) -> pa.ListArray:
    """The spans of the documents `first` to `first + rows` of a shard, from its table of EDITS. Shape (rows,)."""
    bounds = np.searchsorted(spans["row"].to_numpy(), np.arange(first, first + rows + 1))
    part = spans.slice(bounds[0], bounds[-1] - bounds[0]).combine_chunks()
    columns = [one_array(part[name]) for name, _ in _FIELDS]
    values = pa.StructArray.from_arrays(columns, fields=list(SPANS.value_type))
    return pa.ListArray.from_arrays(pa.array(bounds - bounds[0], pa.int32()), values).cast(SPANS)


def span_table(edits: pa.ListArray, first: int = 0) -> pa.Table:
    """A table of EDITS from the spans of documents, the first of which is row `first` of its shard."""
    flat, counts = span_values(edits)
    rows = pa.array(np.repeat(np.arange(first, first + len(counts)), counts), pa.uint32())
    return pa.table([rows, *(flat.field(name) for name, _ in _FIELDS)], schema=EDITS)


def edits_path(folder: Path, source: str, shard: str) -> Path:
    """Where a step keeps the spans that it has found in a shard."""
    return folder / "edits" / source / f"{shard}.parquet"


def edit_pool(context: Context, name: str, pool: StepOutput, spans: StepOutput) -> StepOutput:
    """Write the pool with its texts edited; the step `name` ("edit/web", "trim/web").

    `spans` is the step that found them, in files at `edits_path`; a shard without one is not edited. The pool
    written has the shards, rows and ids of the one given, which stays as it is. Counts: edited (documents), spans,
    bytes_in, bytes_out and, by rule, spans and bytes removed. Raises ValueError as `apply_edits`.
    """
    source = pool.source
    below = f"edits/{source}/"
    files = {path: entry["hash"] for path, entry in spans.record["files"].items() if path.startswith(below)}

    def work(build) -> None:
        units = {
            path.stem: (str(path), str(edits_path(spans.folder, source, path.stem))) for path in pool.shards()
        }
        results = list(build.map(edit_shard, units, "either").values())
        names = ("documents", "edited", "spans", "bytes_in", "bytes_out")
        totals = {name: sum(result[name] for result in results) for name in names}
        documents = totals.pop("documents")
        build.counts = {"documents_in": documents, "documents_out": documents, **totals}
        for kind in ("spans_by_rule", "removed_by_rule"):
            by_rule: Counter[str] = Counter()
            for result in results:
                by_rule.update(result[kind])
            build.counts[kind] = dict(sorted(by_rule.items()))

    inputs = {"pool": pool.content, "spans": json_hash(files)}
    # Who found them is told for `why`, which looks for the spans there.
    return step(context, name, VERSION, {"found_by": spans.name}, inputs, work)


def edit_shard(folder: Path, key: str, shard: str, spans: str) -> dict[str, Any]:
    """Write one shard, edited, to `folder/shards/<key>.parquet`; returns the counts of `edit_pool`."""
    table = pq.read_table(spans, schema=EDITS, use_threads=False) if Path(spans).exists() else EDITS.empty_table()
    counts = {"documents": 0, "bytes_in": 0, "bytes_out": 0, **span_counts(table)}
    with open_parquet(shard) as file, atomic(folder / "shards" / f"{key}.parquet") as temporary:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        mean = sum(group.total_byte_size for group in groups) / max(1, file.metadata.num_rows)
        rows = int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(1.0, mean))))
        if len(table) and int(table["row"][-1].as_py()) >= file.metadata.num_rows:
            raise ValueError(f"{spans}: spans of row {table['row'][-1]}, but {shard} has {file.metadata.num_rows}")
        with pq.ParquetWriter(temporary, DOCUMENT, compression="zstd") as writer:
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                documents = pa.Table.from_batches([batch])
                before = one_array(documents["text"])
                try:
                    after = apply_edits(before, span_lists(table, counts["documents"], len(documents)))
                except ValueError as error:
                    raise ValueError(f"{spans}, from row {counts['documents']} on: {error}") from None
                place = documents.schema.get_field_index("text")
                writer.write_table(documents.set_column(place, DOCUMENT.field("text"), after).cast(DOCUMENT))
                counts["documents"] += len(documents)
                counts["bytes_in"] += _bytes(before)
                counts["bytes_out"] += _bytes(after)
    return counts


def span_counts(spans: pa.Table) -> dict[str, Any]:
    """Of a table of EDITS: edited (documents), spans, and by rule spans and bytes removed less those put in."""
    removed = pc.subtract(spans["end"], spans["start"])
    removed = pc.subtract(removed, pc.binary_length(pc.fill_null(spans["replacement"], "")).cast(pa.int64()))
    grouped = pa.table({"rule": spans["rule"], "removed": removed}).group_by("rule")
    by_rule = grouped.aggregate([("removed", "count"), ("removed", "sum")]).to_pylist()
    return {
        "edited": len(pc.unique(spans["row"])),
        "spans": len(spans),
        "spans_by_rule": {row["rule"]: row["removed_count"] for row in by_rule},
        "removed_by_rule": {row["rule"]: row["removed_sum"] for row in by_rule},
    }


def _bytes(texts: pa.LargeStringArray) -> int:
    return int(pc.sum(pc.binary_length(texts)).as_py() or 0)


@njit(nogil=True)
def cuts_character(data, start, at, end):
    """Whether byte `at` of the text that lies from `start` to `end` is within a character, not at its bounds."""
    if at <= start or at >= end or data[at] & 0xC0 != 0x80:
        return False
    for back in range(1, 4):
        if at - back < start:
            return False
        if data[at - back] & 0xC0 != 0x80:
            _, following = decode(data, at - back, end)
            return following > at
    return False


@njit(nogil=True, cache=True)
def _edited_lengths(data, offsets, first, starts, ends, new_offsets, lengths):
    """Fill in the bytes of each edited text. Returns the first span that does not fit, or -1."""
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        size, done = end - begin, 0
        lengths[row] = size
        for span in range(first[row], first[row + 1]):
            start, stop = starts[span], ends[span]
            if start < done or stop < start or stop > size:
                return span
            if cuts_character(data, begin, begin + start, end) or cuts_character(data, begin, begin + stop, end):
                return span
            lengths[row] += new_offsets[span + 1] - new_offsets[span] - (stop - start)
            done = stop
    return -1


@njit(nogil=True, cache=True)
def _copy_edited(data, offsets, first, starts, ends, new_data, new_offsets, places, out):
    for row in range(len(offsets) - 1):
        begin, at, place = offsets[row], offsets[row], places[row]
        for span in range(first[row], first[row + 1]):
            kept = begin + starts[span] - at
            out[place : place + kept] = data[at : at + kept]
            place += kept
            put = new_offsets[span + 1] - new_offsets[span]
            out[place : place + put] = new_data[new_offsets[span] : new_offsets[span + 1]]
            place += put
            at = begin + ends[span]
        rest = offsets[row + 1] - at
        out[place : place + rest] = data[at : at + rest]
