"""Where the units of a stage run: one after the other, in threads, or in processes.

A unit is a call of an importable function with picklable arguments; its result is a small JSON value. Kernels
that release the GIL run in threads, Python code in processes (started by spawn, so that no lock is inherited).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Literal

Kind = Literal["threads", "processes"]
ENGINES = ("local", "inline")
ATTEMPTS = 3  # a unit whose worker process dies is tried this often


class LocalExecutor:
    """Runs units on this machine. `workers=1` or `engine="inline"` runs them in the calling thread."""

    def __init__(self, workers: int | None = None, engine: str = "local"):
        if engine not in ENGINES:
            raise ValueError(f"engine '{engine}' is not known; choose one of {', '.join(ENGINES)}")
        self.workers = max(1, workers or os.cpu_count() or 1) if engine == "local" else 1
        self._processes: ProcessPoolExecutor | None = None

    def map(self, function: Callable[..., Any], units: Iterable[tuple], kind: Kind) -> Iterator[tuple[int, Any]]:
        """Call `function(*unit)` for every unit; yield (position of the unit, result) as each completes.

        At most four units a worker are in flight, so a million units cost no memory. The first exception is
        raised at once; units under way are then waited for (threads) or ended (processes).
        """
        units = list(units)
        if self.workers == 1 or len(units) < 2:
            for position, unit in enumerate(units):
                yield position, function(*unit)
        elif kind == "threads":
            with ThreadPoolExecutor(min(self.workers, len(units))) as pool:
                yield from self._drain(pool, function, list(enumerate(units)))
        else:
            yield from self._map_processes(function, units)

    def _map_processes(self, function, units) -> Iterator[tuple[int, Any]]:
        todo = dict(enumerate(units))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for position, result in self._drain(self._pool(), function, list(todo.items())):
                    del todo[position]
                    yield position, result
                return
            except BrokenProcessPool as error:
                self.close()
                if attempt == ATTEMPTS:
                    raise RuntimeError(
                        f"a worker process died {ATTEMPTS} times in {function.__module__}.{function.__name__} "
                        f"(out of memory?); {len(todo)} units are left and a rerun continues there"
                    ) from error

    def _drain(self, pool: Executor, function, units) -> Iterator[tuple[int, Any]]:
        pending: dict[Future, int] = {}
        queue = iter(units)
        try:
            while True:
                while len(pending) < 4 * self.workers and (following := next(queue, None)):
                    position, unit = following
                    pending[pool.submit(function, *unit)] = position
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        finally:
            for future in pending:
                future.cancel()

    def _pool(self) -> ProcessPoolExecutor:
        if self._processes is None:
            self._processes = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
            )
        return self._processes

    def close(self) -> None:
        """End the worker processes at once. What a unit had not finished is done again on the next run."""
        if self._processes is None:
            return
        for process in list((self._processes._processes or {}).values()):
            process.terminate()
        self._processes.shutdown(wait=True, cancel_futures=True)
        self._processes = None

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
