"""What changed between two manifests: documents that came, went, or have another number of copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from curation.mix.manifest import Manifest

KEY = ["source", "id", "transform"]
CHANGES = ("came", "went", "copies", "same")


@dataclass(frozen=True)
class Diff:
    """`counts`: a line for each source. `documents`: what changed, by source, change and id."""

    counts: list[dict[str, Any]]  # source; came, went, copies, same: documents; tokens: after less before
    documents: pa.Table  # source, id, transform, change, copies_before, copies_after, tokens (after less before)


def diff(before: Manifest, after: Manifest) -> Diff:
    """Compare two manifests by document; a document that lies on other rows or buckets is the same document."""
    both = _documents(before, "before").join(_documents(after, "after"), on=KEY, how="full", coalesce=True)
    both = both.fill_null(0).with_columns(
        tokens=pl.col("tokens_after") - pl.col("tokens_before"),
        change=pl.when(pl.col("copies_before") == 0)
        .then(pl.lit("came"))
        .when(pl.col("copies_after") == 0)
        .then(pl.lit("went"))
        .when(pl.col("copies_before") != pl.col("copies_after"))
        .then(pl.lit("copies"))
        .otherwise(pl.lit("same")),
    )
    counts = both.group_by("source").agg(
        *((pl.col("change") == change).sum().cast(pl.Int64).alias(change) for change in CHANGES),
        pl.col("tokens").sum(),
    )
    changed = both.filter(pl.col("change") != "same").sort("source", "change", "id", "transform")
    columns = [*KEY, "change", "copies_before", "copies_after", "tokens"]
    return Diff(counts.sort("source").to_dicts(), changed.select(columns).to_arrow())


def _documents(manifest: Manifest, side: str) -> pl.DataFrame:
    copies, tokens = pl.col("copies").cast(pl.Int64), pl.col("tokens").cast(pl.Int64)
    return (
        pl.from_arrow(manifest.rows())
        .group_by(KEY)
        .agg(copies.sum().alias(f"copies_{side}"), (copies * tokens).sum().alias(f"tokens_{side}"))
    )
