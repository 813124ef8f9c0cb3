"""Kill a run at random moments; what a rerun gives is what an undisturbed run gives, byte for byte."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server import embedded_server
from tests.mini import fingerprints, write_inputs, write_pipeline
from tests.processes import files_in_use, wait_for_no_survivors


def command(pipeline: Path, workspace: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "run", str(pipeline), "--workspace", str(workspace), *more]


def run(pipeline: Path, workspace: Path, *more: str) -> subprocess.CompletedProcess:
    done = subprocess.run(command(pipeline, workspace, *more), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def steps_done(workspace: Path) -> int:
    return len(files_in_use(workspace / "steps", "step.json"))


def kill_at(steps: int, moment: float, pipeline: Path, workspace: Path, *more: str) -> int:
    """Start a run, kill it `moment` seconds after the workspace holds so many steps, one of its own at least.

    The time is told by steps: how long a run takes differs between machines and hours.
    """
    steps = max(steps, steps_done(workspace) + 1)
    process = subprocess.Popen(
        command(pipeline, workspace, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and steps_done(workspace) < steps and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(moment)
    process.kill()
    return process.wait(60)


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(tmp_path):
    """The whole line, training included: same content of every step, final weights bit for bit."""
    write_inputs(tmp_path / "inputs")
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs")
    run(pipeline, tmp_path / "whole", "--no-orchestrator", "--workers", "2")
    expected = fingerprints(tmp_path / "whole")
    assert {"train/pretrain", "train/reward", "train/dpo", "mix/pretrain"} <= set(expected)

    rng = random.Random(11)
    more = ("--no-orchestrator", "--workers", "2")
    codes = []
    for kill in range(12):
        steps = int(len(expected) * (kill + rng.random()) / 12)
        codes.append(kill_at(steps, rng.uniform(0, 0.3), pipeline, tmp_path / "killed", *more))
    assert codes.count(-signal.SIGKILL) >= 8, codes
    run(pipeline, tmp_path / "killed", *more)
    assert fingerprints(tmp_path / "killed") == expected
    assert not wait_for_no_survivors(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_process_and_a_rerun_completes(tmp_path, how):
    """Under Prefect: the run is recorded as interrupted, its server and workers are gone."""
    from flows.run import load_run

    write_inputs(tmp_path / "inputs")
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs", training=False)
    workspace = tmp_path / "workspace"
    process = subprocess.Popen(
        command(pipeline, workspace, "--workers", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not files_in_use(workspace / "steps" / "ingest", ".lock") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert not wait_for_no_survivors(workspace)
    assert load_run(workspace).data["status"] == "interrupted"
    run(pipeline, workspace, "--workers", "2")
    run(pipeline, tmp_path / "other", "--workers", "1", "--no-orchestrator")
    assert fingerprints(workspace) == fingerprints(tmp_path / "other")
    assert not wait_for_no_survivors(workspace)


@pytest.mark.slow
def test_interrupt_while_the_server_starts_leaves_no_server(tmp_path):
    write_inputs(tmp_path / "inputs")
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs", training=False)
    workspace = tmp_path / "workspace"
    process = subprocess.Popen(command(pipeline, workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (workspace / "prefect" / "server.log").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (130, -signal.SIGINT)  # to a shell both are 130
    assert not wait_for_no_survivors(workspace)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("held_back", [True, False])
def test_an_interrupt_within_the_start_of_a_process_does_not_lose_it(tmp_path, monkeypatch, held_back, how):
    """A signal between the start of the server's process and the knowledge of it. The bug: not to hold it back."""
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *_, **__):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
            started.append(self)
            signal.raise_signal(how)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    if not held_back:
        monkeypatch.setattr("flows.server._interrupt_held_back", contextlib.nullcontext)
    before = signal.signal(how, signal.default_int_handler)  # a shell's background ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt), embedded_server(tmp_path):
            pass
    finally:
        signal.signal(how, before)
    lost = started[0].poll() is None
    started[0].kill()
    started[0].wait()
    assert lost is not held_back
