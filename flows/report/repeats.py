"""Repeated text that was cut: how much of each source, the longest pieces, and who has them too."""

from __future__ import annotations

import heapq
from typing import Any

import pyarrow.compute as pc

from curation.edits import edits_path
from curation.files import read_parquet
from curation.steps import StepOutput
from flows.report import human
from flows.report.edits import longest_repeat
from flows.report.reading import EDIT_STATIONS, Place, by_source, documents, sources, table_optional
from flows.run import Run

# The step that finds it, the station that writes the pools without it.
FOUND_BY = {"trim-lines": ("dedup-lines", "Repeated lines"), "trim": ("dedup-substring", "Repeated substrings")}
PIECES_SHOWN = 3  # of a source
EXCERPT = 400


def repeats(run: Run) -> list[dict[str, Any]]:
    """A view for each station that cuts repeated text: its counts, a row for each source that it looked at."""
    views, pools = [], sources(run)
    for station in EDIT_STATIONS:
        if station in FOUND_BY and (output := run.step(FOUND_BY[station][0])) is not None:
            counts = output.counts
            rows = [_source(run, output, pools, name) for name in pools if name in counts["by_source"]]
            total = {
                **{key: counts[key] for key in ("bytes_in", "bytes_cut", "bytes_dropped", "spans", "trimmed")},
                "dropped": counts["documents_in"] - counts["documents_out"],
                "tokens": sum(row["tokens"] or 0 for row in rows),
            }
            views.append({"title": FOUND_BY[station][1], "rows": rows, "total": total})
        pools = pools | by_source(run, f"{station}/")
    return views


def _source(run: Run, output: StepOutput, pools: dict[str, StepOutput], name: str) -> dict[str, Any]:
    counts = output.counts["by_source"][name]
    left = table_optional(run.step(f"catalog/{name}"), "catalog.parquet", ["tokens_plain", "bytes"])
    size = pc.sum(left["bytes"]).as_py() if left is not None else 0
    tokens = round(counts["bytes_cut"] * pc.sum(left["tokens_plain"]).as_py() / size) if size else None
    return {
        "source": name,
        **counts,
        "dropped": counts["documents_in"] - counts["documents_out"],
        "share": counts["bytes_cut"] / counts["bytes_in"] if counts["bytes_in"] else 0,
        "tokens": tokens,
        "pieces": _pieces(output, pools, name),
    }


def _pieces(output: StepOutput, pools: dict[str, StepOutput], source: str) -> list[dict[str, Any]]:
    """The longest cuts of a source, no two for the same twin; each with its text and the twin."""
    longest: dict[str, tuple[int, str, dict[str, Any]]] = {}
    for path in pools[source].shards():
        spans = read_parquet(edits_path(output.folder, source, path.stem)).to_pylist()
        by_row: dict[int, list[dict[str, Any]]] = {}
        for run in read_parquet(output.folder / "repeats" / source / path.name).to_pylist():
            by_row.setdefault(run["row"], []).append(run)
        for span in spans:
            twin = longest_repeat(span, by_row.get(span["row"], []))
            size = span["end"] - span["start"]
            if twin and size > longest.get(twin["id"], (0,))[0]:
                longest[twin["id"]] = (size, path.stem, {**span, "twin": twin})
    chosen = heapq.nlargest(PIECES_SHOWN, longest.items(), key=lambda item: (item[1][0], item[0]))
    places = {key: Place(source, shard, span["row"]) for key, (_, shard, span) in chosen}
    found = documents(pools, places.values(), ["id", "text"])
    shown = []
    for key, (size, _, span) in chosen:
        document = found[places[key]]
        text = document["text"].encode()[span["start"] : span["end"]].decode("utf-8", "replace")
        shown.append(
            {"id": document["id"], "bytes": size, "twin": span["twin"], "text": human.excerpt(text, EXCERPT)}
        )
    return shown
