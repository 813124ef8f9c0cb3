"""Full disks, read-only places, damaged files: a clear message, nothing half-written, a rerun completes."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from curation.config import ConfigError
from curation.steps import DamagedError, load, verify_files
from flows.execute import Options, execute
from tests.mini import fingerprints, write_inputs, write_pipeline


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The pipeline (which holds an index for deduplication), its workspace after a run, what its steps hold."""
    folder = tmp_path_factory.mktemp("damage")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    execute(Options(pipeline, folder / "workspace", until="mix", workers=1))
    return pipeline, folder / "workspace", fingerprints(folder / "workspace")


def without(workspace: Path, copy: Path, *stations: str) -> Path:
    """A copy of the workspace in which these stations are still to be done."""
    shutil.copytree(workspace, copy)
    for station in stations:
        shutil.rmtree(copy / "steps" / station)
    return copy


def damage(path: Path) -> None:
    """Other bytes, as many: what a failing disk gives, and no size tells."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0x5A for byte in data[middle : middle + 64])
    path.write_bytes(data)


def require_nothing_half_written(workspace: Path) -> None:
    for record in workspace.glob("steps/**/step.json"):
        output = load(record.parent)
        assert output is not None
        assert verify_files(output) == []


def test_a_damaged_shard_is_named_and_made_again(finished, tmp_path):
    pipeline, whole, expected = finished
    workspace = without(whole, tmp_path / "w", "measure", "tokens", "catalog")
    (shard,) = workspace.glob("steps/ingest/topics/*/shards/*.parquet")
    damage(shard)
    with pytest.raises(DamagedError) as raised:
        execute(Options(pipeline, workspace, until="mix", workers=1))
    message = str(raised.value)
    assert "measure/topics failed" in message
    assert f"{shard}: expected " in message
    assert "the same command makes them again" in message
    require_nothing_half_written(workspace)
    run = execute(Options(pipeline, workspace, until="mix", workers=1))
    assert fingerprints(workspace) == expected
    done = {entry["name"] for entry in run.data["steps"] if not entry["reused"]}
    assert "ingest/topics" in done
    assert "ingest/chat" not in done


def test_a_damaged_manifest_is_named_and_made_again(finished, tmp_path):
    pipeline, whole, expected = finished
    workspace = without(whole, tmp_path / "w", "data")
    (part,) = workspace.glob("steps/mix/pretrain/*/part-*.parquet")
    damage(part)
    with pytest.raises(DamagedError, match="the same command makes them again") as raised:
        execute(Options(pipeline, workspace, until="mix", workers=1))
    assert str(part) in str(raised.value)
    require_nothing_half_written(workspace)
    execute(Options(pipeline, workspace, until="mix", workers=1))
    assert fingerprints(workspace) == expected


def test_an_ordinary_failure_is_not_called_damage(finished, tmp_path, monkeypatch):
    pipeline, whole, _ = finished
    workspace = without(whole, tmp_path / "w", "catalog")

    def broken(*_, **__):
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr("curation.catalog.alive", broken)
    with pytest.raises(ZeroDivisionError, match="of its own"):
        execute(Options(pipeline, workspace, until="mix", workers=1))
    assert list(workspace.glob("steps/ingest/*/*/step.json"))


def run(pipeline: Path, workspace: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.cli", "run", str(pipeline), "-w", str(workspace), "--until", "mix"]
    command += ["--workers", "2", "--no-orchestrator"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this test mounts a small file system, which is not permitted here: {done.stderr.strip()}")


@contextlib.contextmanager
def unmounted(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["200k", "600k", "1m"])
def test_a_full_disk(finished, tmp_path, size):
    """At three fillings: the command says so, keeps what it has finished, and completes when there is room."""
    pipeline, _, expected = finished
    workspace = tmp_path / "disk"
    workspace.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "none", str(workspace))
    with unmounted(workspace):
        done = run(pipeline, workspace)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        require_nothing_half_written(workspace)
        assert not list(workspace.glob("steps/**/.tmp-*"))
        mount("-o", "remount,size=200m", str(workspace))
        done = run(pipeline, workspace)
        assert done.returncode == 0, done.stdout + done.stderr
        assert fingerprints(workspace) == expected


@pytest.mark.slow
def test_a_place_that_may_not_be_written(finished, tmp_path):
    """Permissions are revoked half way: modes say nothing to root, a read-only mount does."""
    pipeline, whole, expected = finished
    place = without(whole, tmp_path / "w", "tokens", "catalog", "mix")
    mount("--bind", str(place), str(place))
    with unmounted(place):
        mount("-o", "remount,bind,ro", str(place))
        done = run(pipeline, place)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
        mount("-o", "remount,bind,rw", str(place))
        done = run(pipeline, place)
        assert done.returncode == 0, done.stdout + done.stderr
        assert fingerprints(place) == expected


def test_a_damaged_index_is_named_and_nothing_is_added(finished, tmp_path):
    """An index that grows from night to night is no step: it is named, and left for a person to decide."""
    pipeline, whole, _ = finished
    data = yaml.safe_load(pipeline.read_text())
    (tmp_path / "p").mkdir()
    for recipe in pipeline.parent.glob("*.yaml"):
        shutil.copy(recipe, tmp_path / "p")
    with_index = tmp_path / "p" / "pipeline.yaml"
    with_index.write_text(yaml.safe_dump(data | {"dedup": {"index": str(tmp_path / "index")}}))
    workspace = without(whole, tmp_path / "w")
    execute(Options(with_index, workspace, until="curate", workers=1))
    files = {path: path.read_bytes() for path in sorted((tmp_path / "index").rglob("*")) if path.is_file()}
    assert files
    largest = max((path for path in files if path.suffix != ".json"), key=lambda path: len(files[path]))
    damage(largest)
    inputs = Path(data["sources"][0]["root"])
    extra = inputs / "topics-z.jsonl"
    extra.write_text(
        json.dumps({"text": "A page that came in the night. " + "It says this and that. " * 20}) + "\n"
    )
    try:
        with pytest.raises(ConfigError, match="the index is damaged") as raised:
            execute(Options(with_index, workspace, until="curate", workers=1))
        assert str(largest) in str(raised.value)
        largest.write_bytes(files[largest])
        assert {path: path.read_bytes() for path in files} == files
        execute(Options(with_index, workspace, until="curate", workers=1))
    finally:
        extra.unlink()
