"""The waterfall: documents and tokens of each source from record to mix, and what each rule took."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from flows.report import human, svg
from flows.report.census import Amount, Census
from flows.report.reading import manifests, source_classes
from flows.run import Run


def waterfall(run: Run, census: Census) -> dict[str, Any] | None:
    """The view: two charts, the table of stages, the table of rules, the table of mixes. None without pools."""
    if not census.sources:
        return None
    columns = ["ingested", *(f"after {stage.label}" for stage in census.stages)]
    catalogued = any(source.available for source in census.sources)
    columns += ["open to mixes"] if catalogued else []
    rows = []
    for source in census.sources:
        cells = [source.ingested, *source.after]
        cells += [source.available or Amount()] if catalogued else []
        rows.append(
            {
                "source": source.source,
                "read": source.read,
                "quarantined": source.quarantined,
                "skipped": source.skipped,
                "held_out": source.held_out,
                "cells": cells,
            }
        )
    names = [row["source"] for row in rows]
    classes = source_classes(run)
    charts = [("Documents", _chart(columns, rows, classes, "documents"))]
    if census.counted:
        charts.append(("Tokens", _chart(columns, rows, classes, "tokens")))
    return {
        "columns": columns,
        "rows": rows,
        "total": _total(rows, len(columns)),
        "counted": census.counted,
        "catalogued": catalogued,
        "charts": charts,
        "legend": list(classes.items()),
        "closing": _closing(census),
        "rules": _rules(census),
        "mixes": _mixes(run, names),
    }


def _chart(columns: list[str], rows: list[dict[str, Any]], classes: dict[str, str], unit: str) -> Markup:
    values = [(name, [getattr(row["cells"][place], unit) for row in rows]) for place, name in enumerate(columns)]
    return svg.stacked_columns(
        values, list(classes), list(classes.values()), f"{unit} by stage and source", human.count
    )


def _total(rows: list[dict[str, Any]], columns: int) -> dict[str, Any]:
    cells = [Amount() for _ in range(columns)]
    held = Amount()
    for row in rows:
        for cell, amount in zip(cells, row["cells"], strict=True):
            cell += amount
        held += row["held_out"] or Amount()
    sums = {key: sum(row[key] for row in rows) for key in ("read", "quarantined", "skipped")}
    return {**sums, "cells": cells, "held_out": held}


def _closing(census: Census) -> list[str]:
    """Sources whose counts do not close: read = ingested + quarantined + skipped; ingested = kept + dropped."""
    wrong = []
    for source in census.sources:
        parts = source.ingested.documents + source.quarantined + source.skipped
        if source.read != parts:
            wrong.append(f"{source.source}: {source.read:,} records read, {parts:,} accounted for")
        kept = source.after[-1].documents if source.after else source.ingested.documents
        dropped = sum(amount.documents for amount in source.dropped.values())
        if kept + dropped != source.ingested.documents:
            found = f"{kept:,} kept + {dropped:,} dropped"
            wrong.append(f"{source.source}: {source.ingested.documents:,} ingested, {found}")
        if source.available and source.held_out:
            listed = source.available.documents + source.held_out.documents
            if listed != kept:
                wrong.append(f"{source.source}: {kept:,} kept, {listed:,} in the catalog")
    return wrong


def _rules(census: Census) -> list[dict[str, Any]]:
    whole = Amount()
    for source in census.sources:
        whole += source.ingested
    labels = {stage.name: stage.label for stage in census.stages}
    found = []
    for (stage, rule), amount in census.dropped().items():
        if amount.documents:
            hits = [
                (source.source, source.dropped.get((stage, rule), Amount()).documents) for source in census.sources
            ]
            sources = sorted(((name, n) for name, n in hits if n), key=lambda hit: (-hit[1], hit[0]))
            share = amount.documents / whole.documents if whole.documents else 0
            found.append(
                {
                    "stage": labels[stage],
                    "css": f"st-{stage}",
                    "rule": rule,
                    "amount": amount,
                    "share": share,
                    "sources": sources,
                }
            )
    return found


def _mixes(run: Run, names: list[str]) -> dict[str, Any] | None:
    """Unique documents and tokens of each source in each mix, from the accounts."""
    found = manifests(run)
    if not found:
        return None
    cells: dict[str, dict[str, Amount]] = {}
    for mix, (_, head) in found.items():
        for line in head["account"]:
            amount = cells.setdefault(line["source"], {}).setdefault(mix, Amount())
            amount += Amount(line["documents"], line["tokens"])
    order = [name for name in names if name in cells] + sorted(name for name in cells if name not in names)
    totals = {mix: head["totals"] for mix, (_, head) in found.items()}
    return {"mixes": list(found), "rows": [(name, cells[name]) for name in order], "totals": totals}
