"""The held-out sets: what they hold, and what was taken out of them because the mixes hold it too."""

from __future__ import annotations

from typing import Any

from curation.files import read_json
from flows.report.reading import table_optional
from flows.run import Run

DROPPED_SHOWN = 20


def heldout(run: Run) -> list[dict[str, Any]]:
    """A view for each held-out set of the run."""
    views = []
    for name, output in run.steps("heldout/").items():
        head = read_json(output.folder / "mix.json") if (output.folder / "mix.json").exists() else None
        dropped = table_optional(output, "dropped.parquet")
        rows = []
        if dropped is not None:
            rows = (
                dropped.sort_by([("share", "descending"), ("id", "ascending")]).slice(0, DROPPED_SHOWN).to_pylist()
            )
        views.append(
            {
                "name": name,
                "head": head,
                "counts": output.counts,
                "config": output.record["config"],
                "dropped_total": len(dropped) if dropped is not None else 0,
                "by_source": _by_source(head, dropped),
                "rows": rows,
            }
        )
    return views


def _by_source(head: dict[str, Any] | None, dropped) -> list[dict[str, Any]]:
    """Documents and tokens kept, documents dropped, by source."""
    found: dict[str, dict[str, Any]] = {}

    def entry(source: str) -> dict[str, Any]:
        return found.setdefault(source, {"source": source, "documents": 0, "tokens": 0, "dropped": 0})

    for line in head["account"] if head else []:
        entry(line["source"])["documents"] += line["documents"]
        entry(line["source"])["tokens"] += line["tokens"]
    if dropped is not None:
        for value in dropped["source"].value_counts().to_pylist():
            entry(value["values"])["dropped"] = value["counts"]
    return [found[source] for source in sorted(found)]
