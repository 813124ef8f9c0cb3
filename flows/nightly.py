"""A night: what is new is taken in, the mixes are built anew, and models are trained where enough has changed.

Knows no orchestrator. New raw files are found by looking; steps are named by content: only what changed is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.files import write_json, write_parquet
from curation.mix.diff import diff
from curation.mix.manifest import load_manifest
from curation.steps import Context, Progress, StepMissingError, StepOutput
from flows.execute import Options, config_of, execute, open_line
from flows.line import Line, Stage, direct
from flows.run import RECORD, Run, recorded_runs

CHANGES = "changes.json"
REPORT = "report.html"


def run_night(options: Options, progress: Progress | None = None, stage: Stage = direct) -> Run:
    """One night's run; the run of an earlier night where nothing has changed since.

    The run's folder gets `changes.json`, what changed in each mix since the run before and since the models were
    trained, and `changes/<mix>.parquet`, the documents. Raises what the stations raise.
    """
    if (run := unchanged(options)) is not None:
        return run
    nights = _Night(options)
    run = execute(options, progress, stage, nights.enough)
    nights.write(run)
    return run


def unchanged(options: Options) -> Run | None:
    """The latest run of the pipeline if it ended well, had this very configuration and found what is there now."""
    line = open_line(options, Context(options.workspace.resolve(), strict=options.strict, build=False))
    latest = latest_run(options.workspace, line.pipeline.name)
    if latest is None or latest.data["config"] != config_of(line) or not latest.file(REPORT).exists():
        return None
    waits = not latest.data.get("night", {}).get("trains", True)
    try:
        line.run("mix" if waits else options.until)
    except StepMissingError:
        return None
    had = {(entry["name"], entry["content"]) for entry in latest.data["steps"]}
    return latest if {(step.name, step.content) for step in line.context.outputs} <= had else None


def latest_run(workspace: Path, pipeline: str, trained: tuple[str, ...] = ()) -> Run | None:
    """The latest completed run of a pipeline that has mixes, and trained these stages itself or found them."""
    for run in sorted(recorded_runs(workspace), key=lambda run: (run.data["started"], run.name), reverse=True):
        if run.data["pipeline"] == pipeline and run.data["status"] == "completed" and run.steps("mix/"):
            stages = run.steps("train/")
            if all(name in stages for name in trained):
                return run
    return None


class _Night:
    """What the mixes are compared with, and what came of it."""

    def __init__(self, options: Options):
        self.options = options
        self.found: dict[str, Any] = {"before": None, "trained": None, "mixes": {}, "trains": False}
        self.documents: dict[str, pa.Table] = {}

    def enough(self, line: Line) -> bool:
        """After the mixes, before training: whether there is enough new. Records the changes of each mix."""
        pipeline, workspace = line.pipeline, self.options.workspace
        before = latest_run(workspace, pipeline.name)
        models = latest_run(workspace, pipeline.name, tuple(pipeline.train)) if pipeline.train else None
        used = {stage.mix for stage in pipeline.train.values()}
        largest = 0.0
        for name, mix in line.mixes.items():
            entry, documents = _changes(before, name, mix)
            share = _changes(models, name, mix)[0]["changed"] if models is not None else 1.0
            self.found["mixes"][name] = entry | {"changed_since_training": share}
            self.documents[name] = documents
            largest = max(largest, share if name in used else 0.0)
        self.found["before"] = before and before.name
        self.found["trained"] = models and models.name
        threshold = pipeline.retrain.min_changed if pipeline.retrain else 0.0
        trains = models is None or pipeline.retrain is None or largest >= threshold
        self.found |= {"trains": trains, "largest_change": largest, "min_changed": threshold}
        return trains

    def write(self, run: Run) -> None:
        """The changes, in the run's folder."""
        for name, documents in self.documents.items():
            write_parquet(run.folder / "changes" / f"{name}.parquet", documents)
        write_json(run.folder / CHANGES, self.found)
        run.data["night"] = {name: value for name, value in self.found.items() if name != "mixes"}
        write_json(run.folder / RECORD, run.data)  # last: from here on the night counts as decided
        run.publish()


def _changes(before: Run | None, name: str, mix: StepOutput) -> tuple[dict[str, Any], pa.Table]:
    """What changed in a mix since a run: counts by source and `changed`, a share of its tokens; the documents.

    A mix that the run did not have is new altogether.
    """
    after = load_manifest(mix.folder)
    old = before.step(f"mix/{name}") if before is not None else None
    if old is None:
        return {"sources": [], "changed": 1.0, "new": True}, pa.table({"id": pa.array([], pa.string())})
    previous = load_manifest(old.folder)
    found = diff(previous, after)
    tokens = found.documents["tokens"]
    came = pc.sum(pc.max_element_wise(tokens, 0)).as_py() or 0
    went = -(pc.sum(pc.min_element_wise(tokens, 0)).as_py() or 0)
    whole = max(_tokens(previous), _tokens(after), 1)
    counts = {"sources": found.counts, "tokens_came": came, "tokens_went": went}
    return counts | {"changed": max(came, went) / whole, "new": False}, found.documents


def _tokens(manifest: Any) -> int:
    return manifest.head["totals"]["tokens"]
