"""`gc` removes what nothing kept refers to and nothing else; `runs` lists what there is."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from curation.mix.manifest import verify_manifest
from curation.steps import load
from flows.collect import BusyError, collect, find_garbage
from flows.execute import Options, execute, missing_step
from flows.run import load_run, recorded_runs
from flows.runs import describe
from tests.flows.test_cli import mixwright
from tests.mini import write_inputs, write_pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """(pipeline file, workspace) after a night, a night of more data, and a mix of its own beside."""
    folder = tmp_path_factory.mktemp("made")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    execute(Options(pipeline, folder / "workspace", until="mix", workers=1))
    (folder / "inputs" / "notes.jsonl").write_text('{"text": "one more note of a few words"}\n', encoding="utf-8")
    execute(Options(pipeline, folder / "workspace", until="mix", workers=1))
    done = mixwright("mix", pipeline.parent / "pretrain.yaml", "-w", folder / "workspace", "--set", "budget=9K")
    assert done.returncode == 0, done.stderr
    return pipeline, folder / "workspace"


@pytest.fixture
def workspace(made, tmp_path) -> Path:
    shutil.copytree(made[1], tmp_path / "workspace")
    return tmp_path / "workspace"


def steps(workspace: Path) -> set[Path]:
    return {path.parent.resolve() for path in workspace.glob("steps/**/step.json")}


def own_mix(workspace: Path) -> Path:
    """The manifest that no run made."""
    of_runs = {run.step("mix/pretrain").folder.resolve() for run in recorded_runs(workspace)}
    (own,) = {path.resolve() for path in (workspace / "steps" / "mix" / "pretrain").glob("[!.]*")} - of_runs
    return own


def test_nothing_goes_while_every_run_is_kept(workspace):
    assert find_garbage(workspace).folders == []


def test_an_old_run_goes_with_what_it_alone_used(made, workspace):
    first, second = sorted(recorded_runs(workspace), key=lambda run: run.data["started"])
    shutil.rmtree(own_mix(workspace))
    alone = {run.name: {output.folder.resolve() for output in run.steps().values()} for run in (first, second)}
    before = steps(workspace)
    garbage = find_garbage(workspace, keep_runs=1)
    assert garbage.runs == [first.folder]
    collect(workspace, garbage)
    left = steps(workspace)
    assert before - left == set(garbage.steps)
    assert alone[second.name] <= left
    assert alone[first.name] - alone[second.name] == set(garbage.steps)
    assert missing_step(Options(made[0], workspace, until="mix", workers=1)) is None
    assert [run.name for run in recorded_runs(workspace)] == [second.name]


def test_a_manifest_of_no_run_stays_with_all_it_was_made_of(workspace):
    own = own_mix(workspace)
    for run in recorded_runs(workspace):
        shutil.rmtree(run.folder)
    garbage = find_garbage(workspace)
    collect(workspace, garbage)
    assert verify_manifest(own) == []
    record = load(own).record
    contents = {load(folder).content for folder in steps(workspace)}
    assert set(record["inputs"].values()) <= contents
    kept = {load(folder).name.partition("/")[0] for folder in steps(workspace)}
    assert {"ingest", "measure", "rules", "tokens", "tokenizer", "catalog", "mix"} <= kept
    assert "data" not in kept  # token data of other mixes


def test_unfinished_steps_go_and_strangers_stay(workspace):
    victim = own_mix(workspace)
    (victim / "step.json").unlink()
    stranger = workspace / "steps" / "mine" / "notes.txt"
    stranger.parent.mkdir()
    stranger.write_text("not a step", encoding="utf-8")
    garbage = find_garbage(workspace)
    assert garbage.folders == [victim]
    collect(workspace, garbage)
    assert not victim.exists()
    assert stranger.exists()


def test_a_run_at_work_is_left_alone(workspace):
    lock = next((workspace / "steps" / "tokenizer").glob(".*.lock"))
    before = steps(workspace)
    with open(lock, "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="a run is building in"):
            collect(workspace, find_garbage(workspace, keep_runs=1))
    assert steps(workspace) == before


def test_the_commands(workspace):
    dry = json.loads(mixwright("gc", "-w", workspace, "--keep-runs", 1, "--dry-run", "--json").stdout)
    before = steps(workspace)
    assert dry["steps"]
    assert dry["bytes"] > 0
    assert len(before) == len(steps(workspace))
    told = mixwright("gc", "-w", workspace, "--keep-runs", 1)
    assert f"{len(dry['steps'])} steps and 1 runs removed" in told.stdout
    assert before - steps(workspace) == {Path(path) for path in dry["steps"]}
    listed = json.loads(mixwright("runs", "-w", workspace, "--json").stdout)
    assert [run["status"] for run in listed] == ["completed"]
    assert listed[0]["folder"] == str(load_run(workspace).folder)
    assert "completed" in mixwright("runs", "-w", workspace).stdout
    assert "no run yet" in mixwright("runs", "-w", workspace / "none").stdout


def test_what_a_run_did_and_what_it_found(workspace):
    first, second = sorted(map(describe, recorded_runs(workspace)), key=lambda run: run["started"])
    assert first["steps_found"] == 0
    assert second["steps_found"] > 0
    assert second["steps_done"] > 0
