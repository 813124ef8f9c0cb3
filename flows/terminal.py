"""What a person sees of a run in the terminal: a line for each finished stage, bars for what is under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from curation.steps import Progress as Watch
from curation.steps import StepOutput

Result = TypeVar("Result")
_finished: ContextVar[list[StepOutput] | None] = ContextVar("finished", default=None)  # by the stage under way


class Terminal(Watch):
    """Progress bars of the steps under way; a line for each stage done. Safe to call from several threads."""

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            refresh_per_second=5,
        )
        self._tasks: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bars.stop()

    def begin(self, station: str, total: int) -> None:
        with self._lock:
            if station in self._tasks:
                self._bars.reset(self._tasks[station], total=total)
            else:
                self._tasks[station] = self._bars.add_task(station, total=total, note="")

    def advance(self, station: str, units: int = 1, note: str = "") -> None:
        with self._lock:
            if station in self._tasks:
                self._bars.update(self._tasks[station], advance=units, **({"note": note} if note else {}))

    def end(self, output: StepOutput) -> None:
        with self._lock:
            if (finished := _finished.get()) is not None:
                finished.append(output)
            if (task := self._tasks.pop(output.name, None)) is not None:
                self._bars.remove_task(task)

    def stage(self, run: Callable[[str, Callable], Result]) -> Callable[[str, Callable], Result]:
        """`run` (a way to run a stage), with a line printed when the stage is done."""

        def shown(name: str, work: Callable[[], Result]) -> Result:
            steps: list[StepOutput] = []
            token = _finished.set(steps)
            started = time.monotonic()
            try:
                result = run(name, work)
            finally:
                _finished.reset(token)
            self._print_stage(name, steps, time.monotonic() - started)
            return result

        return shown

    def _print_stage(self, name: str, steps: list[StepOutput], seconds: float) -> None:
        done = [output for output in steps if not output.reused]
        line = Text()
        line.append("✓ " if done or not steps else "= ", style="green" if done else "dim")
        line.append(f"{name:<22}")
        line.append(f"{_summary(name, steps):<44} ", style="" if done else "dim")
        line.append("unchanged" if steps and not done else f"{seconds:7.1f} s", style="dim")
        self._console.print(line)
        for output in steps:
            for alarm in output.record["alarms"]:
                self._console.print(Text(f"    ! {output.name}: {alarm}", style="yellow"))


def _summary(stage: str, steps: list[StepOutput]) -> str:
    """Of a stage over sources the sum of its steps; of any other stage its own step, the last."""
    by_source = steps and all(output.name.startswith(f"{stage}/") for output in steps)
    counts = [output.counts for output in (steps if by_source else steps[-1:])]
    read = sum(count.get("documents_in", 0) for count in counts)
    kept = sum(count.get("documents_out", 0) for count in counts)
    tokens = sum(count.get("tokens", 0) for count in counts if isinstance(count.get("tokens"), int))
    parts = []
    if by_source:
        parts.append(f"{len(steps)} sources")
    if read or kept:
        parts.append(f"{read:,} → {kept:,} docs" if read != kept else f"{kept:,} docs")
    if tokens:
        parts.append(f"{tokens:,} tokens")
    return ", ".join(parts)
