"""A mix taken out of the workspace, in the files of other trainers. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curation.executor import Executor
from curation.export import export_mix
from curation.export_text import rendered_text
from curation.export_tokens import NAME as OLMO_CORE
from curation.export_tokens import olmo_core
from curation.steps import StepOutput
from flows.report.reading import final_pools
from flows.run import Run, RunNotFoundError


def export_data(
    run: Run, mix: str, form: str, folder: Path, part_bytes: int, executor: Executor
) -> dict[str, Any]:
    """Write a mix of a run to a folder as olmo-core, parquet or jsonl; what `export.json` says.

    Raises RunNotFoundError for a mix, tokens or a tokenizer that the run does not have.
    """
    manifest, tokenizer = _step(run, f"mix/{mix}"), _step(run, "tokenizer")
    if form == OLMO_CORE:
        made = olmo_core(manifest, _step(run, f"data/{mix}"), tokenizer, part_bytes)
    else:
        made = rendered_text(manifest, final_pools(run), tokenizer, form, part_bytes)
    return export_mix(made, folder, executor)


def _step(run: Run, name: str) -> StepOutput:
    output = run.step(name)
    if output is None:
        station = name.partition("/")[0]
        there = ", ".join(run.steps(f"{station}/")) or "none"
        raise RunNotFoundError(f"{run.name}: no '{name}' in the workspace; of {station} it has {there}")
    return output
