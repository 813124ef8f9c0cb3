"""Evaluation items found in documents: how many of each benchmark, and the matches with both texts."""

from __future__ import annotations

from typing import Any

from flows.report.reading import table_optional
from flows.run import Run

STEP = "decontaminate"
MATCHES_SHOWN = 12  # of each benchmark


def contamination(run: Run) -> dict[str, Any] | None:
    """The view: a line for each benchmark, and its strongest matches. None if the run did not look for any."""
    output = run.step(STEP)
    if output is None:
        return None
    table = table_optional(output, "matches.parquet")
    rows = table.to_pylist() if table is not None else []
    benchmarks = []
    for name, counts in output.counts["by_benchmark"].items():
        own = sorted((row for row in rows if row["benchmark"] == name), key=_strongest)
        methods = [
            {"method": method, "compared": counts[method]["compared"], "ignored": counts[method]["ignored"]}
            for method in ("decon", "ngram_share")
            if method in counts
        ]
        sources: dict[str, set] = {}
        for row in own:
            sources.setdefault(row["source"], set()).add((row["shard"], row["row"]))
        benchmarks.append(
            {
                "name": name,
                **{key: counts[key] for key in ("items", "unreadable", "items_hit", "documents_hit")},
                "methods": methods,
                "sources": [(source, len(places)) for source, places in sorted(sources.items())],
                "matches": own[:MATCHES_SHOWN],
                "more": max(0, len(own) - MATCHES_SHOWN),
            }
        )
    return {"action": output.record["config"]["action"], "counts": output.counts, "benchmarks": benchmarks}


def matches_at(run: Run, source: str, shard: str, row: int) -> list[dict[str, Any]]:
    """The matches in one document, the strongest first."""
    where = [("source", "=", source), ("shard", "=", shard), ("row", "=", row)]
    table = table_optional(run.step(STEP), "matches.parquet", filters=where)
    found = sorted(table.to_pylist(), key=_strongest) if table is not None else []
    left_out = ("id", "source", "shard", "row")
    return [{key: value for key, value in match.items() if key not in left_out} for match in found]


def _strongest(row: dict[str, Any]) -> tuple:
    names = ("source", "shard", "row", "benchmark", "item")
    return (row["threshold"] - row["score"], *(row[name] for name in names))
