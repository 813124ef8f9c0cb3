"""Units on a cluster: in groups, so that a million units are a thousand tasks, through the engine's own API.

A subclass hands a group to its engine and says what a lost worker looks like there. A group whose worker dies is
done again by the engine; units of it that were finished and journalled (`curation.steps`) are not.
"""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from curation.encoder import THREADS
from curation.executor import ATTEMPTS, Executor, Kind, LocalExecutor, StoppedError, name_of

GROUPS = 1024  # tasks of a stage at most, and for a large cluster as many a worker as follow
LITTLE = 4 << 20  # bytes read: work of a tenth of a second, which a task on a cluster may wait for that long
GROUPS_A_WORKER = 8  # so that the last group to end is an eighth of a worker's share at most
STEPS_AT_ONCE = 8  # threads of the driver: each has a window of tasks of its own
# Read when libraries are loaded: a worker has one core. Set for the workers that a run starts.
WORKER_ENVIRONMENT = dict.fromkeys((*THREADS, "POLARS_MAX_THREADS", "OMP_NUM_THREADS"), "1") | {
    "OMP_WAIT_POLICY": "PASSIVE"
}


class ClusterError(RuntimeError):
    """A cluster cannot be started or reached, or lost its workers."""


class ClusterExecutor(Executor):
    """Runs units in groups of at most `ceil(units / GROUPS)` on the workers of an engine.

    What reads little runs in threads of the driver, which may begin with it while the cluster starts.
    """

    name: str  # as the user writes it
    cores_of_a_worker = 1

    def __init__(self, workers: int):
        self.workers = workers
        self._here = LocalExecutor(min(workers, os.cpu_count() or 1))
        self._starter = ThreadPoolExecutor(1)  # Linux may end what a thread has started together with the thread
        self._start: Future | None = None

    def begin(self, start: Callable[[], None]) -> None:
        """Start a cluster of the run's own, in a thread: the first units that need it wait for it."""
        self._start = self._starter.submit(start)

    @abstractmethod
    def end(self) -> None:
        """End what was started, or leave the cluster at the address."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._here.close()
            self._starter.submit(self.end).result()
            self._starter.shutdown()

    @abstractmethod
    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Start a call on the cluster. The engine repeats it where its worker dies."""

    @abstractmethod
    def lost(self, error: BaseException) -> bool:
        """Whether the error means that a worker died too often, or that the cluster is gone."""

    def cause(self, error: Exception) -> Exception:
        """The exception of a unit, without what the engine wraps it in."""
        return error

    @property
    def steps_at_once(self) -> int:
        return min(2 * self.workers, STEPS_AT_ONCE)  # one waits for the cluster, one works here

    def threads(self, units: int) -> int:
        return min(super().threads(units), self.cores_of_a_worker)

    def map(
        self, function: Callable[..., Any], units: Iterable[tuple], kind: Kind, reads: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        units = list(units)
        if kind != "processes" and reads is not None and reads < LITTLE:
            yield from self._here.map(function, units, "threads")
            return
        if self._start is not None:
            self._start.result()
        if self.closed:
            raise StoppedError("the run was stopped")
        size = group_size(len(units), self.workers)
        groups = ((start, (units[start : start + size],)) for start in range(0, len(units), size))
        try:
            for start, results in self._drain(partial(self.submit, run_group, function), groups):
                yield from enumerate(results, start)
        except (Exception, CancelledError) as error:
            if self.closed:
                raise StoppedError("the run was stopped") from None
            if self.lost(error):
                raise ClusterError(
                    f"{self.name}: a worker died {ATTEMPTS} times in {name_of(function)} (out of "
                    f"memory?), or the cluster is gone: {type(error).__name__}: {error}. What is finished is "
                    "kept; a rerun continues there"
                ) from error
            raise self.cause(error) from None


def group_size(units: int, workers: int) -> int:
    """Units in a group: one, until there are more units than groups are allowed."""
    return max(1, -(-units // max(GROUPS, GROUPS_A_WORKER * workers)))


def run_group(function: Callable[..., Any], units: list[tuple]) -> list[Any]:
    """On a worker: the units of a group, one after the other."""
    for name in THREADS:  # a worker that somebody else started; read when the first text is encoded
        os.environ.setdefault(name, "1")
    return [function(*unit) for unit in units]


def look_at(probe: str) -> tuple[str, str, str]:
    """On a worker: what it reads in a file of the workspace, its Python and its polars. See `require_same`."""
    import polars

    try:
        found = Path(probe).read_text()
    except OSError as error:
        found = str(error)
    return found, ".".join(map(str, sys.version_info[:2])), polars.__version__


def require_same(name: str, probe: str, written: str, seen: dict[str, tuple[str, str, str]]) -> None:
    """Raise ClusterError unless every worker saw what the driver wrote, by libraries of the same versions."""
    _, python, polars = look_at(probe)
    for worker, (read, its_python, its_polars) in seen.items():
        if read != written:
            raise ClusterError(
                f"{name}: the worker {worker} does not see the workspace {Path(probe).parent}: {read}. Workers "
                "and the command need a folder that all of them reach under one path; give it by --workspace"
            )
        if (its_python, its_polars) != (python, polars):
            raise ClusterError(
                f"{name}: the worker {worker} has Python {its_python} and polars {its_polars}, the command "
                f"{python} and {polars}: results could differ. Install the same versions"
            )
