"""The head of the report: what ran, the numbers that matter, what a person should look at, where time went."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flows.report import human
from flows.report.census import Census
from flows.report.reading import manifests, ordered_steps, sources, table_optional
from flows.run import Run

QUARANTINE_SHOWN = 40


def overview(run: Run, census: Census) -> dict[str, Any]:
    """The view of the head: tiles, alarms, the bar of tokens, seconds by station."""
    steps = ordered_steps(run)
    entries = {entry["name"]: entry for entry in run.data["steps"]}
    stations = [
        {
            "name": name,
            "seconds": output.record["seconds"],
            "reused": entries[name]["reused"],
            "memory": output.record["peak_memory"],
            "bytes": output.record["bytes"],
            "rate": output.record.get("bytes_in_per_second"),  # none in records of earlier versions
            "documents_in": output.counts.get("documents_in"),
            "documents_out": output.counts.get("documents_out"),
        }
        for name, output in steps.items()
    ]
    return {
        "tiles": _tiles(run, census, stations),
        "alarms": [(name, alarm) for name, output in steps.items() for alarm in output.record["alarms"]],
        "missing": [name for name in entries if name not in steps],
        "fate": _fate(census),
        "stations": stations,
        "longest": max((station["seconds"] for station in stations), default=0) or 1,
        "quarantine": quarantine(run),
        "versions": run.data.get("versions", {}),
    }


def _tiles(run: Run, census: Census, stations: list[dict[str, Any]]) -> list[dict[str, str]]:
    read = sum(source.read for source in census.sources)
    final = [source.after[-1] if source.after else source.ingested for source in census.sources]
    kept = sum(amount.documents for amount in final)
    tokens = sum(amount.tokens for amount in final)
    mixes = manifests(run)
    mixed = sum(head["totals"]["tokens"] for _, head in mixes.values())
    worked = sum(station["seconds"] for station in stations if not station["reused"])
    tiles = [
        {"value": human.count(read), "label": "records read", "title": human.exact(read)},
        {
            "value": human.count(kept),
            "label": f"documents kept ({human.percent(kept / read if read else None)})",
            "title": human.exact(kept),
        },
    ]
    if census.counted:
        tiles.append({"value": human.count(tokens), "label": "tokens kept", "title": human.exact(tokens)})
    if mixes:
        label = f"tokens in {len(mixes)} mix{'es' if len(mixes) != 1 else ''}"
        tiles.append({"value": human.count(mixed), "label": label, "title": human.exact(mixed)})
    models = len(run.steps("train/"))
    if models:
        tiles.append(
            {"value": str(models), "label": "models trained" if models > 1 else "model trained", "title": ""}
        )
    tiles.append(
        {
            "value": human.seconds(duration(run)),
            "label": f"in all, {human.seconds(worked)} at the stations",
            "title": "",
        }
    )
    peak = max((station["memory"] for station in stations), default=0)
    tiles.append({"value": human.size(peak), "label": "peak memory", "title": human.exact(peak) + " bytes"})
    return tiles


def duration(run: Run) -> float | None:
    """Seconds from start to end of the run, None while it is under way."""
    if not run.data.get("finished"):
        return None
    form = "%Y-%m-%dT%H:%M:%SZ"
    begin, end = (datetime.strptime(run.data[key], form) for key in ("started", "finished"))
    return (end - begin).total_seconds()


def _fate(census: Census) -> list[dict[str, Any]]:
    """Where the tokens went (the documents, if tokens are not known): segments of one bar."""
    unit = "tokens" if census.counted else "documents"
    whole = sum(getattr(source.ingested, unit) for source in census.sources)
    if not whole:
        return []
    segments = []
    previous = whole
    for index, stage in enumerate(census.stages):
        left = sum(getattr(source.after[index], unit) for source in census.sources)
        segments.append((f"dropped: {stage.label}", f"st-{stage.name}", previous - left))
        previous = left
    held = sum(getattr(source.held_out, unit) for source in census.sources if source.held_out)
    segments.append(("held out", "st-heldout", held))
    segments.append(("open to the mixes", "st-kept", previous - held))
    return [
        {"label": label, "css": css, "amount": amount, "share": amount / whole, "unit": unit}
        for label, css, amount in segments
        if amount > 0
    ]


def quarantine(run: Run) -> dict[str, Any]:
    """What could not be read: a count by source and the first rows, by source and origin."""
    rows, by_source = [], {}
    for name, pool in sources(run).items():
        table = table_optional(pool, "quarantine.parquet")
        if table is not None and len(table):
            by_source[name] = len(table)
            rows += table.slice(0, QUARANTINE_SHOWN).to_pylist()
    rows.sort(key=lambda row: (row["source"], row["origin"] or "", row["offset"] or 0))
    return {"by_source": by_source, "total": sum(by_source.values()), "rows": rows[:QUARANTINE_SHOWN]}
