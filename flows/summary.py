"""The closing tables of a run: stations, mixes, models."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from curation.files import read_json
from flows.run import Run


def human(number: float) -> str:
    """1234567 -> 1.23M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:.3g}"


def print_summary(run: Run, console: Console) -> None:
    """Stations with counts and seconds, the mixes' accounts in short, the models' figures."""
    console.print(_stations(run))
    mixes = run.steps("mix/")
    if mixes:
        console.print(_mixes({name: read_json(output.file("mix.json")) for name, output in mixes.items()}))
    evaluations = {
        name: read_json(output.file("evaluation.json")) for name, output in run.steps("evaluate/").items()
    }
    if evaluations:
        console.print(_models(evaluations))


def _stations(run: Run) -> Table:
    table = Table(title="Stations", title_justify="left", box=None, pad_edge=False)
    table.add_column("station")
    for name in ("documents in", "documents out", "seconds"):
        table.add_column(name, justify="right")
    rows: dict[str, list[float]] = {}
    seconds = {entry["name"]: entry["seconds"] for entry in run.data["steps"]}
    for name, output in run.steps().items():
        counts = output.counts
        row = rows.setdefault(_group(name), [0, 0, 0.0])
        row[0] += counts.get("documents_in", 0)
        row[1] += counts.get("documents_out", 0)
        row[2] += seconds[name]
    for name, (read, kept, spent) in rows.items():
        table.add_row(name, f"{read:,}" if read else "", f"{kept:,}" if kept else "", f"{spent:.1f}")
    return table


def _group(step: str) -> str:
    """The row of the table: steps of many sources share one, the others stand for themselves."""
    stage = step.partition("/")[0]
    return stage if stage in ("ingest", "measure", "rules", "tokens", "classify", "catalog") else step


def _mixes(heads: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Mixes", title_justify="left", box=None, pad_edge=False)
    table.add_column("mix")
    for name in ("sources", "unique documents", "occurrences", "fragments", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("manifest")
    for name, head in heads.items():
        totals = head["totals"]
        sources = len({line["source"] for line in head["account"]})
        numbers = [totals[key] for key in ("unique_documents", "occurrences", "fragments", "tokens")]
        table.add_row(name, str(sources), *(f"{number:,}" for number in numbers), head["hash"][:16])
    return table


def _models(evaluations: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Held-out figures", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    for name in ("bits per byte", "reward accuracy", "implicit-reward accuracy"):
        table.add_column(name, justify="right")
    for name, figures in evaluations.items():
        table.add_row(name, *model_figures(figures))
    return table


def model_figures(figures: dict[str, Any]) -> list[str]:
    """Bits per byte, reward accuracy, implicit-reward accuracy of an evaluation, as text; "" where none."""
    text = figures.get("text")
    cells = [f"{text['all']['bits_per_byte']:.3f}" if text else ""]
    pairs = figures.get("pairs")
    return cells + [
        _accuracy(pairs["all"]) if pairs and figures["method"] == method else "" for method in ("reward", "dpo")
    ]


def _accuracy(entry: dict[str, Any]) -> str:
    """With the bounds of its 95 % interval."""
    interval = f"{entry['accuracy_low']:.1%} to {entry['accuracy_high']:.1%}"
    return f"{entry['accuracy']:.1%} of {entry['pairs']} pairs ({interval})"
