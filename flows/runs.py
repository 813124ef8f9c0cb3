"""The runs of a workspace, told to a person: the command `runs`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation import remote
from flows.report import human
from flows.run import Run


def describe(run: Run) -> dict[str, Any]:
    """A run's state in plain data. `seconds` are those of the steps that it did itself."""
    steps = run.data["steps"]
    done = [entry for entry in steps if not entry["reused"]]
    keys = ("run", "pipeline", "status", "started", "finished", "command", "error")
    return {
        **{key: run.data[key] for key in keys},
        "steps_done": len(done),
        "steps_found": len(steps) - len(done),
        "seconds": round(sum(entry["seconds"] for entry in done), 3),
        "folder": remote.shown(run.folder),
    }


def print_runs(described: list[dict[str, Any]], console: Console) -> None:
    """A line for each run."""
    if not described:
        console.print("no run yet; start one with: mixwright run PIPELINE.yaml")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "started", "asked for"):
        table.add_column(column)
    for column in ("steps done", "found", "work"):
        table.add_column(column, justify="right")
    colours = {"completed": "green", "failed": "red", "interrupted": "yellow"}
    for run in described:
        table.add_row(
            run["run"],
            Text(run["status"], colours.get(run["status"], "cyan")),
            run["started"],
            run["command"],
            f"{run['steps_done']:,}",
            f"{run['steps_found']:,}",
            human.seconds(run["seconds"]),
        )
    console.print(table)
    for run in described:
        if run["error"]:
            console.print(Text(f"{run['run']}: {human.clean(run['error'])}", "red"))
