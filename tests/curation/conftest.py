"""Stations in small: pools from literals, measurements of the columns that later stations read, ledgers."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from curation.catalog import catalog
from curation.chat import KIND_TRANSFORM
from curation.executor import LocalExecutor
from curation.ingest import Source
from curation.ledger import write_ledger
from curation.measure.render import rendered_text
from curation.mix.manifest import MANIFEST, write_manifest
from curation.schema import DOCUMENT, document_id
from curation.steps import Context, StepOutput, step
from curation.tokens import Tokenizer, count_tokens, train_tokenizer


class Stations:
    """One workspace, its pools and what the stations before the tested one would have made of them."""

    def __init__(self, folder: Path, workers: int = 1):
        engine = "inline" if workers == 1 else "local"
        self.ctx = Context(folder, executor=LocalExecutor(workers, engine))
        self.pools: dict[str, StepOutput] = {}
        self.measured: dict[str, StepOutput] = {}
        self.kinds: dict[str, str] = {}

    def pool(
        self, source: str, documents: list, shards: int = 1, metadata: list[dict] | None = None
    ) -> StepOutput:
        """A text is a str, a chat a list of (role, content), a pair a tuple of three such lists."""
        table = _documents(source, documents)
        if metadata is not None:
            place = table.schema.get_field_index("metadata")
            table = table.set_column(place, "metadata", pa.array([json.dumps(one) for one in metadata]))
        kind = {str: "text", list: "chat", tuple: "pairs"}[type(documents[0])]

        def ingest(build):
            size = -(-len(table) // shards)
            for number in range(shards):
                build.write_table(f"shards/{source}-{number:05d}.parquet", table.slice(number * size, size))

        def measure(build):
            for path in self.pools[source].shards():
                build.write_table(f"shards/{path.name}", _measurements(pq.read_table(path)))

        content = xxhash.xxh3_64_hexdigest(repr((documents, metadata)).encode("utf-8", "surrogatepass"))
        self.kinds[source] = kind
        self.pools[source] = step(
            self.ctx, f"ingest/{source}", 1, {"content": content, "shards": shards}, {}, ingest
        )
        inputs = {"pool": self.pools[source].content}
        self.measured[source] = step(self.ctx, f"measure/{source}", 1, {}, inputs, measure)
        return self.pools[source]

    def drop(self, source: str, wanted) -> StepOutput:
        """A ledger dropping the documents of a source whose (only) text satisfies `wanted`."""

        def work(build):
            for path in self.pools[source].shards():
                table = pq.read_table(path)
                keep = np.array([not wanted(text) for text in rendered_text(table).to_pylist()], bool)
                rows, ids = np.arange(len(table)), table["id"].combine_chunks()
                write_ledger(build.folder, source, path.stem, stage="rules", ids=ids, rows=rows, keep=keep)

        return step(self.ctx, f"rules/{source}", 1, {}, {"pool": self.pools[source].content}, work)

    def tokenizer(self, vocab_size: int = 400, ledgers: tuple = (), **settings) -> StepOutput:
        config = Tokenizer(vocab_size=vocab_size, **settings)
        return train_tokenizer(self.ctx, self.pools, self.measured, list(ledgers), config)

    def catalog(self, source: str, tokenizer: StepOutput, holdout: float = 0.0, ledgers: tuple = ()) -> StepOutput:
        described = Source.model_construct(name=source, kind=self.kinds[source], holdout=holdout)
        tokens = count_tokens(self.ctx, self.pools[source], tokenizer)
        measured = self.measured[source]
        return catalog(self.ctx, described, self.pools[source], measured, list(ledgers), tokens, None, 7)

    def mix(
        self, name: str, tokenizer: StepOutput, change=lambda rows: rows, **transforms: str | None
    ) -> StepOutput:
        """A manifest of everything in the named sources; `transforms` maps a source to one, None = by kind."""
        catalogs = {source: self.catalog(source, tokenizer) for source in transforms}
        rows = change(pa.concat_tables(self._rows(one, transforms) for one in catalogs.values()))

        def work(build):
            head = {"kind": "pretrain", "name": name, "recipe": "lines: []\n", "seed": 7, "parents": {}}
            head |= {"tokenizer_hash": tokenizer.content}
            head |= {"pools": {source: self.pools[source].content for source in catalogs}}
            head |= {"catalogs": {source: one.content for source, one in catalogs.items()}}
            write_manifest(build.folder, rows, head)

        config = {"rows": xxhash.xxh3_64_hexdigest(repr(rows.to_pylist()).encode())}
        return step(self.ctx, f"mix/{name}", 1, config, {"tokenizer": tokenizer.content}, work)

    def _rows(self, output: StepOutput, transforms: dict[str, str | None]) -> pa.Table:
        rows = []
        for line in pq.read_table(output.folder / "catalog.parquet").to_pylist():
            transform = transforms[line["source"]] or KIND_TRANSFORM[line["kind"]]
            tokens = line["tokens_plain"] if transform == "chat_plain" else line["tokens"]
            row = {name: line[name] for name in ("id", "source", "shard", "row")}
            order = int(line["id"][:16], 16)
            rows.append(
                row | {"bucket": "all", "tokens": tokens, "copies": 1, "transform": transform, "order": order}
            )
        return pa.Table.from_pylist(rows, schema=MANIFEST)


def _documents(source: str, documents: list) -> pa.Table:
    rows = []
    for document in documents:
        row = {"source": source, "origin": "literal", "metadata": "{}"}
        if isinstance(document, str):
            row |= {"text": document}
        else:
            parts = document if isinstance(document, tuple) else (document,)
            turns = [[{"role": role, "content": content} for role, content in part] for part in parts]
            row |= dict(zip(("messages", "chosen", "rejected"), turns, strict=False))
        content = document if isinstance(document, str) else repr(document)
        rows.append(row | {"id": document_id(source, content.encode("utf-8", "surrogatepass"))})
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


def _measurements(table: pa.Table) -> pa.Table:
    texts = [text.encode() for text in rendered_text(table).to_pylist()]
    prompts = [
        document["messages"][0]["content"].encode() if document["messages"] else text
        for document, text in zip(table.to_pylist(), texts, strict=True)
    ]
    return pa.table(
        {
            "id": table["id"],
            "group_hash": pa.array([xxhash.xxh3_128_hexdigest(prompt) for prompt in prompts], pa.string()),
            "bytes": pa.array([len(text) for text in texts], pa.uint64()),
            "language": pa.repeat(pa.scalar("en"), len(table)),
            "gzip_ratio": pa.array([len(gzip.compress(text)) / len(text) if text else None for text in texts]),
        }
    )


@pytest.fixture
def make_stations(tmp_path):
    """A function (name, workers=1) -> Stations in a workspace of its own."""
    made = []

    def make(name: str = "workspace", workers: int = 1) -> Stations:
        made.append(Stations(tmp_path / name, workers))
        return made[-1]

    yield make
    for stations in made:
        stations.ctx.executor.close()


@pytest.fixture
def stations(make_stations) -> Stations:
    return make_stations()


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """Real English and Python to learn merges from, and texts that are hard to cut."""
    texts = [sys.modules[name].__doc__ or "" for name in ("json", "random", "argparse", "threading", "string")]
    texts += [Path(sys.modules[name].__file__).read_text() for name in ("json", "string", "random")]
    return [*texts, "naïve café — 日本語 🎉\r\n\r\n\tend  ", "row ends here<|endoftext|>", " "]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, prose) -> StepOutput:
    """A small tokenizer, trained once."""
    stations = Stations(tmp_path_factory.mktemp("tokenizer"))
    stations.pool("prose", prose)
    return stations.tokenizer(vocab_size=700)
