"""Kills at random moments, of the command and its workers, on every engine: the result is the undisturbed one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curation.steps import load, verify_files
from tests.mini import fingerprints, write_inputs, write_pipeline
from tests.processes import files_in_use, wait_for_no_survivors

# engine -> kills. Of four kills one is of the command itself, the others are of workers: of a cluster's, which the
# kill waits for, or of local ones where there are any.
KILLS = {"local": 20, "dask": 18, "ray": 14}
assert sum(KILLS.values()) >= 50

# The command, with the work that is too little for a cluster done there too: all that the mini pipeline has.
ON_WORKERS = """
from curation import cluster
from flows.cli import main

cluster.LITTLE = 0
main()
"""


def command(pipeline: Path, workspace: Path, engine: str) -> list[str]:
    options = ["--until", "mix", "--engine", engine, "--workers", "2", "--no-orchestrator"]
    program = ["-m", "flows.cli"] if engine == "local" else ["-c", ON_WORKERS]
    return [sys.executable, *program, "run", str(pipeline), "--workspace", str(workspace), *options]


def workers(driver: int, engine: str) -> list[psutil.Process]:
    """The worker processes of a command."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if ("ray::" in line and "Agent" not in line) if engine == "ray" else "spawn_main" in line:
                    found.append(process)
    return found


def require_nothing_half_written(workspace: Path) -> None:
    """Every step that counts as complete has the bytes of its record. Workers of a killed command may go on."""
    for record in files_in_use(workspace / "steps", "step.json"):
        output = load(record.parent)
        assert output is not None
        assert verify_files(output) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storm")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    done = subprocess.run(command(pipeline, folder / "w", "local"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = fingerprints(folder / "w")
    assert {"ingest/topics", "dedup-fuzzy", "mix/pretrain"} <= set(expected)
    return pipeline, expected


@pytest.mark.cluster
@pytest.mark.parametrize("engine", KILLS)
def test_random_kills_change_nothing(engine, undisturbed, tmp_path):
    """Runs are started, disturbed and started again until enough kills have struck; each that ends is compared."""
    pipeline, expected = undisturbed
    rng = random.Random(f"storm {engine}")
    struck = {"driver": 0, "worker": 0}
    ended = 0
    while sum(struck.values()) < KILLS[engine]:
        workspace = tmp_path / f"w{ended}"
        before = len(files_in_use(workspace / "steps", "step.json"))
        with open(tmp_path / "said", "w+") as said:
            process = subprocess.Popen(command(pipeline, workspace, engine), stdout=said, stderr=said)
            while process.poll() is None and sum(struck.values()) < KILLS[engine]:
                time.sleep(rng.uniform(0.1, 1.5))
                if not (workspace / "steps").exists():
                    continue  # it is still starting
                # Until a step is done its cluster may be starting: Ray's hangs if a worker dies meanwhile.
                working = engine == "local" or len(files_in_use(workspace / "steps", "step.json")) > before
                victims = workers(process.pid, engine) if working else []
                if victims and sum(struck.values()) % 4 != 3:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        rng.choice(victims).kill()
                        struck["worker"] += 1
                elif process.poll() is None and (engine == "local" or sum(struck.values()) % 4 == 3):
                    process.kill()
                    struck["driver"] += 1
            code = process.wait(300)
            said.seek(0)
            text = said.read()
        if code != -signal.SIGKILL:  # of a killed command a worker that was just starting has lost its orders
            assert "Traceback" not in text, text
        if code == 1:
            told = " ".join(text.split())
            assert "a rerun continues there" in told or "the same command tries again" in told, text
        else:
            assert code in (0, -signal.SIGKILL), text
        if workspace.exists():
            require_nothing_half_written(workspace)
        if code == 0:
            assert fingerprints(workspace) == expected
            shutil.rmtree(workspace)
            ended += 1
    workspace = tmp_path / f"w{ended}"
    for _ in range(3):  # on a busy machine a cluster may fail to start in time
        done = subprocess.run(command(pipeline, workspace, engine), capture_output=True, text=True, timeout=600)
        if "the same command tries again" not in " ".join(done.stderr.split()):
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprints(workspace) == expected
    assert struck["driver"] >= 3, struck
    if engine != "local":
        assert struck["worker"] >= 3, struck
    assert not wait_for_no_survivors(tmp_path)


@pytest.mark.cluster
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_ctrl_c_ends_the_cluster(engine, undisturbed, tmp_path):
    """As a terminal sends it: to the command and to all that it has started."""
    pipeline, expected = undisturbed
    process = subprocess.Popen(
        command(pipeline, tmp_path / "w", engine),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not files_in_use(tmp_path / "w" / "steps" / "measure", ".lock") and time.monotonic() < deadline:
        time.sleep(0.05)
    members = psutil.Process(process.pid).children(recursive=True)
    assert len(members) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(members, 60)[1]
    done = subprocess.run(command(pipeline, tmp_path / "w", "local"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprints(tmp_path / "w") == expected


@pytest.mark.cluster
def test_two_commands_on_one_workspace(undisturbed, tmp_path):
    """Each step is done by one of them; both end well."""
    pipeline, expected = undisturbed
    both = [
        subprocess.Popen(
            command(pipeline, tmp_path / "w", "local"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert fingerprints(tmp_path / "w") == expected
    assert len(list((tmp_path / "w" / "steps").glob("mix/pretrain/*/step.json"))) == 1
    assert len(list((tmp_path / "w" / "runs").iterdir())) == 2


@pytest.mark.cluster
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_at_any_moment_of_the_opening_ends_all(undisturbed, tmp_path, how):
    """Under Prefect, from the start of the command into the first station: code 130, and nobody is left.

    The first moments are Python's own, before the command can answer for itself.
    """
    pipeline, expected = undisturbed
    moments = random.Random(f"opening {how.name}")
    workspace = tmp_path / "w"
    orchestrated = [option for option in command(pipeline, workspace, "local") if option != "--no-orchestrator"]
    for number in range(20):
        process = subprocess.Popen(orchestrated, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(8 * (number + moments.random()) / 20)
        process.send_signal(how)
        _, said = process.communicate(timeout=120)
        assert process.returncode in (0, 130, -how, -signal.SIGINT), said  # to a shell the last is 130, too
        assert "Traceback" not in said or process.returncode == -how, said
        assert not wait_for_no_survivors(tmp_path)
    done = subprocess.run(orchestrated, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprints(workspace) == expected
