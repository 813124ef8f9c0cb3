"""Under a real Prefect server: every task run is recorded, and the server is gone afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest
from pydantic import BaseModel, field_serializer

from curation.files import read_json
from flows import server
from flows.commands.shared import Exit, was_interrupted
from flows.server import embedded_server, preparing
from tests.mini import write_inputs, write_pipeline


@pytest.fixture(scope="module")
def orchestrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orchestrated")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    command = [sys.executable, "-m", "flows.cli", "run", str(pipeline), "-w", str(folder / "workspace")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "workspace", done


def test_every_task_run_is_recorded_as_completed(orchestrated):
    workspace, done = orchestrated
    with sqlite3.connect(workspace / "prefect" / "prefect.db") as database:
        tasks = database.execute("select name, state_type from task_run").fetchall()
        flows = database.execute("select state_type from flow_run").fetchall()
    printed = [line for line in done.stdout.splitlines() if line.startswith("✓")]
    assert len(tasks) == len(printed) > 15
    assert {state for _, state in tasks} == {"COMPLETED"}
    assert flows == [("COMPLETED",)]


def test_the_terminal_shows_our_lines_alone(orchestrated):
    _, done = orchestrated
    assert done.stderr == ""
    assert "prefect" not in done.stdout.lower()
    assert "Traceback" not in done.stdout


def test_runs_share_one_server_which_ends_with_the_last(tmp_path):
    home = tmp_path / "prefect"
    inner_left, urls = threading.Event(), []

    def inner() -> None:
        with embedded_server(home) as url:
            urls.append(url)
        inner_left.set()

    with embedded_server(home) as outer:
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()
        assert inner_left.is_set()
        assert urls == [outer]
        assert httpx.get(f"{outer}/health").status_code == 200
        assert outer.startswith("http://127.0.0.1:")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{outer}/health", timeout=2)


def test_an_idle_server_leaves_the_cores_alone(tmp_path):
    """Processor time, not wall time: a flusher that spins would take all of it."""

    def taken(seconds: float) -> float:
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        return (after.user + after.system) - (before.user + before.system)

    with embedded_server(tmp_path / "prefect"):
        process = psutil.Process(read_json(tmp_path / "prefect" / "server.json")["pid"])
        # What follows a start ends some day, later where others are at work.
        assert any(taken(2) < 0.5 for _ in range(20))


def test_a_new_database_begins_as_the_first_one_was_migrated(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXWRIGHT_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    for home in (first, second):
        home.mkdir()
    assert server._take_template(first)  # there is none yet: this one is to be kept
    with contextlib.closing(sqlite3.connect(first / server.DATABASE)) as made:
        made.execute("create table flow (id text)")
        made.commit()
    server._keep_template(first)
    assert not server._take_template(second)
    with contextlib.closing(sqlite3.connect(second / server.DATABASE)) as copy:
        assert copy.execute("select name from sqlite_master").fetchall() == [("flow",)]
        copy.execute("insert into flow values ('one')")
        copy.commit()
    before = (second / server.DATABASE).read_bytes()
    assert not server._take_template(second)  # what is there is left alone
    assert (second / server.DATABASE).read_bytes() == before


def test_a_process_that_is_not_told_to_serve_leaves_nothing(tmp_path):
    home = tmp_path / "prefect"
    with preparing(home) as prepared:
        pass
    assert prepared.process.returncode is not None
    assert not home.exists()


def test_an_error_on_the_way_out_of_an_interrupt_is_an_interrupt():
    class TerminationSignal(BaseException):
        """As Prefect names what it makes of SIGTERM."""

    def led_to(first: BaseException, then: BaseException) -> BaseException:
        try:
            try:
                raise first
            finally:
                raise then
        except BaseException as error:
            return error

    for first in (KeyboardInterrupt(), TerminationSignal(), SystemExit(Exit.INTERRUPTED)):
        assert was_interrupted(first)
        assert was_interrupted(led_to(led_to(first, OSError(9, "Bad file descriptor")), RuntimeError()))
    assert not was_interrupted(led_to(SystemExit(1), OSError(9, "Bad file descriptor")))

    class Settings(BaseModel):
        field: int = 1

        @field_serializer("field")
        def interrupted(self, value: int) -> int:
            raise KeyboardInterrupt

    with pytest.raises(ValueError, match="KeyboardInterrupt") as raised:
        Settings().model_dump_json()
    assert was_interrupted(raised.value)
