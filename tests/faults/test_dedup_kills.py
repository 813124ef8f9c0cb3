"""`mixwright dedup` killed at random moments: the run that gets through leaves what an undisturbed one leaves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from curation.dedup.incremental import held
from tests.processes import files_in_use

pytestmark = pytest.mark.slow
KILLS = 12


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


def kill_after(files, moment, run, folders):
    """Kill the command `moment` seconds after it has made so many files, which tell how far it is whatever a
    machine's speed. Its exit code."""
    before = {path for folder in folders for path in files_in_use(folder, "")}
    seen = set(before)
    while run.poll() is None and len(seen) < len(before) + files:
        time.sleep(0.01)
        seen.update(path for folder in folders for path in files_in_use(folder, ""))
    time.sleep(moment)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    return run.wait()


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

    kills = ended = 0
    while True:
        made = tmp_path / f"out-{ended}", tmp_path / f"index-{ended}"
        run = command(folder, *made)
        if kills < KILLS:
            code = kill_after(generator.randint(1, 12), generator.uniform(0, 0.1), run, made)
        else:
            code = run.wait(timeout=300)
        if code == -signal.SIGKILL:
            kills += 1
            continue
        assert code == 0, run.stderr.read()
        assert results(*made) == expected
        ended += 1
        if kills == KILLS:
            return
