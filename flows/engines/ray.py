"""Units on Ray workers: a cluster of processes on this machine, or the one at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from curation.cluster import WORKER_ENVIRONMENT, ClusterError, ClusterExecutor, look_at, require_same
from curation.executor import ATTEMPTS
from curation.files import remove

PATIENCE = 15.0  # seconds for a cluster at an address to answer
OBJECT_STORE = 128 << 20  # bytes of shared memory: arguments and results are small, data lies in files
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}
QUIET_INIT = {"log_to_driver": False, "configure_logging": False, "logging_level": 50}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # Ray reads it once a process
# Ray takes an address of the network even for a cluster of one machine, unless told that there is none.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class RayExecutor(ClusterExecutor):
    """`address` is Ray's own (`auto`, host:6379, ray://host:10001); without one the cluster lives as long as this.

    A process has one Ray at a time. The local one asks every caller for a token that is made here.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, address: str | None = None, workspace: Path = Path()):
        super().__init__(workers or os.cpu_count() or 1)
        self._folder: Path | None = None
        self._environment = contextlib.ExitStack()  # read by Ray's threads as long as it runs
        self._environment.enter_context(_environment(QUIET | ({} if address else LOOPBACK | TOKEN)))
        if address is None:
            self.begin(self._open)
            return
        with _own_signals():
            import ray

            self._ray = ray
            try:
                _require_answer(address)
                ray.init(address, **QUIET_INIT)
                self._require_nodes(workspace)
            except BaseException as error:
                self.close()
                if isinstance(error, OSError | ValueError | RuntimeError) and not isinstance(error, ClusterError):
                    raise ClusterError(f"ray: no cluster answers at {address}: {error}") from error
                raise
            self.workers = workers or int(ray.cluster_resources().get("CPU", 1))
        self._call = ray.remote(max_retries=ATTEMPTS - 1, num_cpus=1)(call)

    def _open(self) -> None:
        import polars
        import ray

        self._ray = ray
        self._folder = Path(tempfile.mkdtemp(prefix="mixwright-ray-"))
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # or it warns that SIGTERM is not its own
        polars.thread_pool_size()  # makes the driver's pool: the environment of workers is not for it
        workers = WORKER_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            with _environment(workers):
                ray.init(
                    num_cpus=self.workers,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    _temp_dir=str(self._folder),
                    **QUIET_INIT,
                )
        except Exception as error:  # Ray's own is a bare one
            raise ClusterError(f"ray: the cluster did not start: {error}; the same command tries again") from error
        self._call = ray.remote(max_retries=ATTEMPTS - 1, num_cpus=1)(call)

    def _require_nodes(self, workspace: Path) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        workspace.mkdir(parents=True, exist_ok=True)
        probe, token = workspace / f".probe-{secrets.token_hex(8)}", secrets.token_hex(8)
        probe.write_text(token)
        look = self._ray.remote(look_at)
        try:
            seen = {}
            for node in self._ray.nodes():
                if node["Alive"] and node["Resources"].get("CPU"):
                    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                    seen[node["NodeManagerAddress"]] = self._ray.get(
                        look.options(scheduling_strategy=here).remote(str(probe)), timeout=60
                    )
            require_same(self.name, str(probe), token, seen)
        finally:
            remove(probe)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        return self._call.remote(function, *arguments).future()

    def lost(self, error: BaseException) -> bool:
        names = self._ray.exceptions
        crashed = (names.WorkerCrashedError, names.NodeDiedError, names.OutOfMemoryError)
        return isinstance(error, (*crashed, names.ObjectLostError, names.RaySystemError, CancelledError))

    def cause(self, error: Exception) -> Exception:
        return getattr(error, "cause", None) or error

    def end(self) -> None:
        import ray

        ray.shutdown()
        self._environment.close()
        if self._folder is not None:
            remove(self._folder)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """On a worker: one task, whatever the function, so that Ray keeps a single one."""
    return function(*arguments)


def _require_answer(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM; the command's stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
