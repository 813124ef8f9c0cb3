"""The executor: every unit once, whatever the engine; worker death and closing."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from curation.executor import LITTLE, MUCH, SWITCH, LocalExecutor, StoppedError


def square(x):
    return x * x


def die_once(flag: str, x: int):
    """Kill the worker process the first time; succeed after that."""
    if x == 3 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def fail_on_two(x):
    if x == 2:
        raise ValueError("two")
    return x


@pytest.mark.parametrize("kind", ["threads", "processes", "either"])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_once(kind, workers):
    with LocalExecutor(workers) as executor:
        results = list(executor.map(square, [(x,) for x in range(30)], kind))
    assert sorted(results) == [(x, x * x) for x in range(30)]


def is_loaded(module):
    return module in sys.modules, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


SCRIPT = """
import os, time
from curation.executor import LocalExecutor
from tests.curation.test_executor import is_loaded

with LocalExecutor(2, modules={modules}) as executor:
    executor.start()
    units = [("colorsys",), ("wave",), ("curation.preload",)] * 4
    print([loaded for _, loaded in sorted(executor.map(is_loaded, units, "processes"))])
    print(len(executor._processes._processes), flush=True)
    time.sleep({wait})
"""


def script(folder: Path, modules: list[str], wait: float) -> subprocess.Popen:
    """A script without a guard against being run by each worker."""
    (folder / "script.py").write_text(SCRIPT.format(modules=modules, wait=wait))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, [Path.cwd(), *sys.path])))}
    run = [sys.executable, str(folder / "script.py")]
    return subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("modules", "loaded"), [(["colorsys"], True), ([], False)])
def test_workers_have_loaded_what_they_are_told_and_leave_interrupts_to_their_parent(tmp_path, modules, loaded):
    told = script(tmp_path, modules, 0).communicate(timeout=60)[0].splitlines()
    assert told == [str([(loaded, True), (False, True), (loaded, True)] * 4), "2"]


@pytest.mark.parametrize("modules", [["colorsys"], []])
def test_no_process_outlives_a_command_that_is_killed(tmp_path, modules):
    with script(tmp_path, modules, 60) as command:
        command.stdout.readline(), command.stdout.readline()
        members = psutil.Process(command.pid).children(recursive=True)
        command.kill()
    assert len(members) == (4 if modules else 3)  # two workers, what tracks resources, the server
    assert not psutil.wait_procs(members, 30)[1]


def test_a_function_that_no_other_process_can_import_is_refused(monkeypatch):
    monkeypatch.setattr(square, "__module__", "__main__")
    with LocalExecutor(2) as executor, pytest.raises(ValueError, match="square is to run in another process"):
        list(executor.map(square, [(x,) for x in range(3)], "processes"))


def where(_):
    return os.getpid()


@pytest.mark.parametrize(
    ("modules", "started", "reads", "apart"),
    [
        (["colorsys"], True, LITTLE, True),
        (["colorsys"], True, LITTLE - 1, False),
        (["colorsys"], True, None, True),
        (["colorsys"], False, None, False),
        (["colorsys"], False, MUCH - 1, False),
        (["colorsys"], False, MUCH, True),
        ([], True, MUCH, False),
    ],
)
def test_kernels_run_in_processes_where_there_is_much_to_do(modules, started, reads, apart):
    with LocalExecutor(2, modules=modules) as executor:
        if started:
            executor.start()
        places = {place for _, place in executor.map(where, [(x,) for x in range(8)], "either", reads)}
    assert (os.getpid() not in places) == apart


def test_threads_take_turns_sooner_while_several_work():
    before = sys.getswitchinterval()
    with LocalExecutor(2):
        assert sys.getswitchinterval() == pytest.approx(SWITCH)
    with LocalExecutor(1):
        assert sys.getswitchinterval() == before


def test_what_runs_aside_has_a_process_of_its_own():
    with LocalExecutor(2) as executor:
        assert executor.aside(os.getpid) is None  # none would be started for it
        assert len(list(executor.map(where, [(1,)], "processes"))) == 1
        worker = executor.aside(os.getpid).result()
        assert worker not in (None, os.getpid())
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not executor._processes._broken and time.monotonic() < deadline:
            time.sleep(0.01)
        assert executor.aside(os.getpid) is None


def test_dead_worker_costs_only_its_units(tmp_path):
    with LocalExecutor(2) as executor:
        results = dict(executor.map(die_once, [(str(tmp_path / "died"), x) for x in range(8)], "processes"))
    assert results == {x: x for x in range(8)}
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_first_error_is_raised(kind):
    with LocalExecutor(2) as executor, pytest.raises(ValueError, match="two"):
        list(executor.map(fail_on_two, [(x,) for x in range(5)], kind))


def test_closed_executor_stops():
    executor = LocalExecutor(2)
    executor.close()
    with pytest.raises(StoppedError):
        list(executor.map(square, [(1,), (2,)], "threads"))
    with pytest.raises(StoppedError):
        list(executor.map(square, [(1,), (2,)], "processes"))


def test_a_pool_is_ended_by_one_thread_alone():
    """Two sources whose worker died, or Ctrl-C meanwhile: ended twice at once, its pipes are closed twice."""
    inside, ended = threading.Event(), []

    class Pool:
        _processes: ClassVar = {}

        def shutdown(self, **_):
            ended.append(threading.current_thread())
            inside.set()
            time.sleep(0.05)

    executor = LocalExecutor(2)
    executor._processes = pool = Pool()
    first = threading.Thread(target=executor._discard, args=(pool,))
    first.start()
    inside.wait()
    executor._discard(pool)
    executor.close()
    first.join()
    assert ended == [first]


def test_each_keeps_order_and_nests():
    with LocalExecutor(2) as executor:

        def stage(base):
            time.sleep(0.01 * (3 - base))
            return sum(result for _, result in executor.map(square, [(base,), (base + 1,)], "threads"))

        assert executor.each(stage, [0, 1, 2]) == [1, 5, 13]


def test_each_sees_the_callers_context():
    name = ContextVar("name", default="none")
    name.set("caller")
    with LocalExecutor(2) as executor:
        assert executor.each(lambda one: name.set(f"{name.get()} {one}") and name.get(), [0, 1]) == [
            "caller 0",
            "caller 1",
        ]
    assert name.get() == "caller"


def test_unknown_engine_names_the_choices():
    with pytest.raises(ValueError, match="local, inline"):
        LocalExecutor(engine="spark")
