"""Steps: complete or not there, and a step that lost a file is made again in full."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from curation import steps
from curation.files import write_bytes
from curation.steps import UNITS, Context, StepOutput, step, verify_files


def write_unit(folder: Path, key: str) -> dict[str, int]:
    write_bytes(folder / f"{key}.bin", key.encode())
    return {"bytes": len(key)}


def run(context: Context) -> StepOutput:
    def work(build):
        build.counts = {"units": len(build.map(write_unit, {"a": (), "b": ()}, "threads"))}

    return step(context, "x/y", 1, {}, {}, work)


def kill_at_the_removal_of(name: str, monkeypatch) -> None:
    """End the run where it is about to remove a file or folder of this name."""
    remove = steps.remove

    def killed(path: Path) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(steps, "remove", killed)


def test_a_complete_step_that_lost_a_file_is_made_again(context):
    first = run(context)
    (first.folder / "a.bin").unlink()
    second = run(context)
    assert (second.reused, second.content) == (False, first.content)
    assert verify_files(second) == []


def test_the_record_says_what_a_step_cost(context):
    """Bytes read are those of the steps among the inputs; seconds hold the work; memory is this process's."""
    first = run(context)

    def work(build):
        time.sleep(0.05)
        build.counts = {"documents_in": 2, "documents_out": 1}

    record = step(context, "z", 1, {}, {"pool": first.content, "model": "0" * 64}, work).record
    assert record["bytes_in"] == first.record["bytes"] == 2
    assert 0.05 <= record["seconds"] < 5
    assert record["bytes_in_per_second"] == pytest.approx(2 / record["seconds"], abs=1)
    assert record["peak_memory"] > 1 << 20
    assert record["counts"] == {"documents_in": 2, "documents_out": 1}


def test_a_step_knows_how_much_it_reads_unless_it_reads_what_is_no_steps(context):
    known = {}

    def work(build):
        build.write_json("x.json", [1, 2, 3])
        known[build.name] = build.reads

    first = step(context, "first", 1, {}, {}, work)
    second = step(
        context, "second", 1, {}, {"one": first.content, "file": first.record["files"]["x.json"]["hash"]}, work
    )
    step(context, "third", 1, {}, {"one": first.content, "two": second.content}, work)
    step(context, "fourth", 1, {}, {"one": first.content, "raw": "0" * 64}, work)
    size = first.record["bytes"]
    assert known == {"first": None, "second": size, "third": 2 * size, "fourth": None}


def test_a_journal_left_by_a_kill_does_not_stand_for_files_that_are_gone(context, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at_the_removal_of(UNITS, patch)
        with pytest.raises(KeyboardInterrupt):
            run(context)
    whole = run(context)  # the record was written: nothing is left to do, and the journal stays
    assert whole.reused
    assert (whole.folder / UNITS).is_dir()
    (whole.folder / "a.bin").unlink()
    again = run(context)
    assert again.content == whole.content
    assert sorted(again.record["files"]) == ["a.bin", "b.bin"]


@pytest.mark.parametrize("left", [b"", b'{"bytes"'])
def test_a_unit_whose_entry_a_failing_machine_has_cut_is_done_again(context, monkeypatch, left):
    kill_at_the_removal_of(UNITS, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(context)
    monkeypatch.undo()
    folder = next(path for path in (context.workspace / "steps/x/y").iterdir() if path.is_dir())
    (folder / steps.RECORD).unlink()
    (folder / UNITS / "a.json").write_bytes(left)
    (folder / "a.bin").unlink()
    (folder / "b.bin").unlink()  # of a unit that is in the journal: not looked at
    made = run(context)
    assert (made.folder / "a.bin").read_bytes() == b"a"
    assert not (made.folder / "b.bin").exists()


def test_what_a_killed_worker_was_writing_is_no_part_of_the_step(context):
    """Another has done its unit; the file would be read as a shard, and the content would depend on the kill."""

    def work(build, unfinished):
        build.write_json("shards/a.parquet", [1])
        if unfinished:
            (build.folder / "shards" / ".tmp-1-abcd-a.parquet").write_bytes(b"PAR1")

    whole = step(context, "whole", 1, {}, {}, lambda build: work(build, False))
    killed = step(context, "killed", 1, {}, {}, lambda build: work(build, True))
    assert killed.content == whole.content
    assert [path.name for path in killed.shards()] == ["a.parquet"]


FORKED = """
import os, signal, time
from curation.memory import Peaks

with Peaks().peak() as alone:
    time.sleep(0.1)
held = b"x" * (256 << 20)
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    children.append(child)
with Peaks().peak() as together:
    time.sleep(0.1)
for child in children:
    os.kill(child, signal.SIGKILL)
print(together[0] - alone[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what processes share")
def test_memory_that_forked_processes_share_is_counted_once():
    run = [sys.executable, "-c", FORKED]
    more = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert 192 << 20 < more < 320 << 20  # four times as much, if it were each process's own
