"""Runs of a workspace on a store: seen, continued and collected from another machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from curation import remote
from curation.files import write_json
from curation.objects import Objects
from flows.collect import bytes_of, collect, find_garbage
from flows.commands import workspace
from flows.run import Recorder, Run, load_run, recorded_runs
from flows.runs import describe
from tests.curation.test_remote import numbers, watched
from tests.faulty import SECRET, s3_bucket

KEEP = {"keep": {"then": ["longest"]}}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def s3(tmp_path):
    with s3_bucket(tmp_path / "machines") as bucket:
        yield bucket


def recorded(workspace: Path, size: int, status: str = "completed", started: str = "2026-01-02") -> Run:
    """A run of one step, with a report and changes."""
    recorder = Recorder(workspace, "p", {}, "until mix")
    recorder.data["started"] = started
    recorder.add(numbers(workspace, size))
    run = recorder.finish(status, None if status == "completed" else "for a reason")
    (run.folder / "report.html").write_text(f"report of {size}")
    (run.folder / "changes").mkdir()
    (run.folder / "changes" / "m.parquet").write_bytes(b"rows")
    write_json(run.folder / "changes.json", {})
    run.publish()
    return run


def test_another_machine_sees_runs_and_their_files(s3):
    one, two = s3.workspace("one"), s3.workspace("two")
    assert recorded_runs(two) == []
    first, second = recorded(one, 10), recorded(one, 20, "failed")
    assert {run.name for run in recorded_runs(two)} == {first.name, second.name}
    assert [load_run(two, run.name).data for run in (first, second)] == [first.data, second.data]
    seen = load_run(two, first.name)
    assert describe(seen)["folder"] == f"s3://{s3.bucket}/ws/runs/{first.name}"
    assert json.loads((seen.step("numbers/s").folder / "a.json").read_bytes()) == list(range(10))
    assert not (seen.folder / "report.html").exists()
    assert seen.file("report.html").read_text() == "report of 10"
    assert not seen.file("nothing.html").exists()
    since = len(s3.proxy.asked)
    assert len(recorded_runs(two)) == 2
    assert not s3.proxy.keys("GET", since)  # what is here as it is there is not fetched again
    first.data["note"] = "a change"
    write_json(first.folder / "run.json", first.data)
    first.publish()
    assert load_run(two, first.name).data["note"] == "a change"
    assert load_run(Path("elsewhere"), str(seen.folder)).steps()  # by the path of its mirror


def test_a_report_that_is_written_again_leaves_the_record_of_a_run_that_goes_on(s3, monkeypatch):
    one, two = s3.workspace("one"), s3.workspace("two")
    run = recorded(one, 10)

    def written(seen: Run) -> Path:
        write_json(run.folder / "run.json", run.data | {"note": "a step more"})  # meanwhile
        run.publish()
        (seen.folder / "report.html").write_text("anew")
        return seen.folder / "report.html"

    monkeypatch.setattr("flows.report.write_report", written)
    workspace.report(run.name, two)
    assert load_run(one).data["note"] == "a step more"
    assert s3.objects()[f"ws/runs/{run.name}/report.html"] == b"anew"


@pytest.mark.parametrize("data", [b"{}", b"[]", b"[", b'{"run": "another"}', None])
def test_what_is_no_record_of_a_run_is_none(s3, data, monkeypatch):
    workspace = s3.workspace("one")
    run = recorded(workspace, 10)
    s3.put("ws/runs/x/run.json", data or b"{}")
    s3.put(f"ws/runs/x/{run.name}/run.json", json.dumps(run.data).encode())
    if data is None:  # collected by another machine after it was listed
        read = Objects.read
        monkeypatch.setattr(Objects, "read", lambda self, path: None if "x" in path.parts else read(self, path))
    assert [(one.name, one.folder.parent.name) for one in recorded_runs(workspace)] == [(run.name, "runs")]


def test_what_no_kept_run_needs_is_collected_from_the_store_and_nothing_else(s3):
    one = s3.workspace("one")
    old, new = recorded(one, 10, started="2026-01-01"), recorded(one, 20)
    step = old.step("numbers/s").place
    below = f"ws/steps/numbers/s/{step.name}"
    for key in (f"{below}/mine.txt", f"ws/runs/{old.name}/notes/mine.txt", "ws/mine.txt"):
        s3.put(key, b"a note of a person")
    two = s3.workspace("two")
    garbage = find_garbage(two, keep_runs=1)
    assert [path.name for path in garbage.folders] == [step.name, old.name]
    assert bytes_of(garbage.steps[0]) > old.step("numbers/s").record["bytes"]
    seen = watched(s3)
    assert collect(two, garbage) > 0
    assert not seen
    left = s3.objects()
    assert sorted(key for key in left if "mine.txt" in key) == [
        "ws/mine.txt",
        f"ws/runs/{old.name}/notes/mine.txt",
        f"{below}/mine.txt",
    ]
    assert not [key for key in left if (old.name in key or step.name in key) and "mine.txt" not in key]
    three = s3.workspace("three")
    assert [run.name for run in recorded_runs(three)] == [new.name]
    assert load_run(three).steps()["numbers/s"].content == new.step("numbers/s").content
    assert find_garbage(three, keep_runs=1).folders == []


def command(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_the_command_takes_urls_and_says_what_is_wrong_with_one(s3, monkeypatch):
    run = recorded(s3.workspace("one"), 10)
    monkeypatch.setenv("MIXWRIGHT_CACHE", str(s3.folder / "shell"))
    told = command("runs", "-w", f"s3://{s3.bucket}/ws", "--json")
    assert [one["run"] for one in json.loads(told.stdout)] == [run.name]
    secret = command("runs", "-w", f"s3://AKIA:{SECRET}@{s3.bucket}/ws")
    assert secret.returncode == 2
    assert "environment" in secret.stderr
    assert SECRET not in secret.stdout + secret.stderr
    gone = command("runs", "-w", "s3://no-such-bucket/ws")
    assert gone.returncode == 1
    assert "no-such-bucket" in gone.stderr
    on_store = command("dedup", "x.jsonl", "-o", "out", "--index", f"s3://AKIA:{SECRET}@bucket/index")
    assert on_store.returncode == 2
    assert "disk" in on_store.stderr
    assert SECRET not in on_store.stdout + on_store.stderr


def test_results_of_deduplication_and_their_rerun(s3, tmp_path, monkeypatch):
    from curation.dedup.tool import Request, dedup_files
    from curation.steps import Context

    monkeypatch.setenv("MIXWRIGHT_CACHE", str(s3.folder / "one"))
    lines = "".join(json.dumps({"text": f"a document of its own, number {n % 9}"}) + "\n" for n in range(12))
    (tmp_path / "in.jsonl").write_text(lines)
    request = Request(inputs=(str(tmp_path / "in.jsonl"),), dedup=KEEP, exact_only=True, write_records=True)
    local = tmp_path / "local"
    dedup_files(Context(local / "work"), request, local)
    out = remote.open_results(f"s3://{s3.bucket}/out")
    dedup_files(Context(out / "work"), request, out)
    names = [path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()]
    names = [name for name in names if not name.startswith("work/")]
    objects = s3.objects()
    assert sorted(objects) == sorted(f"out/{name}" for name in names)
    assert all(objects[f"out/{name}"] == (local / name).read_bytes() for name in names)
    assert s3.proxy.keys("PUT")[-1] in ("out/summary.json", "out/")
    since = len(s3.proxy.asked)
    assert dedup_files(Context(out / "work"), request, out).reused
    assert not s3.proxy.keys("PUT", since)
