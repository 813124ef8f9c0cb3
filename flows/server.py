"""The embedded Prefect server: started when a run needs it, shared by runs of a workspace, gone with the last.

Prefect's own ephemeral mode loses task runs when a flow ends, starts one server a worker process and leaves
orphans (its recorder writes one row at a time, too). So the server is a process of ours, in a session of its own,
listening on loopback only, its output in a file. It lives as long as any run holds the shared lock
`<home>/users.lock`: the kernel frees that lock however a run ends, so nothing is left behind after `kill -9`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from curation.files import read_json, write_json

START_TIMEOUT = 60.0  # seconds; a first start migrates the database, which takes about ten
STOP_TIMEOUT = 10.0


class ServerError(Exception):
    """The embedded server did not start."""


def quiet_environment(home: Path) -> dict[str, str]:
    """The Prefect settings of an embedded server and of the runs that use it."""
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        # whole seconds: the server cuts a fraction off, and at 0 its flusher takes a core for itself
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    }


@contextlib.contextmanager
def embedded_server(home: Path, scheduler_port: int | None = None) -> Iterator[str]:
    """Yield the API URL of a running server whose database is in `home`. Raises ServerError.

    With `scheduler_port` it is one that starts scheduled runs and has a UI, at that port if it is free.
    """
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "users.lock", "a") as users:
        with _exclusive(home / "start.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            url = _running(home, scheduler_port is not None)
            process = None
            if url is None:
                process, url = _start(home, scheduler_port)
        try:
            yield url
        finally:
            last = _release(users)
            if process is not None and last:
                _wait_or_kill(process)


def _running(home: Path, scheduler: bool) -> str | None:
    try:
        found = read_json(home / "server.json")
        url = found["url"]
    except (OSError, ValueError, KeyError):
        return None
    if not healthy(url):
        return None
    if scheduler and not found.get("scheduler"):
        raise ServerError(
            f"{home}: a run is going on with a server that has no scheduler; serve when it has ended"
        )
    return url


def _start(home: Path, scheduler_port: int | None) -> tuple[subprocess.Popen, str]:
    for attempt in range(3):  # another program may take the port between finding and binding it
        port = scheduler_port if scheduler_port and not attempt and _is_free(scheduler_port) else _free_port()
        url = f"http://127.0.0.1:{port}/api"
        process = None
        try:
            with open(home / "server.log", "ab") as log, _interrupt_held_back():
                process = subprocess.Popen(
                    [sys.executable, "-m", "flows.server", str(home), str(port)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=_server_environment(home, url if scheduler_port is not None else None),
                )
            if _wait_for_health(process, url):
                write_json(
                    home / "server.json", {"url": url, "pid": process.pid, "scheduler": scheduler_port is not None}
                )
                return process, url
        except BaseException:  # Ctrl-C while it starts: it has no user yet, so nothing else would end it soon
            if process is not None:
                _wait_or_kill(process, timeout=0)
            raise
        _wait_or_kill(process, timeout=0)
    raise ServerError(
        f"the Prefect server did not start; its output is in {home / 'server.log'}. "
        "Run with --no-orchestrator to do without it."
    )


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Let Ctrl-C come at the end: within Popen it would lose a process that is running already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple] = []
    before = signal.signal(signal.SIGINT, lambda *told: came.append(told))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def _wait_for_health(process: subprocess.Popen, url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if healthy(url):
            return True
        time.sleep(0.05)
    return False


def _server_environment(home: Path, scheduler_url: str | None) -> dict[str, str]:
    """`scheduler_url`: where a server with scheduler and UI is to be found; None for one without."""
    environment = {**os.environ, **quiet_environment(home), "PREFECT_API_URL": "", "PREFECT__SERVER_FINAL": "1"}
    if scheduler_url is None:
        return environment | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    return environment | {
        "PREFECT_UI_ENABLED": "1",
        "PREFECT_UI_API_URL": scheduler_url,
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _release(users) -> bool:
    """Give up the shared lock; True if nobody else holds it, so that the server is about to end."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        last = True
    except BlockingIOError:
        last = False
    fcntl.flock(users, fcntl.LOCK_UN)
    return last


def _wait_or_kill(process: subprocess.Popen, timeout: float = STOP_TIMEOUT) -> None:
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(home: Path, port: int) -> None:
    """Serve until no run holds the users' lock. Runs in the server's own process."""
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)

    def end_without_users() -> None:
        with open(home / "users.lock", "a") as users:
            while True:
                time.sleep(0.3)
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                server.should_exit = True
                time.sleep(STOP_TIMEOUT - 2)  # a graceful end takes a second; do not linger past that
                os._exit(0)

    threading.Thread(target=end_without_users, daemon=True).start()
    server.run()
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
