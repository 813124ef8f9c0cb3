"""The command `serve`: a server with scheduler and UI, and a runner that starts nights when they are due."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from curation import remote
from flows.execute import Options
from flows.orchestrate import server
from flows.pipeline import load_pipeline
from flows.server import ServerError


def serve(
    options: Options,
    cron: str | None,
    interval: timedelta | None,
    timezone: str | None,
    port: int,
    say: Callable[[str], None],
) -> None:
    """Start the flow `nightly` when it is due, until Ctrl-C or SIGTERM.

    One night at a time: one that is due meanwhile is left out, and what it would have taken in is there for the
    next. Uses the server of PREFECT_API_URL, or one of its own with the UI on loopback. Raises ServerError.
    """
    name = load_pipeline(options.pipeline, options.settings)[0].name
    if "PREFECT_API_URL" not in os.environ:
        _require_scheduler()
    with server(options.workspace.resolve(), scheduler_port=port) as url:
        runner = _runner(options, name, cron, interval, timezone)
        say(f"serving nightly/{name}, {f'cron {cron}' if cron else f'every {interval}'}; Ctrl-C ends it")
        say(f"history, schedule and parameters: {url.removesuffix('/api')}")
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(runner.start())


def _require_scheduler() -> None:
    found = version("sqlalchemy")
    if Version(found) >= Version("2.1"):
        raise ServerError(
            f"Prefect's scheduler starts nothing with SQLAlchemy {found}; install what it works with: "
            "pip install 'sqlalchemy<2.1'"
        )


def _runner(
    options: Options, name: str, cron: str | None, interval: timedelta | None, timezone: str | None
) -> Any:
    """Prefect is imported here: it reads its settings when it is imported, and the server has just set them."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.runner import Runner
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    from flows.schedule import nightly

    class OurRunner(Runner):
        """Prefect's way to end at SIGTERM forgets to wait for its own end; its way at Ctrl-C does not."""

        def handle_sigterm(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    runner = OurRunner(name=name, limit=1)
    runner.add_deployment(
        nightly.to_deployment(
            name,
            schedule=Cron(cron, timezone=timezone) if cron else Interval(interval, timezone=timezone),
            parameters=_parameters(options),
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    )
    return runner


def _parameters(options: Options) -> dict[str, Any]:
    return {
        "pipeline": str(options.pipeline.resolve()),
        "workspace": remote.shown(options.workspace.resolve()),
        "until": options.until,
        "workers": options.workers,
        "engine": options.engine,
        "address": options.address,
        "strict": options.strict,
        "settings": options.settings,
    }
