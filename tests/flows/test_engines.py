"""One switch, the same bytes: every step on a real Dask and a real Ray cluster has the content of a local run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from curation.cluster import ClusterError
from curation.executor import LocalExecutor
from flows.engines import ENGINES, EngineError, open_executor
from flows.execute import Options, execute
from tests.faulty import s3_bucket
from tests.mini import contents, fingerprints, write_inputs, write_pipeline
from tests.processes import free_port

CLUSTERS = ["dask", "ray"]


def test_an_unknown_engine_names_the_choices_and_local_has_no_address():
    with pytest.raises(EngineError, match=", ".join(ENGINES)):
        open_executor("spark")
    with pytest.raises(EngineError, match="no address"):
        open_executor("local", address="tcp://127.0.0.1:1")
    assert isinstance(open_executor("inline"), LocalExecutor)


def test_an_engine_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("flows.engines.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'mixwright\[ray\]'"):
        open_executor("ray")


def double(x: int) -> int:
    return 2 * x


def process_of(x: int) -> int:
    return os.getpid()


def refuse(x: int) -> int:
    raise ValueError(f"file a.jsonl, row {x}: no number")


def die_once(folder: Path, x: int) -> int:
    """The worker of unit 3 dies the first time, after the units before it in its group."""
    (folder / f"{x}-{os.getpid()}").touch()
    if x == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def children() -> set[int]:
    """Living processes that this one has started; Python's own tracker of semaphores stays until its end."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            tracker = "resource_tracker" in " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and not tracker:
                found.add(process.pid)
    return found


def listeners(process: psutil.Process) -> list[tuple[str, str]]:
    """(process, address) of every listening socket of a process and what it started."""
    found = []
    for member in [process, *process.children(recursive=True)]:
        try:
            found += [
                (member.name(), connection.laddr.ip)
                for connection in member.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            ]
        except psutil.Error:
            continue
    return found


@pytest.mark.cluster
@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_of_the_runs_own(name, tmp_path, monkeypatch):
    """Units, errors, a worker that dies once and one that always dies; loopback alone; gone at the end."""
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing is left there
    handler = signal.getsignal(signal.SIGTERM)
    before = children()
    with open_executor(name, 2) as engine:
        assert dict(engine.map(double, [(x,) for x in range(5000)], "threads")) == {x: 2 * x for x in range(5000)}
        workers = {pid for _, pid in engine.map(process_of, [(x,) for x in range(200)], "threads")}
        assert os.getpid() not in workers
        found = listeners(psutil.Process())
        assert found
        assert {address.removeprefix("::ffff:") for _, address in found} == {"127.0.0.1"}, found
        with pytest.raises(ValueError, match=r"a\.jsonl, row 1: no number") as raised:
            list(engine.map(refuse, [(1,)], "processes"))
        assert type(raised.value) is ValueError
        (tmp_path / "units").mkdir()
        units = [(tmp_path / "units", x) for x in range(8)]
        assert dict(engine.map(die_once, units, "threads")) == {x: x for x in range(8)}
        assert (tmp_path / "units" / "died").exists()
        with pytest.raises(ClusterError, match=r"died 3 times in .*\.die "):
            list(engine.map(die, [(1,)], "threads"))
        assert dict(engine.map(double, [(4,)], "threads")) == {0: 8}
    deadline = time.monotonic() + 60
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not children() - before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The pipeline, and what each of its steps holds after a local run."""
    folder = tmp_path_factory.mktemp("engines")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs")
    execute(Options(pipeline, folder / "local", workers=2))
    return pipeline, fingerprints(folder / "local")


@pytest.mark.cluster
@pytest.mark.parametrize("name", CLUSTERS)
def test_every_step_has_the_same_content(name, local, tmp_path, monkeypatch):
    monkeypatch.setattr("curation.cluster.LITTLE", 0)  # what is too little for a cluster is done there, too
    pipeline, expected = local
    assert len(expected) > 40
    execute(Options(pipeline, tmp_path / "workspace", workers=2, engine=name))
    assert fingerprints(tmp_path / "workspace") == expected


@pytest.mark.cluster
@pytest.mark.parametrize("name", CLUSTERS)
def test_inputs_and_workspace_on_a_store(name, local, tmp_path):
    """The workers read the raw files from a store that fails now and then; each step is published as it is."""
    pipeline, expected = local
    with s3_bucket(tmp_path / "machines") as s3:
        for raw in (pipeline.parent.parent / "inputs").iterdir():
            s3.put(f"raw/{raw.name}", raw.read_bytes())
        there = tmp_path / "pipeline"
        shutil.copytree(pipeline.parent, there)
        text = (there / "pipeline.yaml").read_text()
        assert str(pipeline.parent.parent / "inputs") in text
        text = text.replace(str(pipeline.parent.parent / "inputs"), f"s3://{s3.bucket}/raw")
        (there / "pipeline.yaml").write_text(text)
        s3.proxy.fault = lambda asked: "error" if asked.number % 60 == 7 else None
        done = subprocess.run(
            [*command(there / "pipeline.yaml", f"s3://{s3.bucket}/ws", name), "--until", "mix"],
            env=os.environ | {"MIXWRIGHT_CACHE": str(tmp_path / "machines" / "one")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = contents(s3.objects())
    assert found == {step: expected[step] for step in found}
    assert "mix/pretrain" in found


@pytest.mark.cluster
@pytest.mark.parametrize("name", CLUSTERS)
def test_the_command_on_a_cluster_at_an_address(name, local, tmp_path):
    """The command joins it, leaves it running, and refuses one whose workers lack the workspace."""
    pipeline, expected = local
    with cluster(name) as (address, environment):
        done = subprocess.run(
            [*command(pipeline, tmp_path / "workspace", name), "--address", address, "--until", "mix"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = fingerprints(tmp_path / "workspace")
        assert found == {step: expected[step] for step in found}
        assert "mix/pretrain" in found
    nowhere = {"dask": "tcp://127.0.0.1:1", "ray": "127.0.0.1:1"}[name]
    done = subprocess.run(
        [*command(pipeline, tmp_path / "other", name), "--address", nowhere, "--until", "mix"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "answers at" in done.stderr
    assert nowhere in done.stderr
    assert "Traceback" not in done.stderr


def command(pipeline: Path, workspace: Path | str, engine: str) -> list[str]:
    options = ["--workspace", str(workspace), "--engine", engine, "--workers", "2", "--no-orchestrator"]
    return [sys.executable, "-m", "flows.cli", "run", str(pipeline), *options]


class cluster:  # noqa: N801
    """A cluster that somebody else has started: (address, environment for the command)."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> tuple[str, dict[str, str]]:
        if self.name == "dask":
            from distributed import LocalCluster

            self.cluster = LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
            return self.cluster.scheduler_address, dict(os.environ)
        self.folder = tempfile.mkdtemp(prefix="ray")  # the names of its sockets must be short
        self.environment = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        ray, port = str(Path(sys.executable).parent / "ray"), free_port()
        options = ["--num-cpus=2", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        self.process = subprocess.Popen(
            [ray, "start", "--head", "--block", "--object-store-memory=100000000", *options],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.5)
        return f"127.0.0.1:{port}", self.environment

    def __exit__(self, *exception) -> None:
        if self.name == "dask":
            self.cluster.close()
            return
        members = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(60)
        for member in psutil.wait_procs(members, 10)[1]:
            member.kill()
        shutil.rmtree(self.folder)
