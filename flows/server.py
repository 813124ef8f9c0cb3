"""The embedded Prefect server: started when a run needs it, shared by runs of a workspace, gone with the last.

Prefect's own ephemeral mode loses task runs when a flow ends, starts one server a worker process and leaves
orphans (its recorder writes one row at a time, too). So the server is a process of ours, in a session of its own,
listening on loopback only, its output in a file. It lives as long as any run holds the shared lock
`<home>/users.lock`: the kernel frees that lock however a run ends, so nothing is left behind after `kill -9`.

Loading Prefect takes seconds, so a process can be begun before it is known whether it is needed (`preparing`): it
touches nothing until it is told to serve. It is handed a socket that listens already: its address is known at
once, no other program can take the port, and a request that comes early waits in the queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

START_TIMEOUT = 60.0  # seconds; the first start on a machine migrates a database, which takes about ten
STOP_TIMEOUT = 10.0
DATABASE = "prefect.db"
FOUND = "server.json"  # where the server of a workspace is to be found
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


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


def home_of(workspace: Path) -> Path:
    """The folder of a workspace's own server."""
    return Path(os.environ.get("PREFECT_HOME") or workspace.resolve() / "prefect")


@dataclass
class Prepared:
    """A server's process that loads Prefect, and then waits for a line that tells it to serve."""

    process: subprocess.Popen
    url: str
    serving: bool = False


@dataclass
class Server:
    """A server under way: `url` is known at once, `wait` returns when it answers."""

    url: str
    answers: bool = False

    _finish: Callable[[], None] = lambda: None

    def wait(self) -> str:
        """Wait until the server answers; its address. Raises ServerError."""
        if not self.answers:
            self._finish()
            self.answers = True
        return self.url


@contextlib.contextmanager
def embedded_server(home: Path, scheduler_port: int | None = None) -> Iterator[str]:
    """Yield the API URL of a running server whose database is in `home`. Raises ServerError.

    With `scheduler_port` it is one that starts scheduled runs and has a UI, at that port if it is free.
    """
    with starting_server(home, scheduler_port) as server:
        yield server.wait()


@contextlib.contextmanager
def starting_server(
    home: Path, scheduler_port: int | None = None, prepared: Prepared | None = None
) -> Iterator[Server]:
    """Yield a server that may still be starting: until its `wait` there is time for something else.

    `prepared`: a process for it, which is left alone where another run has a server. Raises ServerError.
    """
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        users = stack.enter_context(open(home / "users.lock", "a"))
        starting = stack.enter_context(open(home / "start.lock", "a"))
        fcntl.flock(starting, fcntl.LOCK_EX)  # until it answers
        fcntl.flock(users, fcntl.LOCK_SH)
        if (url := _running(home, scheduler_port is not None)) is not None:
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield Server(url, answers=True)
            return
        own = prepared or stack.enter_context(preparing(home, scheduler_port))
        new = _take_template(home)

        def finish() -> None:
            if not healthy(own.url, START_TIMEOUT):
                raise ServerError(
                    f"the Prefect server did not start; its output is in {home / 'server.log'}. "
                    "Run with --no-orchestrator to do without it."
                )
            if new:
                _keep_template(home)
            from curation.files import write_json

            write_json(
                home / FOUND, {"url": own.url, "pid": own.process.pid, "scheduler": scheduler_port is not None}
            )
            fcntl.flock(starting, fcntl.LOCK_UN)

        server = Server(own.url, _finish=finish)
        try:
            _tell_to_serve(own)
            yield server
        finally:
            last = _release(users)
            own.process.stdin.close()  # it looks now whether somebody uses it
            if not server.answers:  # nobody knows it yet
                _end(own.process, 0)
            elif last:
                _end(own.process, STOP_TIMEOUT)


@contextlib.contextmanager
def preparing(home: Path, scheduler_port: int | None = None) -> Iterator[Prepared]:
    """Yield a process that loads Prefect, to serve `home` if it is told to; else it ends here without a trace."""
    prepared = None
    try:
        with _interrupt_held_back(), _listener(scheduler_port) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(home), str(listener.fileno())],
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[listener.fileno()],
                env=_server_environment(home, url if scheduler_port is not None else None),
            )
            prepared = Prepared(process, url)
        yield prepared
    finally:
        if prepared is not None and not prepared.serving:
            _end(prepared.process, 0)
            prepared.process.stdin.close()
            with contextlib.suppress(OSError):  # Prefect makes the folder when it is loaded
                home.rmdir()


def _tell_to_serve(prepared: Prepared) -> None:
    prepared.serving = True
    with contextlib.suppress(BrokenPipeError):  # it has died: it will not answer
        prepared.process.stdin.write(b"\n")


def _template() -> Path:
    """An empty database of this Prefect, as its migrations leave it: they take five seconds."""
    from curation.remote import cache_folder

    return cache_folder() / f"prefect-{version('prefect')}.db"


def _take_template(home: Path) -> bool:
    """Begin a new database with what migrations have made here; whether that is still to be made."""
    from curation.files import atomic

    if (home / DATABASE).exists():
        return False
    with contextlib.suppress(OSError), atomic(home / DATABASE) as temporary:
        shutil.copyfile(_template(), temporary)
    return not (home / DATABASE).exists()


def _keep_template(home: Path) -> None:
    """Keep a copy of the database that the server has just made, before a flow is in it."""
    from curation.files import atomic

    with contextlib.suppress(OSError, sqlite3.Error), atomic(_template()) as temporary:
        source, target = sqlite3.connect(home / DATABASE), sqlite3.connect(temporary)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)


def _running(home: Path, scheduler: bool) -> str | None:
    from curation.files import read_json

    try:
        found = read_json(home / FOUND)
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


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM come at the end: within Popen they would lose a process that is running already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {one: signal.signal(one, lambda number, _: came.append(number)) for one in INTERRUPTS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    for number in came[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def _listener(port: int | None) -> Iterator[socket.socket]:
    """A socket that listens on the loopback interface, at the port if it is free, else at any."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port or 0))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield listener


def _server_environment(home: Path, scheduler_url: str | None) -> dict[str, str]:
    """`scheduler_url`: where a server with scheduler and UI is to be found; None for one without."""
    environment = {**os.environ, **quiet_environment(home), "PREFECT_API_URL": "", "PREFECT__SERVER_FINAL": "1"}
    if scheduler_url is None:
        # block types are for the UI's forms: a server with a UI registers them
        blocks = {"PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}
        return environment | blocks | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    return environment | {
        "PREFECT_UI_ENABLED": "1",
        "PREFECT_UI_API_URL": scheduler_url,
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def healthy(url: str, timeout: float = 2.0) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=timeout).status_code == 200
    except httpx.HTTPError:
        return False


def _release(users: IO) -> bool:
    """Give up the shared lock; True if nobody else holds it, so that the server is about to end."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        last = True
    except BlockingIOError:
        last = False
    fcntl.flock(users, fcntl.LOCK_UN)
    return last


def _end(process: subprocess.Popen, patience: float) -> None:
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(home: Path, listener: socket.socket) -> None:
    """Load Prefect; when told to, serve until no run holds the users' lock. Runs in the server's own process."""
    gc.disable()  # what is loaded is there to stay
    with contextlib.suppress(Exception):  # it is loaded again below, where its error has a log to go to
        importlib.import_module("prefect.server.api.server")
    gc.freeze()
    gc.enable()
    if not os.read(0, 1):
        os._exit(0)  # whoever might have told has ended
    with open(home / "server.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)

    def end_without_users() -> None:
        with open(home / "users.lock", "a") as users:
            watched = [0]
            while True:
                if select.select(watched, [], [], 0.3)[0] and not os.read(0, 100):
                    watched = []  # the run that started it has ended
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                server.should_exit = True
                time.sleep(STOP_TIMEOUT - 2)  # a graceful end takes a second; do not linger past that
                os._exit(0)

    threading.Thread(target=end_without_users, daemon=True).start()
    server.run(sockets=[listener])
    (home / FOUND).unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
