"""The table that Llama 2 gives of its preference data, for any set of pairs.

Comparisons; turns of a dialogue; tokens of an example, of a prompt, of a response. An example is a prompt and one
of its two answers, so a comparison is two examples. A turn is a user's and the answer to it; prompt and response
are the mean user's and the mean assistant's turn, not what comes before the last answer: only so do the token
columns of the published table fit together (Anthropic Harmless: 152.5, 15.7 and 46.4), and so they come out on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import read_parquet
from curation.preference.facts import FACTS
from curation.steps import StepOutput

COLUMNS = ["tokens", *FACTS.names]
SUMMED = ("tokens", "user_turns", "user_tokens", "assistant_turns", "assistant_tokens")
Statistics = dict[str, Any]


def statistics(tokens: dict[str, StepOutput], rows: pa.Table, pooled: str = "total") -> list[Statistics]:
    """A line for each source of pairs in `rows` (columns source, shard, row, copies), and one for all, `pooled`.

    `tokens`: the steps `tokens/<source>`. Comparisons count copies. Sources of other kinds are left out.
    """
    frames = []
    for (source,), of_source in (
        pl.from_arrow(rows).sort("source", "shard", "row").group_by("source", maintain_order=True)
    ):
        if source in tokens:
            frames += _facts(tokens[source], source, of_source)
    if not frames:
        return []
    facts = pl.concat(frames)
    lines = [_line(source, facts.filter(pl.col("source") == source)) for source in facts["source"].unique().sort()]
    return [*lines, _line(pooled, facts)]


def _facts(tokens: StepOutput, source: str, rows: pl.DataFrame) -> Iterable[pl.DataFrame]:
    for (shard,), here in rows.group_by("shard", maintain_order=True):
        path = tokens.folder / "shards" / f"{shard}.parquet"
        if FACTS.names[0] not in pq.read_schema(path).names:
            return
        table = pl.from_arrow(read_parquet(path, COLUMNS))
        yield table[here["row"].to_numpy().astype(np.int64)].with_columns(
            source=pl.lit(source), copies=here["copies"]
        )


def _line(name: str, facts: pl.DataFrame) -> Statistics:
    copies = facts["copies"].cast(pl.Int64)
    sums = {column: int((facts[column].cast(pl.Int64) * copies).sum()) for column in SUMMED}
    comparisons = int(copies.sum())
    chosen, rejected = facts["chosen_tokens"].cast(pl.Int64), facts["rejected_tokens"].cast(pl.Int64)
    longer = int((copies * (chosen > rejected)).sum())
    return {
        "source": name,
        "comparisons": comparisons,
        "prompts": facts["prompt"].n_unique(),
        "turns": sums["assistant_turns"] / (2 * comparisons),
        "tokens_example": sums["tokens"] / (2 * comparisons),
        "tokens_prompt": sums["user_tokens"] / max(1, sums["user_turns"]),
        "tokens_response": sums["assistant_tokens"] / max(1, sums["assistant_turns"]),
        "chosen_longer": longer / comparisons,
        "length_difference": int((copies * (chosen - rejected).abs()).sum()) / comparisons,
    }
