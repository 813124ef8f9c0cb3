"""A mix as rendered text, in Parquet or JSON lines that `datasets.load_dataset(FOLDER)` reads.

A row for each occurrence, in the global order: id, source, tokens, and text, or messages, or prompt, chosen and
rejected (and margin, where the mix has one). Text is what the trainer sees, end-of-text apart: of a document that
the mix cuts its first tokens, of a rearranged one with its tokens spelled out.

Pools are read once, shard by shard, into a file for each part and shard; a part is those files, sorted.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.chat import ROLES, Segments
from curation.encoder import Encoder, load_encoder
from curation.executor import Executor
from curation.export import Form, spool
from curation.files import atomic, write_bytes, write_parquet
from curation.materialise import PAIR, are_pairs, by_shard, rendered_rows, require_same_inputs
from curation.mix.manifest import require_verified
from curation.preference.margin import margin_of, margins
from curation.schema import MESSAGES
from curation.steps import StepOutput

SUFFIX = {"parquet": ".parquet", "jsonl": ".jsonl"}
GUESSED_BYTES = 4  # of a token: parts are cut before anything is rendered
ROWS_AT_ONCE = 4096
SHARED = [("place", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("tokens", pa.int64())]


def rendered_text(
    manifest: StepOutput, pools: dict[str, StepOutput], tokenizer: StepOutput, name: str, part_bytes: int
) -> Form:
    """The form `name`, parquet or jsonl. Raises ManifestError, ValueError as `materialise` does."""
    mix = require_verified(manifest.folder)
    require_same_inputs(mix, pools, tokenizer)
    return RenderedText(mix, tokenizer, name, part_bytes, pools)


class RenderedText(Form):
    """Parts are cut by tokens, about `part_bytes` of text each. One part is in memory for each worker."""

    def __init__(self, mix, tokenizer: StepOutput, name: str, part_bytes: int, pools: dict[str, StepOutput]):
        super().__init__(mix, tokenizer, name, part_bytes)
        self.pools, self.rows = pools, mix.rows()
        self.pairs = are_pairs(self.rows, mix.folder)
        tokens = self.rows["tokens"].to_numpy().astype(np.int64)
        copies = self.rows["copies"].to_numpy().astype(np.int64)
        self.lay_out(self.rows["order"].to_numpy(), copies, tokens * GUESSED_BYTES)
        self.fields = _fields(set(self.rows["transform"].unique().to_pylist()))

    def files(self, part: int) -> list[str]:
        # Of this pattern, and in this folder, `datasets` takes nothing else in the export for data.
        return [f"data/train-{part:05d}-of-{self.parts:05d}{SUFFIX[self.name]}"]

    def prepare(self, folder: Path, scratch: Path, executor: Executor) -> None:
        part_of = np.repeat(np.arange(self.parts), np.diff(self.cuts))
        once = np.unique(self.row * self.parts + part_of)  # copies that lie in one part need it once
        wanted = np.stack(np.divmod(once, self.parts), 1)  # (row, part), sorted by row
        done = scratch / "shards"
        units = [
            (scratch, key, str(path), str(self.tokenizer.folder), rows, wanted, self.fields)
            for key, path, rows in by_shard(self.rows, np.zeros(len(self.rows), np.int64), self.pools)
            if not (done / key).is_file()
        ]
        for _ in executor.map(spool_shard, units, "threads"):
            pass

    def write(self, folder: Path, scratch: Path, part: int) -> dict[str, int]:
        pieces = sorted(spool(scratch, part).glob("*.parquet"))
        table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in pieces)
        place = table["place"].to_numpy()
        order = np.argsort(place)
        found = order[np.searchsorted(place[order], self.rows_of(part))]
        path = folder / self.files(part)[0]
        documents = tokens = 0
        with atomic(path) as temporary, open(temporary, "wb") as file:
            writer = None
            for first in range(0, len(found), ROWS_AT_ONCE):
                rows = table.take(pa.array(found[first : first + ROWS_AT_ONCE])).drop_columns("place")
                documents, tokens = documents + len(rows), tokens + int(np.sum(rows["tokens"].to_numpy()))
                if self.name == "jsonl":
                    for row in rows.to_pylist():
                        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                else:
                    writer = writer or pq.ParquetWriter(file, rows.schema, compression="zstd")
                    writer.write_table(rows)
            if writer is not None:
                writer.close()
        return {"documents": documents, "tokens": tokens, "bytes": path.stat().st_size}


def spool_shard(
    scratch: Path, key: str, shard: str, tokenizer: str, rows: pa.Table, wanted: np.ndarray, fields: list
) -> None:
    """Render the documents of one shard, each into a file of every part that holds it; then say it is done."""
    encoder = load_encoder(Path(tokenizer))
    schema = pa.schema([*SHARED, *fields])
    tables = []
    for chosen, documents, rendered, encoded in rendered_rows(shard, encoder, rows):
        transform = chosen["transform"][0].as_py()
        columns = _columns(transform, documents, rendered, encoder) | {
            "place": chosen["place"],
            "id": chosen["id"],
            "source": chosen["source"],
            "tokens": pa.array(encoded.lengths),
        }
        nothing = pa.nulls(len(chosen))
        tables.append(pa.table([columns.get(name, nothing) for name in schema.names], schema.names).cast(schema))
    table = pa.concat_tables(tables)
    place = table["place"].to_numpy()
    first, last = (np.searchsorted(wanted[:, 0], place, side) for side in ("left", "right"))
    times = last - first
    number = np.repeat(np.arange(len(place)), times)
    part = wanted[np.repeat(first - np.cumsum(times) + times, times) + np.arange(len(number)), 1]
    for one in np.unique(part).tolist():
        write_parquet(spool(scratch, one) / f"{key}.parquet", table.take(pa.array(number[part == one])), 4096)
    write_bytes(scratch / "shards" / key, b"")


def _fields(transforms: set[str]) -> list[tuple[str, pa.DataType]]:
    """The columns beside SHARED that documents of these transforms fill."""
    if any(_is_pair(transform) for transform in transforms):
        fields = [(name, MESSAGES) for name in ("prompt", "chosen", "rejected")]
        known = any(margin_of(transform) is not None for transform in transforms)
        return [*fields, ("margin", pa.float32())] if known else fields
    fields = [("text", pa.large_string())] if transforms - {"chat"} else []
    return [*fields, ("messages", MESSAGES)] if "chat" in transforms else fields


def _is_pair(transform: str) -> bool:
    return transform.partition(" ")[0] == PAIR


def _columns(transform: str, documents: pa.Table, rendered: Segments, encoder: Encoder) -> dict:
    if _is_pair(transform):
        columns = {"prompt": _turns(documents["messages"])}
        columns |= {name: _turns(documents[name]) for name in ("chosen", "rejected")}
        margin = margin_of(transform)
        return columns if margin is None else columns | {"margin": margins(documents, margin)}
    if transform == "chat":
        return {"messages": _turns(documents["messages"])}
    return {"text": pa.array(texts(rendered, encoder), pa.large_string())}


def _turns(conversations: pa.ChunkedArray) -> pa.Array:
    """Messages under the names of our turns, whatever their source calls them: what chat templates take."""
    turns = [
        [{"role": ROLES[message["role"]], "content": message["content"]} for message in messages]
        for messages in conversations.to_pylist()
    ]
    return pa.array(turns, MESSAGES)


def texts(rendered: Segments, encoder: Encoder) -> list[str]:
    """The text of each document, its special tokens spelled out, without the end-of-text token."""

    def spelled(number: int) -> str:
        return "" if number in (-1, encoder.specials.end_of_text) else encoder.reference.id_to_token(number)

    pieces = [
        spelled(opening) + content + spelled(closing)
        for opening, content, closing in zip(
            rendered.opening.tolist(), rendered.contents.to_pylist(), rendered.closing.tolist(), strict=True
        )
    ]
    starts = rendered.starts.tolist()
    return ["".join(pieces[a:b]) for a, b in itertools.pairwise(starts)]
