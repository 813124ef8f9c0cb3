"""The report: one self-contained HTML file that tells what a run did, from raw files to checkpoints."""

from __future__ import annotations

from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import remote

if TYPE_CHECKING:
    from curation.executor import Executor
    from flows.run import Run


class Report:
    """The report of a run, made once it has ended, or begun while it goes on. A section a run lacks says so."""

    def __init__(self, run: Run, threads: int = 1):
        """`threads`: how many sections are made at once."""
        self._run, self._threads = run, threads
        self._begun: Future[dict[str, Any]] | None = None

    def begin(self, executor: Executor) -> None:
        """Have a worker process make what tells of curation, now that it is done, if there is one."""
        if remote.of(self._run.folder) is None:  # whose files only this process can fetch
            self._begun = executor.aside(_curated, self._run.folder, self._run.data)

    def wait(self) -> None:
        """Until nothing needs the executor any more."""
        wait([self._begun] if self._begun else [])

    def write(self) -> Path:
        """Write `report.html` into the run's folder and return its path."""
        from flows.report.page import write  # polars and jinja2 load only when a report is asked for

        return write(self._run, self._threads, self._begun)


def write_report(run: Run) -> Path:
    """Write `report.html` into the folder of a run that has ended and return its path."""
    return Report(run).write()


def _curated(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    from flows.report.page import curated
    from flows.run import Run

    return curated(Run(folder, data))
