"""The pipeline on a store that fails now and then: killed, rerun, and looked at from another machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from curation.mix.manifest import load_manifest, verify_manifest
from flows.execute import Options, execute, finished_run, missing_step
from flows.nightly import unchanged
from flows.report import write_report
from flows.run import load_run, manifest_folder, recorded_runs
from flows.why import why
from tests.curation.test_remote import half_visible
from tests.faulty import SECRET, s3_bucket
from tests.mini import contents, fingerprints, write_inputs, write_pipeline

ROOT = Path(__file__).parents[2]
RECORDS = {"step.json", "run.json", "mix.json", "report.html"}  # of a mix its head, whose hash is an input


@pytest.mark.slow
def test_a_pipeline_on_a_store_gives_the_bytes_of_one_on_a_disk(tmp_path, monkeypatch):
    write_inputs(tmp_path / "inputs")
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs", training=False)
    execute(Options(pipeline, tmp_path / "local", until="mix", workers=1))
    expected = fingerprints(tmp_path / "local")
    with s3_bucket(tmp_path / "machines") as s3:
        monkeypatch.setenv("MIXWRIGHT_CACHE", str(tmp_path / "machines" / "one"))
        command = [sys.executable, "-m", "flows.cli", "run", str(pipeline), "-w", f"s3://{s3.bucket}/ws"]
        command += ["--until", "mix", "--no-orchestrator", "--workers", "1"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        program = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        files = []

        def kill(asked):
            if asked.method == "PUT" and asked.key.endswith(".parquet"):
                files.append(asked.key)
                if len(files) == 25:
                    program.send_signal(signal.SIGKILL)
            return "error" if asked.number % 60 == 7 else None

        s3.proxy.fault = kill
        said = program.communicate(timeout=300)[0]
        assert program.returncode == -signal.SIGKILL, said
        killed = s3.objects()
        assert not half_visible(killed)
        found = contents(killed)
        assert 0 < len(found) < len(expected)
        assert found.items() <= expected.items()

        one = s3.workspace("one")
        run = execute(Options(pipeline, one, until="mix", workers=1))
        objects = s3.objects()
        assert contents(objects) == expected == fingerprints(one)
        assert not half_visible(objects)
        assert {entry["name"] for entry in run.data["steps"] if entry["reused"]} >= set(found)
        assert SECRET not in said
        assert not [key for key, data in objects.items() if SECRET.encode() in data]
        assert not [path for path in one.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]

        s3.proxy.fault = lambda asked: None
        two = s3.workspace("two")
        options = Options(pipeline, two, until="mix", workers=1)
        since = len(s3.proxy.asked)
        assert missing_step(options) is None
        assert finished_run(options).name == run.name == unchanged(options).name
        assert {Path(key).name for key in s3.proxy.keys("GET", since)} == RECORDS
        assert not s3.proxy.keys("PUT", since)
        assert sorted(known.data["status"] for known in recorded_runs(two)) == ["completed", "running"]
        mix = manifest_folder("pretrain", two, None)
        assert verify_manifest(mix) == []
        seen = load_run(two)
        assert write_report(seen).read_text().count("pretrain") > 1
        assert why(seen, load_manifest(mix).rows()["id"][0].as_py())
