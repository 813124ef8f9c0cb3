"""The step `read/<source>`: what deduplication needs of every record, and nothing else, in one pass.

Each piece of a file becomes a shard that is both pool and measurement: ids, hashes, signatures, and the place of
the record in its file, where its text stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curation.dedup.minhash import signatures
from curation.dedup.pieces import Piece, pieces
from curation.dedup.records import Fields, read_records
from curation.dedup.reference import reference_metadata
from curation.dedup.scheme import Scheme
from curation.files import atomic, json_hash, read_parquet, write_parquet
from curation.measure.utf8 import text_buffers
from curation.read.record import SAMPLE, Limits, Problem
from curation.schema import QUARANTINE
from curation.shards import in_order
from curation.steps import Build, Context, StepOutput, step

VERSION = 2


def shard_schema(scheme: Scheme | None, valued: bool = False) -> pa.Schema:
    """The columns of a shard. `id` and `content_hash` are XXH3-128 of the text: equal texts have equal ids, and
    `origin` (the record's own id where a field is named, else file@offset) tells them apart. `value`: what exact
    deduplication compares, where a field is named for it."""
    # As bytes: lists of numbers take Parquet ten times as long.
    signature = pa.binary(scheme.permutations * np.dtype(scheme.dtype).itemsize) if scheme else pa.null()
    return pa.schema(
        [
            ("id", pa.string()),
            ("origin", pa.string()),
            ("created", pa.string()),
            ("score", pa.float64()),
            ("offset", pa.int64()),
            ("length", pa.int64()),
            ("bytes", pa.uint64()),
            ("content_hash", pa.string()),
            ("minhash", signature),
            *([("value", pa.string())] if valued else []),
        ]
    )


def read(
    ctx: Context, source: str, files: list[Path], fields: Fields, limits: Limits, scheme: Scheme | None
) -> StepOutput:
    """Read a source's files into `shards/<piece>.parquet` (`shard_schema`) and `quarantine.parquet`.

    Counts: documents_in, documents_out, bytes, quarantined. The step is named by names, sizes and times of change
    of the files: they are not read to be compared.
    """
    parts = [piece for path in files for piece in pieces(path)]
    config = {
        "minhash": scheme.model_dump(mode="json") if scheme else None,
        "fields": fields.model_dump(mode="json"),
        "limits": [limits.document_bytes, limits.file_bytes, limits.ratio],
    }

    def work(build: Build) -> None:
        threads = ctx.executor.threads(len(parts))
        keys = [f"{at:06d}" for at in range(len(parts))]
        units = {
            key: (source, piece, fields, limits, scheme, threads) for key, piece in zip(keys, parts, strict=True)
        }
        results = build.map(read_unit, units, "threads").values()
        totals = {name: sum(result[name] for result in results) for name in ("documents", "bytes", "quarantined")}
        problems = [read_parquet(build.folder / "problems" / f"{key}.parquet") for key in keys]
        build.write_table("quarantine.parquet", pa.concat_tables(problems))
        read = totals["documents"] + totals["quarantined"]
        build.counts = {
            "documents_in": read,
            "documents_out": totals.pop("documents"),
            "files": len(files),
        } | totals
        if totals["quarantined"]:
            build.alarm(f"{totals['quarantined']} of {read} records of '{source}' cannot be read")

    listing = json_hash([[piece.name, piece.start, piece.stop, piece.stamp] for piece in parts])
    return step(ctx, f"read/{source}", VERSION, config, {"files": listing}, work)


def read_unit(
    folder: Path,
    key: str,
    source: str,
    piece: Piece,
    fields: Fields,
    limits: Limits,
    scheme: Scheme | None,
    threads: int,
) -> dict[str, int]:
    """Read one piece into `shards/<key>.parquet` and `problems/<key>.parquet`; returns its counts."""
    totals = {"documents": 0, "bytes": 0, "quarantined": 0}
    problems: list[dict[str, object]] = []

    def tables() -> Iterator[pa.Table]:
        for item in read_records(piece, fields, limits):
            if isinstance(item, Problem):
                problems.append(_problem_row(source, piece, item))
            elif len(item):
                yield item

    schema = shard_schema(scheme, fields.value is not None).with_metadata(
        reference_metadata(piece, fields, limits)
    )
    packed = {name: "NONE" if name == "minhash" else "ZSTD" for name in schema.names}
    with atomic(folder / "shards" / f"{key}.parquet") as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression=packed, use_dictionary=False) as writer:
            for table in in_order(lambda item: measured(item, piece.name, schema, scheme), tables(), threads):
                totals["documents"] += len(table)
                totals["bytes"] += pc.sum(table["bytes"]).as_py()
                writer.write_table(table)
    totals["quarantined"] = len(problems)
    write_parquet(folder / "problems" / f"{key}.parquet", pa.Table.from_pylist(problems, schema=QUARANTINE))
    return totals


def measured(records: pa.Table, name: str, schema: pa.Schema, scheme: Scheme | None) -> pa.Table:
    """A table RECORD as rows of a shard. A row depends on no other."""
    texts = records["text"].combine_chunks()
    data, offsets = text_buffers(texts)
    view, places = memoryview(data), offsets.tolist()
    hashes = pa.array([xxhash.xxh3_128_hexdigest(view[a:b]) for a, b in pairwise(places)], pa.string())
    place = pc.binary_join_element_wise(name, pc.cast(records["offset"], pa.string()), "@")
    columns = {
        "id": hashes,
        "origin": pc.coalesce(records["key"], place),
        **{column: records[column] for column in ("created", "score", "offset", "length")},
        "bytes": pa.array(np.diff(offsets).astype(np.uint64)),
        "content_hash": hashes,
        "minhash": pa.nulls(len(texts)),
        "value": records["value"],
    }
    if scheme:
        rows, signed = signatures(texts, scheme)
        valid = pa.array(signed).buffers()[1]
        columns["minhash"] = pa.Array.from_buffers(
            schema.field("minhash").type, len(rows), [valid, pa.py_buffer(rows)]
        )
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _problem_row(source: str, piece: Piece, problem: Problem) -> dict[str, object]:
    return {
        "source": source,
        "origin": f"{piece.name}@{problem.place}",
        "offset": problem.offset,
        "error": problem.error[:2000].encode("utf-8", "backslashreplace").decode(),
        "sample": problem.sample[: 4 * SAMPLE].decode("utf-8", "backslashreplace")[:SAMPLE],
    }
