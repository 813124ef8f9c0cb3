"""The classifiers on documents they have not seen, and the scores of quality cut into vigintiles per topic."""

from __future__ import annotations

from typing import Any

import polars as pl

from flows.report.reading import by_source, read_optional
from flows.run import Run


def quality(run: Run) -> dict[str, Any] | None:
    """The view: of each trained classifier its figures and worst mistakes; the vigintile tables. None without."""
    reports = [
        {"name": name, "positive": None, "intervals": None, **report}
        for name, output in sorted(by_source(run, "classifier/").items())
        if (report := read_optional(output, "report.json"))
    ]
    tables = vigintiles(run)
    if not reports and not tables:
        return None
    return {"reports": reports, "vigintiles": tables}


def vigintiles(run: Run) -> list[dict[str, Any]]:
    """By scored source and topic, if it has any: documents, tokens and the scores of each vigintile."""
    found = []
    for source, output in by_source(run, "catalog/").items():
        rows = (
            pl.scan_parquet(output.folder / "catalog.parquet")
            .filter(pl.col("vigintile").is_not_null())
            .group_by("topic", "vigintile")
            .agg(
                documents=pl.len(),
                tokens=pl.col("tokens").cast(pl.Int64).sum(),
                lowest=pl.col("quality").min(),
                highest=pl.col("quality").max(),
            )
            .sort("topic", "vigintile")
            .collect()
            .to_dicts()
        )
        for topic in dict.fromkeys(row["topic"] for row in rows):
            some = [row for row in rows if row["topic"] == topic]
            found.append({"source": source, "topic": topic, "rows": some})
    return found
