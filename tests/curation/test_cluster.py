"""Groups of units on an engine: bounded in number, finished units not repeated, errors the units' own."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from curation.cluster import (
    GROUPS,
    GROUPS_A_WORKER,
    LITTLE,
    ClusterError,
    ClusterExecutor,
    group_size,
    require_same,
)
from curation.executor import ATTEMPTS, WINDOW, StoppedError
from curation.steps import UNITS, run_unit


class LostError(Exception):
    """What this engine says of a worker that died."""


class ThreadEngine(ClusterExecutor):
    """An engine of threads, which counts its tasks and loses what it is told to lose."""

    name = "threads"

    def __init__(self, workers: int, losing: int = 0):
        super().__init__(workers)
        self.losing = losing
        self.tasks = self.most = self.under_way = 0
        self._pool = ThreadPoolExecutor(workers)

    def submit(self, function, *arguments) -> Future:
        self.tasks += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        future = self._pool.submit(self._call, function, *arguments)
        future.add_done_callback(self._ended)
        return future

    def _call(self, function, *arguments):
        if self.tasks <= self.losing:
            raise LostError("the worker is gone")
        return function(*arguments)

    def _ended(self, _: Future) -> None:
        self.under_way -= 1

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, LostError)

    def end(self) -> None:
        self._pool.shutdown()


def square(x):
    if x == -1:
        raise ValueError("no square of -1")
    return x * x


def add_line(folder: Path, key: str, log: str) -> str:
    with open(log, "a") as file:
        file.write(f"{key}\n")
    return key


@pytest.mark.parametrize("workers", [1, 2, 500])
@pytest.mark.parametrize("units", [1, 7, GROUPS, GROUPS + 1, 1_000_000])
def test_the_number_of_groups_is_bounded(units, workers):
    size = group_size(units, workers)
    groups = math.ceil(units / size)
    assert groups <= max(GROUPS, GROUPS_A_WORKER * workers)
    assert size == 1 or groups > max(GROUPS, GROUPS_A_WORKER * workers) // 2  # and no fewer than there may be


def test_every_unit_once_in_few_tasks_and_few_at_once():
    with ThreadEngine(2) as engine:
        results = dict(engine.map(square, ((x,) for x in range(100_000)), "threads"))
        assert results == {x: x * x for x in range(100_000)}
        assert engine.tasks <= GROUPS
        assert engine.most <= WINDOW * 2


@pytest.mark.parametrize(
    ("kind", "reads", "tasks"),
    [("threads", LITTLE - 1, 0), ("threads", LITTLE, 2), ("threads", None, 2), ("processes", 0, 2)],
)
def test_little_work_stays_with_the_driver(kind, reads, tasks):
    with ThreadEngine(2) as engine:
        assert dict(engine.map(square, [(1,), (2,)], kind, reads)) == {0: 1, 1: 4}
        assert engine.tasks == tasks


def test_units_wait_for_the_cluster_unless_they_are_little():
    with ThreadEngine(2) as engine:
        ready = threading.Event()
        engine.begin(ready.wait)
        assert dict(engine.map(square, [(2,)], "threads", 0)) == {0: 4}
        threading.Timer(0.05, ready.set).start()
        assert dict(engine.map(square, [(3,)], "processes")) == {0: 9}
        assert ready.is_set()


def test_a_cluster_that_does_not_start_says_why_to_the_units_that_need_it():
    def start() -> None:
        raise ClusterError("no port is free")

    with ThreadEngine(2) as engine:
        engine.begin(start)
        with pytest.raises(ClusterError, match="no port is free"):
            list(engine.map(square, [(1,)], "threads"))


def test_an_error_is_the_units_and_a_lost_worker_names_the_function():
    with ThreadEngine(2) as engine, pytest.raises(ValueError, match="no square of -1"):
        list(engine.map(square, [(1,), (-1,)], "processes"))
    with ThreadEngine(1, losing=1) as engine, pytest.raises(ClusterError, match=rf"{ATTEMPTS} times in .*square"):
        list(engine.map(square, [(1,)], "threads"))


def test_a_closed_engine_stops():
    engine = ThreadEngine(2)
    engine.close()
    with pytest.raises(StoppedError):
        list(engine.map(square, [(1,)], "threads"))


def test_a_unit_in_the_journal_is_not_done_again(tmp_path):
    """What a worker does that takes over a group: what the dead one finished is read."""
    log = str(tmp_path / "log")
    (tmp_path / UNITS).mkdir()
    for _ in range(2):
        assert run_unit(add_line, tmp_path, "a", log) == "a"
    assert Path(log).read_text() == "a\n"


def test_workers_must_see_the_workspace_and_have_the_same_versions(tmp_path):
    import sys

    import polars

    probe = tmp_path / "probe"
    probe.write_text("token")
    mine = (f"{sys.version_info[0]}.{sys.version_info[1]}", polars.__version__)
    require_same("x", str(probe), "token", {"w": ("token", *mine)})
    with pytest.raises(ClusterError, match=f"worker w does not see the workspace {tmp_path}: No such file"):
        require_same("x", str(probe), "token", {"w": ("No such file", *mine)})
    with pytest.raises(ClusterError, match=r"has Python 2\.7"):
        require_same("x", str(probe), "token", {"w": ("token", "2.7", mine[1])})
