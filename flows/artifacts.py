"""What a run shows in Prefect's UI: its stations, the account of its mixes, what changed, where the report is.

Prefect's assets are not used: the open server has no table of them (3.8, 3.9), so that a pool or a checkpoint
would be an event that no page shows. The lineage is in the manifests, the checkpoints and the report.
"""

from __future__ import annotations

import re
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from curation.files import read_json
from curation.steps import StepOutput
from flows.nightly import CHANGES, REPORT
from flows.run import Run

ROWS = 200  # of a table: Prefect keeps artifacts in its database


def show(run: Run) -> None:
    """Create the artifacts of a run, within its flow run."""
    name = re.sub(r"[^a-z0-9]+", "-", run.data["pipeline"].lower()).strip("-")
    steps = list(run.steps().values())
    create_table_artifact([row(step) for step in steps[:ROWS]], key=f"{name}-stations", description=run.name)
    if mixes := run.steps("mix/"):
        create_markdown_artifact(accounts(mixes), key=f"{name}-mixes", description=run.name)
    if (told := run.file(CHANGES)).exists():
        text = changes(read_json(told))
        create_markdown_artifact(text, key=f"{name}-changes", description=run.name)
    report = run.folder / REPORT
    create_link_artifact(report.as_uri(), link_text=str(report), key=f"{name}-report", description=run.name)


def row(step: StepOutput) -> dict[str, Any]:
    """A step in a table."""
    record = step.record
    return {
        "station": step.name,
        "documents in": record["counts"].get("documents_in", ""),
        "documents out": record["counts"].get("documents_out", ""),
        "seconds": record["seconds"],
        "MB/s read": round(record.get("bytes_in_per_second", 0) / 1e6, 1),
        "MB written": round(record["bytes"] / 1e6, 1),
        "peak MiB": record["peak_memory"] >> 20,
        "alarms": "; ".join(record["alarms"]),
    }


def accounts(mixes: dict[str, StepOutput]) -> str:
    """The account of every mix as Markdown tables."""
    parts = []
    for name, mix in mixes.items():
        head = read_json(mix.file("mix.json"))
        parts += [f"## {name}, manifest `{head['hash'][:16]}`", ""]
        parts += ["| source | pool | target | tokens | share | repeats |", "|---|---|---|---|---|---|"]
        for line in head["account"]:
            numbers = [line.get(key) for key in ("pool_tokens", "target_tokens", "tokens", "share", "repeats")]
            parts.append("| " + " | ".join([_cell(_name(line)), *map(_number, numbers)]) + " |")
        parts.append("")
    return "\n".join(parts)


def changes(found: dict[str, Any]) -> str:
    """What `flows.nightly` has found, as Markdown."""
    trains = "models are trained" if found["trains"] else "models stay as they are"
    parts = [f"Compared with {found['before'] or 'no run before'}: {trains}.", ""]
    parts += ["| mix | source | came | went | other copies | same | tokens |", "|---|---|---|---|---|---|---|"]
    for name, mix in found["mixes"].items():
        for line in mix["sources"] or [{"source": "all of it is new" if mix["new"] else "nothing changed"}]:
            numbers = [_number(line.get(key)) for key in ("came", "went", "copies", "same", "tokens")]
            parts.append("| " + " | ".join([_cell(name), _cell(line["source"]), *numbers]) + " |")
    return "\n".join(parts)


def _name(line: dict[str, Any]) -> str:
    source = line.get("source", "")
    return ", ".join(source) if isinstance(source, list) else str(source)


def _cell(text: str) -> str:
    return re.sub(r"[|\r\n`<>]", " ", text)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else _cell(str(value if value is not None else ""))
