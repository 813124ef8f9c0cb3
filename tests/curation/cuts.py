"""What the tests of substring and line deduplication share: pools in shards, and the texts after the cuts."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from curation.edits import edits_path
from curation.ledger import ledger_path
from curation.steps import Context, StepOutput, step
from tests.conftest import documents_table


def pool_of(context: Context, source: str, texts: list[str], shards: int = 1) -> StepOutput:
    """A pool whose texts are dealt to its shards in turn."""

    def work(build):
        table = documents_table(source, texts)
        for number in range(shards):
            part = table.take(np.arange(number, len(table), shards))
            build.write_table(f"shards/{source}-{number}.parquet", part)

    return step(context, f"ingest/{source}", 1, {"texts": texts, "shards": shards}, {}, work)


def outcome(pools: dict[str, StepOutput], output: StepOutput) -> dict[tuple[str, str], str | None]:
    """The text of each document after the cuts, None where it was dropped, by source and text before."""
    result = {}
    for source, pool in pools.items():
        for path in pool.shards():
            texts = pq.read_table(path, columns=["text"])["text"].to_pylist()
            ledger = pq.read_table(ledger_path(output.folder, source, path.stem)).to_pylist()
            spans = pq.read_table(edits_path(output.folder, source, path.stem)).to_pylist()
            for row, text in enumerate(texts):
                raw = text.encode()
                for span in reversed([span for span in spans if span["row"] == row]):
                    raw = raw[: span["start"]] + raw[span["end"] :]
                result[source, text] = raw.decode() if ledger[row]["keep"] else None
    return result
