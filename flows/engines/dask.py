"""Units on Dask workers: a cluster of processes on this machine, or the scheduler at an address."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.comm.core import CommClosedError
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.scheduler import KilledWorker

from curation.cluster import WORKER_ENVIRONMENT, ClusterError, ClusterExecutor, look_at, require_same
from curation.executor import ATTEMPTS
from curation.files import remove

PATIENCE = "15s"  # for a scheduler at an address to answer
SETTINGS = {
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    "distributed.nanny.environ": WORKER_ENVIRONMENT,
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    "distributed.comm.timeouts.connect": PATIENCE,
    "distributed.admin.log-length": 100,
    # What nobody looks at costs a tenth of a core: profiles, and the loops that watch loops.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.client.scheduler-info-interval": "60s",
    "distributed.scheduler.active-memory-manager.start": False,
}


class DaskExecutor(ClusterExecutor):
    """`address` is a scheduler's (tcp://host:8786); without one the cluster lives as long as this object."""

    name = "dask"

    def __init__(self, workers: int | None = None, address: str | None = None, workspace: Path = Path()):
        super().__init__(workers or os.cpu_count() or 1)
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        if address is None:
            self.begin(self._open)
            return
        try:
            with dask.config.set(SETTINGS):
                self._client = _connect(address)
            threads = self._require_workers(address, workspace)
        except BaseException:
            self.close()
            raise
        self.workers = workers or threads
        self._executor = self._client.get_executor(pure=False)

    def _open(self) -> None:
        try:
            with dask.config.set(SETTINGS):
                self._cluster = LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,  # a stage bounds its memory itself; Dask would pause or kill workers
                    silence_logs=50,
                )
                self._client = Client(self._cluster, set_as_default=False)
                self._client.register_plugin(IgnoreInterrupts())
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterError(
                f"dask: the cluster did not start, or lost a worker: {error}; the same command tries again"
            ) from error
        self._executor = self._client.get_executor(pure=False)

    def _require_workers(self, address: str, workspace: Path) -> int:
        """How many threads the workers have in all."""
        workers = self._client.scheduler_info(-1)["workers"].values()
        if not workers:
            raise ClusterError(f"dask: the scheduler at {address} has no workers: dask worker {address}")
        workspace.mkdir(parents=True, exist_ok=True)
        probe, token = workspace / f".probe-{secrets.token_hex(8)}", secrets.token_hex(8)
        probe.write_text(token)
        try:
            require_same(self.name, str(probe), token, self._client.run(look_at, str(probe)))
        finally:
            remove(probe)
        return sum(worker["nthreads"] for worker in workers)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        return self._executor.submit(function, *arguments)

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, KilledWorker | CommClosedError | CancelledError)

    def end(self) -> None:
        if self._client is not None:
            with contextlib.suppress(OSError, TimeoutError):  # a scheduler that is gone already
                self._client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=10)


class IgnoreInterrupts(WorkerPlugin):
    """Leave Ctrl-C, which a terminal sends to all processes, to the command. Ends with the worker."""

    name = "ignore-interrupts"

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"dask: no scheduler answers at {address}: {error}") from error
