"""Where the units of a stage run: one after the other, in threads, in processes, or on a cluster.

A unit is a call of an importable function with picklable arguments; its result is a small JSON value. It says
where it may run on this machine:

- threads    kernels that release the GIL, with large arguments or little to do
- processes  Python code
- either     kernels with small arguments: of much work a quarter is Python between the kernels, and threads would
             wait for each other's

Processes are forked from a server that has only loaded modules and kernels, so that these are loaded once and no
lock is inherited; without modules to load they are started by spawn. Clusters are in `curation.cluster`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextvars import copy_context
from functools import partial
from multiprocessing import connection, forkserver, get_context, parent_process, resource_tracker
from types import ModuleType
from typing import Any, Literal

Kind = Literal["threads", "processes", "either"]
ENGINES = ("local", "inline")
ATTEMPTS = 3  # a unit whose worker process dies is tried this often
FEW = 4  # units a worker, from which on it does not matter that the last ones run alone
WINDOW = 4  # calls in flight a worker: a million units cost no memory
SWITCH = 0.001  # seconds after which a thread of Python yields: another may have but to call a kernel
LITTLE = 1 << 20  # bytes read: less work than it is to tell a process of it
MUCH = 64 << 20  # bytes read: work for which the server of processes is started, where it is not yet
LOOK = 0.5  # seconds after which who waits for a result looks whether the executor was closed


class StoppedError(Exception):
    """The executor was closed while units were left."""


class Executor(ABC):
    """Runs units, `workers` at once over all stages that share the executor."""

    workers: int
    closed = False

    @abstractmethod
    def map(
        self, function: Callable[..., Any], units: Iterable[tuple], kind: Kind, reads: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Call `function(*unit)` for every unit; yield (position of the unit, result) as each completes.

        `reads`: the bytes that all units read, where they are known: little work is not sent to a cluster.
        Raises the first exception of a unit; StoppedError once the executor is closed.
        """

    def aside(self, function: Callable[..., Any], *arguments: Any) -> Future | None:
        """Begin `function(*arguments)` in a worker process that runs already; None where none does.

        What it returns must be picklable, and not be needed: the future fails if the worker dies.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """End the workers at once. What a unit had not finished is done again on the next run."""

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """`function(item)` for every item, several at once, in threads of this process; the results in order.

        For the steps of several sources: each may call `map` on this executor. Each sees the caller's context
        variables, in a copy of its own.
        """
        items = list(items)
        if self.workers == 1 or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.steps_at_once) as pool:
            calls = [(position, (item,)) for position, item in enumerate(items)]
            results = dict(self._drain(lambda item: pool.submit(copy_context().run, function, item), calls))
        return [results[position] for position in range(len(items))]

    @property
    def steps_at_once(self) -> int:
        """One more than workers: while a step waits for a disk, or its last unit for a worker, another has units.
        More would but wait for the interpreter."""
        return self.workers + 1

    def threads(self, units: int) -> int:
        """How many threads each of so many units may use: its share, and of a few one more, for when the last are
        left."""
        return min(self.workers, -(-self.workers // max(1, units)) + (units < FEW * self.workers))

    def _drain(
        self, submit: Callable[..., Future], calls: Iterable[tuple[int, tuple]]
    ) -> Iterator[tuple[int, Any]]:
        """Submit the calls, given as (key, arguments), in a bounded window; yield (key, result) as they end."""
        pending: dict[Future, int] = {}
        queue = iter(calls)
        try:
            while True:
                while len(pending) < WINDOW * self.workers and (following := next(queue, None)):
                    key, arguments = following
                    pending[submit(*arguments)] = key
                if not pending:
                    return
                done, _ = wait(pending, LOOK, return_when=FIRST_COMPLETED)
                if not done and self.closed:
                    raise StoppedError("the run was stopped")
                for future in done:
                    yield pending.pop(future), future.result()
        except (Exception, GeneratorExit):
            raise
        except BaseException:  # Ctrl-C and the like: units that other threads would begin are not begun
            self.close()
            raise
        finally:
            for future in pending:
                future.cancel()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class LocalExecutor(Executor):
    """Runs units on this machine.

    `workers=1` and `engine="inline"` run every unit in the calling thread. `modules`: what worker processes have
    loaded when they start, with the kernels in it that are compiled already; without any, kernels run in threads.
    """

    def __init__(self, workers: int | None = None, engine: str = "local", modules: Sequence[str] = ()):
        if engine not in ENGINES:
            raise ValueError(f"engine '{engine}' is not known; choose one of {', '.join(ENGINES)}")
        self.workers = max(1, workers or os.cpu_count() or 1) if engine == "local" else 1
        self._switch = sys.getswitchinterval()
        if self.workers > 1:
            sys.setswitchinterval(SWITCH)
        self._modules = tuple(modules)
        self._started = False
        self._slots = threading.BoundedSemaphore(self.workers)
        self._lock = threading.Lock()
        self._processes: ProcessPoolExecutor | None = None

    def start(self) -> None:
        """Start the server that worker processes are forked from: it loads beside the caller, who may have imports
        of its own."""
        if self.workers > 1 and self._modules and not self._started:
            self._started = True
            get_context("forkserver").set_forkserver_preload([*self._modules, "curation.preload"])
            with _interrupts_blocked():
                forkserver.ensure_running()

    def map(
        self, function: Callable[..., Any], units: Iterable[tuple], kind: Kind, reads: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        units = list(units)
        if self.workers > 1 and (kind == "processes" or (kind == "either" and self._is_much(reads))):
            yield from self._map_processes(function, units)
        elif self.workers == 1 or len(units) < 2:
            for position, unit in enumerate(units):
                yield position, self._in_slot(function, *unit)
        else:
            with ThreadPoolExecutor(min(self.workers, len(units))) as pool:
                yield from self._drain(partial(pool.submit, self._in_slot, function), enumerate(units))

    def _is_much(self, reads: int | None) -> bool:
        """Whether processes are worth it; unknown work is, where they need not be waited for."""
        if reads is None or not self._modules:
            return self._started
        return reads >= (LITTLE if self._started else MUCH)

    def aside(self, function: Callable[..., Any], *arguments: Any) -> Future | None:
        try:
            return None if self._processes is None else self._pool().submit(function, *arguments)
        except BrokenProcessPool:  # whose worker has died: units that need one find out, and start another
            return None

    def _in_slot(self, function, *arguments):
        with self._slots:
            if self.closed:
                raise StoppedError("the run was stopped")
            return function(*arguments)

    def _map_processes(self, function, units) -> Iterator[tuple[int, Any]]:
        if (name := name_of(function)).startswith("__main__."):
            raise ValueError(f"{name} is to run in another process: it must be in a module that can be imported")
        todo = dict(enumerate(units))
        for attempt in range(1, ATTEMPTS + 1):
            pool = None
            try:
                pool = self._pool()
                for position, result in self._drain(partial(pool.submit, function), list(todo.items())):
                    del todo[position]
                    yield position, result
                return
            except BrokenProcessPool as error:
                self._discard(pool or self._processes)
                if attempt == ATTEMPTS:
                    raise RuntimeError(
                        f"a worker process died {ATTEMPTS} times in {name} (out of memory?); "
                        f"{len(todo)} units are left and a rerun continues there"
                    ) from error

    def _pool(self) -> ProcessPoolExecutor:
        """The pool, with all its processes running."""
        with self._lock:
            if self.closed:
                raise StoppedError("the run was stopped")
            self.start()
            if self._processes is None:
                self._processes = ProcessPoolExecutor(
                    self.workers,
                    mp_context=get_context("forkserver" if self._modules else "spawn"),
                    initializer=_start_worker,
                    initargs=(bool(self._modules),),
                )
            try:
                with _interrupts_blocked(), _main_hidden():
                    while len(self._processes._processes or ()) < self.workers:
                        self._processes.submit(os.getpid)  # which starts one
            except BrokenProcessPool:
                pass  # whoever uses it learns of it
            except (ConnectionError, EOFError) as error:
                raise BrokenProcessPool("the server that forks worker processes has died") from error
            return self._processes

    def _discard(self, pool: ProcessPoolExecutor | None) -> None:
        with self._lock:
            if pool is None or self._processes is not pool:
                return  # another thread ends it: two at once would close the same pipes
            self._processes = None
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        self.closed = True
        if self.workers > 1:
            sys.setswitchinterval(self._switch)
        if (pool := self._processes) is not None:
            self._discard(pool)


def name_of(function: Callable[..., Any]) -> str:
    """The full name of a function; of a partial one that of the function it was given first."""
    while isinstance(function, partial):
        function = function.args[0] if function.args and callable(function.args[0]) else function.func
    return f"{function.__module__}.{function.__qualname__}"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that are started meanwhile inherit that Ctrl-C is blocked, and leave it to this one."""
    resource_tracker.ensure_running()  # which would unblock them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Processes that are started meanwhile do not run the caller's script, which may have no guard against it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker(kernels: bool) -> None:
    """Do not outlive the command, however it ends; encode on one core."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if kernels:
        from curation.encoder import limit_threads

        limit_threads(1)


def _end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
