"""`mixwright dedup` killed at random moments: the run that gets through leaves what an undisturbed one leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from curation.dedup.incremental import held

pytestmark = pytest.mark.slow


def command(folder, out, index):
    arguments = ["dedup", folder, "--out", out, "--index", index, "--id-field", "id", "--workers", "2", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, arguments), "--write-records"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def results(out, index):
    tables = [pq.read_table(out / f"{name}.parquet").to_pydict() for name in ("kept", "removed", "clusters")]
    records = sorted((path.name, path.read_bytes()) for path in (out / "records").rglob("*.jsonl"))
    kept = held(index)
    return tables, records, sorted(kept.filter(kept["kept"])["origin"].to_pylist())


def test_killed_runs_go_on_to_the_same_result(tmp_path):
    generator = random.Random(3)
    vocabulary = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 7))) for _ in range(4000)]
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(3):
        with open(folder / f"{part}.jsonl", "w") as file:
            words: list[str] = []
            for number in range(9000):
                if number % 5:
                    words = generator.choices(vocabulary, k=120)
                else:
                    words = [
                        word if generator.random() > 0.01 else "changed" for word in words or vocabulary[:120]
                    ]
                file.write(json.dumps({"id": f"{part}-{number}", "text": " ".join(words)}) + "\n")

    clean = command(folder, tmp_path / "clean", tmp_path / "clean-index")
    assert clean.wait(timeout=300) == 0, clean.stderr.read()
    expected = results(tmp_path / "clean", tmp_path / "clean-index")
    assert expected[0][1]["id"]
    # The first run may have compiled the kernels: how long a run takes is told by a second one.
    started = time.monotonic()
    assert command(folder, tmp_path / "warm", tmp_path / "warm-index").wait(timeout=300) == 0
    whole = time.monotonic() - started

    kills = 0
    for attempt in range(40):
        run = command(folder, tmp_path / "out", tmp_path / "index")
        try:
            code = run.wait(timeout=whole * generator.uniform(0.1, 0.8) if attempt < 25 else 300)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            continue
        assert code == 0, run.stderr.read()
        if kills:
            break
        for made in ("out", "index"):  # that one was faster than any before: begin anew, with less patience
            shutil.rmtree(tmp_path / made)
        whole /= 2
    assert kills > 0
    got = results(tmp_path / "out", tmp_path / "index")
    assert got[0] == expected[0]
    assert got[1:] == expected[1:]
