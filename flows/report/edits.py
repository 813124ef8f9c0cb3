"""What was cut out of a document or replaced in it, and the text that was left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from curation.edits import edits_path
from flows.report import human
from flows.report.reading import EDIT_STATIONS, Place, documents, sources
from flows.run import Run

SPANS_SHOWN = 8  # of one step
EXCERPT = 160


def edits_at(run: Run, place: Place) -> list[dict[str, Any]]:
    """For each step that edited the document: its name, how many spans, bytes removed less those put in, spans by
    rule, the characters left, and the first spans with the text that they took out. In the order of the steps."""
    found = []
    pools = sources(run)
    for station in EDIT_STATIONS:
        output = run.step(f"{station}/{place.source}")
        if output is None:
            continue
        spans = _spans(run, output.record["config"]["found_by"], place)
        if spans:
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
                    "shown": [_shown(span, before) for span in spans[:SPANS_SHOWN]],
                }
            )
        pools = {**pools, place.source: output}
    return found


def _spans(run: Run, step: str, place: Place) -> list[dict[str, Any]]:
    finder = run.step(step)
    path = edits_path(finder.folder, place.source, place.shard) if finder else None
    if path is None or not path.exists():
        return []
    return pq.read_table(path, filters=[("row", "=", place.row)], partitioning=None).to_pylist()


def _shown(span: dict[str, Any], before: bytes) -> dict[str, Any]:
    text = before[span["start"] : span["end"]].decode("utf-8", "replace")
    return {key: span[key] for key in ("start", "end", "replacement", "rule")} | {
        "text": human.excerpt(text, EXCERPT)
    }
