"""The quality classifier on documents it has not seen, and its scores cut into vigintiles."""

from __future__ import annotations

from typing import Any

import polars as pl

from flows.report.reading import by_source, read_optional
from flows.run import Run


def quality(run: Run) -> dict[str, Any] | None:
    """The view: precision, recall, AUC, the worst mistakes; the vigintile table. None without a classifier."""
    report = read_optional(run.step("classifier/quality"), "report.json")
    tables = vigintiles(run)
    if report is None and not tables:
        return None
    return {"report": report, "vigintiles": tables}


def vigintiles(run: Run) -> list[dict[str, Any]]:
    """By scored source: documents, tokens and the range of scores of each vigintile, from the catalogs."""
    found = []
    for source, output in by_source(run, "catalog/").items():
        rows = (
            pl.scan_parquet(output.folder / "catalog.parquet")
            .filter(pl.col("vigintile").is_not_null())
            .group_by("vigintile")
            .agg(
                documents=pl.len(),
                tokens=pl.col("tokens").cast(pl.Int64).sum(),
                lowest=pl.col("quality").min(),
                highest=pl.col("quality").max(),
            )
            .sort("vigintile")
            .collect()
            .to_dicts()
        )
        if rows:
            found.append({"source": source, "rows": rows})
    return found
