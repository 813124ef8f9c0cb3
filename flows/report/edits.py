"""What was cut out of a document or replaced in it, and the text that was left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from flows.report import human
from flows.report.reading import EDIT_STATIONS, Place, documents, sources
from flows.run import Run

SPANS_SHOWN = 8  # of one step
EXCERPT = 160


def edits_at(run: Run, place: Place) -> list[dict[str, Any]]:
    """For each step that edited the document: its name, how many spans, bytes removed less those put in, spans by
    rule, the characters left, and the first spans with the text that they took out and, of what was cut because it
    is repeated, the document that has it too (`twin`, else None). In the order of the steps."""
    found = []
    pools = sources(run)
    for station in EDIT_STATIONS:
        output = run.step(f"{station}/{place.source}")
        if output is None:
            continue
        finder = output.record["config"]["found_by"]
        spans = _rows(run, finder, "edits", place)
        if spans:
            repeats = _rows(run, finder, "repeats", place)
            before = (documents(pools, [place])[place]["text"] or "").encode()
            pools = {**pools, place.source: output}
            after = documents(pools, [place])[place]["text"] or ""
            found.append(
                {
                    "step": output.name,
                    "spans": len(spans),
                    "removed": len(before) - len(after.encode()),
                    "by_rule": dict(Counter(span["rule"] for span in spans)),
                    "characters": len(after),
                    "shown": [_shown(span, before, repeats) for span in spans[:SPANS_SHOWN]],
                }
            )
        pools = {**pools, place.source: output}
    return found


def _rows(run: Run, step: str, what: str, place: Place) -> list[dict[str, Any]]:
    """What the step that found the spans says of the document: its "edits", or its "repeats"."""
    finder = run.step(step)
    path = finder.folder / what / place.source / f"{place.shard}.parquet" if finder else None
    if path is None or not path.exists():
        return []
    return pq.read_table(path, filters=[("row", "=", place.row)], partitioning=None).to_pylist()


def _shown(span: dict[str, Any], before: bytes, repeats: list[dict[str, Any]]) -> dict[str, Any]:
    text = before[span["start"] : span["end"]].decode("utf-8", "replace")
    return {key: span[key] for key in ("start", "end", "replacement", "rule")} | {
        "text": human.excerpt(text, EXCERPT),
        "twin": longest_repeat(span, repeats),
    }


def longest_repeat(span: dict[str, Any], repeats: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Id and source of the document that has most of a span, by the repeated runs of its document; else None."""
    shared = [(min(span["end"], run["end"]) - max(span["start"], run["start"]), run) for run in repeats]
    size, run = max(shared, key=lambda one: one[0], default=(0, {}))
    return {"id": run["twin"], "source": run["twin_source"]} if size > 0 else None
