"""The whole line in small: same result however it is run, nothing to do twice, counts that close."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.executor import LocalExecutor
from curation.files import file_hash
from curation.mix.manifest import ManifestError, load_manifest, verify_manifest
from curation.steps import DamagedError
from flows.execute import Options, execute, missing_step
from flows.line import Line
from tests.mini import fingerprints, write_inputs, write_pipeline


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, inputs) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), inputs, training=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    """A run of everything but training, one unit after the other."""
    workspace = tmp_path_factory.mktemp("workspace")
    return execute(Options(pipeline, workspace, workers=1))


def test_counts_close(finished):
    """Read = quarantined + skipped + dropped by rule + duplicates + in the catalog."""
    for source, pool in finished.steps("ingest/").items():
        counts = pool.counts
        assert counts["records_read"] == counts["documents_out"] + counts["quarantined"] + counts["skipped"]
        dropped = 0
        for stage in (f"rules/{source}", "dedup-exact", "dedup-fuzzy"):
            for path in (finished.step(stage).folder / "ledger" / source).glob("*.parquet"):
                keep = pq.read_table(path, columns=["keep"])["keep"].to_pylist()
                dropped += keep.count(False)
        catalog = pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet")
        assert counts["documents_out"] == dropped + len(catalog)
    assert finished.step("ingest/notes").counts["quarantined"] == 1
    exact = finished.step("dedup-exact").counts
    assert exact["documents_in"] > exact["documents_out"]


def test_tokens_in_the_manifest_are_the_tokens_of_the_data(finished):
    for name in ("pretrain", "instruction", "preference"):
        manifest = load_manifest(finished.step(f"mix/{name}").folder)
        assert verify_manifest(manifest.folder) == []
        index = pq.read_table(finished.step(f"data/{name}").folder / "index.parquet").to_pylist()
        delivered = sum((row["length"] + (row.get("rejected_length") or 0)) * row["copies"] for row in index)
        assert delivered == manifest.head["totals"]["tokens"]


def test_held_out_documents_are_in_no_mix(finished):
    mixed = set()
    for name in ("pretrain", "instruction", "preference"):
        mixed |= set(load_manifest(finished.step(f"mix/{name}").folder).rows()["id"].to_pylist())
    held = set()
    for source in finished.steps("catalog/").values():
        table = pq.read_table(source.folder / "catalog.parquet", columns=["id", "holdout"]).to_pylist()
        held |= {row["id"] for row in table if row["holdout"]}
    assert held
    assert not held & mixed


def test_a_finished_pipeline_has_nothing_to_do(finished, pipeline):
    assert missing_step(Options(pipeline, finished.workspace)) is None
    changed = Options(pipeline, finished.workspace, settings=["dedup.threshold=0.7"])
    assert missing_step(changed).name.startswith("dedup")


def test_a_changed_setting_redoes_only_what_depends_on_it(finished, pipeline, tmp_path):
    workspace = tmp_path / "workspace"
    shutil.copytree(finished.workspace / "steps", workspace / "steps")
    run = execute(Options(pipeline, workspace, settings=["seed=2"]))
    redone = {entry["name"].split("/")[0] for entry in run.data["steps"] if not entry["reused"]}
    assert "catalog" in redone  # the seed decides what is held out
    assert not redone & {"ingest", "measure", "rules", "dedup-exact", "dedup-fuzzy", "tokens"}


def test_two_workers_give_the_same_bytes(finished, pipeline, tmp_path):
    execute(Options(pipeline, tmp_path / "workspace", workers=2))
    assert fingerprints(tmp_path / "workspace") == fingerprints(finished.workspace)


def test_order_of_files_and_hash_seed_give_the_same_bytes(finished, inputs, tmp_path):
    """The files are made anew in another order, in another folder, and another PYTHONHASHSEED reads them."""
    files = sorted(inputs.iterdir())
    random.Random(5).shuffle(files)
    (tmp_path / "inputs").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "inputs" / file.name)
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs", training=False)
    command = [sys.executable, "-m", "flows.cli", "run", str(pipeline), "-w", str(tmp_path / "workspace")]
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    done = subprocess.run(
        [*command, "--no-orchestrator", "--workers", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprints(tmp_path / "workspace") == fingerprints(finished.workspace)


def test_the_comparison_of_workspaces_can_fail(finished, inputs, tmp_path):
    """The twin of the equality tests: one word more in one document shows."""
    other = tmp_path / "inputs"
    shutil.copytree(inputs, other)
    with open(other / "notes.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "one more note of some words"}\n')
    pipeline = write_pipeline(tmp_path / "pipeline", other, training=False)
    execute(Options(pipeline, tmp_path / "workspace", until="ingest", workers=1))
    found, expected = fingerprints(tmp_path / "workspace"), fingerprints(finished.workspace)
    assert found["ingest/notes"] != expected["ingest/notes"]
    assert found["ingest/topics"] == expected["ingest/topics"]


def test_closed_executor_ends_a_run_as_interrupted(pipeline, tmp_path, monkeypatch):
    """Ctrl-C inside a station: recorded, and the next run completes."""
    calls = {"n": 0}
    true_map = LocalExecutor.map

    def interrupted(self, *arguments):
        calls["n"] += 1
        if calls["n"] == 6:
            raise KeyboardInterrupt
        return true_map(self, *arguments)

    monkeypatch.setattr(LocalExecutor, "map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(Options(pipeline, tmp_path / "workspace", workers=1))
    monkeypatch.undo()
    from flows.run import load_run

    assert load_run(tmp_path / "workspace").data["status"] == "interrupted"
    execute(Options(pipeline, tmp_path / "workspace", until="curate", workers=1))


def test_a_mix_that_fails_ends_what_waits_for_it(finished, pipeline, tmp_path, monkeypatch):
    """The mixes before it are written out; those after it, and the held-out sets, are not waited for."""
    workspace = tmp_path / "workspace"
    shutil.copytree(finished.workspace, workspace)
    for made in ("mix", "data", "heldout"):
        shutil.rmtree(workspace / "steps" / made)
    whole, (first, second, *_) = Line.mix_one, finished.steps("mix/")

    def fails(line, name, counted):
        if name == second:
            raise ValueError("no such mix")
        return whole(line, name, counted)

    monkeypatch.setattr(Line, "mix_one", fails)
    with pytest.raises(ValueError, match="no such mix"):
        execute(Options(pipeline, workspace, workers=2))
    assert [path.name for path in (workspace / "steps/data").iterdir()] == [first]
    assert not (workspace / "steps/heldout").exists()


def test_the_report_gives_the_hash_of_each_raw_file(finished, inputs):
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    for file in inputs.iterdir():
        assert file.name in page
        assert file_hash(file) in page


def test_a_manifest_that_was_changed_never_becomes_token_data(finished, pipeline, tmp_path):
    workspace = tmp_path / "workspace"
    shutil.copytree(finished.workspace / "steps", workspace / "steps")
    shutil.rmtree(workspace / "steps" / "data" / "instruction")
    head = next((workspace / "steps" / "mix" / "instruction").glob("*/mix.json"))
    text = head.read_text(encoding="utf-8")
    seed = '"seed": 0'
    assert seed in text
    head.write_text(text.replace(seed, '"seed": 7'), encoding="utf-8")  # of the same length: the step looks whole
    with pytest.raises(DamagedError) as raised:
        execute(Options(pipeline, workspace, workers=1))
    assert isinstance(raised.value.__cause__, ManifestError)
