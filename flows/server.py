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
def embedded_server(home: Path) -> Iterator[str]:
    """Yield the API URL of a running server whose database is in `home`. Raises ServerError."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "users.lock", "a") as users:
        with _exclusive(home / "start.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            url = _running(home)
            process = None
            if url is None:
                process, url = _start(home)
        try:
            yield url
        finally:
            last = _release(users)
            if process is not None and last:
                _wait_or_kill(process)


def _running(home: Path) -> str | None:
    try:
        url = read_json(home / "server.json")["url"]
    except (OSError, ValueError, KeyError):
        return None
    return url if healthy(url) else None


def _start(home: Path) -> tuple[subprocess.Popen, str]:
    for _attempt in range(3):  # another program may take the port between finding and binding it
        port = _free_port()
        url = f"http://127.0.0.1:{port}/api"
        with open(home / "server.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(home), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_server_environment(home),
            )
        try:
            if _wait_for_health(process, url):
                write_json(home / "server.json", {"url": url, "pid": process.pid})
                return process, url
        except BaseException:  # Ctrl-C while it starts: it has no user yet, so nothing else would end it soon
            _wait_or_kill(process, timeout=0)
            raise
        _wait_or_kill(process, timeout=0)
    raise ServerError(
        f"the Prefect server did not start; its output is in {home / 'server.log'}. "
        "Run with --no-orchestrator to do without it."
    )


def _wait_for_health(process: subprocess.Popen, url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if healthy(url):
            return True
        time.sleep(0.05)
    return False


def _server_environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        **quiet_environment(home),
        "PREFECT_API_URL": "",
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
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
