"""Where the units of a stage run: one after the other, in threads, or in processes.

A unit is a call of an importable function with picklable arguments; its result is a small JSON value. Kernels that
release the GIL run in threads, Python code in processes (started by spawn, so that no lock is inherited).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Literal

Kind = Literal["threads", "processes"]
ENGINES = ("local", "inline")
ATTEMPTS = 3  # a unit whose worker process dies is tried this often
WINDOW = 4  # units in flight a worker: a million units cost no memory


class StoppedError(Exception):
    """The executor was closed while units were left."""


class LocalExecutor:
    """Runs units on this machine, `workers` at once over all stages that share the executor.

    `workers=1` and `engine="inline"` run every unit in the calling thread.
    """

    def __init__(self, workers: int | None = None, engine: str = "local"):
        if engine not in ENGINES:
            raise ValueError(f"engine '{engine}' is not known; choose one of {', '.join(ENGINES)}")
        self.workers = max(1, workers or os.cpu_count() or 1) if engine == "local" else 1
        self._slots = threading.BoundedSemaphore(self.workers)
        self._lock = threading.Lock()
        self._processes: ProcessPoolExecutor | None = None
        self._closed = False

    def map(self, function: Callable[..., Any], units: Iterable[tuple], kind: Kind) -> Iterator[tuple[int, Any]]:
        """Call `function(*unit)` for every unit; yield (position of the unit, result) as each completes.

        Raises the first exception of a unit; StoppedError once the executor is closed.
        """
        units = list(units)
        if kind == "processes" and self.workers > 1:
            yield from self._map_processes(function, units)
        elif self.workers == 1 or len(units) < 2:
            for position, unit in enumerate(units):
                yield position, self._in_slot(function, *unit)
        else:
            with ThreadPoolExecutor(min(self.workers, len(units))) as pool:
                calls = [(position, (function, *unit)) for position, unit in enumerate(units)]
                yield from self._drain(pool, self._in_slot, calls)

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """`function(item)` for every item, as many at once as there are workers; the results in order.

        For the steps of several sources: each may call `map` on this executor.
        """
        items = list(items)
        if self.workers == 1 or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.workers) as pool:
            calls = [(position, (item,)) for position, item in enumerate(items)]
            results = dict(self._drain(pool, function, calls))
        return [results[position] for position in range(len(items))]

    def _in_slot(self, function, *arguments):
        with self._slots:
            if self._closed:
                raise StoppedError("the run was stopped")
            return function(*arguments)

    def _map_processes(self, function, units) -> Iterator[tuple[int, Any]]:
        todo = dict(enumerate(units))
        for attempt in range(1, ATTEMPTS + 1):
            pool = self._pool()
            try:
                for position, result in self._drain(pool, function, list(todo.items())):
                    del todo[position]
                    yield position, result
                return
            except BrokenProcessPool as error:
                self._discard(pool)
                if attempt == ATTEMPTS:
                    name = f"{function.__module__}.{function.__name__}"
                    raise RuntimeError(
                        f"a worker process died {ATTEMPTS} times in {name} (out of memory?); "
                        f"{len(todo)} units are left and a rerun continues there"
                    ) from error

    def _drain(self, pool: Executor, function, units) -> Iterator[tuple[int, Any]]:
        pending: dict[Future, int] = {}
        queue = iter(units)
        try:
            while True:
                while len(pending) < WINDOW * self.workers and (following := next(queue, None)):
                    position, unit = following
                    pending[pool.submit(function, *unit)] = position
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
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

    def _pool(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise StoppedError("the run was stopped")
            if self._processes is None:
                self._processes = ProcessPoolExecutor(
                    self.workers,
                    mp_context=get_context("spawn"),
                    initializer=_start_worker,
                    initargs=(os.getpid(),),
                )
            return self._processes

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._processes is pool:
                self._processes = None
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """End the worker processes at once. What a unit had not finished is done again on the next run."""
        self._closed = True
        if self._processes is not None:
            self._discard(self._processes)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
