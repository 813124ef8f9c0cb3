"""Commands that run a pipeline, now or on a schedule."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.shared import (
    WORKSPACE,
    Address,
    DryRun,
    Engine,
    NoOrchestrator,
    Settings,
    StrictMode,
    Workers,
    Workspace,
    escape,
    out,
    tell_address,
    terminate,
)


def run(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file (YAML).")],
    workspace: Workspace = WORKSPACE,
    until: Annotated[str, typer.Option(help="Stop after this job: ingest, curate, mix or train.")] = "train",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    strict: StrictMode = False,
    dry_run: DryRun = False,
    no_orchestrator: NoOrchestrator = False,
    settings: Settings = None,
) -> None:
    """Run a pipeline: raw files to pools, mixes, trained and evaluated models, and a report.

    What is there already is not done again; a run that was stopped or killed goes on where it was.

    Example: mixwright run manifests/demo/pipeline.yaml --workers 2
    """
    signal.signal(signal.SIGTERM, terminate)
    with (
        _preparing_server(workspace, not dry_run and not no_orchestrator) as prepared,
        _preparing_workers(workspace, engine, workers, not dry_run) as executor,
    ):
        from flows.execute import Options, finished_run, missing_step
        from flows.line import JOBS

        if until not in JOBS:
            raise typer.BadParameter(f"'{until}' is no job; choose one of {', '.join(JOBS)}", param_hint="--until")
        options = Options(pipeline, workspace, until, workers, engine, address, strict, settings or [])
        missing = missing_step(options)
        if dry_run:
            _tell_dry_run(missing)
        elif missing is None and (latest := finished_run(options)) is not None:
            out.print("[green]nothing to do[/]: inputs, recipes and code are as before, every step is there")
            out.print(f"latest run: {latest.name}; report: {escape(latest.folder / 'report.html')}")
            tell_address(workspace)
        else:
            _run_and_summarise(options, no_orchestrator, prepared, executor)


def _preparing_server(workspace: Path, wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """A process that loads Prefect's server while this one loads the line, unless the user names a server."""
    if not wanted or os.environ.get("PREFECT_API_URL"):
        return contextlib.nullcontext()
    from flows.server import home_of, preparing

    return preparing(home_of(workspace))


def _preparing_workers(
    workspace: Path, engine: str, workers: int | None, wanted: bool
) -> contextlib.AbstractContextManager[Any]:
    """The server of worker processes, which loads the line while this one does, where all is still to do."""
    if not wanted or engine != "local" or (workspace / "steps").exists():
        return contextlib.nullcontext()
    from flows.engines import open_executor

    executor = open_executor(engine, workers)
    executor.start()
    return executor


def _tell_dry_run(missing: Exception | None) -> None:
    if missing is None:
        out.print("nothing to do: every step is there")
    else:
        out.print(f"next: {escape(missing)}; the steps after it follow from its result")


def _run_and_summarise(options: Any, no_orchestrator: bool, prepared: Any, executor: Any) -> None:
    from flows.execute import execute
    from flows.line import direct
    from flows.summary import print_summary
    from flows.terminal import Terminal

    with Terminal(out) as terminal:
        if no_orchestrator:
            finished = execute(options, terminal, terminal.stage(direct), executor=executor)
        else:
            from flows.orchestrate import run_flow

            finished = run_flow(options, terminal, terminal.stage, prepared, executor)
    print_summary(finished, out)
    out.print(f"\nreport: {escape(finished.folder / 'report.html')}")
    tell_address(options.workspace)


def serve(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file (YAML).")],
    cron: Annotated[
        str | None, typer.Option(help='When to run, as in cron: "0 3 * * *" is each night at 3.')
    ] = None,
    interval: Annotated[str | None, typer.Option(help="How often to run instead: 90s, 30m, 12h or 1d.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of the cron line, such as Europe/Berlin.")] = None,
    workspace: Workspace = WORKSPACE,
    until: Annotated[str, typer.Option(help="Stop after this job: ingest, curate, mix or train.")] = "train",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    strict: StrictMode = False,
    port: Annotated[int, typer.Option(help="Of Prefect's UI, on the loopback interface.")] = 4200,
    settings: Settings = None,
) -> None:
    """Run a pipeline on a schedule: take in new raw files, build the mixes anew, train where enough has changed.

    A night that is due while another is at work is left out. `retrain: {min_changed: 5%}` in the pipeline file
    says how much change is enough, `on_failure: {command: ..., webhook: VARIABLE}` whom a failure is told.

    Example: mixwright serve manifests/real/pipeline.yaml --cron "0 3 * * *"
    """
    from flows.execute import Options
    from flows.line import JOBS
    from flows.serve import serve as start

    if until not in JOBS:
        raise typer.BadParameter(f"'{until}' is no job; choose one of {', '.join(JOBS)}", param_hint="--until")
    if (cron is None) == (interval is None):
        raise typer.BadParameter("give one of --cron and --interval", param_hint="--cron")
    every = _duration(interval) if interval else None
    options = Options(pipeline, workspace, until, workers, engine, address, strict, settings or [])
    start(options, cron, every, timezone, port, lambda line: out.print(escape(line)))


def _duration(text: str) -> Any:
    """90s, 30m, 12h or 1d."""
    import re
    from datetime import timedelta

    match = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if match is None or int(match[1]) == 0:
        raise typer.BadParameter(f"'{text}': expected such as 90s, 30m, 12h or 1d", param_hint="--interval")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})
