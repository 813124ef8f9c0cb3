"""Derived sources: the blocks woven into long documents, the tasks that became instructions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flows.report.reading import by_source, table_optional
from flows.run import Run

TASKS_SHOWN = 60


def derived(run: Run) -> list[dict[str, Any]]:
    """A view for each derived source of the run: its counts, and its blocks by kind or its tasks by size."""
    views = []
    for name, output in by_source(run, "ingest/").items():
        woven = table_optional(output, "woven.parquet", ["what"])
        mixture = table_optional(output, "mixture.parquet")
        if woven is None and mixture is None:
            continue
        tasks = [] if mixture is None else mixture.sort_by([("documents", "descending"), ("task", "ascending")])
        blocks = Counter() if woven is None else Counter(woven["what"].to_pylist())
        views.append(
            {
                "name": name,
                "counts": output.counts,
                "parents": output.record["config"]["parents"],
                "blocks": sorted(blocks.items()),
                "tasks": tasks.slice(0, TASKS_SHOWN).to_pylist() if len(tasks) else [],
                "tasks_total": len(tasks),
            }
        )
    return views
