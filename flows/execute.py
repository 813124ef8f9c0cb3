"""Execute a pipeline up to a job, with its run recorded. Knows no orchestrator."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.executor import Executor
from curation.mix.manifest import ManifestError
from curation.steps import Context, Progress, StepMissingError, StepOutput, require_sound
from flows.engines import open_executor
from flows.line import JOBS, Line, Stage, direct
from flows.pipeline import load_pipeline
from flows.report import Report
from flows.run import Recorder, Run, recorded_runs


@dataclass(frozen=True)
class Options:
    """What a run is asked to do; the same for the command line, Prefect and plain Python."""

    pipeline: Path
    workspace: Path
    until: str = JOBS[-1]
    workers: int | None = None  # None: as many as there are cores
    engine: str = "local"
    address: str | None = None  # of the engine's cluster; None: one of the run's own
    strict: bool = False
    settings: list[str] = field(default_factory=list)  # "dotted.key=value", laid over the pipeline file


class Recorded(Progress):
    """Passes progress on to whoever watches, and each finished step to the run's record."""

    def __init__(self, watch: Progress, recorder: Recorder):
        self._watch, self._recorder = watch, recorder
        self.begin, self.advance = watch.begin, watch.advance

    def end(self, output: StepOutput) -> None:
        self._recorder.add(output)
        self._watch.end(output)


def open_line(options: Options, context: Context, stage: Stage = direct) -> Line:
    """The line of a pipeline file. Raises curation.config.ConfigError."""
    pipeline, recipes = load_pipeline(options.pipeline, options.settings)
    return Line(pipeline, recipes, options.pipeline.parent, context, stage)


def missing_step(options: Options, line: Line | None = None) -> StepMissingError | None:
    """The first step of the pipeline that has not been run yet, None if there is none.

    Raises StrictError where `options.strict` and a step that is there has raised an alarm.
    """
    line = line or open_line(options, Context(options.workspace, strict=options.strict, build=False))
    try:
        line.run(options.until)
    except StepMissingError as missing:
        return missing
    return None


def finished_run(options: Options) -> Run | None:
    """The latest run of the pipeline if it came to its end, report and all; else a rerun is to write that."""
    name = load_pipeline(options.pipeline, options.settings)[0].name
    runs = [run for run in recorded_runs(options.workspace) if run.data["pipeline"] == name]
    latest = max(runs, key=lambda run: run.data["started"], default=None)
    done = latest is not None and latest.data["status"] == "completed" and latest.file("report.html").exists()
    return latest if done else None


def config_of(line: Line) -> dict[str, Any]:
    """The whole configuration of a run in plain data: the pipeline's and that of its recipes."""
    recipes = {name: recipe.model_dump(mode="json") for name, recipe in line.recipes.items()}
    return line.pipeline.model_dump(mode="json") | {"recipes": recipes}


def execute(
    options: Options,
    progress: Progress | None = None,
    stage: Stage = direct,
    trains: Callable[[Line], bool] = lambda line: True,
    executor: Executor | None = None,
) -> Run:
    """Run the pipeline's jobs up to `options.until` and write the report; every finished step stays.

    `trains` is asked once the mixes are there whether models are to be trained. `executor`: that of the options,
    opened before; it is closed.
    Raises what the stations raise; the run is then recorded as failed, or as interrupted by a signal.
    """
    progress = progress or Progress()
    workspace = options.workspace.resolve()
    if executor is None:
        executor = open_executor(options.engine, options.workers, options.address, workspace)
    with executor:
        context = Context(workspace, executor, options.strict, progress=progress)
        line = open_line(options, context, stage)
        recorder = Recorder(context.workspace, line.pipeline.name, config_of(line), f"until {options.until}")
        context.progress = Recorded(progress, recorder)
        report = Report(recorder.run, min(executor.workers, os.cpu_count() or 1))

        def goes_on(line: Line, job: str) -> bool:
            if job == "mix":
                report.begin(executor)
            return job != "train" or trains(line)

        try:
            line.run(options.until, goes_on)
        except Exception as error:
            recorder.finish("failed", f"{type(error).__name__}: {error}")
            if isinstance(error, ManifestError):  # found before the step that would read it
                mixes = [output for output in context.outputs if output.name.startswith("mix/")]
                require_sound(mixes, "reading a manifest", error)
            raise
        except BaseException:  # Ctrl-C, and what Prefect makes of SIGTERM
            recorder.finish("interrupted")
            raise
        run = recorder.finish("completed")
        with ThreadPoolExecutor(1) as aside:  # a cluster takes a second to end
            ended = aside.submit(lambda: (report.wait(), executor.close()))
            stage("report", report.write)
            ended.result()
    run.publish()
    return run
