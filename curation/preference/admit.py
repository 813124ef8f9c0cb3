"""Which pairs a preference mix may take: few of one prompt, none whose answers differ too much in length, and none
whose prompt one of its sources holds out.

Pairs are judged over all sources of the mix at once. Of a prompt with too many those stay that come first by keyed
hash, so that the order of files changes nothing and a new prompt moves no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from curation.config import Count, Strict
from curation.keys import key_of, keyed_hash
from curation.preference.facts import IN_CATALOG


class Pairs(Strict):
    """The settings `pairs` of a preference recipe."""

    per_prompt: int | None = Field(None, ge=1)  # pairs of one prompt; 1: every prompt once
    max_length_difference: Count | None = Field(None, ge=0)  # tokens between the two answers

    @model_validator(mode="after")
    def _says_something(self) -> Pairs:
        if self.per_prompt is None and self.max_length_difference is None:
            raise ValueError("pairs: give per_prompt or max_length_difference")
        return self


def admitted(
    catalogs: Mapping[str, Path | pa.Table], sources: list[str], pairs: Pairs | None, seed: int
) -> tuple[dict[str, Path | pa.Table], list[str]]:
    """The catalogs, those of `sources` with the admitted pairs alone, and a note on what was left out of each.

    `pairs`: None where the recipe says nothing. Then only held-out prompts count, and a catalog that does not know
    its prompts is left as it is; else it is a ValueError.
    """
    unknown = [source for source in sources if f"{IN_CATALOG}prompt" not in _names(catalogs[source])]
    if unknown and pairs is not None:
        raise ValueError(f"pairs: source '{unknown[0]}' holds no pairs")
    pairs = pairs or Pairs.model_construct()
    tables = {source: _table(catalogs[source]) for source in sources if source not in unknown}
    frames = [
        pl.from_arrow(table.select(["id", "holdout", "tokens", *_FACTS])).with_columns(
            source=pl.lit(source), hash=pl.Series(keyed_hash(table["id"], key_of(seed, "pairs")), dtype=pl.UInt64)
        )
        for source, table in tables.items()
    ]
    rows = pl.concat(frames) if frames else pl.DataFrame(schema={"source": pl.String})
    if not len(rows):
        return dict(catalogs), []
    prompt = pl.col(f"{IN_CATALOG}prompt")
    held = rows.filter("holdout")[f"{IN_CATALOG}prompt"]
    rows = rows.with_columns(open=~pl.col("holdout") & (pl.col("tokens") > 0), known=prompt.is_in(held.implode()))
    chosen, rejected = (pl.col(f"{IN_CATALOG}{name}_tokens").cast(pl.Int64) for name in ("chosen", "rejected"))
    most = pairs.max_length_difference
    rows = rows.with_columns(long=(chosen - rejected).abs() > most if most is not None else pl.lit(False))
    rows = rows.with_columns(left=pl.col("open") & ~pl.col("known") & ~pl.col("long"))
    place = pl.int_range(pl.len()).over(f"{IN_CATALOG}prompt", order_by=["hash", "id", "source"])
    over = (place >= pairs.per_prompt) if pairs.per_prompt is not None else pl.lit(False)
    rows = rows.with_row_index("at")
    rows = pl.concat(
        [rows.filter("left").with_columns(over=over), rows.filter(~pl.col("left")).with_columns(over=False)]
    )
    rows = rows.sort("at")
    kept = rows["left"].to_numpy() & ~rows["over"].to_numpy()
    made, notes, start = dict(catalogs), [], 0
    for source, table in tables.items():
        here = rows[start : start + len(table)]
        # What is held out stays in the catalog: selection passes it over, and the account counts it nowhere.
        made[source] = table.filter(pa.array(kept[start : start + len(table)] | ~here["open"].to_numpy()))
        notes += _notes(source, here, pairs)
        start += len(table)
    return made, notes


_FACTS = [f"{IN_CATALOG}{name}" for name in ("prompt", "chosen_tokens", "rejected_tokens")]


def _names(found: Path | pa.Table) -> list[str]:
    return found.column_names if isinstance(found, pa.Table) else pq.read_schema(found).names


def _table(found: Path | pa.Table) -> pa.Table:
    return found if isinstance(found, pa.Table) else pq.read_table(found, partitioning=None)


def _notes(source: str, rows: pl.DataFrame, pairs: Pairs) -> list[str]:
    open_rows = rows.filter("open")
    counts = {
        "with a prompt that is held out": int(open_rows["known"].sum()),
        f"over {pairs.max_length_difference} tokens apart": int((open_rows["long"] & ~open_rows["known"]).sum()),
        f"above {pairs.per_prompt} of their prompt": int(open_rows["over"].sum()),
    }
    said = [f"{count:,} {what}" for what, count in counts.items() if count]
    return [f"{source}: of {len(open_rows):,} pairs left out: {', '.join(said)}"] if said else []
