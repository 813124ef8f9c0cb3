"""Fixtures shared by all tests: a workspace in a temporary folder and pools made from literals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings

from curation.schema import DOCUMENT, document_id
from curation.steps import Context, StepOutput, step

os.environ.pop("COLUMNS", None)  # pytest-xdist's: what a command writes would depend on who runs the tests

# No test pulls a plug, and a kill loses nothing that was written: to wait for the disk would prove nothing, and
# was more than half of what many tests took. Commands that tests start as processes of their own do wait for it.
os.fsync = lambda handle: None

# Continuous integration judges a change by the same examples each time; elsewhere every run looks at new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path / "workspace")


def documents_table(source: str, documents: list[str | dict]) -> pa.Table:
    """DOCUMENT rows from texts, or from mappings with messages / chosen / rejected."""
    rows = []
    for place, document in enumerate(documents):
        if isinstance(document, str):
            document = {"text": document}
        content = document.get("text") or json.dumps(document, sort_keys=True)
        row = {"source": source, "id": document_id(source, content.encode("utf-8", "surrogatepass"))}
        rows.append(row | {"origin": f"literal#{place}", "metadata": "{}"} | document)
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


@pytest.fixture
def make_pool(context: Context):
    """A function (source, documents, shards=1) -> the StepOutput of an `ingest/<source>` step."""

    def make(source: str, documents: list[str | dict], shards: int = 1) -> StepOutput:
        def work(build):
            table = documents_table(source, documents)
            size = -(-len(table) // shards)
            for number in range(shards):
                part = table.slice(number * size, size)
                build.write_table(f"shards/{source}-{number:05d}.parquet", part)
            build.counts = {"documents_in": len(table), "documents_out": len(table)}

        return step(context, f"ingest/{source}", 1, {"documents": documents, "shards": shards}, {}, work)

    return make
