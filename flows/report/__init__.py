"""The report: one self-contained HTML file that tells what a run did, from raw files to checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.run import Run


def write_report(run: Run, threads: int = 1) -> Path:
    """Write `report.html` into the run's folder and return its path. A section a run lacks says so.

    `threads`: how many sections are made at once.
    """
    from flows.report.page import write  # polars and jinja2 load only when a report is asked for

    return write(run, threads)
