"""The pipeline as Prefect flows: a flow for each job that can be scheduled by itself, a task for each stage.

Prefect holds history and schedules; the workspace's files hold the truth. So its cache is off, results are not
persisted, and a task returns what its station returned. Our own workers run inside a task.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation import remote
from curation.executor import Executor
from curation.steps import Progress
from flows.execute import Options, execute
from flows.line import JOBS, Stage
from flows.run import Run, load_run
from flows.server import Prepared, ServerError, healthy, home_of, quiet_environment, starting_server

DRAIN_TIMEOUT = 15.0  # seconds to wait for the server to record the task runs
DRAIN_AFTER_INTERRUPT = 2.0  # the task under way may never be recorded as final, and somebody waits


@dataclass
class _Session:
    """What a flow run by this process, rather than by a schedule, is watched by; and what it has done."""

    progress: Progress
    shown: Callable[[Stage], Stage]
    executor: Executor | None
    tasks: list[str] = field(default_factory=list)  # a stage appends its own, maybe beside another
    flow_run: str | None = None


_session: ContextVar[_Session | None] = ContextVar("session", default=None)


def run_flow(
    options: Options,
    progress: Progress,
    shown: Callable[[Stage], Stage] = lambda stage: stage,
    prepared: Prepared | None = None,
    executor: Executor | None = None,
) -> Run:
    """Run the flow of `options.until` on the server of PREFECT_API_URL, or on one owned for the run.

    `shown` wraps the way a stage is run, so that a watcher hears of stages. `prepared`: a process for the server;
    `executor`: that of the options, opened before.
    """
    with server(options.workspace, prepared=prepared):
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        session = _Session(progress, shown, executor)
        token = _session.set(session)
        patience = DRAIN_TIMEOUT
        try:
            # The heartbeat thread costs a second at the end of each flow; a run that someone watches needs none.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                name = flows()["pipeline" if options.until == JOBS[-1] else options.until](
                    pipeline=str(options.pipeline),
                    workspace=remote.shown(options.workspace),
                    workers=options.workers,
                    engine=options.engine,
                    address=options.address,
                    strict=options.strict,
                    settings=options.settings,
                )
        except KeyboardInterrupt:
            patience = DRAIN_AFTER_INTERRUPT
            raise
        finally:
            _session.reset(token)
            _drain(session, patience)
    return load_run(options.workspace, name)


@contextlib.contextmanager
def server(workspace: Path, scheduler_port: int | None = None, prepared: Prepared | None = None) -> Iterator[str]:
    """Point this process at a server: the one the user names, or the workspace's own. Yields its address.

    `scheduler_port`: the workspace's own starts scheduled runs, and shows its UI at this port if it is free.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        if not healthy(url.rstrip("/")):
            raise ServerError(
                f"no Prefect server answers at PREFECT_API_URL={url}. Start it, unset the variable for a server "
                "of the run's own, or run with --no-orchestrator."
            )
        yield url.rstrip("/")
        return
    home = home_of(workspace)
    with starting_server(home, scheduler_port, prepared) as starting:
        before = dict(os.environ)
        told = {} if scheduler_port is None else {"PREFECT_LOGGING_TO_API_ENABLED": "true"}
        os.environ.update(quiet_environment(home) | told | {"PREFECT_API_URL": starting.url})
        try:
            from prefect.context import SettingsContext, get_settings_context
            from prefect.settings import Settings

            flows()  # loads what the flow of a run needs, while the server does the same
            url = starting.wait()
            # Prefect reads the environment when it is imported; an earlier import has read another one.
            with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
                yield url
        finally:
            os.environ.clear()
            os.environ.update(before)


def flows() -> dict[str, Callable[..., str]]:
    """The flow of each job of `flows.line.JOBS`, and "pipeline" for all of them; it returns the name of its run.

    A flow does what is missing of the jobs before its own, too.

    Prefect is imported here and not before, since that takes most of a second.
    """
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.artifacts import show

    def make(job: str, title: str, what: str) -> Callable[..., str]:
        def body(
            pipeline: str,
            workspace: str = "workspace",
            workers: int | None = None,
            engine: str = "local",
            address: str | None = None,
            strict: bool = False,
            settings: list[str] | None = None,
        ) -> str:
            session = _session.get()
            place = remote.open_workspace(workspace)
            options = Options(Path(pipeline), place, job, workers, engine, address, strict, settings or [])
            if session is None:
                run = execute(options, stage=as_task)
                show(run)
                return run.name
            session.flow_run = flow_run.get_id()
            run = execute(options, session.progress, session.shown(as_task), executor=session.executor)
            show(run)
            return run.name

        body.__name__ = title
        return flow(name=title, description=what, persist_result=False)(body)

    return {
        "ingest": make("ingest", "ingest", "Raw files to pools of documents."),
        "curate": make("curate", "curate", "Pools to catalogs: measured, decided, deduplicated, counted."),
        "mix": make("mix", "mix", "Catalogs to mixes and held-out sets."),
        "train": make("train", "train", "Mixes to trained and evaluated models, where curation has been done."),
        "pipeline": make(
            "train", "pipeline", "The whole line: raw files to mixes to trained and evaluated models."
        ),
    }


def as_task(name: str, work: Callable[[], Any]) -> Any:
    """Run a stage as a Prefect task of that name, in this thread."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    if (session := _session.get()) is not None:
        session.tasks.append(name)
    return task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(work)()


def _drain(session: _Session, timeout: float) -> None:
    """Wait up to `timeout` seconds until the server has recorded every task run of the flow: it does so late.

    Then end the events worker, which would keep this server's address for a later flow of the process.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.events.worker import EventsWorker

    if session.flow_run is not None:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[session.flow_run]))
        deadline = time.monotonic() + timeout
        with get_client(sync_client=True) as client:
            while time.monotonic() < deadline:
                runs = client.read_task_runs(flow_run_filter=chosen)
                if sum(run.state is not None and run.state.is_final() for run in runs) >= len(session.tasks):
                    break
                time.sleep(0.1)
    EventsWorker.drain_all(timeout=timeout, at_exit=False)
